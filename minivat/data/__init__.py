"""Data sets: find or download, check, scale, split, whiten and augment them."""

import sys
from pathlib import Path

from . import cifar10, digits, mnist, svhn
from .augmentation import translate_and_flip
from .dataset import DataError, Dataset, Unavailable
from .splits import draw_labels, hold_out
from .whitening import ZCA, fit_zca, whiten

__all__ = [
    "ZCA",
    "DataError",
    "Dataset",
    "draw_labels",
    "fit_zca",
    "hold_out",
    "load",
    "translate_and_flip",
    "whiten",
]

NAMES = ("auto", "mnist", "digits", "cifar10", "svhn")


def load(name: str = "auto", data_dir: str | Path | None = None, holdout: int = 0) -> Dataset:
    """The data set `name`: "mnist", "digits", "cifar10", "svhn"; or "auto", MNIST if available.

    Its files are searched for in `data_dir` (the only place, if given), in MINIVAT_DATA and in the
    user's cache; otherwise they are downloaded into that cache. If that fails, too, "auto" says so
    on stderr in two lines and returns the digits instead.
    holdout: for "cifar10" only, the number of training images to use as the test set (see
        `cifar10.load`).

    Raises DataError if files are incomplete or malformed, whatever the `name`; if `data_dir` lacks
    them; if they are not available, except for "auto"; and for a `holdout` that means nothing or
    leaves nothing to train on.
    """
    if name not in NAMES:
        raise DataError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    if holdout and name != "cifar10":
        raise DataError(f"holdout must be 0 for {name}, only cifar10 has one, got {holdout}")
    if name == "digits":
        if data_dir is not None:
            raise DataError(f"data_dir must be None for digits, scikit-learn's own, got {data_dir}")
        return digits.load()
    try:
        if name == "cifar10":
            return cifar10.load(data_dir, holdout)
        if name == "svhn":
            return svhn.load(data_dir)
        return mnist.load(data_dir)
    except Unavailable as failure:
        if name != "auto":
            raise DataError(f"{failure}; {_supply(name)}") from None
        print(f"{failure}.", file=sys.stderr)
        print(f"Going on with the 8x8 digits; to use MNIST, {_supply(name)}.", file=sys.stderr)
        return digits.load()


def _supply(name: str) -> str:
    """What the user can do about files that are not available."""
    files = {"cifar10": cifar10.DOWNLOADS, "svhn": svhn.FILES}.get(name, mnist.FILES)
    return f"put {', '.join(files)} into a folder and name it in --data-dir or MINIVAT_DATA"
