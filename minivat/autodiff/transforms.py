"""Derivatives of functions: two drivers over one recorded trace, and the public face.

A function is run once on Tensors of a new level. What it recorded is its linearisation: going
back through it applies Jᵀ (`_pullback`), going forward through it applies J (`_pushforward`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any, TypeAlias

import numpy as np

from .tensor import Function, Primitive, Rules, Tensor, new_level, shape_of, stop_gradient

Tree: TypeAlias = Any  # an array, or a dict, list, tuple or namedtuple of trees
TreeMap: TypeAlias = Callable[[Tree], Tree]
Trace: TypeAlias = list[tuple[Tensor, Primitive]]  # results, and the operations that made them
Use: TypeAlias = tuple[Any, Any, list[Any]]  # of an operation: its cotangent, output, arguments


def linearize(f: Function, x: Tree, *, frozen: bool = False) -> tuple[Tree, TreeMap, TreeMap]:
    """One forward pass of f at x, and both linear maps of it.

    f: a function of one array, or of one dict (list, tuple, namedtuple; nested too) of arrays,
        returning the same kinds. Arrays have dtype float32 or float64.
    frozen: the linear maps are constants with respect to everything f closes over, as θ̂ is in the
        paper's eq. (5): products with them are plain arrays even while an outer derivative records
        the forward pass itself. Otherwise they can be differentiated further.

    Returns `y, jvp, vjp`: y = f(x); `jvp(t)` = J t, shaped like y, for t shaped like x; `vjp(g)`
    = Jᵀ g, shaped like x, for g shaped like y. Each product costs about one forward pass.
    Both refer to the arrays that f has seen, which must stay unchanged while they are in use.
    A complex array is differentiated as a holomorphic function's argument; what is not holomorphic,
    `ops.abs` and `ops.norm`, and a complex derivative of real numbers are refused (TypeError).
    Raises TypeError where x holds anything that is not an array of floating point numbers, as a
    dataclass, or f returns what is no array, and ValueError where t or g do not match in structure
    or shape.
    """
    level = new_level()
    inputs = [_variable(leaf, level) for leaf in leaves_of(x)]
    y = f(_filled(x, inputs))
    outputs = leaves_of(y)
    for output in outputs:
        if not hasattr(output, "dtype") and not isinstance(output, (int, float, complex)):
            raise TypeError(
                "differentiation: the function must return an array, or a dict, list, tuple or "
                f"namedtuple of arrays, got {_described(output)}"
            )
    trace = _trace(outputs, level)
    values = [_lower(output, level) for output in outputs]

    def jvp(t: Tree) -> Tree:
        tangents = leaves_of(_checked("jvp: the tangent", t, x))
        return _filled(y, _pushforward(trace, inputs, tangents, outputs, values, frozen))

    def vjp(g: Tree) -> Tree:
        cotangents = leaves_of(_checked("vjp: the cotangent", g, y))
        return _filled(x, _pullback(trace, outputs, cotangents, inputs, frozen))

    return _filled(y, values), jvp, vjp


def value_and_grad(f: Function, *, has_aux: bool = False) -> Function:
    """The function `(x, *rest) -> (f(x, *rest), gradient with respect to x)`.

    f returns a scalar, or with `has_aux` a pair (scalar, anything); then so does the new function
    in the place of the value. x: an array, or a dict (list, tuple) of arrays; the gradient has its
    structure, shapes and dtypes. Raises ValueError where f's value is not a scalar.
    """

    def differentiated(x: Tree, *rest: Any) -> tuple[Any, Tree]:
        level = new_level()
        inputs = [_variable(leaf, level) for leaf in leaves_of(x)]
        output = f(_filled(x, inputs), *rest)
        value, aux = output if has_aux else (output, None)
        if getattr(value, "shape", None) != () and not isinstance(value, (int, float)):
            given = f"shape {value.shape}" if hasattr(value, "shape") else type(value).__name__
            raise ValueError(f"grad: the function must return a scalar, got {given}")
        trace = _trace([value], level)
        primal = _lower(value, level)
        gradient = _pullback(trace, [value], [np.ones_like(stop_gradient(primal))], inputs)
        result = (primal, _lower_tree(aux, level)) if has_aux else primal
        return result, _filled(x, gradient)

    return differentiated


def grad(f: Function, *, has_aux: bool = False) -> Function:
    """The function `(x, *rest) -> gradient of f with respect to x`; see `value_and_grad`.

    With `has_aux` it returns (gradient, auxiliary result).
    """
    both = value_and_grad(f, has_aux=has_aux)

    def gradient(x: Tree, *rest: Any) -> Any:
        value, g = both(x, *rest)
        return (g, value[1]) if has_aux else g

    return gradient


def vjp(f: Function, x: Tree) -> tuple[Tree, TreeMap]:
    """y = f(x) and the function g ↦ Jᵀ g."""
    y, _, pullback = linearize(f, x)
    return y, pullback


def jvp(f: Function, x: Tree, t: Tree) -> tuple[Tree, Tree]:
    """y = f(x) and J t, the derivative of f at x along t."""
    y, pushforward, _ = linearize(f, x)
    return y, pushforward(t)


def hvp(f: Function, x: Tree, v: Tree) -> Tree:
    """The Hessian of the scalar function f at x, times v: forward over reverse."""
    return jvp(grad(f), x, v)[1]


# The drivers


def _trace(outputs: list[Any], level: int) -> Trace:
    """The operations of this level that the outputs were computed with, in order of creation.

    Only what depends on the inputs is of their level, so a product with Jᵀ for the data never
    computes a gradient for the weights.
    """
    found: dict[int, Tensor] = {}
    stack = list(outputs)
    while stack:
        node = stack.pop()
        if type(node) is Tensor and node.level == level and node.seq not in found:
            found[node.seq] = node
            stack.extend(node.args)
    nodes = (found[seq] for seq in sorted(found))
    return [(node, node.primitive) for node in nodes if node.primitive is not None]


def _pullback(
    trace: Trace,
    outputs: list[Any],
    cotangents: list[Any],
    inputs: list[Tensor],
    frozen: bool = False,
) -> list[Any]:
    """Jᵀ g: visit the operations from last to first, adding up what each argument receives."""
    # One loop with its few cases (shared arguments, rules for all arguments at once, one by one):
    # taken apart, its parts would hand each other half of its variables.
    level = inputs[0].level if inputs else 0
    received: dict[int, Any] = {}
    for output, g in zip(outputs, cotangents, strict=True):
        if type(output) is Tensor and output.level == level:
            received[output.seq] = _plus(received.get(output.seq), g)
    # An input that several operations share, as a weight the passes of an update, waits for all.
    shared: dict[tuple[int, Primitive, int], list[Use]] = {}
    for node, primitive in reversed(trace):
        g = received.pop(node.seq, None)
        if g is None:
            continue
        y, args, wanted = _primals(node, frozen)
        if primitive.joint and not node.attrs:
            for i in [i for i in wanted if i in primitive.joint]:
                a = node.args[i]
                if a.primitive is None:
                    shared.setdefault((a.seq, primitive, i), []).append((g, y, args))
                    wanted.remove(i)
        together: Any = None
        if primitive.together and len(wanted) > 1:
            together = primitive.together(g, y, *args, **node.attrs)
        for i in wanted:
            if together is None:
                cotangent = _rule(primitive, primitive.vjp, i)(g, y, *args, **node.attrs)
            else:
                cotangent = together[i]
            seq = node.args[i].seq
            received[seq] = _plus(received[seq], cotangent) if seq in received else cotangent
    for (seq, primitive, i), uses in shared.items():
        received[seq] = _plus(received.get(seq), _shared_cotangent(primitive, i, uses))
    return _owned([_like(received.get(x.seq), x.value) for x in inputs], cotangents)


def _shared_cotangent(primitive: Primitive, i: int, uses: list[Use]) -> Any:
    """What the argument i receives from all applications of the primitive that share it."""
    if len(uses) == 1:
        g, y, args = uses[0]
        return _rule(primitive, primitive.vjp, i)(g, y, *args)
    return primitive.joint[i]([(g, args) for g, _, args in uses])


def _pushforward(
    trace: Trace,
    inputs: list[Tensor],
    tangents: list[Any],
    outputs: list[Any],
    values: list[Any],
    frozen: bool = False,
) -> list[Any]:
    """J t: visit the operations from first to last, adding up what each argument contributes."""
    carried = {x.seq: t for x, t in zip(inputs, tangents, strict=True)}
    uses = _uses(trace, outputs)
    for node, primitive in trace:
        y, args, active = _primals(node, frozen)
        total = None
        for i in active:
            seq = node.args[i].seq
            uses[seq] -= 1
            t = carried[seq] if uses[seq] else carried.pop(seq)
            if t is not None:
                rule = _rule(primitive, primitive.jvp, i)
                total = _plus(total, rule(t, y, *args, **node.attrs))
        carried[node.seq] = total
    pushed = [
        _like(carried.get(output.seq) if type(output) is Tensor else None, value)
        for output, value in zip(outputs, values, strict=True)
    ]
    return _owned(pushed, tangents)


def _uses(trace: Trace, outputs: list[Any]) -> dict[int, int]:
    """How often a tangent is asked for: it is given back after the last time, which halves the
    memory of a deep network's product with J."""
    uses: dict[int, int] = {}
    for node, _ in trace:
        for a in node.args:
            if type(a) is Tensor and a.level == node.level:
                uses[a.seq] = uses.get(a.seq, 0) + 1
    for output in outputs:
        if type(output) is Tensor:
            uses[output.seq] = uses.get(output.seq, 0) + 1
    return uses


