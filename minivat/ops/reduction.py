"""Reductions over axes, as NumPy's: `axis` an integer, a tuple or None for all, and `keepdims`."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from ..autodiff.families import linear
from ..autodiff.tensor import Function, Primitive, stop_gradient
from ..typing import Array, RawArray
from .elementwise import as_floats, divide, exp, multiply, reals, subtract, where
from .shape import broadcast_to, keepdims_shape, reshape, size_along

Axis: TypeAlias = int | tuple[int, ...] | None


def _spread(g: Array, x: Array, axis: Axis) -> Array:
    """A reduction's cotangent in the shape that broadcasts against its argument."""
    return reshape(g, keepdims_shape(x.shape, axis))


_sum = linear(
    lambda x, axis, keepdims: np.sum(x, axis=axis, keepdims=keepdims),
    lambda g, y, x, axis, keepdims: broadcast_to(_spread(g, x, axis), x.shape),
    name="sum",
)


def sum(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """The sum of elements."""
    return _sum(x, axis=axis, keepdims=keepdims)


def mean(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """The mean of elements; NaN for none."""
    size = size_along(x.shape, axis)
    return multiply(sum(x, axis, keepdims), 1.0 / size if size else np.nan)


def _weighted(fun: Function, weights: Function, name: str) -> Primitive:
    """A reduction y of x with dy/dx given by `weights(y, x, axis)`, y and it with kept axes."""

    def vjp(g: Array, y: Array, x: Array, axis: Axis, keepdims: bool) -> Array:
        return multiply(_spread(g, x, axis), weights(_spread(y, x, axis), x, axis))

    def jvp(t: Array, y: Array, x: Array, axis: Axis, keepdims: bool) -> Array:
        return sum(multiply(t, weights(_spread(y, x, axis), x, axis)), axis, keepdims)

    return Primitive(fun, [vjp], [jvp], name=name)


def _shares(y: Array, x: Array, axis: Axis) -> Array:
    """1 at the extreme element, shared equally where several tie."""
    hits = (stop_gradient(x) == stop_gradient(y)).astype(x.dtype)
    return hits / np.sum(hits, axis=axis, keepdims=True)


_max = _weighted(lambda x, axis, keepdims: np.max(x, axis=axis, keepdims=keepdims), _shares, "max")
_min = _weighted(lambda x, axis, keepdims: np.min(x, axis=axis, keepdims=keepdims), _shares, "min")


def max(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """The largest element; elements that tie share the derivative equally."""
    return _max(x, axis=axis, keepdims=keepdims)


def min(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """The smallest element; elements that tie share the derivative equally."""
    return _min(x, axis=axis, keepdims=keepdims)


def _logsumexp_values(x: RawArray, axis: Axis, keepdims: bool) -> RawArray:
    x = as_floats(x)
    top = np.max(x, axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    total = np.sum(np.exp(x - top), axis=axis, keepdims=True)
    with np.errstate(divide="ignore"):  # the sum of nothing but exp(−∞) is 0, its logarithm −∞
        y = np.log(total) + top
    return y if keepdims else np.squeeze(y, axis=axis)


def _softmax_or_zero(y: Array, x: Array, axis: Axis) -> Array:
    # y = −∞ is the sum of nothing but exp(−∞): 0, with the derivative 0.
    return exp(subtract(x, where(stop_gradient(y) == -np.inf, 0.0, y)))


_logsumexp = _weighted(_logsumexp_values, _softmax_or_zero, "logsumexp")


def logsumexp(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """log Σ exp x without overflow for any finite x; of −∞ alone −∞, with the derivative 0."""
    return _logsumexp(x, axis=axis, keepdims=keepdims)


def _norm_values(x: RawArray, axis: Axis, keepdims: bool) -> RawArray:
    # Divided by the largest element first, so that squares neither overflow nor vanish.
    x = as_floats(x)
    top = np.max(np.abs(x), axis=axis, keepdims=True)
    top = np.where(np.logical_and(top > 0, np.isfinite(top)), top, 1.0)
    scaled = np.abs(x / top) if x.dtype.kind == "c" else x / top
    y = top * np.sqrt(np.sum(np.square(scaled), axis=axis, keepdims=True))
    return y if keepdims else np.squeeze(y, axis=axis)


def _unit_or_zero(y: Array, x: Array, axis: Axis) -> Array:
    reals("norm", x)
    zero = (stop_gradient(y) == 0).astype(x.dtype)
    return divide(x, y + zero)


_norm = _weighted(_norm_values, _unit_or_zero, "norm")


def norm(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """The L2 norm, without overflow or underflow. At 0 the subgradient is 0.

    Of complex numbers it is real, and has no derivative (TypeError).
    Its second derivative does not exist there; what comes out has no meaning.
    """
    return _norm(x, axis=axis, keepdims=keepdims)
