"""The matrix product."""

from __future__ import annotations

from .. import backend
from ..autodiff.families import bilinear, unbroadcast
from ..autodiff.tensor import Primitive
from ..typing import Array
from .shape import _transpose, concat, reshape


def _swap(x: Array) -> Array:
    """The matrices transposed, for any number of batch axes before them."""
    n = len(x.shape)
    return _transpose(x, axes=(*range(n - 2), n - 1, n - 2))


def _promoted(g: Array, a: Array, b: Array) -> tuple[Array, Array, Array]:
    """g, a and b as np.matmul sees them: a vector on the left is a row, on the right a column."""
    if len(b.shape) == 1:
        g, b = reshape(g, (*g.shape, 1)), reshape(b, (b.shape[0], 1))
    if len(a.shape) == 1:
        g, a = reshape(g, (*g.shape[:-1], 1, g.shape[-1])), reshape(a, (1, a.shape[0]))
    return g, a, b


def _shaped(x: Array, shape: tuple[int, ...]) -> Array:
    return x if x.shape == shape else reshape(x, shape)


def _left(g: Array, y: Array, a: Array, b: Array) -> Array:
    shape = a.shape
    g, a, b = _promoted(g, a, b)
    return _shaped(unbroadcast(matmul(g, _swap(b)), a.shape), shape)


def _right(g: Array, y: object, a: Array, b: Array) -> Array:
    shape = b.shape
    g, a, b = _promoted(g, a, b)
    return _shaped(unbroadcast(matmul(_swap(a), g), b.shape), shape)


def _right_of_several(uses: list[tuple[Array, list[Array]]]) -> Array:
    """Σ aᵀ g over several products with the same b: one product of the stacked factors.

    A weight that serves two passes of a minibatch gets its gradient at the price of one matrix
    product over both, without two intermediate gradients of the weight's size to add up.
    """
    if any(len(a.shape) != 2 or len(b.shape) != 2 for _, (a, b) in uses):
        first, *others = (_right(g, None, a, b) for g, (a, b) in uses)
        for other in others:
            first = first + other
        return first
    g = concat([g for g, _ in uses])
    a = concat([a for _, (a, _) in uses])
    return matmul(_swap(a), g)


matmul: Primitive = bilinear(
    backend.matmul,
    _left,
    _right,
    name="matmul",
    joint={1: _right_of_several},
    doc="a @ b as np.matmul's: of vectors, matrices or stacks of matrices that broadcast.",
)
