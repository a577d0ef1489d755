"""What the figures share: one colour per method, files written whole, learning curves."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab import runs
from experiments.lab.methods import method_name

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
    # Of Paul Tol's palettes for the colour-blind, for want of more.
    "pseudo-labels": "#999933",
    "pi-model": "#882255",
    "temporal-ensembling": "#332288",
    "mean-teacher": "#661100",
}
SHADES = ("#0072b2", "#e69f00", "#009e73")  # of lines that are no methods
LINES = ("-", "--", ":", "-.")  # of several runs of one method
LEGEND_COLUMNS = 3


def colour(method: str) -> str:
    """The method's colour in all figures, as "#rrggbb". Raises ValueError for another name."""
    if method not in COLOURS:
        raise ValueError(f"method must be one of {', '.join(COLOURS)}, got {method!r}")
    return COLOURS[method]


def save(figure: Figure, path: Path, dpi: float = 150) -> None:
    """Write the figure, whole or not at all (RunFailed), in the format of the path's suffix."""
    kind = path.suffix.removeprefix(".")
    runs.replace_file(path, lambda file: figure.savefig(file, dpi=dpi, format=kind))


def spread(
    axes: Axes, line: Mapping[float, Sequence[float]], label: str, colour: str, style: str = "-"
) -> None:
    """A line of means, with bars of ± the standard deviation: x ↦ the values there."""
    axes.errorbar(
        list(line),
        [statistics.mean(values) for values in line.values()],
        [statistics.stdev(values) if len(values) > 1 else 0 for values in line.values()],
        color=colour,
        linestyle=style,
        marker=".",
        capsize=2,
        label=label,
    )


def learning_curves(
    canvas: Figure, by_title: Mapping[str, Sequence[Mapping[str, Any]]], error_label: str
) -> None:
    """Error and R_vadv over training: of each title's results the mean, in a band of ± a deviation.

    A result's "rows" are those of its metrics.csv; all of a title have the same updates.
    """
    canvas.set_size_inches(9, 3.8)
    for axes, (column, label) in zip(canvas.subplots(1, 2), _columns(error_label), strict=True):
        for title, found in by_title.items():
            settings = found[0]["settings"]
            shade = colour(method_name(settings["method"], settings.get("direction")) or "")
            values = np.array([[row[column] for row in each["rows"]] for each in found])
            updates = [row["update"] for row in found[0]["rows"]]
            seeds = "seed" if len(found) == 1 else "seeds"
            mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=len(found) > 1)
            axes.plot(updates, mean, color=shade, label=f"{title} ({len(found)} {seeds})")
            axes.fill_between(updates, mean - deviation, mean + deviation, color=shade, alpha=0.2)
        axes.set(xlabel="update", ylabel=label, yscale="log")
        axes.grid(color="0.9", which="both")
    canvas.axes[0].legend(fontsize="small")


def _columns(error_label: str) -> list[tuple[str, str]]:
    """The columns of metrics.csv that figure 2 shows, and their labels."""
    return [("error", error_label), ("r_vadv", "$R_{vadv}$ at $\\epsilon$ = 2")]


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
    for axes, (column, label) in zip(figure.subplots(1, 2), _columns(error_label), strict=True):
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
