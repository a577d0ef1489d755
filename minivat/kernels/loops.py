"""Loops over the elements of arrays, which Numba compiles where it is installed.

NumPy goes over its arrays once for every operation, and writes each result out; one compiled loop
does all of it in one pass or two. Each loop stands for NumPy's functions in another module, which
do without Numba and for arrays of other kinds, and rounds exactly as they do: what is computed does
not depend on whether Numba is there. So do those of `chunks` and `pooling_loops`, for images; only
those of `tile_loops` add in an order of their own.

A sum over rows adds them in their order, each column for itself, as NumPy's does. Columns go in
blocks, of which a batch's rows stay in the cache; the innermost loop is over the columns of one
row, which the processor takes eight or sixteen at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ..typing import RawArray

Loop = Callable[..., None]  # of contiguous arrays of one dtype and scalars; it writes into some

BLOCK = 1 << 15  # numbers of one array in a block of columns


def compiled(loop: Loop, *arrays: RawArray) -> Loop | None:
    """The loop compiled, where Numba is installed and the arrays are NumPy's, of one float dtype.

    The first call in a process loads Numba, half a second; the first one on a machine compiles the
    loop as well, a second or two, and keeps it on disk for the next.
    """
    dtype = arrays[0].dtype
    if dtype.char not in "fd":
        return None
    for array in arrays:
        if type(array) is not np.ndarray or array.dtype != dtype:
            return None
    return _compiled(loop)


@cache
def _compiled(loop: Loop) -> Loop | None:
    try:
        from numba import njit
    except ImportError:  # not installed, or not made for this version of NumPy
        return None
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(loop)
    except RuntimeError:  # there is no folder that it may write into
        return njit(**options)(loop)


def adam(
    theta: RawArray,
    g: RawArray,
    m: RawArray,
    v: RawArray,
    beta1: Any,
    share: Any,
    beta2: Any,
    epsilon: Any,
    rate: Any,
) -> None:
    """`optim.Adam.update` of flat arrays."""
    for i in range(theta.size):
        m[i] = m[i] * beta1 + g[i] * share
        v[i] = v[i] * beta2 + g[i] * g[i]
        theta[i] -= m[i] / (np.sqrt(v[i]) + epsilon) * rate


def average(old: RawArray, new: RawArray, decay: Any, share: Any, out: RawArray) -> None:
    """decay·old + share·new, into out."""
    for i in range(out.size):
        out[i] = old[i] * decay + new[i] * share


def normalize(
    x: RawArray,
    gamma: RawArray,
    beta: RawArray,
    epsilon: Any,
    slope: Any,
    z: RawArray,
    mean: RawArray,
    var: RawArray,
) -> None:
    """`batch_norm_rows.forward`, into z, mean and var."""
    one, zero, size = x.dtype.type(1), x.dtype.type(0), x.dtype.type(len(x))
    width = max(16, BLOCK // len(x))
    for start in range(0, x.shape[1], width):
        block = slice(start, min(start + width, x.shape[1]))
        m, v, scale, shift = mean[block], var[block], gamma[block], beta[block]
        inverse = np.empty_like(m)
        for j in range(m.size):
            m[j] = x[0, start + j]
            v[j] = zero
        for i in range(1, len(x)):
            row = x[i, block]
            for j in range(m.size):
                m[j] += row[j]
        for j in range(m.size):
            m[j] /= size
        for i in range(len(x)):
            row = x[i, block]
            for j in range(m.size):
                centred = row[j] - m[j]
                v[j] += centred * centred
        for j in range(m.size):
            v[j] /= size
            inverse[j] = one / np.sqrt(v[j] + epsilon)
        for i in range(len(x)):
            row, out = x[i, block], z[i, block]
            for j in range(m.size):
                u = (row[j] - m[j]) * inverse[j] * scale[j] + shift[j]
                below = u * slope if slope != zero else zero  # not −0
                out[j] = below if u <= zero else u


def pull_back(
    g: RawArray,
    x: RawArray,
    gamma: RawArray,
    z: RawArray,
    mean: RawArray,
    var: RawArray,
    epsilon: Any,
    slope: Any,
    steep: Any,
    g_x: RawArray,
    g_gamma: RawArray,
    g_beta: RawArray,
) -> None:
    """`batch_norm_rows.pullback`, into g_x, g_gamma and g_beta."""
    one, zero, size = x.dtype.type(1), x.dtype.type(0), x.dtype.type(len(x))
    width = max(16, BLOCK // len(x))
    for start in range(0, x.shape[1], width):
        block = slice(start, min(start + width, x.shape[1]))
        m, scale, by_gamma, by_beta = mean[block], gamma[block], g_gamma[block], g_beta[block]
        std, inverse = np.empty_like(m), np.empty_like(m)
        total, tilt = np.zeros_like(m), np.zeros_like(m)
        for j in range(m.size):
            std[j] = np.sqrt(var[start + j] + epsilon)
            inverse[j] = one / std[j]
            by_gamma[j] = by_beta[j] = zero
        for i in range(len(x)):
            row, given, result, out = x[i, block], g[i, block], z[i, block], g_x[i, block]
            for j in range(m.size):
                y = (row[j] - m[j]) * inverse[j]
                h = given[j] * (steep if result[j] > zero else slope)
                by_beta[j] += h
                by_gamma[j] += h * y
                h *= scale[j]
                total[j] += h
                tilt[j] += y * h
                out[j] = h
        for j in range(m.size):
            total[j] *= one / size
            tilt[j] *= one / size
        for i in range(len(x)):
            row, out = x[i, block], g_x[i, block]
            for j in range(m.size):
                y = (row[j] - m[j]) * inverse[j]
                out[j] = (out[j] - total[j] - y * tilt[j]) / std[j]


def push_forward(
    t: RawArray,
    x: RawArray,
    gamma: RawArray,
    z: RawArray,
    mean: RawArray,
    var: RawArray,
    epsilon: Any,
    slope: Any,
    steep: Any,
    t_z: RawArray,
    t_mean: RawArray,
    t_var: RawArray,
) -> None:
    """`batch_norm_rows.pushforward`, into t_z, t_mean and t_var."""
    one, zero, size = x.dtype.type(1), x.dtype.type(0), x.dtype.type(len(x))
    width = max(16, BLOCK // len(x))
    for start in range(0, x.shape[1], width):
        block = slice(start, min(start + width, x.shape[1]))
        m, scale, total, tilt = mean[block], gamma[block], t_mean[block], t_var[block]
        std, inverse = np.empty_like(m), np.empty_like(m)
        for j in range(m.size):
            std[j] = np.sqrt(var[start + j] + epsilon)
            inverse[j] = one / std[j]
            total[j] = tilt[j] = zero
        for i in range(len(x)):
            row, given = x[i, block], t[i, block]
            for j in range(m.size):
                y = (row[j] - m[j]) * inverse[j]
                total[j] += given[j]
                tilt[j] += y * given[j]
        for j in range(m.size):
            total[j] *= one / size
            tilt[j] *= one / size
        for i in range(len(x)):
            row, given, result, out = x[i, block], t[i, block], z[i, block], t_z[i, block]
            for j in range(m.size):
                y = (row[j] - m[j]) * inverse[j]
                u = (given[j] - total[j] - y * tilt[j]) / std[j] * scale[j]
                out[j] = u * (steep if result[j] > zero else slope)
        for j in range(m.size):
            tilt[j] = (one + one) * std[j] * tilt[j]
