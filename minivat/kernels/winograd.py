"""Convolution with 3×3 windows at stride 1, in fewer products: Winograd's F(2×2, 3×3).

Lavin and Gray, arXiv 1509.09308, section 4.1. A tile of 2×2 outputs sees 4×4 pixels d, and is

    y = Aᵀ [(G w Gᵀ) ⊙ (Bᵀ d B)] A

where ⊙ takes products of numbers, over all channels and tiles matrix products: 16 products a tile
where y's definition has 36. The transforms are sums of two numbers at a time (and halves, of
weights alone), so that rounding grows little.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..parallel import in_parallel

# Tiles of a block: enough for a product at full speed, few enough for the cache.
TILES = 512
# With fewer channels on either side the transforms cost more than the products they save.
CHANNELS = 32

# Bᵀ d: of four rows (or columns) these sums and differences.
_SUMS = ((np.subtract, 0, 2), (np.add, 1, 2), (np.subtract, 2, 1), (np.subtract, 1, 3))


def suits(kernel_shape: tuple, stride: tuple, channels: int, outputs: int) -> bool:
    """Whether the convolution has this form, and gains by it."""
    return kernel_shape == (3, 3) and stride == (1, 1) and min(channels, outputs) >= CHANNELS


def convolve(x: Any, weight: Any, padding: tuple, y: Any) -> None:
    """Write the convolution into y, (N, height, width, out), which may be a view with strides.

    A negative padding cuts off.
    """
    factors = [_expanded(*row) for row in _expanded(*weight)]

    def work(start, stop):
        tiles = _Tiles(x, padding, y.shape[1:3])
        # By row and column of the pixel within the tile; `spare` for terms on their way there.
        result = np.empty((2, 2, tiles.count, y.shape[3]), y.dtype)
        spare = np.empty_like(result[0])
        term = np.empty_like(spare[0])
        for first in range(start, stop, tiles.images):
            part = y[first : min(first + tiles.images, stop)]
            count = len(part) * tiles.high * tiles.wide
            columns, product = spare[:, :count], term[:count]
            above, below = result[0, :, :count], result[1, :, :count]
            for i, row in enumerate(tiles.rows(first, len(part))):
                # Aᵀ m: the first of four counts above, the last below with a minus, two in both.
                target = (above, below, columns, columns)[i]
                left, right = target
                for j, pixels in enumerate(tiles.columns(row)):
                    out = (left, right, product, product)[j]
                    np.matmul(pixels, factors[i][j], out=out)
                    if j in (1, 2):
                        left += out
                    if j in (2, 3):
                        right -= out
                if i in (1, 2):
                    above += target
                if i in (2, 3):
                    below -= target
            for a in range(2):
                for b in range(2):
                    pixels = part[:, a::2, b::2]
                    whole = result[a, b, :count].reshape(len(part), tiles.high, tiles.wide, -1)
                    pixels[...] = whole[:, : pixels.shape[1], : pixels.shape[2]]

    in_parallel(work, len(x))


def weight_gradient(x: Any, g: Any, padding: tuple) -> Any:
    """The transpose of the convolution as a map of the weight: Gᵀ [Σ (Bᵀ d B)ᵀ (A g Aᵀ)] G."""

    def work(start, stop):
        tiles = _Tiles(x, padding, g.shape[1:3])
        total = np.zeros((4, 4, x.shape[3], g.shape[3]), np.result_type(x, g))
        product = np.empty_like(total[0, 0])
        for first in range(start, stop, tiles.images):
            slopes = _even(g[first : min(first + tiles.images, stop)])
            rows = _spread(slopes[:, 0::2], slopes[:, 1::2])
            pairs = zip(tiles.rows(first, len(slopes)), rows, strict=True)
            for i, (row, slope) in enumerate(pairs):
                columns = _spread(slope[:, :, 0::2], slope[:, :, 1::2])
                for j, (pixels, part) in enumerate(zip(tiles.columns(row), columns, strict=True)):
                    flat = part.reshape(-1, part.shape[3])
                    total[i, j] += np.matmul(pixels.T, flat, out=product)
        return total

    total, *others = in_parallel(work, len(x))
    for other in others:
        total += other
    rows = _collapsed(*total)
    return np.stack([np.stack(_collapsed(*row)) for row in rows])


def _expanded(a, b, c):
    """G w: four rows of three."""
    outer, inner = (a + c) * 0.5, b * 0.5
    return np.stack([a, outer + inner, outer - inner, c])


def _collapsed(a, b, c, d):
    """Gᵀ u, with the minus of `_spread`: three rows of four."""
    outer = (b + c) * 0.5
    return a + outer, (b - c) * 0.5, outer - d


def _spread(a, b):
    """A g, but for the minus of the last: four rows of two."""
    yield a
    yield a + b
    yield a - b
    yield b


def _even(images):
    """Images with a row or a column of zeros more where they have an odd number of them."""
    high, wide = images.shape[1] % 2, images.shape[2] % 2
    return np.pad(images, ((0, 0), (0, high), (0, wide), (0, 0))) if high or wide else images


class _Tiles:
    """Blocks of padded images, and Bᵀ d B of their tiles: row by row, column by column.

    Even and odd columns lie apart, so that what tiles side by side need is consecutive.
    """

    def __init__(self, x, padding, size):
        _, height, width, channels = x.shape
        (top, _), (left, _) = padding
        self.x, self.high, self.wide = x, (size[0] + 1) // 2, (size[1] + 1) // 2
        self.images = max(1, TILES // (self.high * self.wide))
        self.count = self.images * self.high * self.wide
        # Zeros once for all blocks: every one of them fills the same places.
        shape = (self.images, 2 * self.high + 2, 2, self.wide + 1, channels)
        self.padded = np.zeros(shape, x.dtype)
        self.row = np.empty((self.images, self.high, *shape[2:]), x.dtype)
        self.column = np.empty((self.images, self.high, self.wide, channels), x.dtype)
        self.inside = overlap(top, height, shape[1], 1)
        self.halves = [overlap(left - half, width, shape[3], 2) for half in range(2)]

    def rows(self, first, count):
        taken, filled = self.inside
        images = self.x[first : first + count, taken]
        padded, row = self.padded[:count], self.row[:count]
        for half, (columns, places) in enumerate(self.halves):
            padded[:, filled, half, places] = images[:, :, columns]
        pixels = [padded[:, k : k + 2 * self.high - 1 : 2] for k in range(4)]
        for combine, a, b in _SUMS:
            yield combine(pixels[a], pixels[b], out=row)

    def columns(self, row):
        column = self.column[: len(row)]
        pixels = [row[:, :, k % 2, k // 2 : k // 2 + self.wide] for k in range(4)]
        for combine, a, b in _SUMS:
            yield combine(pixels[a], pixels[b], out=column).reshape(-1, column.shape[3])


def overlap(before: int, size: int, length: int, step: int) -> tuple[slice, slice]:
    """Which of `size` pixels appear at the places step·k − before of `length` places k, and where.

    Without overlap both are empty.
    """
    first = max(0, -(-before // step))
    last = min(length, (size - 1 + before) // step + 1)
    if last <= first:
        return slice(0, 0), slice(0, 0)
    start = first * step - before
    return slice(start, start + (last - first - 1) * step + 1, step), slice(first, last)
