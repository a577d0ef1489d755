"""Table 6: VAT on CIFAR-10 with 4,000 labels by the number K of power iterations.

    python -m experiments.table6 --seeds 1 2 3 --device cuda

Conv-Large without augmentation. By default the paper's rows, by finite differences; --rows knows
the exact direction, too. Finished runs are skipped and unfinished ones resumed. When all are done,
their results are written as table6.json and table6.md, and beside them the metrics of every run;
with another width, number of updates or test set than the paper's, under a name that says so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments import cifar10_semisup, common, image_tables, tables

COLUMNS = ("method", "K")
LINES = image_tables.lines(
    cifar10_semisup.TASK, ["conv-large"], "no", COLUMNS, iterations=(1, 2, 4)
)
TABLE = tables.Table(
    name="table6",
    updates=None,
    columns=COLUMNS,
    lines={key: line for key, line in LINES.items() if "-vat-" in key and "entmin" not in key},
    key=image_tables.key,
    cited=[],
)


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Make the table; the exit code."""
    image_tables.make(TABLE, image_tables.parser(__doc__, TABLE).parse_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
