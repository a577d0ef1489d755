"""Families of primitives: both modes of differentiation from one formula."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..typing import Array, RawArray
from .tensor import Function, Primitive


def linear(fun: Function, transpose: Function, name: str | None = None) -> Primitive:
    """A linear map of its one argument: its JVP is itself, its VJP is its transpose.

    transpose: `(g, y, x, **attrs)`.
    """
    primitive: Primitive = Primitive(
        fun, [transpose], [lambda t, y, x, **attrs: primitive(t, **attrs)], name=name
    )
    return primitive


def bilinear(
    fun: Function,
    left: Function,
    right: Function,
    name: str | None = None,
    joint: dict[int, Function] | None = None,
    doc: str | None = None,
) -> Primitive:
    """A map linear in each of two arguments: its JVPs put the tangent in the argument's place.

    left, right: the VJPs `(g, y, a, b, **attrs)` with respect to a and to b.
    """
    primitive: Primitive = Primitive(
        fun,
        [left, right],
        [
            lambda t, y, a, b, **attrs: primitive(t, b, **attrs),
            lambda t, y, a, b, **attrs: primitive(a, t, **attrs),
        ],
        name=name,
        joint=joint,
        doc=doc,
    )
    return primitive


def elementwise(
    fun: Function, *partials: Function | None, name: str | None = None, doc: str | None = None
) -> Primitive:
    """A map of elements with NumPy's broadcasting.

    partials: one `(g, y, *args, **attrs) -> g * d y / d arg` per argument. The derivative is
        diagonal, hence equal to its transpose: the same formula serves both modes, and what is
        left is to undo or repeat the broadcasting.
    """
    return Primitive(
        fun,
        [partial and _unbroadcast_after(partial, i) for i, partial in enumerate(partials)],
        [partial and _broadcast_after(partial) for partial in partials],
        name=name,
        doc=doc,
    )


def _unbroadcast_after(partial: Function, argument: int) -> Function:
    def vjp(g: Array, y: Array, *args: Any, **attrs: Any) -> Array:
        product, shape = partial(g, y, *args, **attrs), getattr(args[argument], "shape", ())
        return product if product.shape == shape else sum_to(product, shape=shape)

    return vjp


def _broadcast_after(partial: Function) -> Function:
    def jvp(t: Array, y: Array, *args: Any, **attrs: Any) -> Array:
        product = partial(t, y, *args, **attrs)
        return product if product.shape == y.shape else broadcast_to(product, shape=y.shape)

    return jvp


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Sum g over the axes along which an array of `shape` was repeated to g's shape."""
    return g if g.shape == shape else sum_to(g, shape=shape)


def _sum_to(x: RawArray, shape: tuple[int, ...]) -> RawArray:
    added = x.ndim - len(shape)
    repeated = [i + added for i, n in enumerate(shape) if n == 1 and x.shape[i + added] != 1]
    total = np.sum(x, axis=(*range(added), *repeated), keepdims=True)
    return total.reshape(shape) if added else total


sum_to = linear(_sum_to, lambda g, y, x, shape: broadcast_to(g, shape=x.shape), name="sum_to")
broadcast_to: Primitive = linear(
    lambda x, shape: np.broadcast_to(x, shape),
    lambda g, y, x, shape: unbroadcast(g, x.shape),
    name="broadcast_to",
)
