"""Convolution with 3×3 windows at stride 1, in fewer products: Winograd's F(4×4, 3×3).

Lavin and Gray, arXiv 1509.09308, section 4. A tile of 4×4 outputs sees 6×6 pixels d, and is

    y = Aᵀ [(G w Gᵀ) ⊙ (Bᵀ d B)] A                                              (their equation 8)

where ⊙ takes products of numbers, over all channels and tiles matrix products: 36 products a tile
where y's definition has 144.

Why it holds, in one dimension: the product of two polynomials, of 4 and of 3 coefficients, is known
from its values at 6 points. With V_k for the values of k coefficients, its coefficients are
V₆⁻¹ [(V₃ w) ⊙ (V₄ a)]; a correlation with w is the transpose of this as a map of a:
y = V₄ᵀ [(V₃ w) ⊙ (V₆⁻ᵀ d)]. So A = V₄, G = V₃ and B = V₆⁻¹.

The outputs of a tile share rounding errors, which are those of its largest pixels, and a NaN or
infinity spreads over all of them. So images whose pixels differ too much are for another algorithm
(`within_range`).

The images are taken in blocks of tiles, `_Tiles`: several images, or some rows of tiles of one.
Between two calls of NumPy a thread needs Python's lock, and a thread that has to wait for it sleeps
for longer than many of the calls take: few long calls, and little Python between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..parallel import in_parallel
from ..typing import RawArray
from . import Borders, IntPair, Shape, tile_loops
from .loops import Loop, compiled
from .tile_loops import P, Q

Block: TypeAlias = tuple[int, slice]  # of how many images, which rows of tiles

# Of small fractions those with the least rounding: over 192 channels of normally distributed images
# the error of y in float32 is 1.3e-6 of y (root mean square); 2.8e-6 with 0, ±1 and ±2, 3e-7 of a
# convolution that follows its definition.
POINTS = (0, P, -P, Q, -Q)
OUTPUTS, WINDOW = 4, 3  # of a tile, each way
PIXELS = OUTPUTS + WINDOW - 1
# Tiles of a block times channels: enough for long calls, few enough for the cache.
BLOCK = 6144
# OpenBLAS's kernels for AVX-512 take factors as they are up to so many multiplications of numbers,
# at 105 to 110 of 112 GFLOP/s; larger factors are copied first, which pays from MANY tiles on, at
# 80 to 85. Kernels for AVX2 always copy them.
MULTIPLICATIONS = 10**6
MANY = 96
# So few tiles are enough for a product at full speed, or for one that is added to others.
FEW, FEW_ADDED = 16, 32
# With fewer channels on either side the transforms cost more than the products they save.
CHANNELS = 16
# In a tile, of the largest norm of a pixel over its channels to that of a window with only small
# ones, whose output may have 1e-3 of its size as rounding error. In six updates on random images
# the ratios were 36 at most; no real training was looked at.
RANGE = 1024.0


def suits(
    kernel_shape: IntPair, stride: IntPair, channels: int, outputs: int, dtype: np.dtype[Any]
) -> bool:
    """Whether the convolution, to be computed in a dtype, has this form, and gains by it."""
    form = (WINDOW, WINDOW), (1, 1), "f"
    return (kernel_shape, stride, dtype.kind) == form and min(channels, outputs) >= CHANNELS


def within_range(x: RawArray, padding: Borders, size: IntPair, dtype: np.dtype[Any]) -> RawArray:
    """Which images (N, height, width, C) have no tile, of `size` outputs, beyond RANGE: (N,).

    Nor anything that is not finite. Computed in the dtype of the convolution, for 2 to 5 percent
    of its time.
    """
    (top, _), (left, _) = padding
    rows, filled_rows = overlap(top, x.shape[1], size[0] + WINDOW - 1, 1)
    columns, filled_columns = overlap(left, x.shape[2], size[1] + WINDOW - 1, 1)
    squares = _squares(x[:, rows, columns], dtype)
    # Mostly whole images are; their tiles then need no look.
    alike = _alike(squares.max((1, 2), initial=0), squares.min((1, 2), initial=np.inf))
    rest = squares[~alike]
    high, wide = (-(-length // OUTPUTS) for length in size)
    shape = len(rest), OUTPUTS * high + WINDOW - 1, OUTPUTS * wide + WINDOW - 1
    padded = np.zeros(shape, dtype)
    padded[:, filled_rows, filled_columns] = rest
    largest = sliding_window_view(padded, (PIXELS, PIXELS), (1, 2))[:, ::OUTPUTS, ::OUTPUTS]
    windows = sliding_window_view(padded, (WINDOW, WINDOW), (1, 2)).max((-2, -1))
    windows[:, size[0] :] = windows[:, :, size[1] :] = np.inf  # of surplus outputs
    smallest = windows.reshape(len(rest), high, OUTPUTS, wide, OUTPUTS).min((2, 4))
    alike[~alike] = _alike(largest.max((-2, -1)), smallest).all((1, 2))
    return alike


def finite(x: RawArray, dtype: np.dtype[Any]) -> RawArray:
    """Which images are finite, and not nearly infinite: (N,)."""
    return _squares(x, dtype).max((1, 2), initial=0) < np.inf


def _squares(x: RawArray, dtype: np.dtype[Any]) -> RawArray:
    """The square of each pixel's norm, (N, height, width)."""

    def work(start: int, stop: int) -> RawArray:
        part = x[start:stop].astype(dtype, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.vecdot(part, part)

    return np.concatenate(in_parallel(work, len(x)))


def _alike(largest: RawArray, smallest: RawArray) -> RawArray:
    return (largest / RANGE**2 <= smallest) & (largest < np.inf)  # and no NaN


def convolve(x: RawArray, weight: RawArray, padding: Borders, y: RawArray) -> None:
    """Write the convolution into y, (N, height, width, out), which may be a view with strides.

    A negative padding cuts off.
    """
    factors = _expanded(weight, y.dtype)

    def work(start: int, stop: int) -> None:
        tiles = _Tiles(x, padding, y.shape[1:], y.dtype, FEW)
        for images in blocks(start, stop, tiles.images):
            part = y[images]
            for block in tiles(images):
                tiles.collect(np.matmul(tiles.expanded(block), factors), block)
            part[...] = tiles.outputs[: len(part), : part.shape[1], : part.shape[2]]

    in_parallel(work, len(x))


def weight_gradient(x: RawArray, g: RawArray, padding: Borders) -> RawArray:
    """The transpose of the convolution as a map of the weight: Gᵀ [Σ (Bᵀ d B) (A g Aᵀ)] G."""
    shape = x.shape[3], g.shape[3]
    dtype = np.result_type(x, g)

    def work(start: int, stop: int) -> RawArray:
        tiles = _Tiles(x, padding, g.shape[1:], dtype, FEW_ADDED)
        total = np.zeros((PIXELS, PIXELS, *shape), dtype)
        term = np.empty_like(total[0])
        for images in blocks(start, stop, tiles.images):
            part = g[images]
            tiles.outputs[: len(part), : part.shape[1], : part.shape[2]] = part
            for block in tiles(images):
                left, right = tiles.expanded(block), tiles.spread(block)
                for row, a, b in zip(total, left.transpose(0, 1, 3, 2), right, strict=True):
                    row += np.matmul(a, b, out=term)
                del left, right, a, b  # for the next ones to lie where these did, in the cache
        # In parallel, as in `_expanded`.
        return _both_ways(_G.T, total)

    return sum(in_parallel(work, len(x)))


def _values(coefficients: int) -> RawArray:
    """The values of polynomials at POINTS and at ∞, where the last coefficient is the value."""
    powers = np.vander(POINTS, coefficients, increasing=True)
    return np.vstack([powers, np.eye(coefficients)[-1]])


_A, _G, _B = _values(OUTPUTS), _values(WINDOW), np.linalg.inv(_values(PIXELS))


def _both_ways(matrix: RawArray, numbers: RawArray) -> RawArray:
    """matrix @ numbers @ matrix.T over the first two axes, (columns, columns, ..., channels).

    What is between is one axis in the result. Several products with short rows take half of the
    time of one with long rows.
    """
    matrix = matrix.astype(numbers.dtype)
    rows, columns = matrix.shape
    half = np.matmul(matrix, numbers.reshape(columns, columns, -1))
    both = np.matmul(matrix, half.transpose(1, 0, 2)).transpose(1, 0, 2)
    return both.reshape(rows, rows, -1, numbers.shape[-1])


def _expanded(weight: RawArray, dtype: np.dtype[Any]) -> RawArray:
    """G w Gᵀ, a matrix (in, out) for each pixel of a tile.

    In parallel, where BLAS has one thread: else its others would spin, waiting, on the cores of the
    threads that come next.
    """
    factors = np.empty((PIXELS, PIXELS, *weight.shape[2:]), dtype)

    def work(start: int, stop: int) -> None:
        part = weight[:, :, start:stop].astype(dtype, copy=False)
        factors[:, :, start:stop] = _both_ways(_G, part)

    in_parallel(work, weight.shape[2])
    return factors


def _tiled(images: RawArray) -> RawArray:
    """Images of whole tiles, seen as (OUTPUTS, OUTPUTS, N, high, wide, channels)."""
    n, height, width, channels = images.shape
    shape = (n, height // OUTPUTS, OUTPUTS, width // OUTPUTS, OUTPUTS, channels)
    return images.reshape(shape).transpose(2, 4, 0, 1, 3, 5)


def tiles_of_a_block(channels: int, outputs: int, few: int) -> int:
    """How many tiles a block should have."""
    uncopied = MULTIPLICATIONS // (channels * outputs)
    return min(uncopied, BLOCK // max(channels, outputs)) if uncopied >= few else MANY


class _Tiles:
    """Tiles of images, block by block. Called with some images, at most `images`, it takes their
    pixels and says which blocks they are: of how many images, and which rows of tiles.

    outputs: the shape of an image's, (height, width, channels); as an attribute those of `images`
        images in whole tiles, zeros at first. few: as for `tiles_of_a_block`.
    """

    def __init__(
        self, x: RawArray, padding: Borders, outputs: Shape, dtype: np.dtype[Any], few: int
    ):
        _, height, width, channels = x.shape
        (top, _), (left, _) = padding
        size = outputs[:2]
        self.x, self.high, self.wide = x, -(-size[0] // OUTPUTS), -(-size[1] // OUTPUTS)
        most = max(1, tiles_of_a_block(channels, outputs[2], few) // self.wide)  # rows of tiles
        self.images = max(1, most // self.high)
        self.rows = -(-self.high // -(-self.high // most))  # of an image, in blocks of one size
        # Zeros once for all blocks: every one of them fills the same places.
        whole, more = (self.images, OUTPUTS * self.high, OUTPUTS * self.wide), WINDOW - 1
        self.outputs = np.zeros((*whole, outputs[2]), dtype)
        self.pixels = np.zeros((whole[0], whole[1] + more, whole[2] + more, channels), dtype)
        # Without the pixels that only the surplus outputs of the last tiles see.
        self.seen_rows, self.filled_rows = overlap(top, height, size[0] + more, 1)
        self.columns, self.filled_columns = overlap(left, width, size[1] + more, 1)
        # Made once: such a view takes as long as a product.
        windows = sliding_window_view(self.pixels, (PIXELS, PIXELS), (1, 2))
        self.windows = windows[:, ::OUTPUTS, ::OUTPUTS].transpose(4, 5, 0, 1, 2, 3)
        self.tiled = _tiled(self.outputs)

    def __call__(self, images: slice) -> Iterator[Block]:
        part = self.x[images]
        inside = self.pixels[: len(part), self.filled_rows, self.filled_columns]
        inside[...] = part[:, self.seen_rows, self.columns]
        for rows in blocks(0, self.high, self.rows):
            yield len(part), rows

    def expanded(self, block: Block) -> RawArray:
        """Bᵀ d B of a block's tiles, (PIXELS, PIXELS, tiles, channels)."""
        images, rows = block
        if loop := compiled(tile_loops.expand, self.pixels):
            return self._filled(loop, self.pixels, block)
        return _both_ways(_B.T, self.windows[:, :, :images, rows])

    def spread(self, block: Block) -> RawArray:
        """A g Aᵀ of a block's tiles, of which g are the outputs."""
        images, rows = block
        if loop := compiled(tile_loops.spread, self.outputs):
            return self._filled(loop, self.outputs, block)
        return _both_ways(_A, self.tiled[:, :, :images, rows])

    def _filled(self, loop: Loop, array: RawArray, block: Block) -> RawArray:
        images, rows = block
        count = rows.stop - rows.start
        shape = PIXELS, PIXELS, images * count * self.wide, array.shape[3]
        found = np.empty_like(array, shape=shape)
        loop(array[:images], rows.start, count, self.wide, found)
        return found

    def collect(self, products: RawArray, block: Block) -> None:
        """Make Aᵀ m A of m = products the outputs of a block's tiles."""
        images, rows = block
        if loop := compiled(tile_loops.collect, products, self.outputs):
            count = rows.stop - rows.start
            return loop(products, rows.start, count, self.wide, self.outputs[:images])
        found = self.tiled[:, :, :images, rows]
        found[...] = _both_ways(_A.T, products).reshape(found.shape)


def blocks(start: int, stop: int, images: int) -> Iterator[slice]:
    """The range from start to stop as slices of `images` each, the last one perhaps shorter."""
    for first in range(start, stop, images):
        yield slice(first, min(first + images, stop))


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
