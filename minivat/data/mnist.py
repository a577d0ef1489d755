"""MNIST: 60,000 training and 10,000 test images of handwritten digits, 28 x 28, from the four
original files, compressed or not.

Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition",
Proc. IEEE 86(11), 1998.
"""

import hashlib
from collections.abc import Sequence
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

# of the same files, uncompressed
CONTENTS = {
    TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

IMAGE_SHAPE = (28, 28)
CLASSES = 10


def forms(file: str) -> Sequence[str]:
    """The names under which a folder may hold a file: its own, and those of unpacked ones."""
    unpacked = file.removesuffix(".gz")
    return file, unpacked, unpacked.replace("-idx", ".idx")


def load(data_dir: str | Path | None = None) -> Dataset:
    """MNIST from `data_dir`, or else from MINIVAT_DATA, the user's cache, or a download.

    Raises DataError where files that are there are incomplete or malformed, and its subclass
    Unavailable where there are none and none can be downloaded.
    """
    folder = locate_or_fetch("MNIST", "mnist", FILES, data_dir, FILES, MIRRORS, forms)
    return read(folder)


def read(folder: Path) -> Dataset:
    """MNIST from the four files in `folder`; DataError, naming the file, where one is malformed.

    Where the contents are those of an original file, its own checksum is given for it.
    """
    train_images, train_labels, train_sums = _read_set(folder, TRAIN_IMAGES, TRAIN_LABELS)
    test_images, test_labels, test_sums = _read_set(folder, TEST_IMAGES, TEST_LABELS)
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
    folder: Path, images_file: str, labels_file: str
) -> tuple[NDArray[np.float32], NDArray[np.int64], dict[str, str]]:
    images_path, labels_path = _path_of(folder, images_file), _path_of(folder, labels_file)
    pixels, images_sum = _read_file(images_path, images_file, IMAGE_SHAPE)
    labels, labels_sum = _read_file(labels_path, labels_file, ())
    if len(labels) != len(pixels):
        raise DataError(
            f"{labels_path}: labels must be {len(pixels)}, as many as images in "
            f"{images_path.name}, got {len(labels)}"
        )
    if labels.max() >= CLASSES:
        index = int(np.argmax(labels >= CLASSES))
        raise DataError(f"{labels_path}: label {index} must lie in [0, 9], got {labels[index]}")
    images = np.divide(pixels.reshape(len(pixels), -1), 255, dtype=np.float32)
    return images, labels.astype(np.int64), images_sum | labels_sum


def _path_of(folder: Path, file: str) -> Path:
    paths = [folder / form for form in forms(file)]
    return next(filter(Path.exists, paths), paths[0])


def _read_file(
    path: Path, file: str, item_shape: tuple[int, ...]
) -> tuple[NDArray[np.uint8], dict[str, str]]:
    """The array in an idx file, (count, *item_shape), and a file's name and SHA-256.

    They are those of the original `file` where this one has its contents.
    """
    try:
        content = path.read_bytes()
        array = idx.parse(content, item_shape)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except DataError as reason:
        raise DataError(f"{path}: {reason}") from None
    if idx.sha256(array) == CONTENTS[file]:
        return array, {file: FILES[file]}
    return array, {path.name: hashlib.sha256(content).hexdigest()}
