"""Convolution in NumPy's own functions, for arrays of any kind: one matrix product a shift.

The pixel (i, j) of every window is a strided view of the padded images; a convolution adds up,
over the pixels of the window, that view times the weights of the pixel.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..typing import RawArray
from . import Borders, IntPair, Shape


def forward(x: RawArray, weight: RawArray, stride: IntPair, padding: Borders) -> RawArray:
    """y[n, u, v] = Σ_ij x[n, u·stride + i, v·stride + j] @ weight[i, j], x padded with zeros."""
    padded = pad(x, padding)
    size = output_size(x.shape, weight.shape[:2], stride, padding)
    (_, _, first), *others = pixels(padded, weight.shape[:2], stride, size)
    y = np.matmul(first, weight[0, 0])
    for i, j, pixel in others:
        y += np.matmul(pixel, weight[i, j])
    return y


def input_gradient(
    g: RawArray, weight: RawArray, input_shape: Shape, stride: IntPair, padding: Borders
) -> RawArray:
    """The transpose of `forward` as a map of x."""
    (top, bottom), (left, right) = padding
    n, height, width, channels = input_shape
    shape = (n, height + top + bottom, width + left + right, channels)
    padded = np.zeros_like(g, shape=shape, dtype=np.result_type(g, weight))
    for i, j, pixel in pixels(padded, weight.shape[:2], stride, g.shape[1:3]):
        pixel += np.matmul(g, weight[i, j].T)
    return padded[:, top : top + height, left : left + width]


def weight_gradient(
    x: RawArray, g: RawArray, kernel_shape: IntPair, stride: IntPair, padding: Borders
) -> RawArray:
    """The transpose of `forward` as a map of the weight."""
    every = ((0, 1, 2), (0, 1, 2))
    shape = (*kernel_shape, x.shape[3], g.shape[3])
    # Not stacked: of more than eight arrays CuPy copies the addresses from the host.
    gradient = np.empty_like(g, shape=shape, dtype=np.result_type(x, g))
    for i, j, pixel in pixels(pad(x, padding), kernel_shape, stride, g.shape[1:3]):
        gradient[i, j] = np.tensordot(pixel, g, every)
    return gradient


def pad(x: RawArray, padding: Borders, value: float = 0.0) -> RawArray:
    """Images with rows and columns of `value` around them; without padding, x itself."""
    if padding == ((0, 0), (0, 0)):
        return x
    return np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=value)


def output_size(shape: Shape, window: IntPair, stride: IntPair, padding: Borders) -> IntPair:
    """How many windows fit, down and across, into padded images of a shape (N, H, W, C)."""
    high, wide = (
        (size + sum(around) - length) // step + 1
        for size, around, length, step in zip(shape[1:3], padding, window, stride, strict=True)
    )
    return high, wide


def pixels(
    padded: RawArray, window: IntPair, stride: IntPair, size: IntPair
) -> Iterator[tuple[int, int, RawArray]]:
    """(i, j, view) for each pixel (i, j) of the windows: the view (N, *size, C) of all of them."""
    (down, right), (high, wide) = stride, size
    for i in range(window[0]):
        for j in range(window[1]):
            rows = slice(i, i + (high - 1) * down + 1, down)
            columns = slice(j, j + (wide - 1) * right + 1, right)
            yield i, j, padded[:, rows, columns]
