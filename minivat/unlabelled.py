"""Rows without a class or target, for the estimators: how y marks them, and where it must not.

Needs scikit-learn, as `minivat.sklearn` does, which is its only user.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import _safe_indexing

from .typing import RawArray

UNLABELLED = -1


def known_classes(y: RawArray) -> tuple[RawArray, RawArray]:
    """Which of y (N,) are classes, booleans, and these classes.

    Numbers come back in a numeric array, whatever they lay in. Raises ValueError for unlabelled
    rows that are not marked by the number −1 but by None, NaN, another missing value or a string.
    """
    values = y.tolist()
    missing = [each for each in values if _is_missing(each)]
    if missing:
        raise ValueError(
            f"y must mark the unlabelled by the number -1, got {missing[0]}: "
            "use y = pandas.Series(y, dtype=object).fillna(-1)"
        )
    for text in ("-1", "nan"):  # what NumPy makes of the numbers in a list with strings
        if text in values:
            raise ValueError(
                f"y must mark the unlabelled by the number -1, got the string {text!r}: "
                "next to strings that needs an array of dtype object"
            )
    known = np.array([each != UNLABELLED for each in values], bool)
    classes = y[known]
    if y.dtype == object and all(isinstance(each, Real) for each in classes):
        classes = np.array(classes.tolist())
    return known, classes


def _is_missing(value: Any) -> bool:
    """Whether it is None, not equal to itself (NaN) or not saying so (pandas.NA)."""
    try:
        return value is None or bool(value != value)
    except TypeError:
        return True


def known_only(known: RawArray, *arrays: Any) -> list[Any]:
    """The known rows of each array (None stays None); ValueError if no row is known."""
    if known.all():
        return list(arrays)
    if not known.any():
        raise ValueError("y must hold a target at least to score against, got unlabelled rows only")
    rows = np.flatnonzero(known)
    return [None if each is None else _safe_indexing(each, rows) for each in arrays]


def refuse_misuse() -> None:
    """ValueError where a function of scikit-learn that is calling takes −1 for a class.

    Some meta-estimators number the classes before they call an estimator, −1 as one of them, and
    scorers compare its predictions with −1. What it is given does not tell: only the caller knows.
    """
    for variables in _callers():
        for each in variables.values():
            classes = getattr(each, "classes_", None) if isinstance(each, BaseEstimator) else None
            if isinstance(classes, np.ndarray) and UNLABELLED in classes.tolist():
                raise ValueError(
                    f"{type(each).__name__} takes -1, which marks the unlabelled, for a class of "
                    "y: give it the rows with y != -1 only, and for VATClassifier() a "
                    "FrozenEstimator of a fitted one"
                )
        y = variables.get("y_true")
        if y is not None and np.ndim(y) == 1 and not known_classes(np.asarray(y))[0].all():
            raise ValueError(
                "a scorer takes -1, which marks the unlabelled, for a class of y: leave `scoring` "
                "out, or let it look at the rows with y != -1 only"
            )


def _callers() -> Iterator[Mapping[str, Any]]:
    """The local variables of scikit-learn's functions that are calling, innermost first."""
    frame = inspect.currentframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith("sklearn."):
            yield frame.f_locals
        frame = frame.f_back
