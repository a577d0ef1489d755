"""Data sets: found or downloaded, checked, scaled to [0, 1]."""

import sys
from pathlib import Path

from minivat.data import digits, mnist
from minivat.data.dataset import DataError, Dataset, Unavailable
from minivat.data.splits import draw_labels, hold_out

__all__ = ["DataError", "Dataset", "draw_labels", "hold_out", "load"]

NAMES = ("auto", "mnist", "digits")
SUPPLY = f"put {', '.join(mnist.FILES)} into a folder and name it in --data-dir or MINIVAT_DATA"


def load(name: str = "auto", data_dir: str | Path | None = None) -> Dataset:
    """The data set `name`: "mnist", "digits", or "auto", which is MNIST where it can be had.

    MNIST's files are looked for in `data_dir` (the only place, if given), in MINIVAT_DATA, in the
    user's cache, and are else downloaded into that cache. Where none are found and none can be
    downloaded, "auto" says so on stderr in two lines and returns the digits instead.

    Raises DataError where files that are there are incomplete or malformed, whatever the `name`;
    where `data_dir` lacks them; and, for "mnist", where they cannot be had.
    """
    if name not in NAMES:
        raise DataError(f"name: {name!r}, expected one of {', '.join(NAMES)}")
    if name == "digits":
        if data_dir is not None:
            raise DataError(f"data_dir: {data_dir}, but the digits come with scikit-learn")
        return digits.load()
    try:
        return mnist.load(data_dir)
    except Unavailable as failure:
        if name == "mnist":
            raise DataError(f"{failure}; {SUPPLY}") from None
        print(f"{failure}.", file=sys.stderr)
        print(f"Going on with the 8x8 digits; to use MNIST, {SUPPLY}.", file=sys.stderr)
        return digits.load()
