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

    `name` is what results are labelled with, and `test_name` what their error was measured on.
    Grey images are float32 in [0, 1], one row per image, (N, height * width), and `image_shape` is
    (height, width); images in colour are float32 in [-0.5, 0.5], (N, height, width, channels), and
    `image_shape` is (height, width, channels). Labels are int64, (N,), 0 to 9.
    `checksums` maps the name of each file (or, for data that come without files, of each array) to
    its SHA-256 in hexadecimal, and so for the whitening's matrix, "zca.matrix", where there is one.
    `original` is False for other files under the same names, Fashion-MNIST's for example.
    """

    name: str
    train_images: NDArray[np.float32] = field(repr=False)
    train_labels: NDArray[np.int64] = field(repr=False)
    test_images: NDArray[np.float32] = field(repr=False)
    test_labels: NDArray[np.int64] = field(repr=False)
    image_shape: tuple[int, ...]
    checksums: dict[str, str] = field(repr=False)
    original: bool = True  # whether the files are those that published numbers refer to
    test_name: str = "test images"


def centred(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(x - 127.5) / 255 of every pixel: float32 in [-0.5, 0.5], in C order, as VAT's authors do."""
    images = np.subtract(pixels, 127.5, dtype=np.float32, order="C")
    images /= 255
    return images
