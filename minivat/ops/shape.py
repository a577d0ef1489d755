"""Operations that move elements without changing them. All of them are linear."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from ..autodiff.families import broadcast_to as _broadcast_to
from ..autodiff.families import linear
from ..autodiff.tensor import Primitive, shape_of, stop_gradient
from ..typing import Array, RawArray

_reshape: Primitive = linear(
    lambda x, shape: np.reshape(x, shape),
    lambda g, y, x, shape: _reshape(g, shape=x.shape),
    name="reshape",
)
_transpose: Primitive = linear(
    lambda x, axes: np.transpose(x, axes),
    lambda g, y, x, axes: _transpose(g, axes=tuple(sorted(range(len(axes)), key=axes.__getitem__))),
    name="transpose",
)


def reshape(x: Array, shape: int | Sequence[int]) -> Array:
    """x in another shape of the same size, in C order; one entry may be -1."""
    return _reshape(x, shape=shape)


def transpose(x: Array, axes: Sequence[int] | None = None) -> Array:
    """x with its axes permuted; without `axes`, reversed."""
    n = len(shape_of(x))
    axes = tuple(reversed(range(n))) if axes is None else normalize_axis_tuple(axes, n)
    return _transpose(x, axes=axes)


def broadcast_to(x: Array, shape: Sequence[int]) -> Array:
    """x repeated to `shape` by NumPy's broadcasting rules (a read-only view for arrays)."""
    return _broadcast_to(x, shape=tuple(shape))


def _part(g: Array, args: Sequence[Array], axis: int, i: int) -> Array:
    """The part of a concatenation's cotangent that belongs to argument i."""
    axis %= len(g.shape)
    start = sum(a.shape[axis] for a in args[:i])
    index = (slice(None),) * axis + (slice(start, start + args[i].shape[axis]),)
    return getitem(g, index)


def _in_place_of(t: Array, args: Sequence[Array], i: int) -> list[Array]:
    """Arguments of a concatenation with a tangent in the place of i and zeros elsewhere."""
    return [t if j == i else np.zeros_like(stop_gradient(a)) for j, a in enumerate(args)]


def _concat_values(*args: RawArray, axis: int) -> RawArray:
    # Of more than eight arrays CuPy copies the addresses from the host, which a graph cannot.
    if len(args) > 8 and type(args[0]) is not np.ndarray:
        args = _concat_values(*args[:8], axis=axis), *args[8:]
        return _concat_values(*args, axis=axis)
    return np.concatenate(args, axis=axis)


_concat: Primitive = Primitive(
    _concat_values,
    vjps=lambda i: lambda g, y, *args, axis: _part(g, args, axis, i),
    jvps=lambda i: lambda t, y, *args, axis: _concat(*_in_place_of(t, args, i), axis=axis),
    name="concat",
)


def concat(arrays: Sequence[Array], axis: int = 0) -> Array:
    """Arrays joined along an axis they already have."""
    return _concat(*arrays, axis=axis)


def stack(arrays: Sequence[Array], axis: int = 0) -> Array:
    """Arrays of one shape joined along a new axis."""
    shapes = [shape_of(a) for a in arrays]
    if len(set(shapes)) != 1:
        raise ValueError(f"stack: the arrays must have one shape, got {shapes}")
    axis = normalize_axis_index(axis, len(shapes[0]) + 1)
    expanded = (*shapes[0][:axis], 1, *shapes[0][axis:])
    return concat([reshape(a, expanded) for a in arrays], axis)


_getitem = linear(
    lambda x, index: x[index],
    lambda g, y, x, index: _put(g, index=index, shape=x.shape),
    name="getitem",
)


