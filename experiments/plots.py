"""The figures that every run leaves in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from minivat import runs


def curves(path: Path, rows: Sequence[dict[str, float]], title: str, error_label: str) -> None:
    """Error and R_vadv over training (the paper's figure 2), as a PNG."""
    updates = [row["update"] for row in rows]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, column, label in zip(
        figure.subplots(1, 2),
        ("error", "r_vadv"),
        (error_label, "$R_{vadv}$ at $\\epsilon$ = 2"),
        strict=True,
    ):
        axes.plot(updates, [row[column] for row in rows], color="black", marker=".", markersize=4)
        axes.set_xlabel("update")
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(color="0.9")
    figure.suptitle(title)
    runs.replace_file(path, lambda file: figure.savefig(file, dpi=150, format="png"))
