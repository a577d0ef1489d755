"""The arithmetic of batch norm with a leaky ReLU behind it, on raw arrays (rows, units).

    z = φ(u),  u = γ (x − mean) / std + β,  φ(u) = u where it is positive, else slope·u

Written for the CPU, where the arrays of a batch of images are many times its cache: they are gone
over in chunks that fit into it (`parallel.in_row_chunks`), twice in each direction, once for sums
over the rows and once for the result, by a compiled loop where there is one (`chunks`). Nothing
else of the arrays' size is made. On a GPU the same is done by kernels (`cuda_images`).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from ..backend import of_images
from ..parallel import in_row_chunks
from ..typing import RawArray
from . import chunks
from .loops import compiled

Three: TypeAlias = tuple[RawArray, RawArray, RawArray]


def forward(x: RawArray, gamma: RawArray, beta: RawArray, epsilon: float, slope: float) -> Three:
    """z, and the mean and the biased variance of each unit."""
    if kernels := of_images(x, gamma, beta):
        return kernels.forward(x, gamma, beta, epsilon, slope)
    mean, var = moments(x)
    scale = gamma / np.sqrt(var + epsilon)
    wide, scale_, shift = _widened(x, scale, beta - mean * scale)
    z = np.empty_like(wide)
    activate = compiled(chunks.activate_loop, wide, scale_, shift) or chunks.activate

    def chunk(start: int, stop: int) -> None:
        activate(wide[start:stop], scale_, shift, x.dtype.type(slope), z[start:stop])

    in_row_chunks(chunk, wide)
    return z.reshape(x.shape), mean, var


def moments(x: RawArray) -> tuple[RawArray, RawArray]:
    """The mean and the biased variance of each unit, in one pass over x."""
    (wide,) = _widened(x)
    units = x.shape[-1]
    sum_squares = compiled(chunks.sum_squares_loop, wide) or chunks.sum_squares

    def chunk(start: int, stop: int) -> tuple[int, RawArray, RawArray]:
        part = wide[start:stop]
        size = part.size // units
        (total,) = _totals([(np.sum(part, axis=0),)], units)
        _, mean = _widened(x, total / size)
        sum_squares(part, mean, sums := np.empty_like(mean))
        (squares,) = _totals([(sums,)], units)
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
    g, z = _matrix(g, wide.shape), _matrix(z, wide.shape)
    h, slopes = np.empty_like(wide), _slopes(x, slope)
    alike = wide, g, z, mean_, scale_
    pull_back = compiled(chunks.pull_back_loop, *alike) or chunks.pull_back
    combine = compiled(chunks.combine_loop, *alike) or chunks.combine

    def sums(start: int, stop: int) -> tuple[RawArray, RawArray]:
        total, tilt = np.empty_like(mean_), np.empty_like(mean_)
        g_z_x = g[start:stop], z[start:stop], wide[start:stop]
        pull_back(*g_z_x, mean_, *slopes, h[start:stop], total, tilt)
        return total, tilt

    h_sum, hx_sum = _totals(in_row_chunks(sums, wide), x.shape[-1])
    none = np.zeros_like(mean)
    tilt = (2 * (none if g_var is None else g_var) - scale * hx_sum / np.square(std)) / size
    offset = ((none if g_mean is None else g_mean) - scale * h_sum) / size - tilt * mean
    _, tilt, offset = _widened(x, tilt, offset)

    def result(start: int, stop: int) -> None:
        combine(wide[start:stop], scale_, tilt, offset, h[start:stop])

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
    t, z = _matrix(t, wide.shape), _matrix(z, wide.shape)
    alike = wide, t, z, mean_, scale_
    push_forward = compiled(chunks.push_forward_loop, *alike) or chunks.push_forward
    tangent = compiled(chunks.tangent_loop, *alike) or chunks.tangent

    def sums(start: int, stop: int) -> tuple[RawArray, RawArray]:
        total, tilt = np.empty_like(mean_), np.empty_like(mean_)
        push_forward(t[start:stop], wide[start:stop], mean_, total, tilt)
        return total, tilt

    t_mean, tx_mean = (total / size for total in _totals(in_row_chunks(sums, wide), x.shape[-1]))
    tilt = -scale * tx_mean / np.square(std)
    _, tilt, offset = _widened(x, tilt, -scale * t_mean - tilt * mean)
    out, slopes = np.empty_like(wide), _slopes(x, slope)

    def result(start: int, stop: int) -> None:
        t_z_x = t[start:stop], z[start:stop], wide[start:stop]
        tangent(*t_z_x, scale_, tilt, offset, *slopes, out[start:stop])

    in_row_chunks(result, wide)
    return out.reshape(x.shape), t_mean, 2 * tx_mean


def _slopes(x: RawArray, slope: float) -> tuple[Any, Any]:
    """φ's slope below 0, and what is missing to that above."""
    return x.dtype.type(slope), x.dtype.type(1 - slope)


def _widened(x: RawArray, *vectors: RawArray) -> tuple[RawArray, ...]:
    """x as a matrix whose rows are those of the images, and vectors of units repeated likewise.

    NumPy repeats a vector along the rows of a matrix faster the longer they are.
    """
    repeats = x.shape[-2] if x.ndim > 2 else 1
    wide = _matrix(x, (-1, repeats * x.shape[-1]))
    return wide, *(np.tile(v, repeats) for v in vectors)


def _matrix(x: RawArray, shape: tuple[int, int]) -> RawArray:
    matrix = x.reshape(shape)
    return matrix if matrix.flags.c_contiguous else matrix.copy()


def _totals(parts: list[Any], units: int) -> list[RawArray]:
    """Sums over all chunks and, within a row, over the repetitions of the units."""
    return [np.sum(np.stack(part).reshape(-1, units), axis=0) for part in zip(*parts, strict=True)]
