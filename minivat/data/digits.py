"""scikit-learn's digits: 1,797 images of handwritten digits, 8 x 8, which need no network.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998 (the test part).
"""

import hashlib

import numpy as np

from .dataset import DataError, Dataset
from .splits import hold_out

TEST_COUNT = 497
WHITE = 16  # the images count the set pixels of 4 x 4 blocks


def load() -> Dataset:
    """The digits, 1,300 to train on and 497 to test with, always the same ones.

    Raises DataError where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise DataError("the digits need scikit-learn: pip install scikit-learn") from None
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / WHITE).astype(np.float32)
    labels = labels.astype(np.int64)
    train, test = hold_out(labels, TEST_COUNT, seed=0)
    arrays = {
        "train_images": images[train],
        "train_labels": labels[train],
        "test_images": images[test],
        "test_labels": labels[test],
    }
    checksums = {name: hashlib.sha256(array).hexdigest() for name, array in arrays.items()}
    return Dataset(name="digits", **arrays, image_shape=(8, 8), checksums=checksums)
