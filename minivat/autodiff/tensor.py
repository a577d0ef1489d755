"""The graph: tensors, and the primitives that make them.

Arrays in, arrays out; Tensors in, Tensors out. An operation records itself only when an argument
is a `Tensor`, so there are no global modes: to compute without a graph is to pass arrays, and the
derivative rules, which are written with the operations themselves, run at NumPy's speed when
handed arrays and build a graph of their own when handed Tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeAlias

import numpy as np

Function: TypeAlias = Callable[..., Any]  # of arrays and Tensors, a rule among them
Rules: TypeAlias = Callable[[int], Function | None]  # of each argument, by its number

_sequence = count(1)
_levels = count(1)


def new_level() -> int:
    """A level above all levels handed out before; each derivative transform takes one."""
    return next(_levels)


class Tensor:
    """A value that remembers how it was computed; it *is* the node of the graph.

    `value` is an array, or a Tensor of a lower level where derivatives are nested. `args` are the
    arguments as given, among them the Tensors that this one was computed from; a node refers to
    its inputs and never to its output, so there are no cycles and dropping the result frees the
    graph at once. `seq`, the order of creation, is a topological order. `level` names the
    derivative transform the node belongs to: an operation on mixed levels records itself on the
    highest and treats the others as constants there, which keeps nested derivatives apart.
    """

    __slots__ = ("value", "primitive", "args", "attrs", "level", "seq")

    __array_priority__ = 1000.0

    # The operators are operations, which are built on this file: `minivat.ops.operators` adds them,
    # and what NumPy's functions and methods answer.
    __array_ufunc__: Any
    __array_function__: Function
    T: Any
    __getitem__: Function
    __add__: Function
    __radd__: Function
    __sub__: Function
    __rsub__: Function
    __mul__: Function
    __rmul__: Function
    __truediv__: Function
    __rtruediv__: Function
    __pow__: Function
    __rpow__: Function
    __matmul__: Function
    __rmatmul__: Function
    __neg__: Function
    __abs__: Function
    __lt__: Function
    __le__: Function
    __gt__: Function
    __ge__: Function

    def __init__(
        self,
        value: Any,
        primitive: Primitive | None,
        args: tuple[Any, ...],
        attrs: dict[str, Any],
        level: int,
    ):
        self.value = value
        self.primitive = primitive
        self.args = args
        self.attrs = attrs
        self.level = level
        self.seq = next(_sequence)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.value.dtype

    @property
    def ndim(self) -> int:
        return len(self.value.shape)

    @property
    def size(self) -> int:
        return self.value.size

    def __len__(self) -> int:
        return len(self.value)

    def __bool__(self) -> bool:
        raise TypeError(
            "the truth value of a Tensor would hide it from differentiation; "
            "use ops.where, or stop_gradient(x) to branch on the value"
        )

    def __array__(self, *args: Any, **options: Any) -> np.ndarray[Any, Any]:
        raise TypeError(
            "NumPy's functions would hide a Tensor from differentiation; "
            "use those of minivat.ops, or stop_gradient(x) for the value"
        )

    def __float__(self) -> float:
        raise TypeError(
            "a Python number would hide a Tensor from differentiation; "
            "use stop_gradient(x) for the value"
        )

    __int__ = __complex__ = __float__

    def __repr__(self) -> str:
        name = self.primitive.name if self.primitive else "variable"
        return f"Tensor({name}, shape={self.shape}, dtype={self.dtype}, level={self.level})"


def stop_gradient(x: Any) -> Any:
    """The array inside: a constant for every derivative. Arrays are returned as they are."""
    while type(x) is Tensor:
        x = x.value
    return x


def shape_of(x: Any) -> tuple[int, ...]:
    """The shape of an array, a Tensor or a Python scalar."""
    return getattr(x, "shape", ())


class Primitive:
    """An operation with its derivative rules.

    fun: computes the value from arrays; positional arguments may be differentiated, keyword
        arguments (attributes) never.
    vjps, jvps: one rule per positional argument, or a function from the argument's number to its
        rule (for any number of arguments). A rule `(g, y, *args, **attrs)` gets the cotangent of
        the output (vjp) or the tangent of its argument (jvp), the output and the arguments, and is
        written with operations. None: not differentiable with respect to that argument.
    joint: for some arguments, by number, the sum of the VJPs of several applications that share
        the argument: `[(g, args), ...] -> cotangent`, where that is cheaper than adding them up.
        Applications with attributes do without it.
    together: the cotangents of all arguments at once, `(g, y, *args, **attrs)`, where several are
        wanted and the rules would repeat each other's work.
    doc: the docstring.
    outputs: how many arrays `fun` returns. With more than one, y is a tuple, and so are cotangents
        and tangents, with None for those that are zero. An intermediate that a rule wants to use
        again is made an output: it then carries its own derivative and all orders stay right.

    Raises TypeError, in one line, where arrays of two devices are mixed.
    """

    def __init__(
        self,
        fun: Function,
        vjps: Sequence[Function | None] | Rules,
        jvps: Sequence[Function | None] | Rules,
        name: str | None = None,
        outputs: int = 1,
        joint: dict[int, Function] | None = None,
        together: Function | None = None,
        doc: str | None = None,
    ):
        self.fun = fun
        self.name = name or fun.__name__.lstrip("_")
        self.outputs = outputs
        self.joint = joint or {}
        self.together = together
        self.__doc__ = doc or fun.__doc__
        self.vjp: Rules = vjps if callable(vjps) else tuple(vjps).__getitem__
        self.jvp: Rules = jvps if callable(jvps) else tuple(jvps).__getitem__

    def __call__(self, *args: Any, **attrs: Any) -> Any:
        level = 0
        for a in args:
            if type(a) is Tensor and a.level > level:
                level = a.level
        if level == 0:
            return self._computed(args, attrs)
        nested = False
        values = []
        for a in args:
            value = a.value if type(a) is Tensor and a.level == level else a
            nested = nested or type(value) is Tensor
            values.append(value)
        value = self(*values, **attrs) if nested else self._computed(values, attrs)
        node = Tensor(value, self, args, attrs, level)
        if self.outputs == 1:
            return node
        return tuple(select(node, index=i) for i in range(self.outputs))

    def _computed(self, args: Sequence[Any], attrs: dict[str, Any]) -> Any:
        """The value, from arrays."""
        try:
            return self.fun(*args, **attrs)
        except TypeError as error:
            raise _explained(error, self.name, args) from error

    def __repr__(self) -> str:
        return f"Primitive({self.name})"


def _explained(error: TypeError, name: str, args: Sequence[Any]) -> TypeError:
    arrays = [a for a in args if hasattr(a, "shape") and not isinstance(a, np.generic)]
    kinds = dict.fromkeys(map(type, arrays))
    if len(kinds) < 2:
        return error
    names = " and ".join(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    return TypeError(
        f"{name}: arrays of two devices are mixed ({names}); "
        "move one with Device.asarray or Device.to_host"
    )


# One output of a primitive that has several. Its cotangent is a tuple with one entry set.
select = Primitive(
    lambda outputs, index: outputs[index],
    vjps=[
        lambda g, y, outputs, index: tuple(g if i == index else None for i in range(len(outputs)))
    ],
    jvps=[lambda t, y, outputs, index: t[index]],
    name="select",
)
