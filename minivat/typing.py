"""The interfaces that minivat's parts agree on."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

Array = Any
Model = Callable[[Array], Array]
Divergence = Any


def is_integer(value: object) -> bool:
    """Whether the value is an integer, Python's or NumPy's; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)