def _primals(node: Tensor, frozen: bool) -> tuple[Any, list[Any], list[int]]:
    """The output and the arguments of an operation as its rules see them, one level down, and the
    numbers of the arguments that the derivative of this level goes through."""
    y, args, active = node.value, list(node.args), []
    for i, a in enumerate(node.args):
        if type(a) is Tensor and a.level == node.level:
            args[i] = a.value
            active.append(i)
    if frozen:
        y, *args = map(_stopped, (y, *args))
    return y, args, active


def _stopped(x: Any) -> Any:
    return tuple(map(stop_gradient, x)) if type(x) is tuple else stop_gradient(x)


def _rule(primitive: Primitive, rules: Rules, i: int) -> Function:
    rule = rules(i)
    if rule is None:
        raise TypeError(f"{primitive.name}: not differentiable with respect to argument {i}")
    return rule


def _plus(a: Any, b: Any) -> Any:
    """a + b, where None is zero, also inside the tuples of primitives with several outputs."""
    if a is None or b is None:
        return b if a is None else a
    if type(a) is tuple:
        return tuple(map(_plus, a, b))
    return a + b


def _like(derivative: Any, x: Any) -> Any:
    """A derivative has the shape and dtype of what it belongs to; none at all is zero."""
    if derivative is None:
        return np.zeros_like(stop_gradient(x))
    if derivative.dtype.kind == "c" and x.dtype.kind != "c":
        raise TypeError(
            f"differentiation: {x.dtype} has a complex derivative; a function of complex values "
            "must be one of complex arguments, and is taken for holomorphic"
        )
    return derivative if derivative.dtype == x.dtype else cast(derivative, dtype=x.dtype)


