"""What every loader returns, and the errors every loader raises."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


class DataError(ValueError):
    """A data set is missing, malformed or misused; the message is one line for people."""


class Unavailable(DataError):
    """A data set is in none of the places searched and cannot be downloaded."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels of a classification task, already divided into training and test set.

    `name` is what results are labelled with. Images are float32 in [0, 1], one row per image,
    (N, height * width); labels are int64, (N,), 0 to 9. `image_shape` is (height, width).
    `checksums` maps the name of each file (or, for data that come without files, of each array)
    to its SHA-256 in hexadecimal.
    `original` is False for other files under the same names, Fashion-MNIST's for example.
    """

    name: str
    train_images: NDArray[np.float32] = field(repr=False)
    train_labels: NDArray[np.int64] = field(repr=False)
    test_images: NDArray[np.float32] = field(repr=False)
    test_labels: NDArray[np.int64] = field(repr=False)
    image_shape: tuple[int, int]
    checksums: dict[str, str] = field(repr=False)
    original: bool = True  # whether the files are those that published numbers refer to
