"""Random splits of a training set, the same for the same seed."""

import numpy as np
from numpy.typing import NDArray

from minivat.backend import host_generator
from minivat.data.dataset import DataError


def hold_out(
    labels: NDArray[np.integer], count: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the examples to train on and of `count` examples held out, both ascending.

    The held-out examples are drawn at random by `seed`, each class in proportion to its frequency
    among `labels` (N,): its share of `count`, rounded down or up.

    Raises DataError unless both parts have an example.
    """
    if not 0 < count < len(labels):
        raise DataError(f"count: {count} of {len(labels)}, expected 1 to {len(labels) - 1}")
    generator = host_generator(seed, "hold-out")
    classes, frequencies = np.unique(labels, return_counts=True)
    shares, remainders = np.divmod(frequencies * count, len(labels))
    most_short = np.argsort(-remainders, kind="stable")[: count - shares.sum()]
    shares[most_short] += 1
    held_out = np.zeros(len(labels), bool)
    for label, share in zip(classes, shares, strict=True):
        held_out[generator.permutation(np.flatnonzero(labels == label))[:share]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
