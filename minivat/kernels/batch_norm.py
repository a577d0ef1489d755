"""The arithmetic of batch norm with a leaky ReLU behind it, on raw arrays (rows, units).

    z = φ(u),  u = γ (x − mean) / std + β,  φ(u) = u where it is positive, else slope·u

Written for the CPU, where the arrays of a batch of images are many times its cache: they are gone
over in pieces that fit into it (`backend.in_pieces`), twice in each direction, once for sums over
the rows and once for the result. Nothing else of the arrays' size is made.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import in_pieces


def forward(x: Any, gamma: Any, beta: Any, epsilon: float, slope: float) -> tuple[Any, Any, Any]:
    """z, and the mean and the biased variance of each unit."""
    mean, var = moments(x)
    wide, mean_, scale_, shift = _widened(x, mean, gamma / np.sqrt(var + epsilon), beta)
    z = np.empty_like(wide)

    def piece(start: int, stop: int) -> None:
        part = z[start:stop]
        np.subtract(wide[start:stop], mean_, out=part)
        part *= scale_
        part += shift
        if slope != 1:
            np.maximum(part, slope * part, out=part)

    in_pieces(piece, wide)
    return z.reshape(x.shape), mean, var


def moments(x: Any) -> tuple[Any, Any]:
    """The mean and the biased variance of each unit, in one pass over x."""
    (wide,) = _widened(x)
    units = x.shape[-1]

    def piece(start: int, stop: int) -> tuple[int, Any, Any]:
        part = wide[start:stop].reshape(-1, units)
        mean = np.mean(part, axis=0)
        centred = part - mean
        return len(part), mean, np.einsum("ij,ij->j", centred, centred)

    parts = in_pieces(piece, wide)
    size = sum(n for n, _, _ in parts)
    mean = sum(part * (n / size) for n, part, _ in parts)
    # Of the whole from those of its parts (Chan, Golub and LeVeque).
    squares = sum(part + np.square(m - mean) * n for n, m, part in parts)
    return mean, squares / size


def pullback(
    g: Any, x: Any, gamma: Any, beta: Any, mean: Any, var: Any, epsilon: float, slope: float
) -> tuple[Any, Any, Any]:
    """The cotangents of x, γ and β from that of z.

    With h = g φ'(u) and y = (x − mean) / std these are γ (h − mean h − y mean(h y)) / std, Σ h y
    and Σ h.
    """
    std = np.sqrt(var + epsilon)
    scale = gamma / std
    wide, mean_, scale_, shift = _widened(x, mean, scale, beta)
    g = g.reshape(wide.shape)
    h = np.empty_like(wide)

    def sums(start: int, stop: int) -> tuple[Any, Any]:
        part = h[start:stop]
        centred = wide[start:stop] - mean_
        if slope == 1:
            part[...] = g[start:stop]
        else:
            _slopes(centred * scale_ + shift, slope, out=part)
            part *= g[start:stop]
        return np.sum(part, axis=0), np.einsum("ij,ij->j", part, centred)

    h_sum, hx_sum = _totals(in_pieces(sums, wide), x.shape[-1])
    tilt, offset = _centring(x, mean, std, scale, h_sum, hx_sum)

    def result(start: int, stop: int) -> None:
        part = h[start:stop]
        part *= scale_
        part += wide[start:stop] * tilt
        part += offset

    in_pieces(result, wide)
    return h.reshape(x.shape), hx_sum / std, h_sum


def pushforward(
    t: Any, x: Any, gamma: Any, beta: Any, mean: Any, var: Any, epsilon: float, slope: float
) -> Any:
    """The tangent of z from that of x: φ'(u) γ (t − mean t − y mean(t y)) / std."""
    std = np.sqrt(var + epsilon)
    scale = gamma / std
    wide, mean_, scale_, shift = _widened(x, mean, scale, beta)
    t = t.reshape(wide.shape)

    def sums(start: int, stop: int) -> tuple[Any, Any]:
        part = t[start:stop]
        return np.sum(part, axis=0), np.einsum("ij,ij->j", part, wide[start:stop] - mean_)

    t_sum, tx_sum = _totals(in_pieces(sums, wide), x.shape[-1])
    tilt, offset = _centring(x, mean, std, scale, t_sum, tx_sum)
    out = np.empty_like(wide)

    def result(start: int, stop: int) -> None:
        part = out[start:stop]
        np.multiply(t[start:stop], scale_, out=part)
        part += wide[start:stop] * tilt
        part += offset
        if slope != 1:
            u = wide[start:stop] - mean_
            u *= scale_
            u += shift
            part *= _slopes(u, slope, out=u)

    in_pieces(result, wide)
    return out.reshape(x.shape)


def _slopes(u: Any, slope: float, out: Any) -> Any:
    """φ'(u)."""
    np.greater(u, 0, out=out)
    out *= 1 - slope
    out += slope
    return out


def _centring(x, mean, std, scale, v_sum, vx_sum):
    """Of scale (v − mean v − y mean(v y)) all but scale·v, as x·tilt + offset.

    From Σ v and Σ v (x − mean).
    """
    size = x.size // x.shape[-1]
    tilt = -scale * vx_sum / (size * np.square(std))
    return _widened(x, tilt, -scale * v_sum / size - tilt * mean)[1:]


def _widened(x: Any, *vectors: Any) -> tuple[Any, ...]:
    """x as a matrix whose rows are those of the images, and vectors of units repeated likewise.

    NumPy repeats a vector along the rows of a matrix faster the longer they are.
    """
    repeats = x.shape[-2] if x.ndim > 2 else 1
    return x.reshape(-1, repeats * x.shape[-1]), *(np.tile(v, repeats) for v in vectors)


def _totals(parts: list, units: int) -> list:
    """Sums over all pieces and, within a row, over the repetitions of the units."""
    return [np.sum(np.stack(part).reshape(-1, units), axis=0) for part in zip(*parts, strict=True)]
