"""What `batch_norm` does with a chunk of rows, by NumPy; beside each function the loop for it.

A loop is compiled, and rounds, as those of `loops`. All arrays are matrices (rows, width) and
vectors (width,); the last ones are written into. slope and rest are those of φ: its slope below 0,
and what is missing to its slope above.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..typing import RawArray


def sum_squares(x: RawArray, mean: RawArray, total: RawArray) -> None:
    """total = Σ (x − mean)² over the rows."""
    np.sum(np.square(x - mean), axis=0, out=total)


def sum_squares_loop(x: RawArray, mean: RawArray, total: RawArray) -> None:
    """`sum_squares`."""
    total[:] = 0
    for i in range(len(x)):
        row = x[i]
        for j in range(row.size):
            centred = row[j] - mean[j]
            total[j] += centred * centred


def activate(x: RawArray, scale: RawArray, shift: RawArray, slope: Any, z: RawArray) -> None:
    """z = φ(x scale + shift)."""
    np.multiply(x, scale, out=z)
    z += shift
    if slope != 1:
        np.maximum(z, slope * z, out=z)


def activate_loop(x: RawArray, scale: RawArray, shift: RawArray, slope: Any, z: RawArray) -> None:
    """`activate`."""
    for i in range(len(x)):
        row, out = x[i], z[i]
        for j in range(row.size):
            u = row[j] * scale[j] + shift[j]
            below = u * slope
            out[j] = u if u >= below else below  # which is NaN where u is


def pull_back(
    g: RawArray,
    z: RawArray,
    x: RawArray,
    mean: RawArray,
    slope: Any,
    rest: Any,
    h: RawArray,
    total: RawArray,
    tilt: RawArray,
) -> None:
    """h = g φ'(u), total = Σ h and tilt = Σ h (x − mean) over the rows."""
    np.multiply(g, _slopes(z, slope, rest), out=h)
    push_forward(h, x, mean, total, tilt)


def pull_back_loop(
    g: RawArray,
    z: RawArray,
    x: RawArray,
    mean: RawArray,
    slope: Any,
    rest: Any,
    h: RawArray,
    total: RawArray,
    tilt: RawArray,
) -> None:
    """`pull_back`."""
    steep = slope + rest
    total[:] = 0
    tilt[:] = 0
    for i in range(len(x)):
        given, result, row, out = g[i], z[i], x[i], h[i]
        for j in range(row.size):
            product = given[j] * (steep if result[j] > 0 else slope)
            out[j] = product
            total[j] += product
            tilt[j] += product * (row[j] - mean[j])


def push_forward(t: RawArray, x: RawArray, mean: RawArray, total: RawArray, tilt: RawArray) -> None:
    """total = Σ t and tilt = Σ t (x − mean) over the rows."""
    np.sum(t, axis=0, out=total)
    np.sum(t * (x - mean), axis=0, out=tilt)


def push_forward_loop(
    t: RawArray, x: RawArray, mean: RawArray, total: RawArray, tilt: RawArray
) -> None:
    """`push_forward`."""
    total[:] = 0
    tilt[:] = 0
    for i in range(len(x)):
        given, row = t[i], x[i]
        for j in range(row.size):
            total[j] += given[j]
            tilt[j] += given[j] * (row[j] - mean[j])


def combine(x: RawArray, scale: RawArray, tilt: RawArray, offset: RawArray, h: RawArray) -> None:
    """h ← h scale + x tilt + offset."""
    h *= scale
    h += x * tilt
    h += offset


def combine_loop(
    x: RawArray, scale: RawArray, tilt: RawArray, offset: RawArray, h: RawArray
) -> None:
    """`combine`."""
    for i in range(len(x)):
        row, out = x[i], h[i]
        for j in range(row.size):
            out[j] = out[j] * scale[j] + row[j] * tilt[j] + offset[j]


def tangent(
    t: RawArray,
    z: RawArray,
    x: RawArray,
    scale: RawArray,
    tilt: RawArray,
    offset: RawArray,
    slope: Any,
    rest: Any,
    out: RawArray,
) -> None:
    """out = φ'(u) (t scale + x tilt + offset)."""
    np.multiply(t, scale, out=out)
    out += x * tilt
    out += offset
    out *= _slopes(z, slope, rest)


def tangent_loop(
    t: RawArray,
    z: RawArray,
    x: RawArray,
    scale: RawArray,
    tilt: RawArray,
    offset: RawArray,
    slope: Any,
    rest: Any,
    out: RawArray,
) -> None:
    """`tangent`."""
    steep = slope + rest
    for i in range(len(x)):
        given, result, row, moved = t[i], z[i], x[i], out[i]
        for j in range(row.size):
            of_u = given[j] * scale[j] + row[j] * tilt[j] + offset[j]
            moved[j] = of_u * (steep if result[j] > 0 else slope)


def _slopes(z: RawArray, slope: Any, rest: Any) -> Any:
    """φ'(u), from z = φ(u)."""
    if slope == 1:
        return slope
    slopes = np.empty_like(z)
    np.greater(z, 0, out=slopes)
    slopes *= rest
    slopes += slope
    return slopes
