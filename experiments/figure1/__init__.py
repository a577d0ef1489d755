"""Figure 1: VAT on points in the plane, eight of them with a label, next to MLE and RPT."""
