"""Pooling of images: the maximum and the mean of windows."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autodiff.families import linear
from ..autodiff.tensor import Primitive, stop_gradient
from ..backend import of_images
from ..kernels import Borders, IntPair, Shape, pooling_loops
from ..kernels.loops import compiled
from ..kernels.plain import output_size, pad, pixels
from ..parallel import map_rows
from ..typing import Array, RawArray
from .elementwise import multiply
from .windows import Padding, Pair, check_images, resolve_padding, resolve_pair


def _max_pool_values(
    x: RawArray, window: IntPair, stride: IntPair, padding: Borders
) -> tuple[RawArray, RawArray]:
    """The largest pixel of each window, and its number in the window, the first where they tie."""
    if kernels := _kernels(window, x):
        return kernels.largest(x, window, stride, padding)
    return map_rows(lambda x: _largest(x, window, stride, padding), x)


def _kernels(window: IntPair, x: RawArray) -> Any:
    """Those of a GPU, whose numbers of winners have a byte; None: these functions."""
    return of_images(x) if window[0] * window[1] <= 256 else None


def _largest(
    x: RawArray, window: IntPair, stride: IntPair, padding: Borders
) -> tuple[RawArray, RawArray]:
    size = output_size(x.shape, window, stride, padding)
    padded = pad(x, padding, -np.inf)
    y = np.empty_like(x, shape=(len(x), *size, x.shape[3]))
    winners = np.zeros_like(y, dtype=np.min_scalar_type(window[0] * window[1] - 1))
    if loop := compiled(pooling_loops.largest, padded):
        loop(padded, window, stride, y, winners)
        return y, winners
    (_, _, first), *others = pixels(padded, window, stride, size)
    y[...] = first
    for number, (_, _, pixel) in enumerate(others, start=1):
        # Of growing numbers the largest that beat those before; np.where is many times as slow.
        np.maximum(winners, (pixel > y) * winners.dtype.type(number), out=winners)
        np.maximum(y, pixel, out=y)
    return y, winners


def _pick_values(
    x: RawArray, winners: RawArray, window: IntPair, stride: IntPair, padding: Borders
) -> RawArray:
    """Of each window of x the pixel that won in another array."""
    if kernels := _kernels(window, x):
        return kernels.pick(x, winners, window, stride, padding)

    def pick(x: RawArray, winners: RawArray) -> RawArray:
        padded, y = pad(x, padding), np.zeros_like(x, shape=winners.shape)
        if loop := compiled(pooling_loops.pick, padded):
            loop(padded, winners, window, stride, y)
            return y
        views = pixels(padded, window, stride, winners.shape[1:3])
        for number, (_, _, pixel) in enumerate(views):
            np.copyto(y, pixel, where=winners == number)
        return y

    return map_rows(pick, x, winners)


def _put_values(
    g: RawArray, winners: RawArray, shape: Shape, window: IntPair, stride: IntPair, padding: Borders
) -> RawArray:
    """The transpose of `_pick_values`."""
    if kernels := _kernels(window, g):
        return kernels.put(g, winners, shape, window, stride, padding)

    def put(g: RawArray, winners: RawArray) -> RawArray:
        padded, inside = _padded_zeros(g, shape, padding)
        if loop := compiled(pooling_loops.put, g):
            loop(g, winners, window, stride, padded)
            return inside
        for number, (_, _, pixel) in enumerate(pixels(padded, window, stride, g.shape[1:3])):
            pixel += g * (winners == number)
        return inside

    return map_rows(put, g, winners)


def _padded_zeros(g: RawArray, shape: Shape, padding: Borders) -> tuple[RawArray, RawArray]:
    """Zeros around as many images as g has, with their padding, and the view of the images."""
    (top, bottom), (left, right) = padding
    _, height, width, channels = shape
    padded = np.zeros_like(g, shape=(len(g), height + top + bottom, width + left + right, channels))
    return padded, padded[:, top : top + height, left : left + width]


_pick: Primitive = Primitive(
    _pick_values,
    [lambda g, y, x, w, **options: _put(g, w, shape=x.shape, **options), None],
    [lambda t, y, x, w, **options: _pick(t, w, **options), None],
    name="max_pool2d_pick",
)
_put: Primitive = Primitive(
    _put_values,
    [lambda t, y, g, w, shape, **options: _pick(t, w, **options), None],
    [lambda t, y, g, w, **options: _put(t, w, **options), None],
    name="max_pool2d_put",
)
# Which pixel won is constant almost everywhere: an output of its own, without a derivative.
_max_pool = Primitive(
    _max_pool_values,
    [lambda g, y, x, **options: _put(g[0], stop_gradient(y[1]), shape=x.shape, **options)],
    [lambda t, y, x, **options: (_pick(t, stop_gradient(y[1]), **options), None)],
    name="max_pool2d",
    outputs=2,
)


def _sum_pool_values(x: RawArray, window: IntPair, stride: IntPair, padding: Borders) -> RawArray:
    size = output_size(x.shape, window, stride, padding)

    def total(x: RawArray) -> RawArray:
        (_, _, first), *others = pixels(pad(x, padding), window, stride, size)
        y = first.copy()
        for _, _, pixel in others:
            y += pixel
        return y

    return map_rows(total, x)


def _spread_values(
    g: RawArray, shape: Shape, window: IntPair, stride: IntPair, padding: Borders
) -> RawArray:
    def spread(g: RawArray) -> RawArray:
        padded, inside = _padded_zeros(g, shape, padding)
        for _, _, pixel in pixels(padded, window, stride, g.shape[1:3]):
            pixel += g
        return inside

    return map_rows(spread, g)


_sum_pool = linear(
    _sum_pool_values,
    lambda g, y, x, **options: _spread(g, shape=x.shape, **options),
    name="sum_pool2d",
)
_spread: Primitive = linear(
    _spread_values,
    lambda t, y, g, shape, **options: _sum_pool(t, **options),
    name="sum_pool2d_spread",
)


def max_pool2d(
    x: Array, window: Pair = 2, stride: Pair | None = None, padding: Padding = "valid"
) -> Array:
    """The largest pixel of each window of images (N, height, width, C), channel by channel.

    window: a positive integer, or two, (height, width). stride: the same; None: the window's.
    padding: as conv2d's, with pixels that never win; each window must hold a pixel of the image.
    Where pixels tie, the first in the order of rows has the whole derivative.
    Raises ValueError for other windows, strides and paddings, windows larger than the image, and
    images that are not of floating dtype.
    """
    options = _options("max_pool2d", x, window, stride, padding)
    return _max_pool(x, **options)[0]


def avg_pool2d(
    x: Array, window: Pair = 2, stride: Pair | None = None, padding: Padding = "valid"
) -> Array:
    """The mean of each window of images (N, height, width, C), channel by channel.

    Arguments and errors as max_pool2d's. The mean is that of the pixels of the image: padding
    does not count (TensorFlow's).
    """
    options = _options("avg_pool2d", x, window, stride, padding)
    ones = np.ones_like(stop_gradient(x), shape=(1, *x.shape[1:3], 1))
    return multiply(_sum_pool(x, **options), 1.0 / _sum_pool(ones, **options))


def _options(
    name: str, x: Array, window: Pair, stride: Pair | None, padding: Padding
) -> dict[str, Any]:
    check_images(name, x)
    if x.dtype.kind not in "fc":
        raise ValueError(f"{name}: x must have a floating dtype, got {x.dtype}")
    window = resolve_pair(name, "window", window)
    stride = window if stride is None else resolve_pair(name, "stride", stride)
    padding = resolve_padding(name, x.shape, window, stride, padding)
    for around, length in zip(padding, window, strict=True):
        if max(around) >= length:
            raise ValueError(
                f"{name}: padding must be smaller than the window {window}, got {padding}"
            )
    return {"window": window, "stride": stride, "padding": padding}
