"""What the figures share: one colour per method, PNG files written whole, learning curves."""

from __future__ import annotations

import dataclasses
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from experiments.lab import runs

# The palette of Okabe and Ito, "Color Universal Design" (2008), which the colour-blind can tell
# apart. Both directions of VAT are blue.
COLOURS = {
    "mle": "#000000",
    "rpt": "#e69f00",
    "at-l2": "#d55e00",
    "at-linf": "#cc79a7",
    "vat-exact": "#0072b2",
    "vat-finite-difference": "#56b4e9",
    "vat-entmin": "#009e73",
    "vat-entmin-exact": "#006e50",
}
LINES = ("-", "--", ":", "-.")  # of several runs of one method
LEGEND_COLUMNS = 3


def colour(method: str) -> str:
    """The method's colour in all figures, as "#rrggbb". Raises ValueError for another name."""
    if method not in COLOURS:
        raise ValueError(f"method must be one of {', '.join(COLOURS)}, got {method!r}")
    return COLOURS[method]


def save(figure: Figure, path: Path, dpi: float = 150) -> None:
    """Write the figure as a PNG, whole or not at all (RunFailed)."""
    runs.replace_file(path, lambda file: figure.savefig(file, dpi=dpi, format="png"))


@dataclasses.dataclass(frozen=True)
class Curve:
    """A run to draw: its method, and its rows of metrics.csv (update, error, r_vadv)."""

    method: str
    rows: Sequence[Mapping[str, float]]


def curves(path: Path, by_name: Mapping[str, Curve], title: str, error_label: str) -> None:
    """Error and R_vadv over training (the paper's figure 2), as a PNG.

    by_name: the runs to draw. Where there are several, a legend tells their names. Names and title
    are shown as they are: no mathematics between dollar signs.
    """
    legend_rows = -(-len(by_name) // LEGEND_COLUMNS) if len(by_name) > 1 else 0
    figure = Figure(figsize=(9, 3.6 + 0.2 * max(0, legend_rows - 1)), layout="constrained")
    labels = {"error": error_label, "r_vadv": "$R_{vadv}$ at $\\epsilon$ = 2"}
    for axes, (column, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        lines = {method: itertools.cycle(LINES) for method in COLOURS}
        for name, curve in by_name.items():
            axes.plot(
                [row["update"] for row in curve.rows],
                [row[column] for row in curve.rows],
                color=colour(curve.method),
                linestyle=next(lines[curve.method]),
                marker=".",
                markersize=4,
                label=name.replace("$", r"\$"),
            )
        axes.set(xlabel="update", ylabel=textwrap.fill(label, 32))
        axes.update_datalim([(0, 0)])  # so that the upper margin is a share of what is shown
        axes.autoscale_view()
        axes.set(xlim=(0, None), ylim=(0, None))
        axes.grid(color="0.9")
    if legend_rows:
        lines = figure.axes[0].get_lines()
        columns = min(len(lines), LEGEND_COLUMNS)
        figure.legend(handles=lines, loc="outside lower center", ncols=columns, fontsize="small")
    figure.suptitle(title.replace("$", r"\$"), fontsize=11)
    save(figure, path)
