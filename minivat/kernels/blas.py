"""Convolution on the CPU: a few large matrix products for each block of images.

A block is as many images as stay in the cache, and at least one: of images much larger than 32×32
one alone is more than that.

The images of a block are unfolded across: a row of the block holds, for each pixel of an output
row, the kw·C numbers that one row of the window covers. Rows of several small images stand side by
side, (rows, images, columns), so that the pixels which the i-th row of the window needs are
consecutive for all of them: one product for each i, and no copy of the kh·kw·C numbers of every
window (im2col), which would not fit into the cache. Threads take images, not parts of products.

3×3 windows at stride 1 over many channels, most of what such networks compute, go to `winograd`,
but for images of a range in which that rounds too much.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from ..parallel import in_parallel
from ..typing import RawArray
from . import Borders, IntPair, Shape, winograd
from .plain import output_size
from .winograd import blocks, overlap

Factor: TypeAlias = tuple[slice, RawArray]  # of a product: output pixels, and what they see

# Output pixels of a block: enough for a product at full speed, few enough for the cache.
PIXELS = 1024
# A product over fewer numbers than this is slow: the rows of the window are then unfolded as well.
DEPTH = 64


def forward(x: RawArray, weight: RawArray, stride: IntPair, padding: Borders) -> RawArray:
    """y[n, u, v] = Σ_ij x[n, u·stride + i, v·stride + j] @ weight[i, j], x padded with zeros."""
    size = output_size(x.shape, weight.shape[:2], stride, padding)
    y = np.empty((len(x), *size, weight.shape[3]), np.result_type(x, weight))
    _convolve(x, weight, stride, padding, y)
    return y


def input_gradient(
    g: RawArray, weight: RawArray, input_shape: Shape, stride: IntPair, padding: Borders
) -> RawArray:
    """The transpose of `forward` as a map of x.

    The pixels of x that one pixel of the window meets at every stride are the convolution of g with
    every stride-th row and column of the weight, turned round.
    """
    x = np.empty(input_shape, np.result_type(g, weight))
    down, across = (
        [_phase(a, *sizes) for a in range(sizes[-1])]
        for sizes in zip(
            input_shape[1:3], g.shape[1:3], weight.shape[:2], padding, stride, strict=True
        )
    )
    for rows, row_taps, vertical in down:
        for columns, column_taps, horizontal in across:
            part = x[:, rows, columns]
            turned = weight[row_taps, column_taps].transpose(0, 1, 3, 2)
            if turned.size and part.size:
                _convolve(g, turned, (1, 1), (vertical, horizontal), part)
            else:
                part[...] = 0
    return x


def _phase(
    a: int, size: int, length: int, kernel: int, around: IntPair, step: int
) -> tuple[slice, slice, IntPair]:
    """Of the pixels a + k·step of a padded axis: where they are, their weights, the padding of g.

    size, length: of the axis of x and of g; around: the padding of x. Pixel p of x receives
    Σ_m g[q − m] weight[a + m·step] where p + before = a + q·step. A negative padding cuts off.
    """
    first = -((a - around[0]) // step)  # the smallest q with p ≥ 0
    start = a + first * step - around[0]
    count = len(range(start, size, step))
    taps = len(range(a, kernel, step))
    before = taps - 1 - first
    after = count + taps - 1 - before - length
    turned = slice(a + (taps - 1) * step, a - 1 if a else None, -step) if taps else slice(0, 0)
    return slice(start, size, step), turned, (before, after)


def weight_gradient(
    x: RawArray, g: RawArray, kernel_shape: IntPair, stride: IntPair, padding: Borders
) -> RawArray:
    """The transpose of `forward` as a map of the weight."""
    dtype = np.result_type(x, g)
    if not winograd.suits(kernel_shape, stride, x.shape[3], g.shape[3], dtype):
        return _correlate(x, g, kernel_shape, stride, padding)
    alike = winograd.within_range(x, padding, g.shape[1:3], dtype) & winograd.finite(g, dtype)
    if alike.all():
        return winograd.weight_gradient(x, g, padding)
    rest = _correlate(x[~alike], g[~alike], kernel_shape, stride, padding)
    return rest + winograd.weight_gradient(x[alike], g[alike], padding)


def _correlate(
    x: RawArray, g: RawArray, kernel_shape: IntPair, stride: IntPair, padding: Borders
) -> RawArray:
    channels, outputs, dtype = x.shape[3], g.shape[3], np.result_type(x, g)

    def correlate(start: int, stop: int) -> RawArray:
        unfolded = _Unfolded(x, kernel_shape, stride, padding, g.shape[1:3])
        total = np.zeros((*kernel_shape, channels, outputs), dtype)
        totals = total.reshape(unfolded.terms, unfolded.depth, outputs)
        term = np.empty_like(totals[0])
        for block in blocks(start, stop, unfolded.images):
            slopes = _side_by_side(g[block])
            for i, (reached, pixels) in enumerate(unfolded(block)):
                totals[i] += np.matmul(pixels.T, slopes[reached], out=term)
        return total

    return sum(in_parallel(correlate, len(x)))


def _convolve(
    x: RawArray, weight: RawArray, stride: IntPair, padding: Borders, y: RawArray
) -> None:
    """Write the convolution into y, (N, height, width, out), which may be a view with strides."""
    channels, outputs = weight.shape[2:]
    if not winograd.suits(weight.shape[:2], stride, channels, outputs, y.dtype):
        return _unfold(x, weight, stride, padding, y)
    alike = winograd.within_range(x, padding, y.shape[1:3], y.dtype)
    if alike.all():
        return winograd.convolve(x, weight, padding, y)
    part = np.empty_like(y[alike])
    winograd.convolve(x[alike], weight, padding, part)
    y[alike] = part
    part = np.empty_like(y[~alike])
    _unfold(x[~alike], weight, stride, padding, part)
    y[~alike] = part


def _unfold(x: RawArray, weight: RawArray, stride: IntPair, padding: Borders, y: RawArray) -> None:
    outputs = weight.shape[3]

    def convolve(start: int, stop: int) -> None:
        unfolded = _Unfolded(x, weight.shape[:2], stride, padding, y.shape[1:3])
        factors = weight.reshape(unfolded.terms, unfolded.depth, -1)
        sums = terms = np.empty((unfolded.pixels, y.shape[3]), y.dtype)
        if unfolded.terms > 1:
            terms = np.empty_like(sums)
        for block in blocks(start, stop, unfolded.images):
            part = y[block]
            in_place = len(part) == 1 and part.flags.c_contiguous
            total = part.reshape(-1, y.shape[3]) if in_place else sums[: part[..., 0].size]
            for i, (reached, pixels) in enumerate(unfolded(block)):
                if i == 0:
                    total[: reached.start] = total[reached.stop :] = 0
                    np.matmul(pixels, factors[i], out=total[reached])
                else:
                    total[reached] += np.matmul(pixels, factors[i], out=terms[: len(pixels)])
            if not in_place:
                n, high, wide, _ = part.shape
                part[...] = total.reshape(high, n, wide, outputs).transpose(1, 0, 2, 3)

    in_parallel(convolve, len(x))


def _side_by_side(images: RawArray) -> RawArray:
    """The pixels of a block, (rows · images · columns, channels)."""
    return images.transpose(1, 0, 2, 3).reshape(-1, images.shape[3])


class _Unfolded:
    """Blocks of images unfolded; called with a block, the factors of its products.

    There are `terms` of them, each a slice of the block's output pixels and a matrix (pixels of
    the slice, depth): those that the row of the window does not reach outside of the image.
    """

    def __init__(
        self, x: RawArray, kernel_shape: IntPair, stride: IntPair, padding: Borders, size: IntPair
    ):
        _, height, width, channels = x.shape
        (top, bottom), (left, _) = padding
        self.x, self.kernel_shape, self.stride, self.size = x, kernel_shape, stride, size
        self.images = max(1, PIXELS // (size[0] * size[1]))
        self.pixels = self.images * size[0] * size[1]
        kh, kw = kernel_shape
        self.stacked = kh > 1 and kw * channels < DEPTH
        self.terms, self.depth = (1, kh * kw * channels) if self.stacked else (kh, kw * channels)
        # Zeros once for all blocks: every one of them fills the same places.
        self.rows = np.zeros((top + height + bottom, self.images, size[1], kw, channels), x.dtype)
        self.places = [(j, *overlap(left - j, width, size[1], stride[1])) for j in range(kw)]
        self.inside = overlap(top, height, top + height + bottom, 1)

    def __call__(self, block: slice) -> list[Factor]:
        images = self.x[block].transpose(1, 0, 2, 3)
        rows = self.rows[:, : images.shape[1]]
        taken, filled = self.inside
        for j, columns, places in self.places:
            rows[filled, :, places, j] = images[taken, :, columns]
        if self.stacked:
            terms = [rows[self.rows_under(i)] for i in range(self.kernel_shape[0])]
            pixels = np.stack(terms, axis=3).reshape(-1, self.depth)
            return [(slice(0, len(pixels)), pixels)]
        return [self.term(rows, i) for i in range(self.kernel_shape[0])]

    def rows_under(self, i: int, first: int = 0, last: int | None = None) -> slice:
        """The rows that the row i of the window meets for the output rows from first to last."""
        step = self.stride[0]
        last = self.size[0] if last is None else last
        return slice(first * step + i, (last - 1) * step + i + 1, step)

    def term(self, rows: RawArray, i: int) -> Factor:
        step, filled = self.stride[0], self.inside[1]
        first = max(0, -((i - filled.start) // step))
        last = max(first, min(self.size[0], (filled.stop - 1 - i) // step + 1))
        across = rows.shape[1] * self.size[1]
        pixels = rows[self.rows_under(i, first, last)] if last > first else rows[:0]
        return slice(first * across, last * across), pixels.reshape(-1, self.depth)
