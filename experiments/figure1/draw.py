"""The picture and the film of figure 1, drawn from the stages of its networks."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from experiments.figure1.train import Stage, grid
from experiments.lab import plotting, runs
from minivat.data.synthetic import Points

MARKERS = {0: "^", 1: "s"}  # of labelled points, by class
WIDTH = 1.9  # of a panel of the picture, in inches


def _scale(*colours: str) -> LinearSegmentedColormap:
    return LinearSegmentedColormap.from_list("scale", colours)


# By field of `Stage`: its name, its colours, its colour bar. Purple, grey and green as in the
# paper; the colour-blind can tell them apart. LDS goes from light to dark, in a hue that none of
# the methods here has.
SHOWN = {
    "p": (
        "prediction",
        {"cmap": _scale("#762a83", "0.78", "#1b7837"), "vmin": 0, "vmax": 1},
        {"label": "p(y = 1|x)", "ticks": [0, 0.5, 1]},
    ),
    "lds": (
        "LDS",
        {"cmap": _scale("0.82", "#e7298a", "#67001f"), "vmin": 0, "vmax": 0.5},
        {"label": "LDS(x),\nthe larger of ±r", "ticks": [0, 0.25, 0.5], "extend": "max"},
    ),
}


def picture(path: Path, by_set: Sequence[Sequence[Stage]]) -> None:
    """Two rows for each set, prediction and LDS, and a column for each stage, as a PNG."""
    rows = list(itertools.product(by_set, SHOWN))
    heights = [_proportions(stages[0].points) for stages, _ in rows]
    count = len(by_set[0])
    size = WIDTH * count + 1, (WIDTH + 0.1) * sum(heights) + 1
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(rows), count, height_ratios=heights, squeeze=False)
    for row, (stages, field) in zip(panels, rows, strict=True):
        for axes, stage in zip(row, stages, strict=True):
            dots = _show(axes, stage, field)
            if field == "p":
                heading = f"{_heading(stage)}\n" if stages is by_set[0] else ""
                axes.set_title(f"{heading}{stage.error:.1f} % wrong", fontsize=9)
        name, _, bar = SHOWN[field]
        row[0].set_ylabel(name)
        figure.colorbar(dots, ax=row, aspect=10, **bar)
    points = by_set[0][0].points
    figure.suptitle(
        f"{len(points.x)} labelled points (triangles: class 0, squares: class 1), "
        f"{len(points.unlabelled)} without a label; line: p = ½, in the method's colour",
        fontsize=10,
    )
    image = _rendered(figure, dpi=110, colours=256)
    runs.replace_file(path, lambda file: image.save(file, format="PNG", optimize=True))


def film(path: Path, by_set: Sequence[Sequence[Stage]]) -> None:
    """The predictions on all sets side by side, a frame for each stage, as a GIF."""
    first, *others = [_frame(stages) for stages in zip(*by_set, strict=True)]
    how = {"duration": [120] * len(others) + [2500], "loop": 0}  # milliseconds; for ever
    runs.replace_file(
        path, lambda file: first.save(file, "GIF", save_all=True, append_images=others, **how)
    )


def _frame(stages: Sequence[Stage]) -> Image.Image:
    widths = [1 / _proportions(stage.points) for stage in stages]
    figure = Figure(figsize=(2.6 * sum(widths), 3.2), layout="constrained")
    panels = figure.subplots(1, len(stages), width_ratios=widths)
    for axes, stage in zip(panels, stages, strict=True):
        _show(axes, stage, "p")
        axes.set_title(f"{stage.points.name}: {stage.error:.1f} % wrong", fontsize=10)
    figure.suptitle(_heading(stages[0]), fontsize=10)
    return _rendered(figure, dpi=100, colours=64)


def _rendered(figure: Figure, dpi: float, colours: int) -> Image.Image:
    """The figure with a palette of this many colours: a third of the file's size."""
    file = io.BytesIO()
    figure.savefig(file, dpi=dpi, format="png")
    return Image.open(file).convert("RGB").quantize(colours, dither=Image.Dither.NONE)


def _show(axes: Axes, stage: Stage, field: str) -> PathCollection:
    """The unlabelled points coloured by the field, the labelled ones, the method's boundary."""
    points = stage.points
    colour = plotting.colour({"vat": "vat-exact"}.get(stage.method, stage.method))
    _, scale, _ = SHOWN[field]
    dots = axes.scatter(*points.unlabelled.T, c=getattr(stage, field), s=5, linewidths=0, **scale)
    if stage.logits.min() < 0 < stage.logits.max():
        axes.contour(*grid(points), stage.logits, levels=[0], colors=colour, linewidths=1.6)
    outlined = {"facecolor": "white", "edgecolor": "black", "linewidth": 1.2, "zorder": 3}
    for label, marker in MARKERS.items():
        axes.scatter(*points.x[points.y == label].T, s=38, marker=marker, **outlined)
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set(color=colour, linewidth=1.6)
    return dots


def _heading(stage: Stage) -> str:
    return f"{stage.method.upper()}, update {stage.update}"


def _proportions(points: Points) -> float:
    """Height of a panel over its width."""
    x, y = grid(points)
    return float(np.ptp(y) / np.ptp(x))
