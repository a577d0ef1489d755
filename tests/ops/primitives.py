"""The table of all operations: for each, how to draw a call of it, away from its kinks.

An entry draws a `Call`: a function of arrays, its counterpart in NumPy or SciPy, and host
arguments in float64 (integers and booleans for what is not differentiated). Shapes, axes and
options are drawn by Hypothesis, and so is the seed of the values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.special
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, broadcastable_shapes, mutually_broadcastable_shapes

from minivat import ops


class Call(NamedTuple):
    f: Callable
    reference: Callable
    args: tuple


class Entry(NamedTuple):
    name: str
    calls: st.SearchStrategy[Call]
    analytic: bool


TABLE: list[Entry] = []


def entry(name: str, *, analytic: bool = True) -> Callable:
    """Put an operation in the table: a function of `draw` that returns a Call."""

    def add(function):
        TABLE.append(Entry(name, st.composite(function)(), analytic))
        return function

    return add


# What entries draw


seeds = st.integers(0, 2**32 - 1)
shapes = array_shapes(min_dims=0, max_dims=3, max_side=4)
matrices = array_shapes(min_dims=1, max_dims=3, max_side=4)


def values(draw, shape, low=-2.0, high=2.0):
    return np.random.default_rng(draw(seeds)).uniform(low, high, shape)


def nonzero(draw, shape):
    """Of both signs, at least 0.1 from 0."""
    x = values(draw, shape, -1.0, 1.0)
    return 2 * x + np.copysign(0.1, x)


def distinct(draw, shape):
    """No two elements closer than 0.05."""
    rng = np.random.default_rng(draw(seeds))
    n = int(np.prod(shape))
    return (0.1 * (rng.permutation(n) - n / 2) + rng.uniform(0, 0.05, n)).reshape(shape)


def pair(draw):
    return draw(mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=4)).input_shapes


def axes(draw, ndim):
    """None, an axis or several, counted from either end."""
    if ndim == 0:
        return None
    one = st.integers(-ndim, ndim - 1)
    several = st.lists(one, min_size=1, max_size=ndim, unique_by=lambda a: a % ndim).map(tuple)
    return draw(st.none() | one | several)


def an_axis(draw, ndim):
    return draw(st.integers(-ndim, ndim - 1))


# Elements


def unary(name, reference, low=-2.0, high=2.0, analytic=True):
    @entry(name, analytic=analytic)
    def call(draw):
        return Call(getattr(ops, name), reference, (values(draw, draw(shapes), low, high),))


def kinked(name, reference):
    @entry(name, analytic=False)
    def call(draw):
        return Call(getattr(ops, name), reference, (nonzero(draw, draw(shapes)),))


unary("negative", np.negative)
unary("exp", np.exp)
unary("expm1", np.expm1)
unary("log", np.log, low=0.1)
unary("log1p", np.log1p, low=-0.9)
unary("sqrt", np.sqrt, low=0.1)
unary("tanh", np.tanh)
unary("sin", np.sin)
unary("cos", np.cos)
unary("sigmoid", scipy.special.expit, analytic=False)
unary("softplus", lambda x: np.logaddexp(0, x), analytic=False)
kinked("abs", np.abs)
kinked("relu", lambda x: np.maximum(x, 0))


@entry("leaky_relu", analytic=False)
def _(draw):
    slope = draw(st.sampled_from([0.0, 0.1, 0.5]))
    x = nonzero(draw, draw(shapes))
    return Call(lambda x: ops.leaky_relu(x, slope), lambda x: np.where(x > 0, x, slope * x), (x,))


def binary(name, reference):
    @entry(name)
    def call(draw):
        left, right = pair(draw)
        return Call(getattr(ops, name), reference, (values(draw, left), values(draw, right)))


binary("add", np.add)
binary("subtract", np.subtract)
binary("multiply", np.multiply)


@entry("divide")
def _(draw):
    left, right = pair(draw)
    return Call(ops.divide, np.divide, (values(draw, left), nonzero(draw, right)))


@entry("power")
def _(draw):
    left, right = draw(
        mutually_broadcastable_shapes(num_shapes=2, min_dims=1, max_dims=3, max_side=4)
    ).input_shapes
    return Call(ops.power, np.power, (values(draw, left, 0.2), nonzero(draw, right)))


def extreme(name, reference):
    @entry(name, analytic=False)
    def call(draw):
        left, right = pair(draw)
        both = np.broadcast_shapes(left, right)
        # A grid for each, half a step apart: no ties, whatever the broadcasting.
        rng = np.random.default_rng(draw(seeds))
        a = rng.integers(-10, 10, left) / 5 + rng.uniform(0, 0.05, left)
        b = rng.integers(-10, 10, right) / 5 + 0.1 + rng.uniform(0, 0.05, right)
        assert np.all(np.abs(np.broadcast_to(a, both) - b) > 0.01)
        return Call(getattr(ops, name), reference, (a, b))


extreme("maximum", np.maximum)
extreme("minimum", np.minimum)


@entry("where")
def _(draw):
    a, b, condition = draw(
        mutually_broadcastable_shapes(num_shapes=3, max_dims=3, max_side=4)
    ).input_shapes
    return Call(
        ops.where, np.where, (values(draw, condition) > 0, values(draw, a), values(draw, b))
    )


@entry("clip", analytic=False)
def _(draw):
    low, high = draw(st.sampled_from([(-0.55, 0.65), (None, 0.65), (-0.55, None)]))
    x = distinct(draw, draw(shapes))
    for limit in (low, high):
        if limit is not None:
            x = np.where(np.abs(x - limit) < 0.01, x + 0.02, x)
    return Call(lambda x: ops.clip(x, low, high), lambda x: np.clip(x, low, high), (x,))


@entry("stop_gradient")
def _(draw):
    # That it stops a gradient, differences cannot see; test_transforms.py shows it.
    shape = draw(shapes)
    constant = values(draw, shape) > 0
    return Call(
        lambda x, c: x * ops.stop_gradient(c), lambda x, c: x * c, (values(draw, shape), constant)
    )


# Reductions


def reduction(name, reference, draw_values=values, analytic=True):
    @entry(name, analytic=analytic)
    def call(draw):
        x = draw_values(draw, draw(shapes))
        axis, keepdims = axes(draw, x.ndim), draw(st.booleans())
        return Call(
            lambda x: getattr(ops, name)(x, axis=axis, keepdims=keepdims),
            lambda x: reference(x, axis=axis, keepdims=keepdims),
            (x,),
        )


def root_of_sum_of_squares(x, axis, keepdims):
    return np.sqrt(np.sum(x**2, axis=axis, keepdims=keepdims))


def log_of_sum_of_exponentials(x, axis, keepdims):
    return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))


reduction("sum", np.sum)
reduction("mean", np.mean)
reduction("max", np.max, distinct, analytic=False)
reduction("min", np.min, distinct, analytic=False)
reduction("logsumexp", log_of_sum_of_exponentials)
reduction("norm", root_of_sum_of_squares, nonzero, analytic=False)


# Shapes


@entry("reshape")
def _(draw):
    x = values(draw, draw(shapes))
    n = x.size
    shape = draw(
        st.sampled_from([(n,), (n, 1), (1, n), (-1,), (2, -1) if n % 2 == 0 else (n,), -1, n])
    )
    return Call(lambda x: ops.reshape(x, shape), lambda x: np.reshape(x, shape), (x,))


@entry("transpose")
def _(draw):
    x = values(draw, draw(shapes))
    order = draw(st.none() | st.permutations(range(x.ndim)).map(tuple))
    if order and draw(st.booleans()):
        order = tuple(a - x.ndim for a in order)
    return Call(lambda x: ops.transpose(x, order), lambda x: np.transpose(x, order), (x,))


@entry("broadcast_to")
def _(draw):
    x = values(draw, draw(shapes))
    wide = draw(broadcastable_shapes(x.shape, max_side=4, max_dims=4))
    shape = np.broadcast_shapes(x.shape, wide)
    return Call(lambda x: ops.broadcast_to(x, shape), lambda x: np.broadcast_to(x, shape), (x,))


@entry("concat")
def _(draw):
    shape = draw(matrices)
    axis = an_axis(draw, len(shape))
    lengths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    i = axis % len(shape)
    xs = tuple(values(draw, (*shape[:i], n, *shape[i + 1 :])) for n in lengths)
    return Call(
        lambda *xs: ops.concat(xs, axis=axis), lambda *xs: np.concatenate(xs, axis=axis), xs
    )


@entry("pad")
def _(draw):
    x = values(draw, draw(matrices))
    count = st.integers(0, 2)
    pair = st.tuples(count, count)
    around = draw(count | pair | st.tuples(*[pair] * x.ndim))
    return Call(lambda x: ops.pad(x, around), lambda x: np.pad(x, around), (x,))


@entry("stack")
def _(draw):
    shape = draw(shapes)
    axis = an_axis(draw, len(shape) + 1)
    xs = tuple(values(draw, shape) for _ in range(draw(st.integers(1, 3))))
    return Call(lambda *xs: ops.stack(xs, axis=axis), lambda *xs: np.stack(xs, axis=axis), xs)


@entry("getitem")
def _(draw):
    shape = draw(matrices)
    n = shape[0]
    part = st.slices(n) | st.integers(-n, n - 1)
    first = draw(part)
    index = draw(
        st.sampled_from(
            [first, (first,), (first, ...), (..., None), (None, first), (slice(None, None, -1),)]
        )
    )
    x = values(draw, shape)
    return Call(lambda x: ops.getitem(x, index), lambda x: x[index], (x,))


@entry("getitem")
def _(draw):
    # Indices may occur more than once.
    shape = draw(matrices)
    n = shape[0]
    i = np.random.default_rng(draw(seeds)).integers(-n, n, draw(shapes))
    x = values(draw, shape)
    if draw(st.booleans()):
        return Call(ops.getitem, lambda x, i: x[i], (x, i))
    return Call(
        lambda x, i: ops.getitem(x, (i, ..., slice(None, None, 2))) if len(shape) > 1 else x[i],
        lambda x, i: x[i, ..., ::2] if len(shape) > 1 else x[i],
        (x, i),
    )


@entry("take_along_axis")
def _(draw):
    # The other axes broadcast, as long as both arrays have as many.
    shape = draw(matrices)
    axis = an_axis(draw, len(shape))
    ones = draw(st.sets(st.integers(0, 2 * len(shape) - 1), max_size=2))
    left, right = (
        [1 if i + part in ones else n for i, n in enumerate(shape)] for part in (0, len(shape))
    )
    left[axis], right[axis] = shape[axis], draw(st.integers(1, 4))
    indices = np.random.default_rng(draw(seeds)).integers(0, shape[axis], right)
    return Call(
        lambda x, indices: ops.take_along_axis(x, indices, axis),
        lambda x, indices: np.take_along_axis(x, indices, axis),
        (values(draw, left), indices),
    )


# Products and fused primitives


@entry("matmul")
def _(draw):
    left, right = draw(
        mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=2, max_side=4)
    ).input_shapes
    return Call(ops.matmul, np.matmul, (values(draw, left), values(draw, right)))


def along_an_axis(name, reference):
    @entry(name)
    def call(draw):
        x = values(draw, draw(matrices))
        axis = an_axis(draw, x.ndim)
        return Call(
            lambda x: getattr(ops, name)(x, axis=axis), lambda x: reference(x, axis=axis), (x,)
        )


along_an_axis("softmax", scipy.special.softmax)
along_an_axis("log_softmax", scipy.special.log_softmax)


@entry("cross_entropy")
def _(draw):
    shape = draw(array_shapes(min_dims=2, max_dims=3, max_side=4))
    labels = np.random.default_rng(draw(seeds)).integers(0, shape[-1], shape[:-1])

    def reference(z, labels):
        picked = np.take_along_axis(scipy.special.log_softmax(z, -1), labels[..., None], -1)
        return -picked[..., 0]

    return Call(ops.cross_entropy, reference, (values(draw, shape), labels))


@entry("kl")
def _(draw):
    shape = draw(matrices)

    def reference(a, b):
        p = scipy.special.softmax(a, -1)
        ratio = scipy.special.log_softmax(a, -1) - scipy.special.log_softmax(b, -1)
        return np.sum(p * ratio, -1)

    return Call(ops.kl, reference, (values(draw, shape), values(draw, shape)))


@entry("normalize")
def _(draw):
    x = values(draw, draw(matrices))
    axis = axes(draw, x.ndim)
    axis = 0 if axis is None else axis
    epsilon = draw(st.sampled_from([1e-1, 1e-2]))

    def reference(x):
        mean = np.mean(x, axis=axis, keepdims=True)
        var = np.var(x, axis=axis, keepdims=True)
        return (x - mean) / np.sqrt(var + epsilon), mean, var

    return Call(lambda x: ops.normalize(x, axis, epsilon), reference, (x,))


@entry("batch_norm", analytic=False)
def _(draw):
    shape = draw(array_shapes(min_dims=1, max_dims=4, min_side=2, max_side=4))
    x, gamma, beta = (values(draw, s) for s in (shape, shape[-1:], shape[-1:]))
    epsilon, slope = draw(st.sampled_from([1e-1, 1e-2])), draw(st.sampled_from([0.0, 0.1, 1.0]))

    def affine(x, gamma, beta):
        axes = tuple(range(x.ndim - 1))
        mean, var = np.mean(x, axis=axes), np.var(x, axis=axes)
        return gamma * (x - mean) / np.sqrt(var + epsilon) + beta, mean, var

    def reference(x, gamma, beta):
        u, mean, var = affine(x, gamma, beta)
        return np.where(u > 0, u, slope * u), mean, var

    if slope != 1:
        assume(np.abs(affine(x, gamma, beta)[0]).min() > 1e-3)
    return Call(lambda *args: ops.batch_norm(*args, epsilon, slope), reference, (x, gamma, beta))


# Images


def image_shapes(draw, channels=3):
    return (draw(st.integers(1, 2)), *(draw(st.integers(1, 5)) for _ in range(2)), channels)


def one_or_two(draw, low, high):
    """An integer, or one for each direction."""
    numbers = st.integers(low, high)
    return draw(numbers | st.tuples(numbers, numbers))


def twice(value):
    return value if isinstance(value, tuple) else (value, value)


def paddings(draw, shape, window, stride, most):
    """A padding into which the window fits, as given and as ((top, bottom), (left, right))."""
    fits = all(length <= size for length, size in zip(window, shape[1:3], strict=True))
    kind = draw(st.sampled_from(["same", "explicit", *(["valid"] if fits else [])]))
    if kind == "valid":
        return kind, ((0, 0), (0, 0))
    if kind == "same":
        return kind, tuple(map(same, shape[1:3], window, stride))
    sides = []
    for size, length, limit in zip(shape[1:3], window, twice(most), strict=True):
        before = draw(st.integers(0, limit))
        sides.append((before, draw(st.integers(max(0, min(length - size - before, limit)), limit))))
    return tuple(sides), tuple(sides)


def same(size, length, step):
    total = max((-(-size // step) - 1) * step + length - size, 0)
    return total // 2, total - total // 2


def patches(x, window, stride, padding, fill=0.0):
    """The windows of x, (N, height', width', channels, kh, kw), padded with `fill`."""
    x = np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=fill)
    every = np.lib.stride_tricks.sliding_window_view(x, window, axis=(1, 2))
    return every[:, :: stride[0], :: stride[1]]


@entry("conv2d")
def _(draw):
    shape = image_shapes(draw, draw(st.integers(1, 3)))
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    stride = one_or_two(draw, 1, 3)
    padding, resolved = paddings(draw, shape, kernel, twice(stride), 3)

    def reference(x, w):
        return np.einsum("nuvcij,ijco->nuvo", patches(x, kernel, twice(stride), resolved), w)

    w = values(draw, (*kernel, shape[3], draw(st.integers(1, 3))))
    return Call(lambda x, w: ops.conv2d(x, w, stride, padding), reference, (values(draw, shape), w))


def pooling(name, analytic, reduce):
    @entry(name, analytic=analytic)
    def call(draw):
        shape = image_shapes(draw, 2)
        window = one_or_two(draw, 1, 3)
        stride = one_or_two(draw, 1, 3) if draw(st.booleans()) else None
        steps = twice(window if stride is None else stride)
        smaller = tuple(n - 1 for n in twice(window))
        padding, resolved = paddings(draw, shape, twice(window), steps, smaller)

        def reference(x):
            return reduce(patches(x, twice(window), steps, resolved, np.nan), axis=(-2, -1))

        return Call(
            lambda x: getattr(ops, name)(x, window, stride, padding),
            reference,
            (distinct(draw, shape),),
        )


pooling("max_pool2d", False, np.nanmax)
pooling("avg_pool2d", True, np.nanmean)
