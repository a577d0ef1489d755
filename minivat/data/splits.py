"""Random splits of a training set, the same for the same seed."""

import numpy as np
from numpy.typing import NDArray

from ..backend import host_generator
from .dataset import DataError


def hold_out(
    labels: NDArray[np.integer], count: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the examples to train on and of `count` examples held out, both ascending.

    The held-out examples are drawn at random by `seed`, each class in proportion to its frequency
    among `labels` (N,): its share of `count`, rounded down or up.

    Raises DataError unless both parts have an example.
    """
    if not 0 < count < len(labels):
        raise DataError(f"count must lie in [1, {len(labels) - 1}], got {count}")
    generator = host_generator(seed, "hold-out")
    classes, frequencies = np.unique(labels, return_counts=True)
    shares, remainders = np.divmod(frequencies * count, len(labels))
    most_short = np.argsort(-remainders, kind="stable")[: count - shares.sum()]
    shares[most_short] += 1
    held_out = np.zeros(len(labels), bool)
    for label, share in zip(classes, shares, strict=True):
        held_out[generator.permutation(np.flatnonzero(labels == label))[:share]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def draw_labels(
    labels: NDArray[np.integer],
    count: int,
    seed: int,
    balanced: bool = True,
    classes: int | None = None,
) -> NDArray[np.intp]:
    """Indices of the `count` examples whose labels may be used, ascending; the rest goes without.

    Drawn at random by `seed` from the classes 0, 1, ... of `labels` (N,). balanced: the same number
    of each class; where `count` is no multiple of the number of classes, those that get one more
    are drawn, too. Otherwise every example is as likely as another, whatever its class. The same
    seed draws the same ones on every machine, and with a larger count these and others.
    classes: how many there are; None: as many as the largest label says.

    Raises DataError for labels that are no integers from 0 (below `classes`), and where there are
    not so many examples; for a balanced draw also where a class has too few or none, or where the
    count does not reach for one of each.
    """
    if labels.dtype.kind not in "iu" or (labels.size and labels.min() < 0):
        got = labels.dtype if labels.dtype.kind not in "iu" else labels.min()
        raise DataError(f"labels must be integers from 0, got {got}")
    if not 0 < count <= len(labels):
        raise DataError(f"count must lie in [1, {len(labels)}], got {count}")
    generator = host_generator(seed, "labels")
    if not balanced:
        return np.sort(generator.permutation(len(labels))[:count])
    frequencies = np.bincount(labels, minlength=classes or 0)
    if len(frequencies) > (classes or len(frequencies)):
        raise DataError(f"labels must lie in [0, {classes}), got {labels.max()}")
    classes = len(frequencies)
    if missing := np.flatnonzero(frequencies == 0).tolist():
        raise DataError(f"labels must hold each class, got none of class {missing[0]}")
    if count < classes:
        raise DataError(f"count must be {classes} or more, one for each class, got {count}")
    shares = np.full(classes, count // classes)
    shares[generator.permutation(classes)[: count % classes]] += 1
    drawn = []
    for label, share in enumerate(shares):
        if share > frequencies[label]:
            raise DataError(
                f"count must be smaller: {share} examples of class {label} are needed, "
                f"and there are {frequencies[label]}, got {count}"
            )
        drawn.append(generator.permutation(np.flatnonzero(labels == label))[:share])
    return np.sort(np.concatenate(drawn))
