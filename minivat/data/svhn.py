"""SVHN: 73,257 training and 26,032 test images of house numbers' digits, 32 x 32 in colour, from
the two MATLAB files of the cropped digits. The 531,131 easier images called "extra" are not used.

Source: Netzer, Wang, Coates, Bissacco, Wu, Ng, "Reading Digits in Natural Images with Unsupervised
Feature Learning", NIPS Workshop on Deep Learning and Unsupervised Feature Learning, 2011.
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import mat
from .dataset import DataError, Dataset, centred
from .locate import locate_or_fetch

TRAIN_FILE = "train_32x32.mat"
TEST_FILE = "test_32x32.mat"

FILES = {
    TRAIN_FILE: "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    TEST_FILE: "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
}

MIRRORS = ("http://ufldl.stanford.edu/housenumbers/",)

IMAGE_SHAPE = (32, 32, 3)
COUNTS = {TRAIN_FILE: 73_257, TEST_FILE: 26_032}
CLASSES = 10


def load(data_dir: str | Path | None = None) -> Dataset:
    """SVHN from `data_dir`, or else from MINIVAT_DATA, the user's cache, or a download.

    Raises DataError where files that are there are incomplete or malformed, and its subclass
    Unavailable where there are none and none can be downloaded.
    """
    return read(locate_or_fetch("SVHN", "svhn", FILES, data_dir, FILES, MIRRORS))


def read(folder: Path) -> Dataset:
    """SVHN from the two files in `folder`; DataError, naming the file, where one is malformed."""
    train_images, train_labels, train_sha256 = _read_set(folder / TRAIN_FILE)
    test_images, test_labels, test_sha256 = _read_set(folder / TEST_FILE)
    checksums = {TRAIN_FILE: train_sha256, TEST_FILE: test_sha256}
    return Dataset(
        name="svhn",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        image_shape=IMAGE_SHAPE,
        checksums=checksums,
        original=checksums == FILES,
    )


def parse(content: bytes, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels (count, 32, 32, 3) and labels (count,), 0 to 9, of a .mat file's bytes.

    It must have the variables X (32, 32, 3, count) and y (count, 1), unsigned bytes, and y from 1
    to 10, where 10 is the digit 0. Anything else raises DataError with the reason.
    """
    variables = mat.read(content, {"X": (*IMAGE_SHAPE, count), "y": (count, 1)})
    pixels, labels = variables["X"], variables["y"][:, 0]
    wrong = (labels < 1) | (labels > CLASSES)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise DataError(f"label {index} must lie in [1, 10], got {labels[index]}")
    return pixels.transpose(3, 0, 1, 2), labels.astype(np.int64) % CLASSES


def _read_set(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64], str]:
    try:
        content = path.read_bytes()
        pixels, labels = parse(content, COUNTS[path.name])
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except DataError as reason:
        raise DataError(f"{path}: {reason}") from None
    return centred(pixels), labels, hashlib.sha256(content).hexdigest()
