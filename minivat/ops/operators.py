"""The operators of Tensors, and what NumPy's functions and methods answer to a Tensor.

There is one way to compute with a Tensor: the operations of `minivat.ops`. NumPy's functions would
have to be told the derivative; they refuse, and name the operation to use in their place.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from ..autodiff.tensor import Function, Tensor, stop_gradient
from .elementwise import abs, add, divide, multiply, negative, power, subtract
from .matmul import matmul
from .shape import getitem, transpose

# What NumPy calls otherwise.
RENAMED = {
    "absolute": "abs",
    "amax": "max",
    "amin": "min",
    "concatenate": "concat",
    "dot": "matmul",
    "expand_dims": "reshape",
    "flatten": "reshape",
    "hstack": "concat",
    "permute_dims": "transpose",
    "ravel": "reshape",
    "square": "power",
    "squeeze": "reshape",
    "swapaxes": "transpose",
    "take": "getitem",
    "vstack": "concat",
}
OPERATIONS = {
    np.add: add,
    np.subtract: subtract,
    np.multiply: multiply,
    np.divide: divide,
    np.power: power,
    np.matmul: matmul,
}
COMPARISONS = (np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal)
ATTRIBUTES = {"ndim", "shape", "size"}


def _instead(name: str) -> str:
    """What to write in place of NumPy's function or method of this name."""
    from .. import ops

    name = RENAMED.get(name, name)
    operation = f"minivat.ops.{name}" if name in ops.__all__ else "the operations of minivat.ops"
    return f"use {operation}, or minivat.stop_gradient(x) for the value"


def _refused(name: str, function: str) -> TypeError:
    return TypeError(f"{name} would hide a Tensor from differentiation; {_instead(function)}")


class _ArrayUfunc:
    """`__array_ufunc__`, which CuPy and NumPy look up in two places.

    CuPy asks the Tensor, and where it finds None it leaves `array + tensor` to `Tensor.__radd__`.
    NumPy asks the class. None would do there too, but then the refusals would be in NumPy's words.
    """

    def __get__(self, tensor: Tensor | None, owner: type[Tensor]) -> Function | None:
        return None if tensor is not None else _array_ufunc


def _array_ufunc(tensor: Tensor, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
    """`array + tensor`, which comes as numpy.add; the ufuncs that are no operators refuse."""
    if "out" in options:
        raise TypeError("an array cannot hold a Tensor: write x = x + t in place of x += t")
    if method == "__call__" and not options:
        if ufunc in OPERATIONS:
            return OPERATIONS[ufunc](*inputs)
        if ufunc in COMPARISONS:
            return ufunc(*map(stop_gradient, inputs))
    name = ufunc.__name__
    raise _refused(f"numpy.{name}" + (f".{method}" if method != "__call__" else ""), name)


def _array_function(tensor: Tensor, function: Any, types: Any, args: Any, options: Any) -> Any:
    """All functions of NumPy refuse but those that read the shape."""
    name = function.__name__
    if name in ATTRIBUTES:
        return function.__wrapped__(*args, **options)
    raise _refused(f"{function.__module__}.{name}", name)


def _missing(tensor: Tensor, name: str) -> Any:
    """An attribute or a method that a Tensor does not have."""
    hint = f"; {_instead(name)}" if not name.startswith("_") else ""
    raise AttributeError(f"a Tensor has no attribute {name!r}{hint}")


def _comparison(compare: Function) -> Function:
    """A comparison has no derivative: its result is a plain array, of the values."""
    return lambda self, other: compare(stop_gradient(self), stop_gradient(other))


Tensor.__add__ = Tensor.__radd__ = lambda self, other: add(self, other)
Tensor.__sub__ = lambda self, other: subtract(self, other)
Tensor.__rsub__ = lambda self, other: subtract(other, self)
Tensor.__mul__ = Tensor.__rmul__ = lambda self, other: multiply(self, other)
Tensor.__truediv__ = lambda self, other: divide(self, other)
Tensor.__rtruediv__ = lambda self, other: divide(other, self)
Tensor.__pow__ = lambda self, other: power(self, other)
Tensor.__rpow__ = lambda self, other: power(other, self)
Tensor.__matmul__ = lambda self, other: matmul(self, other)
Tensor.__rmatmul__ = lambda self, other: matmul(other, self)
Tensor.__neg__ = lambda self: negative(self)
Tensor.__abs__ = lambda self: abs(self)
for _name in ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__"):
    setattr(Tensor, _name, _comparison(getattr(operator, _name)))
Tensor.__getitem__ = lambda self, index: getitem(self, index)
Tensor.T = property(transpose)
Tensor.__array_ufunc__ = _ArrayUfunc()
Tensor.__array_function__ = _array_function
# Not as a declared attribute: type checkers would then believe that a Tensor has every name.
setattr(Tensor, "__getattr__", _missing)  # noqa: B010