def _put_values(g: RawArray, index: Any, shape: tuple[int, ...]) -> RawArray:
    """Zeros of `shape` with g added at `index`; positions that occur twice get both."""
    # CuPy takes an empty shape for none given.
    whole = np.reshape(np.zeros_like(g, shape=shape or (1,)), shape)
    if _is_basic(index):
        whole[index] = g
    elif type(whole) is np.ndarray:
        np.add.at(whole, index, g)
    else:
        # By positions in one axis: to this NumPy function CuPy takes no tuple.
        positions = np.arange(whole.size, like=whole).reshape(shape)[index]
        np.add.at(whole.reshape(-1), positions.reshape(-1), g.reshape(-1))
    return whole


_put: Primitive = linear(
    _put_values, lambda g, y, x, index, shape: _getitem(g, index=index), name="put"
)


def _is_basic(index: Any) -> bool:
    parts = index if type(index) is tuple else (index,)
    return all(part is None or part is Ellipsis or isinstance(part, (int, slice)) for part in parts)


def getitem(x: Array, index: Any) -> Array:
    """x[index], by any of NumPy's kinds of index; the index is a constant."""
    return _getitem(x, index=index)


_pad = linear(
    lambda x, around: np.pad(x, around) if around else x,
    lambda g, y, x, around: getitem(
        g, tuple(slice(before, before + n) for (before, _), n in zip(around, x.shape, strict=True))
    ),
    name="pad",
)


def pad(x: Array, pad_width: int | Sequence[Any]) -> Array:
    """x with zeros around it: ((before, after), ...) of them, a pair for each axis.

    One pair, or one number, stands for all axes, as np.pad has it. Raises ValueError for what is
    neither, for fractions and for negative numbers.
    """
    dimensions = len(shape_of(x))
    try:
        pairs = np.broadcast_to(pad_width, (dimensions, 2))
    except ValueError:
        pairs = None
    if pairs is None or pairs.dtype.kind not in "iu" or np.any(pairs < 0):
        raise ValueError(
            f"pad: pad_width must be {dimensions} pairs (before, after), one pair or one number, "
            f"integers from 0, got {pad_width!r}"
        )
    return _pad(x, around=tuple((before, after) for before, after in pairs.tolist()))


def take_along_axis(x: Array, indices: RawArray, axis: int) -> Array:
    """Elements of x picked along an axis, as np.take_along_axis; the indices are a constant.

    Raises ValueError where x and the indices differ in their number of axes.
    """
    dimensions = len(indices.shape)
    if len(x.shape) != dimensions:
        raise ValueError(
            f"take_along_axis: indices must have as many axes as x ({len(x.shape)}), "
            f"got {dimensions}"
        )
    axis = normalize_axis_index(axis, dimensions)

    def others(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:axis], 1, *shape[axis + 1 :])

    common = np.broadcast_shapes(others(x.shape), others(indices.shape))
    x = broadcast_to(x, (*common[:axis], x.shape[axis], *common[axis + 1 :]))
    grid = [
        np.reshape(
            np.arange(n, dtype=indices.dtype, like=indices),
            (1,) * i + (n,) + (1,) * (dimensions - i - 1),
        )
        for i, n in enumerate(common)
    ]
    return getitem(x, (*grid[:axis], indices, *grid[axis + 1 :]))


def reduced_axes(dimensions: int, axis: int | Sequence[int] | None) -> tuple[int, ...]:
    """The axes that a reduction over `axis` takes together, counted from 0."""
    return tuple(range(dimensions)) if axis is None else normalize_axis_tuple(axis, dimensions)


def size_along(shape: Sequence[int], axis: int | Sequence[int] | None) -> int:
    """How many elements a reduction over `axis` takes together."""
    return prod(shape[a] for a in reduced_axes(len(shape), axis))


def keepdims_shape(shape: Sequence[int], axis: int | Sequence[int] | None) -> tuple[int, ...]:
    """The shape that a reduction over `axis` with keepdims=True returns."""
    reduced = reduced_axes(len(shape), axis)
    return tuple(1 if i in reduced else size for i, size in enumerate(shape))
