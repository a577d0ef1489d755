"""The figures that every run leaves in its folder, and those of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from experiments.lab import runs

COLOURS = ("black", "tab:red", "tab:blue", "tab:green", "tab:orange", "tab:purple")


def curves(
    path: Path,
    courses: Mapping[str, Sequence[dict[str, float]]],
    title: str,
    error_label: str,
) -> None:
    """Error and R_vadv over training (the paper's figure 2), as a PNG.

    courses: the rows of each run by its name, which a legend tells where there are several.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, column, label in zip(
        figure.subplots(1, 2),
        ("error", "r_vadv"),
        (error_label, "$R_{vadv}$ at $\\epsilon$ = 2"),
        strict=True,
    ):
        for i, (name, rows) in enumerate(courses.items()):
            axes.plot(
                [row["update"] for row in rows],
                [row[column] for row in rows],
                color=COLOURS[i % len(COLOURS)],
                marker=".",
                markersize=4,
                label=name,
            )
        axes.set_xlabel("update")
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(color="0.9")
        if len(courses) > 1:
            axes.legend()
    figure.suptitle(title)
    runs.replace_file(path, lambda file: figure.savefig(file, dpi=150, format="png"))
