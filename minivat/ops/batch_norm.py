"""Batch norm: its core, `normalize`, and all of it with a leaky ReLU, `batch_norm`.

`batch_norm` is one operation that keeps only its argument and result. Its first derivative is
written out in `minivat.kernels`, for rows and for images; those of higher orders are the engine's,
of the same function composed of `normalize` and simpler operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ..autodiff.tensor import Function, Primitive, Rules, stop_gradient
from ..autodiff.transforms import linearize
from ..kernels import batch_norm as of_images
from ..kernels import batch_norm_rows as of_rows
from ..typing import Array, RawArray
from .elementwise import add, divide, leaky_relu, multiply, sqrt, subtract
from .reduction import Axis, mean
from .shape import broadcast_to, reshape, size_along

Three: TypeAlias = tuple[Array, Array, Array]


def _normalize_values(x: RawArray, axis: Axis, epsilon: float) -> Three:
    mean_ = np.mean(x, axis=axis, keepdims=True)
    y = x - mean_
    var = np.mean(np.square(y), axis=axis, keepdims=True)
    y *= 1.0 / np.sqrt(var + epsilon)
    return y, mean_, var


def _centred(u: Array, y: Array, axis: Axis) -> Array:
    """u without its components along 1 and y: the projection in batch norm's Jacobian."""
    return subtract(
        subtract(u, mean(u, axis, keepdims=True)),
        multiply(y, mean(multiply(y, u), axis, keepdims=True)),
    )


def _normalize_vjp(
    g: Sequence[Array | None], outputs: Three, x: Array, axis: Axis, epsilon: float
) -> Array:
    (g_y, g_mean, g_var), (y, _, var) = g, outputs
    std = sqrt(add(var, epsilon))
    size = size_along(x.shape, axis)
    parts: list[Array] = []
    if g_y is not None:
        parts.append(divide(_centred(g_y, y, axis), std))
    if g_mean is not None:
        parts.append(broadcast_to(multiply(g_mean, 1.0 / size), x.shape))
    if g_var is not None:
        parts.append(multiply(multiply(g_var, 2.0 / size), multiply(y, std)))
    total = parts[0]
    for part in parts[1:]:
        total = add(total, part)
    return total


def _normalize_jvp(t: Array, outputs: Three, x: Array, axis: Axis, epsilon: float) -> Three:
    y, _, var = outputs
    std = sqrt(add(var, epsilon))
    covariance = mean(multiply(y, t), axis, keepdims=True)
    centred = subtract(t, mean(t, axis, keepdims=True))
    return (
        divide(subtract(centred, multiply(y, covariance)), std),
        mean(t, axis, keepdims=True),
        multiply(multiply(2.0, std), covariance),
    )


_normalize = Primitive(
    _normalize_values, [_normalize_vjp], [_normalize_jvp], name="normalize", outputs=3
)


def normalize(x: Array, axis: Axis, epsilon: float) -> Three:
    """The batch-norm core: y = (x − mean) / √(var + epsilon), with mean and var over `axis`.

    Returns (y, mean, var); mean and var (biased) keep the reduced axes with size 1. Ioffe and
    Szegedy, arXiv 1502.03167, algorithm 1, without scale and shift.
    """
    return _normalize(x, axis=axis, epsilon=epsilon)


def _composite(x: Array, gamma: Array, beta: Array, epsilon: float, slope: float) -> Three:
    """The same function, made of simpler operations."""
    y, mean, var = normalize(x, axis=tuple(range(len(x.shape) - 1)), epsilon=epsilon)
    y = leaky_relu(add(multiply(y, gamma), beta), slope)
    return y, reshape(mean, gamma.shape), reshape(var, gamma.shape)


def _composite_pullback(
    g: Array,
    g_mean: Array | None,
    g_var: Array | None,
    x: Array,
    gamma: Array,
    beta: Array,
    outputs: Three,
    epsilon: float,
    slope: float,
) -> Three:
    def function(arguments: Three) -> Three:
        return _composite(*arguments, epsilon, slope)

    values, _, pullback = linearize(function, (x, gamma, beta))
    return pullback(tuple(map(_or_zero, (g, g_mean, g_var), values)))


def _composite_pushforward(
    t: Array, x: Array, gamma: Array, beta: Array, outputs: Three, epsilon: float, slope: float
) -> Three:
    return linearize(lambda x: _composite(x, gamma, beta, epsilon, slope), x)[1](t)


