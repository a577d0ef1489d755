"""Batch norm with a leaky ReLU behind it, in one operation that keeps only its argument and result.

The derivative of first order is written out (`minivat.kernels.batch_norm`); those of higher orders
are the engine's, of the same function made of simpler operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..autodiff.tensor import Primitive, stop_gradient
from ..autodiff.transforms import linearize
from ..kernels import batch_norm as kernels
from .elementwise import add, leaky_relu, multiply
from .normalization import normalize


def composite(x: Any, gamma: Any, beta: Any, epsilon: float, slope: float) -> Any:
    """The same function, made of simpler operations."""
    y, _, _ = normalize(x, axis=tuple(range(len(x.shape) - 1)), epsilon=epsilon)
    return leaky_relu(add(multiply(y, gamma), beta), slope)


def _composite_pullback(
    g: Any, x: Any, gamma: Any, beta: Any, *statistics: Any, epsilon: float, slope: float
) -> tuple[Any, Any, Any]:
    function = lambda args: composite(*args, epsilon, slope)  # noqa: E731
    return linearize(function, (x, gamma, beta))[2](g)


def _composite_pushforward(
    t: Any, x: Any, gamma: Any, beta: Any, *statistics: Any, epsilon: float, slope: float
) -> Any:
    return linearize(lambda x: composite(x, gamma, beta, epsilon, slope), x)[1](t)


def _rules(function: Callable) -> list[Callable]:
    """VJPs and JVPs of a primitive, from a function that computes the same by other operations."""

    def along(i, args, attrs):
        return linearize(lambda a: function(*args[:i], a, *args[i + 1 :], **attrs), args[i])

    def vjp(i):
        def rule(g, y, *args, **attrs):
            values, _, pullback = along(i, args, attrs)
            if type(g) is tuple:
                zeros = [np.zeros_like(stop_gradient(value)) for value in values]
                g = tuple(z if one is None else one for one, z in zip(g, zeros, strict=True))
            return pullback(g)

        return rule

    return [vjp, lambda i: lambda t, y, *args, **attrs: along(i, args, attrs)[1](t)]


_pullback = Primitive(
    kernels.pullback, *_rules(_composite_pullback), name="batch_norm_pullback", outputs=3
)
_pushforward = Primitive(
    kernels.pushforward, *_rules(_composite_pushforward), name="batch_norm_pushforward"
)


def _cotangents(g, y, x, gamma, beta, **attrs):
    mean, var = map(stop_gradient, y[1:])
    return _pullback(g[0], x, gamma, beta, mean, var, **attrs)


def _along_x(t, y, x, gamma, beta, **attrs):
    mean, var = map(stop_gradient, y[1:])
    return _pushforward(t, x, gamma, beta, mean, var, **attrs), None, None


def _along_parameter(i):
    _, jvp = _rules(composite)
    return lambda t, y, *args, **attrs: (jvp(i)(t, y, *args, **attrs), None, None)


_batch_norm = Primitive(
    kernels.forward,
    lambda i: lambda *args, **attrs: _cotangents(*args, **attrs)[i],
    [_along_x, _along_parameter(1), _along_parameter(2)],
    name="batch_norm",
    outputs=3,
    together=_cotangents,
)


def batch_norm(
    x: Any, gamma: Any, beta: Any, epsilon: float, slope: float = 1.0
) -> tuple[Any, Any, Any]:
    """φ(γ (x − mean) / √(var + epsilon) + β), with mean and var of each unit, and φ a leaky ReLU.

    x: (..., units); gamma, beta: (units,). mean and var (biased) are over all axes but the last,
    shape (units,), and constants: they are returned for running averages alone. slope: of φ for
    negative arguments, in (0, 1]; 1: without φ. At 0 the subgradient is the slope.
    Returns (result, mean, var). Ioffe and Szegedy, arXiv 1502.03167, algorithm 1.
    Raises ValueError for a slope out of range, or parameters of another shape.
    """
    if not 0 < slope <= 1:
        raise ValueError(f"batch_norm: slope must lie in (0, 1], got {slope}")
    units = x.shape[-1:]
    if len(x.shape) < 2 or gamma.shape != units or beta.shape != units:
        raise ValueError(
            "batch_norm: x must be (..., units) and gamma and beta (units,), "
            f"got {x.shape}, {gamma.shape} and {beta.shape}"
        )
    y, mean, var = _batch_norm(x, gamma, beta, epsilon=epsilon, slope=slope)
    return y, stop_gradient(mean), stop_gradient(var)