def _owned(derivatives: list[Any], given: list[Any]) -> list[Any]:
    """Copies of arrays that share memory with others: a caller may change what it gets in place."""
    seen = set(map(id, given))
    owned = []
    for derivative in derivatives:
        if type(derivative) is not Tensor:
            if derivative.base is not None or id(derivative) in seen:
                derivative = derivative.copy()
            seen.add(id(derivative))
        owned.append(derivative)
    return owned


cast: Primitive = Primitive(
    lambda x, dtype: x.astype(dtype),
    [lambda g, y, x, dtype: cast(g, dtype=x.dtype)],
    [lambda t, y, x, dtype: cast(t, dtype=dtype)],
    name="cast",
)


# Trees of arrays


def _variable(leaf: Any, level: int) -> Tensor:
    if isinstance(leaf, float):
        leaf = np.asarray(leaf)
    dtype = getattr(leaf, "dtype", None)
    # Half precision is refused: q − p, of which VAT's direction is made, underflows in it.
    if dtype is None or dtype.kind not in "fc" or dtype.itemsize < 4:
        raise TypeError(
            "differentiation: the argument must be an array of floating point numbers, float32 or "
            "float64, or a dict, list, tuple or namedtuple of such arrays, "
            f"got {dtype or _described(leaf)}"
        )
    return Tensor(leaf, None, (), {}, level)


def _described(leaf: Any) -> str:
    name = type(leaf).__name__
    return f"the dataclass {name}; vars(x) is a dict of its fields" if is_dataclass(leaf) else name


def leaves_of(tree: Tree) -> list[Any]:
    """The arrays of a tree, from left to right."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (list, tuple)):
        return [leaf for branch in tree for leaf in leaves_of(branch)]
    return [tree]


def _filled(tree: Tree, leaves: list[Any]) -> Tree:
    """A tree of the same structure with other leaves."""
    return _fill(tree, iter(leaves))


def _fill(tree: Tree, leaves: Iterator[Any]) -> Tree:
    if isinstance(tree, dict):
        return {key: _fill(branch, leaves) for key, branch in tree.items()}
    if isinstance(tree, (list, tuple)):
        branches = (_fill(branch, leaves) for branch in tree)
        return tree._make(branches) if hasattr(tree, "_make") else type(tree)(branches)
    return next(leaves)


def _checked(what: str, tree: Tree, like: Tree) -> Tree:
    """The tree with its keys in the order of `like`, whose structure and shapes it must have."""
    if isinstance(like, dict):
        if not isinstance(tree, dict) or tree.keys() != like.keys():
            given = list(tree) if isinstance(tree, dict) else type(tree).__name__
            raise ValueError(f"{what} must be a dict with the keys {list(like)}, got {given}")
        return {key: _checked(what, tree[key], branch) for key, branch in like.items()}
    if isinstance(like, (list, tuple)):
        if not isinstance(tree, (list, tuple)) or len(tree) != len(like):
            length = len(tree) if isinstance(tree, (list, tuple)) else type(tree).__name__
            raise ValueError(f"{what} must be a sequence of {len(like)}, got {length}")
        return [_checked(what, *pair) for pair in zip(tree, like, strict=True)]
    if shape_of(tree) != shape_of(like):
        raise ValueError(f"{what} must have the shape {shape_of(like)}, got {shape_of(tree)}")
    return tree


def _lower(x: Any, level: int) -> Any:
    return x.value if type(x) is Tensor and x.level == level else x


def _lower_tree(tree: Tree, level: int) -> Tree:
    return _filled(tree, [_lower(leaf, level) for leaf in leaves_of(tree)])