def _rules(function: Function) -> tuple[Rules, Rules]:
    """VJPs and JVPs of a primitive, from a function that computes the same by other operations."""

    def along(i: int, args: Any, attrs: dict[str, Any]) -> tuple[Any, Function, Function]:
        return linearize(lambda a: function(*args[:i], a, *args[i + 1 :], **attrs), args[i])

    def vjp(i: int) -> Function:
        def rule(g: Any, y: Any, *args: Any, **attrs: Any) -> Any:
            values, _, pullback = along(i, args, attrs)
            return pullback(tuple(map(_or_zero, g, values)))

        return rule

    return vjp, lambda i: lambda t, y, *args, **attrs: along(i, args, attrs)[1](t)


def _or_zero(g: Array | None, like: Array) -> Array:
    return np.zeros_like(stop_gradient(like)) if g is None else g


def _derivative(kernel: Function, composite: Function, name: str) -> Primitive:
    """One of `batch_norm`'s derivatives, of three outputs; its own are those of the composite."""
    vjps, jvps = _rules(composite)
    return Primitive(kernel, vjps, jvps, name=name, outputs=3)


def _kernel(name: str) -> Function:
    """The kernel of that name for the dimensions of the result's first argument."""
    rows, images = getattr(of_rows, name), getattr(of_images, name)
    return lambda x, *args, **attrs: (rows if x.ndim == 2 else images)(x, *args, **attrs)


_pullback = _derivative(_kernel("pullback"), _composite_pullback, "batch_norm_pullback")
_pushforward = _derivative(_kernel("pushforward"), _composite_pushforward, "batch_norm_pushforward")


def _constant(outputs: Three) -> Three:
    """What the rules reuse; their own derivatives come from x, γ and β."""
    y, mean, var = map(stop_gradient, outputs)
    return y, mean, var


def _cotangents(g: Any, y: Three, *args: Any, **attrs: Any) -> Three:
    return _pullback(_or_zero(g[0], y[0]), *g[1:], *args, outputs=_constant(y), **attrs)


_batch_norm = Primitive(
    _kernel("forward"),
    lambda i: lambda *args, **attrs: _cotangents(*args, **attrs)[i],
    [
        lambda t, y, *args, **attrs: _pushforward(t, *args, outputs=_constant(y), **attrs),
        *map(_rules(_composite)[1], (1, 2)),
    ],
    name="batch_norm",
    outputs=3,
    together=_cotangents,
)


def batch_norm(x: Array, gamma: Array, beta: Array, epsilon: float, slope: float = 1.0) -> Three:
    """φ(gamma (x − mean) / √(var + epsilon) + beta) over all axes but the last, φ a leaky ReLU.

    x: (..., C); gamma, beta: (C,). slope: of φ for negative arguments, in [0, 1]; 0: a ReLU; 1:
    without φ. At 0 the subgradient is the slope.
    Returns (y, mean, var): y shaped like x, mean and var (biased) of shape (C,). Ioffe and Szegedy,
    arXiv 1502.03167, algorithm 1; the same as `normalize`, scale, shift and `leaky_relu`, in fewer
    passes over the memory and keeping nothing but x and y.
    x, gamma and beta have one floating dtype, and x at least one element.
    Raises ValueError for other shapes and dtypes, for a slope out of range and an epsilon below 0.
    """
    if 0 in x.shape or not x.shape:
        raise ValueError(f"batch_norm: x must be (..., C) and not empty, got {x.shape}")
    if x.dtype.kind != "f":
        raise ValueError(f"batch_norm: x must have a floating dtype, got {x.dtype}")
    for name, array in (("gamma", gamma), ("beta", beta)):
        if array.shape != x.shape[-1:]:
            raise ValueError(
                f"batch_norm: {name} must have the shape {x.shape[-1:]}, got {array.shape}"
            )
        if array.dtype != x.dtype:
            raise ValueError(f"batch_norm: {name} must have x's dtype {x.dtype}, got {array.dtype}")
    if not epsilon >= 0:
        raise ValueError(f"batch_norm: epsilon must not be negative, got {epsilon}")
    if not 0 <= slope <= 1:
        raise ValueError(f"batch_norm: slope must lie in [0, 1], got {slope}")
    return _batch_norm(x, gamma, beta, epsilon=epsilon, slope=slope)
