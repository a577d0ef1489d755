"""The arithmetic of batch norm with a leaky ReLU behind it, for a batch of rows (N, units).

    z = φ(u),  u = γ y + β,  y = (x − mean) / std,  φ(u) = u where it is positive, else slope·u

A batch of rows fits into the cache, as images do not (`batch_norm`), and here every step rounds as
the operations do of which `ops.batch_norm` can be composed: the result is theirs to the bit. Each
function is that of a compiled loop in `loops` where there is one (`backend.compiled`).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from ..backend import compiled
from ..typing import RawArray
from . import loops

Three: TypeAlias = tuple[RawArray, RawArray, RawArray]


def forward(x: RawArray, gamma: RawArray, beta: RawArray, epsilon: float, slope: float) -> Three:
    """z, and the mean and the biased variance of each unit."""
    if loop := compiled(loops.normalize, x, gamma, beta):
        x, number = _contiguous(x), x.dtype.type
        z, mean, var = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
        loop(x, gamma, beta, number(epsilon), number(slope), z, mean, var)
        return z, mean, var
    mean = np.mean(x, axis=0)
    z = x - mean
    var = np.mean(np.square(z), axis=0)
    z *= 1.0 / np.sqrt(var + epsilon)
    z *= gamma
    z += beta
    if slope != 1:
        np.maximum(z, slope * z if slope else np.zeros_like(z), out=z)
    return z, mean, var


def pullback(
    g: RawArray,
    g_mean: RawArray | None,
    g_var: RawArray | None,
    x: RawArray,
    gamma: RawArray,
    beta: RawArray,
    outputs: Three,
    epsilon: float,
    slope: float,
) -> Three:
    """The cotangents of x, γ and β from those of the three outputs; of mean and var None is zero.

    With h = g φ'(u) these are Σ h y for γ, Σ h for β, and for x, with h now γ h, (h − mean h −
    y mean(y h)) / std, and what the mean and the variance add.
    """
    z, mean, var = outputs
    if loop := compiled(loops.pull_back, g, x, gamma, z):
        g, x, number = _contiguous(g), _contiguous(x), x.dtype.type
        h, g_gamma, g_beta = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
        options = number(epsilon), *_slope_of(x, slope)
        loop(g, x, gamma, z, mean, var, *options, h, g_gamma, g_beta)
    else:
        h, std = g * _slopes(z, slope), np.sqrt(var + epsilon)
        y = _normalized(x, mean, std)
        g_beta, g_gamma = np.sum(h, axis=0), np.sum(h * y, axis=0)
        h *= gamma
        total, tilt = _mean(h), _mean(y * h)
        h -= total
        y *= tilt
        h -= y
        h /= std
    if g_mean is not None:
        h += g_mean * (1.0 / len(x))
    if g_var is not None:
        h += g_var * (2.0 / len(x)) * (x - mean)
    return h, g_gamma, g_beta


def pushforward(
    t: RawArray,
    x: RawArray,
    gamma: RawArray,
    beta: RawArray,
    outputs: Three,
    epsilon: float,
    slope: float,
) -> Three:
    """The tangents of the three outputs from that of x.

    φ'(u) γ (t − mean t − y mean(y t)) / std, mean t and 2 std mean(y t).
    """
    z, mean, var = outputs
    if loop := compiled(loops.push_forward, t, x, gamma, z):
        t, x, number = _contiguous(t), _contiguous(x), x.dtype.type
        t_z, t_mean, t_var = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
        options = number(epsilon), *_slope_of(x, slope)
        loop(t, x, gamma, z, mean, var, *options, t_z, t_mean, t_var)
        return t_z, t_mean, t_var
    std = np.sqrt(var + epsilon)
    y = _normalized(x, mean, std)
    total, tilt = _mean(t), _mean(y * t)
    t_z = t - total
    y *= tilt
    t_z -= y
    t_z /= std
    t_z *= gamma
    t_z *= _slopes(z, slope)
    return t_z, total, 2.0 * std * tilt


def _contiguous(x: RawArray) -> RawArray:
    return x if x.flags.c_contiguous else x.copy()


def _mean(x: RawArray) -> RawArray:
    return np.sum(x, axis=0) * (1.0 / len(x))


def _normalized(x: RawArray, mean: RawArray, std: RawArray) -> RawArray:
    y = x - mean
    y *= 1.0 / std
    return y


def _slope_of(x: RawArray, slope: float) -> tuple[Any, Any]:
    """The slopes of φ below 0 and above, as `_slopes` rounds the latter."""
    below, rest = x.dtype.type(slope), x.dtype.type(1.0 - slope)
    return below, below + rest


def _slopes(z: RawArray, slope: float) -> RawArray | float:
    """φ'(u), from z = φ(u)."""
    if slope == 1:
        return 1.0
    positive = z > 0
    return positive if slope == 0 else slope + (1.0 - slope) * positive.astype(z.dtype)
