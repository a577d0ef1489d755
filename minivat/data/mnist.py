"""MNIST: 60,000 training and 10,000 test images of handwritten digits, 28 x 28, from the four
original files.

Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition",
Proc. IEEE 86(11), 1998.
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import idx
from .dataset import DataError, Dataset
from .locate import locate_or_fetch

TRAIN_IMAGES = "train-images-idx3-ubyte.gz"
TRAIN_LABELS = "train-labels-idx1-ubyte.gz"
TEST_IMAGES = "t10k-images-idx3-ubyte.gz"
TEST_LABELS = "t10k-labels-idx1-ubyte.gz"

FILES = {
    TRAIN_IMAGES: "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    TRAIN_LABELS: "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    TEST_IMAGES: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    TEST_LABELS: "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

IMAGE_SHAPE = (28, 28)
CLASSES = 10


def load(data_dir: str | Path | None = None) -> Dataset:
    """MNIST from `data_dir`, or else from MINIVAT_DATA, the user's cache, or a download.

    Raises DataError where files that are there are incomplete or malformed, and its subclass
    Unavailable where there are none and none can be downloaded.
    """
    folder = locate_or_fetch("MNIST", "mnist", FILES, data_dir, FILES, MIRRORS)
    return read(folder)


def read(folder: Path) -> Dataset:
    """MNIST from the four files in `folder`; DataError, naming the file, where one is malformed."""
    train_images, train_labels, train_sums = _read_set(folder / TRAIN_IMAGES, folder / TRAIN_LABELS)
    test_images, test_labels, test_sums = _read_set(folder / TEST_IMAGES, folder / TEST_LABELS)
    return Dataset(
        name="mnist",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        image_shape=IMAGE_SHAPE,
        checksums=train_sums | test_sums,
        original=train_sums | test_sums == FILES,
    )


def _read_set(
    images_path: Path, labels_path: Path
) -> tuple[NDArray[np.float32], NDArray[np.int64], dict[str, str]]:
    pixels, images_sha256 = _read_file(images_path, IMAGE_SHAPE)
    labels, labels_sha256 = _read_file(labels_path, ())
    if len(labels) != len(pixels):
        raise DataError(
            f"{labels_path}: labels must be {len(pixels)}, as many as images in "
            f"{images_path.name}, got {len(labels)}"
        )
    if labels.max() >= CLASSES:
        index = int(np.argmax(labels >= CLASSES))
        raise DataError(f"{labels_path}: label {index} must lie in [0, 9], got {labels[index]}")
    images = np.divide(pixels.reshape(len(pixels), -1), 255, dtype=np.float32)
    checksums = {images_path.name: images_sha256, labels_path.name: labels_sha256}
    return images, labels.astype(np.int64), checksums


def _read_file(path: Path, item_shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], str]:
    """The array in an idx file, (count, *item_shape), and the file's SHA-256."""
    try:
        content = path.read_bytes()
        return idx.parse(content, item_shape), hashlib.sha256(content).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except DataError as reason:
        raise DataError(f"{path}: {reason}") from None
