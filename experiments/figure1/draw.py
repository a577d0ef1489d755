"""The picture and the film of figure 1, drawn from the stages of its networks."""

from __future__ import annotations

import io
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

# Name for people and in `plotting.COLOURS`. VAT computes H d exactly.
METHODS = {"mle": ("MLE", "mle"), "rpt": ("RPT", "rpt"), "vat": ("VAT", "vat-exact")}
MARKERS = {0: "^", 1: "s"}  # of labelled points, by class
WIDTH = 1.9  # of a panel of the picture, in inches


def _scale(*colours: str) -> LinearSegmentedColormap:
    return LinearSegmentedColormap.from_list("scale", colours)


# Purple, grey and green as in the paper; the colour-blind can tell them apart. LDS goes from light
# to dark, in a hue that none of the methods here has.
PREDICTION = {"cmap": _scale("#762a83", "0.78", "#1b7837"), "vmin": 0, "vmax": 1}
LDS = {"cmap": _scale("0.82", "#e7298a", "#67001f"), "vmin": 0, "vmax": 0.5}


def picture(path: Path, by_set: Sequence[Sequence[Stage]]) -> None:
    """Two rows for each set, prediction and LDS, and a column for each stage, as a PNG."""
    heights = [_proportions(stages[0].points) for stages in by_set for _ in range(2)]
    count = len(by_set[0])
    figure = Figure(
        figsize=(WIDTH * count + 1, (WIDTH + 0.1) * sum(heights) + 1), layout="constrained"
    )
    rows = figure.subplots(len(heights), count, height_ratios=heights, squeeze=False)
    for stages, upper, lower in zip(by_set, rows[::2], rows[1::2], strict=True):
        for stage, above, below in zip(stages, upper, lower, strict=True):
            p = _show(above, stage, stage.p, **PREDICTION)
            lds = _show(below, stage, stage.lds, **LDS)
            above.set_title(f"{stage.error:.1f} % wrong", fontsize=9)
        upper[0].set_ylabel("prediction")
        lower[0].set_ylabel("LDS")
        figure.colorbar(p, ax=upper, ticks=[0, 0.5, 1], label="p(y = 1|x)", aspect=10)
        figure.colorbar(
            lds,
            ax=lower,
            ticks=[0, 0.25, 0.5],
            label="LDS(x),\nthe larger of ±r",
            aspect=10,
            extend="max",
        )
    for axes, stage in zip(rows[0], by_set[0], strict=True):
        heading = f"{METHODS[stage.method][0]}, update {stage.update}"
        axes.set_title(f"{heading}\n{axes.get_title()}", fontsize=9)
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
    frames = [_frame(stages) for stages in zip(*by_set, strict=True)]
    milliseconds = [120] * (len(frames) - 1) + [2500]
    runs.replace_file(
        path,
        lambda file: frames[0].save(
            file,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=milliseconds,
            loop=0,
        ),
    )


def _frame(stages: Sequence[Stage]) -> Image.Image:
    widths = [1 / _proportions(stage.points) for stage in stages]
    figure = Figure(figsize=(2.6 * sum(widths), 3.2), layout="constrained")
    panels = figure.subplots(1, len(stages), width_ratios=widths)
    for axes, stage in zip(panels, stages, strict=True):
        _show(axes, stage, stage.p, **PREDICTION)
        axes.set_title(f"{stage.points.name}: {stage.error:.1f} % wrong", fontsize=10)
    figure.suptitle(f"{METHODS[stages[0].method][0]}, update {stages[0].update}", fontsize=10)
    return _rendered(figure, dpi=100, colours=64)


def _rendered(figure: Figure, dpi: float, colours: int) -> Image.Image:
    """The figure with a palette of this many colours: a third of the file's size."""
    file = io.BytesIO()
    figure.savefig(file, dpi=dpi, format="png")
    return Image.open(file).convert("RGB").quantize(colours, dither=Image.Dither.NONE)


def _show(
    axes: Axes,
    stage: Stage,
    values: np.ndarray,
    *,
    cmap: LinearSegmentedColormap,
    vmin: float,
    vmax: float,
) -> PathCollection:
    """The unlabelled points coloured by `values`, the labelled ones, the method's boundary."""
    points, colour = stage.points, plotting.colour(METHODS[stage.method][1])
    dots = axes.scatter(
        *points.unlabelled.T, c=values, cmap=cmap, vmin=vmin, vmax=vmax, s=5, linewidths=0
    )
    if stage.logits.min() < 0 < stage.logits.max():
        axes.contour(*grid(points), stage.logits, levels=[0], colors=colour, linewidths=1.6)
    for label, marker in MARKERS.items():
        axes.scatter(
            *points.x[points.y == label].T,
            s=38,
            marker=marker,
            facecolor="white",
            edgecolor="black",
            linewidth=1.2,
            zorder=3,
        )
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set(color=colour, linewidth=1.6)
    return dots


def _proportions(points: Points) -> float:
    """Height of a panel over its width."""
    x, y = grid(points)
    return float(np.ptp(y) / np.ptp(x))
