"""The arithmetic of batch norm with a leaky ReLU behind it, on raw arrays (rows, units).

    z = φ(u),  u = γ (x − mean) / std + β,  φ(u) = u where it is positive, else slope·u

Written for the CPU, where the arrays of a batch of images are many times its cache: they are gone
over in chunks that fit into it (`parallel.in_row_chunks`), twice in each direction, once for sums
over the rows and once for the result. Nothing else of the arrays' size is made. On a GPU the same
is done by kernels (`cuda_images`).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from ..backend import of_images
from ..parallel import in_row_chunks
from ..typing import RawArray

Three: TypeAlias = tuple[RawArray, RawArray, RawArray]


def forward(x: RawArray, gamma: RawArray, beta: RawArray, epsilon: float, slope: float) -> Three:
    """z, and the mean and the biased variance of each unit."""
    if kernels := of_images(x, gamma, beta):
        return kernels.forward(x, gamma, beta, epsilon, slope)
    mean, var = moments(x)
    scale = gamma / np.sqrt(var + epsilon)
    wide, scale_, shift = _widened(x, scale, beta - mean * scale)
    z = np.empty_like(wide)

    def chunk(start: int, stop: int) -> None:
        part = z[start:stop]
        np.multiply(wide[start:stop], scale_, out=part)
        part += shift
        if slope != 1:
            np.maximum(part, slope * part, out=part)

    in_row_chunks(chunk, wide)
    return z.reshape(x.shape), mean, var


def moments(x: RawArray) -> tuple[RawArray, RawArray]:
    """The mean and the biased variance of each unit, in one pass over x."""
    (wide,) = _widened(x)
    units = x.shape[-1]

    def chunk(start: int, stop: int) -> tuple[int, RawArray, RawArray]:
        part = wide[start:stop]
        size = part.size // units
        (total,) = _totals([(np.sum(part, axis=0),)], units)
        _, mean = _widened(x, total / size)
        centred = part - mean
        (squares,) = _totals([(_products(centred, centred),)], units)
        return size, total / size, squares

    parts = in_row_chunks(chunk, wide)
    size = sum(n for n, _, _ in parts)
    mean = sum(part * (n / size) for n, part, _ in parts)
    # Of the whole from those of its parts (Chan, Golub and LeVeque).
    squares = sum(part + np.square(m - mean) * n for n, m, part in parts)
    return mean, squares / size


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

    With h = g φ'(u) and y = (x − mean) / std these are Σ h y for γ, Σ h for β, and for x
    γ (h − mean h − y mean(h y)) / std, and what the mean and the variance add.
    """
    z, mean, var = outputs
    if g_mean is g_var is None and (kernels := of_images(g, x, gamma, z)):
        return kernels.pullback(g, x, gamma, outputs, epsilon, slope)
    std = np.sqrt(var + epsilon)
    scale, size = gamma / std, x.size // x.shape[-1]
    wide, mean_, scale_ = _widened(x, mean, scale)
    g, z = g.reshape(wide.shape), z.reshape(wide.shape)
    h = np.empty_like(wide)

    def sums(start: int, stop: int) -> tuple[RawArray, RawArray]:
        part = h[start:stop]
        np.multiply(g[start:stop], _slopes(z[start:stop], slope), out=part)
        centred = wide[start:stop] - mean_
        return np.sum(part, axis=0), _products(part, centred)

    h_sum, hx_sum = _totals(in_row_chunks(sums, wide), x.shape[-1])
    none = np.zeros_like(mean)
    tilt = (2 * (none if g_var is None else g_var) - scale * hx_sum / np.square(std)) / size
    offset = ((none if g_mean is None else g_mean) - scale * h_sum) / size - tilt * mean
    _, tilt, offset = _widened(x, tilt, offset)

    def result(start: int, stop: int) -> None:
        part = h[start:stop]
        part *= scale_
        part += wide[start:stop] * tilt
        part += offset

    in_row_chunks(result, wide)
    return h.reshape(x.shape), hx_sum / std, h_sum


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

    φ'(u) γ (t − mean t − y mean(t y)) / std, mean t and 2 mean(t (x − mean)).
    """
    z, mean, var = outputs
    if kernels := of_images(t, x, gamma, z):
        return kernels.pushforward(t, x, gamma, outputs, epsilon, slope)
    std = np.sqrt(var + epsilon)
    scale, size = gamma / std, x.size // x.shape[-1]
    wide, mean_, scale_ = _widened(x, mean, scale)
    t, z = t.reshape(wide.shape), z.reshape(wide.shape)

    def sums(start: int, stop: int) -> tuple[RawArray, RawArray]:
        part = t[start:stop]
        return np.sum(part, axis=0), _products(part, wide[start:stop] - mean_)

    t_mean, tx_mean = (total / size for total in _totals(in_row_chunks(sums, wide), x.shape[-1]))
    tilt = -scale * tx_mean / np.square(std)
    _, tilt, offset = _widened(x, tilt, -scale * t_mean - tilt * mean)
    out = np.empty_like(wide)

    def result(start: int, stop: int) -> None:
        part = out[start:stop]
        np.multiply(t[start:stop], scale_, out=part)
        part += wide[start:stop] * tilt
        part += offset
        part *= _slopes(z[start:stop], slope)

    in_row_chunks(result, wide)
    return out.reshape(x.shape), t_mean, 2 * tx_mean


def _products(a: RawArray, b: RawArray) -> RawArray:
    """Σ over the rows of a·b. CuPy's einsum calls cuBLAS, which it refuses to in a CUDA graph."""
    return np.einsum("ij,ij->j", a, b) if type(a) is np.ndarray else np.sum(a * b, axis=0)


def _slopes(z: RawArray, slope: float) -> RawArray | float:
    """φ'(u), from z = φ(u)."""
    if slope == 1:
        return 1.0
    slopes = np.empty_like(z)
    np.greater(z, 0, out=slopes)
    slopes *= 1 - slope
    slopes += slope
    return slopes


def _widened(x: RawArray, *vectors: RawArray) -> tuple[RawArray, ...]:
    """x as a matrix whose rows are those of the images, and vectors of units repeated likewise.

    NumPy repeats a vector along the rows of a matrix faster the longer they are.
    """
    repeats = x.shape[-2] if x.ndim > 2 else 1
    return x.reshape(-1, repeats * x.shape[-1]), *(np.tile(v, repeats) for v in vectors)


def _totals(parts: list[Any], units: int) -> list[RawArray]:
    """Sums over all chunks and, within a row, over the repetitions of the units."""
    return [np.sum(np.stack(part).reshape(-1, units), axis=0) for part in zip(*parts, strict=True)]
