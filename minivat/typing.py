"""The interfaces that minivat's parts agree on: what an array, a model and a divergence are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, Protocol, TypeAlias, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray


class Array(Protocol):
    """A NumPy array, a CuPy array, or a `Tensor` around one: what all of them have.

    NumPy's functions are for the first two; a Tensor refuses them and goes to `minivat.ops`.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def size(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Any: ...
    def __add__(self, other: Any, /) -> Array: ...
    def __radd__(self, other: Any, /) -> Array: ...
    def __sub__(self, other: Any, /) -> Array: ...
    def __rsub__(self, other: Any, /) -> Array: ...
    def __mul__(self, other: Any, /) -> Array: ...
    def __rmul__(self, other: Any, /) -> Array: ...
    def __truediv__(self, other: Any, /) -> Array: ...
    def __rtruediv__(self, other: Any, /) -> Array: ...
    def __matmul__(self, other: Any, /) -> Array: ...
    def __neg__(self) -> Array: ...
    def __gt__(self, other: Any, /) -> Any: ...
    @property
    def __array__(self) -> Any: ...
    @property
    def __array_ufunc__(self) -> Any: ...


Arrays: TypeAlias = Mapping[str, Array]  # parameters or running statistics, by name

# An array itself, not a Tensor: what devices hold and kernels compute with. CuPy's have no types of
# their own and answer NumPy's functions and methods as NumPy's do.
RawArray: TypeAlias = NDArray[Any]
RawArrays: TypeAlias = dict[str, RawArray]

# d ↦ H d, t ↦ J t, g ↦ Jᵀ g: with H and J constant, results are arrays themselves.
LinearMap: TypeAlias = Callable[[Array], RawArray]


class Model(Protocol):
    """A function of the input alone, x (N, ...) ↦ logits (N, C); see `minivat.vat`.

    It closes over parameters, statistics and noise. One that is not made of `minivat.ops` also has
    a method `linearize(x)`, which returns the logits, t ↦ J t and g ↦ Jᵀ g (`minivat.interop`).
    """

    def __call__(self, x: Array, /) -> Array: ...


class Divergence(Protocol):
    """A distribution of the outputs, given by logits (N, C), and a distance D between two of them.

    All are computed for each example. A new one is a class with these methods, and with `entropy`
    (`HasEntropy`) unless that is constant.
    """

    def __call__(self, p_logits: Array, q_logits: Array, /) -> Array:
        """D[p, q], shape (N,): 0 for p = q and positive otherwise, up to rounding."""

    def fisher(self, p_logits: Array, t: Array, /) -> Array:
        """F t, (N, C), with F the second derivative of D[p, q] by q's logits at q = p."""

    def root(self, p_logits: Array, t: Array, /) -> Array:
        """R t, (N, C), with F = R Rᵀ."""

    def nll(self, logits: Array, targets: RawArray, /) -> Array:
        """−log p(target|x), shape (N,)."""

    def check_labels(self, labels: RawArray, count: int, outputs: int) -> None:
        """ValueError unless these are targets of `count` examples for so many outputs."""


@runtime_checkable
class HasEntropy(Protocol):
    """A divergence whose distributions differ in their entropy."""

    def entropy(self, logits: Array, /) -> Array:
        """The entropy of p(y|x), shape (N,)."""


def is_integer(value: object) -> TypeGuard[int]:
    """Whether the value is an integer, Python's or NumPy's; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)
