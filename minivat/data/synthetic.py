"""Two classes of points in the plane, few of them labelled: two moons and two circles (figure 1).

Those of scikit-learn's `make_moons` and `make_circles`, drawn with NumPy alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..backend import host_generator
from .dataset import DataError
from .splits import draw_labels

# angles (N,) in [0, 2π) and the classes (N,) to points (N, 2)
Curves = Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]]

DRAWS = ("spread", "balanced", "plain")
RADIUS = 0.5  # of the inner circle; the outer one's is 1


@dataclass(frozen=True, eq=False)
class Points:
    """Points of two classes, some with a label and the others without.

    x: (labels, 2) float32; y: (labels,) int64, 0 or 1. unlabelled: (unlabelled, 2) float32, other
    points. hidden_y: (unlabelled,) int64, their classes, for scores and not for training.
    """

    name: str
    x: NDArray[np.float32] = field(repr=False)
    y: NDArray[np.int64] = field(repr=False)
    unlabelled: NDArray[np.float32] = field(repr=False)
    hidden_y: NDArray[np.int64] = field(repr=False)


def two_moons(
    seed: int,
    *,
    labels: int = 8,
    unlabelled: int = 1000,
    noise: float = 0.06,
    draw: str = "spread",
) -> Points:
    """Two half circles of radius 1 that reach into one another.

    seed: of everything random. labels, unlabelled: how many points of each kind, half of them on
        either curve, at random places; noise: standard deviation of the Gaussian noise on both
        coordinates. Up to 0.06 the classes do not overlap.
    draw: which points are labelled. "spread": as many of one class as of the other, at even
        distances along the curve, the first one anywhere. "balanced": as many, but drawn at
        random. "plain": drawn at random whatever their classes (see `draw_labels`).

    Raises DataError for counts below 1, for an odd number of labels to spread, for one that cannot
    be balanced, for noise that is negative or not finite, and for another draw.
    """

    def curves(angle: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.float64]:
        upper = np.stack([np.cos(angle / 2), np.sin(angle / 2)], axis=1)
        return np.where(y[:, None] == 1, [1.0, 0.5] - upper, upper)

    return _points("moons", curves, seed, labels, unlabelled, noise, draw)


def two_circles(
    seed: int,
    *,
    labels: int = 8,
    unlabelled: int = 1000,
    noise: float = 0.06,
    draw: str = "spread",
) -> Points:
    """Two circles around the origin: class 0 has radius 1, class 1 radius ½.

    Arguments and errors as of `two_moons`.
    """

    def curves(angle: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.float64]:
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return np.where(y == 1, RADIUS, 1.0)[:, None] * circle

    return _points("circles", curves, seed, labels, unlabelled, noise, draw)


def _points(
    name: str, curves: Curves, seed: int, labels: int, unlabelled: int, noise: float, draw: str
) -> Points:
    for argument, count in (("labels", labels), ("unlabelled", unlabelled)):
        if count < 1:
            raise DataError(f"{argument} must be 1 or more, got {count}")
    if not 0 <= noise < np.inf:
        raise DataError(f"noise must be a finite number from 0, got {noise}")
    if draw not in DRAWS:
        raise DataError(f"draw must be one of {', '.join(DRAWS)}, got {draw!r}")
    generator = host_generator(seed, name)
    count = labels + unlabelled
    y = np.arange(count) % 2
    turns = generator.random(count)
    labelled = np.arange(labels)
    if draw != "spread":
        labelled = draw_labels(y, labels, seed, balanced=draw == "balanced")
    elif labels % 2:
        raise DataError(f"labels must be even to spread over two classes, got {labels}")
    else:
        turns[:labels] = (turns[y[:labels]] + labelled // 2) / (labels // 2)
    noisy = curves(2 * np.pi * turns, y) + noise * generator.standard_normal((count, 2))
    x = noisy.astype(np.float32)
    rest = np.delete(np.arange(count), labelled)
    return Points(name, x[labelled], y[labelled], x[rest], y[rest])
