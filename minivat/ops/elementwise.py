"""Operations on each element, with NumPy's broadcasting.

Each partial derivative is `(g, y, *args) -> g * dy/darg`. Where a function has a kink, the
subgradient is stated with it. Of integers and booleans, operations whose values are no integers
are, here and in the other files, what they are of the same numbers in float64; batch norm and
pooling, the layers of a network, refuse them.
"""

from __future__ import annotations

import cmath
import math
from typing import Any, TypeGuard

import numpy as np

from ..autodiff.families import elementwise
from ..autodiff.tensor import Function, Primitive, stop_gradient
from ..parallel import map_rows
from ..typing import Array, RawArray


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float, complex, np.generic))


def as_floats(x: Any) -> Any:
    """An array of integers or booleans as float64, NumPy's default; others as they are.

    NumPy itself gives float16 for small integers, and their differences overflow.
    """
    return x.astype(np.float64) if getattr(x, "dtype", np.dtype(float)).kind in "biu" else x


def _of_floats(fun: Function, partial: Function, name: str, doc: str | None = None) -> Primitive:
    """A function of one argument whose values are no integers."""
    return elementwise(lambda x: fun(as_floats(x)), partial, name=name, doc=doc)


add = elementwise(
    np.add,
    lambda g, y, a, b: g,
    lambda g, y, a, b: g,
    name="add",
    doc="a + b.",
)
subtract = elementwise(
    np.subtract, lambda g, y, a, b: g, lambda g, y, a, b: negative(g), name="subtract", doc="a - b."
)
multiply: Primitive = elementwise(
    np.multiply,
    lambda g, y, a, b: multiply(g, b),
    lambda g, y, a, b: multiply(g, a),
    name="multiply",
    doc="a · b.",
)
divide: Primitive = elementwise(
    np.divide,
    lambda g, y, a, b: divide(g, b),
    lambda g, y, a, b: negative(divide(multiply(g, y), b)),
    name="divide",
    doc="a / b.",
)
negative: Primitive = elementwise(
    np.negative,
    lambda g, y, x: negative(g),
    name="negative",
    doc="-x.",
)


def _power_base(g: Array, y: Array, a: Any, b: Any) -> Array:
    # b·a^(b−1), without 0·∞ for a constant power (b = 0) at a = 0.
    if _is_number(b):
        return multiply(g, b * power(a, b - 1)) if b else multiply(g, 0.0)
    flat = np.logical_and(stop_gradient(a) == 0, stop_gradient(b) == 0).astype(b.dtype)
    return multiply(g, multiply(b, power(a, add(b, flat - 1.0))))


def _power_exponent(g: Array, y: Array, a: Any, b: Any) -> Array:
    # y·log a, with its limit 0 at a = 0; a negative base has no derivative here and gets 0.
    if _is_number(a):
        return multiply(g, multiply(y, _log_or_zero(a)))
    constant = stop_gradient(a)
    has_log = constant != 0 if constant.dtype.kind == "c" else constant > 0
    return multiply(g, multiply(y, where(has_log, log(where(has_log, a, 1.0)), 0.0)))


def _log_or_zero(a: Any) -> Any:
    if isinstance(a, (complex, np.complexfloating)):
        return cmath.log(a) if a else 0.0
    return math.log(a) if a > 0 else 0.0


power: Primitive = elementwise(
    np.power,
    _power_base,
    _power_exponent,
    name="power",
    doc="a to the power b. For a < 0 its derivative with respect to b is taken as 0.",
)

exp = _of_floats(
    np.exp,
    lambda g, y, x: multiply(g, y),
    name="exp",
    doc="eˣ.",
)
expm1 = _of_floats(
    np.expm1,
    lambda g, y, x: multiply(g, exp(x)),  # not y + 1, which has lost its digits where y is near −1
    name="expm1",
    doc="eˣ - 1, exact for small x.",
)
log = _of_floats(
    np.log,
    lambda g, y, x: divide(g, x),
    name="log",
    doc="The natural logarithm.",
)
log1p = _of_floats(
    np.log1p,
    lambda g, y, x: divide(g, add(x, 1.0)),
    name="log1p",
    doc="log(1 + x), exact for small x.",
)
sqrt = _of_floats(
    np.sqrt,
    lambda g, y, x: divide(g, multiply(2.0, y)),
    name="sqrt",
    doc="√x. At 0 the derivative is infinite.",
)
sin = _of_floats(
    np.sin,
    lambda g, y, x: multiply(g, cos(x)),
    name="sin",
    doc="The sine.",
)
cos: Primitive = _of_floats(
    np.cos, lambda g, y, x: negative(multiply(g, sin(x))), name="cos", doc="The cosine."
)


def _away(x: RawArray) -> RawArray:
    """−|x|; of complex numbers x or −x, whichever has the smaller real part."""
    return np.minimum(x, -x)


def _sech_values(x: RawArray) -> RawArray:
    e = np.exp(_away(x))
    return 2 * e / (1 + e * e)


_sech: Primitive = _of_floats(
    _sech_values,
    lambda g, y, x: negative(multiply(g, multiply(y, tanh(x)))),
    name="sech",
)


def _tanh_partial(g: Array, y: Array, x: Array) -> Array:
    # Not 1 − y², which has no digits left where y is near ±1.
    sech = _sech(x)
    return multiply(g, multiply(sech, sech))


tanh: Primitive = _of_floats(
    np.tanh,
    _tanh_partial,
    name="tanh",
    doc="The hyperbolic tangent.",
)


def _sigmoid(x: RawArray) -> RawArray:
    # Only exponentials of negative numbers: no overflow, and all digits kept far below 0.
    return np.exp(np.minimum(x, 0)) / (1 + np.exp(_away(x)))


sigmoid: Primitive = _of_floats(
    _sigmoid,
    # sigmoid(−x) is 1 − y with all its digits.
    lambda g, y, x: multiply(g, multiply(y, sigmoid(negative(x)))),
    name="sigmoid",
    doc="1 / (1 + e⁻ˣ), without overflow.",
)


def _softplus(x: RawArray) -> RawArray:
    # log(1 + eˣ) = max(x, 0) + log(1 + e^−|x|): no overflow.
    return np.maximum(x, 0) + np.log1p(np.exp(_away(x)))


softplus = _of_floats(
    _softplus,
    lambda g, y, x: multiply(g, sigmoid(x)),
    name="softplus",
    doc="log(1 + eˣ), without overflow.",
)


def reals(name: str, x: Any) -> Any:
    """The values of x, of which real numbers alone have the derivative: TypeError for complex ones.

    Of complex numbers only what is holomorphic has a derivative here, one number for an element.
    """
    x = stop_gradient(x)
    if np.result_type(x).kind == "c":
        raise TypeError(
            f"{name}: not differentiable by complex numbers ({x.dtype}), it is not holomorphic; "
            "use arrays of the real and the imaginary parts"
        )
    return x


abs = elementwise(
    np.abs,
    lambda g, y, x: multiply(g, np.sign(reals("abs", x))),
    name="abs",
    doc="|x|. At 0 the subgradient is 0; of complex numbers it has no derivative (TypeError).",
)
relu = elementwise(
    # Against an array NumPy's maximum is three times as fast as against a scalar.
    lambda x: np.maximum(x, np.zeros_like(x)),
    # A product with the mask; np.where takes many times as long on an unpredictable mask.
    lambda g, y, x: multiply(g, stop_gradient(y) > 0),
    name="relu",
    doc="max(x, 0). At 0 the subgradient is 0.",
)


def _leaky_relu_values(x: RawArray, slope: float) -> RawArray:
    # The larger or the smaller of both; np.where takes many times as long on an unpredictable mask.
    chosen = np.maximum if slope <= 1 else np.minimum
    return map_rows(lambda x: chosen(x, slope * x), x)


def _leaky_values(g: RawArray, x: RawArray, slope: float) -> RawArray:
    """g where x is positive, else slope·g."""
    return map_rows(lambda g, x: g * (slope + (1.0 - slope) * (x > 0).astype(g.dtype)), g, x)


_leaky: Primitive = Primitive(
    _leaky_values,
    [lambda g, y, u, x, slope: _leaky(g, x, slope=slope), None],
    [lambda t, y, u, x, slope: _leaky(t, x, slope=slope), None],
    name="leaky",
)
_leaky_relu = elementwise(
    _leaky_relu_values,
    lambda g, y, x, slope: _leaky(g, stop_gradient(x), slope=slope),
    name="leaky_relu",
)


def leaky_relu(x: Array, slope: float = 0.1) -> Array:
    """x where it is positive, else slope·x. At 0 the subgradient is the slope."""
    return _leaky_relu(x, slope=slope)


def _share(g: Array, x: Any, other: Any, wins: Function) -> Array:
    """g where x is the chosen one, half of it at a tie, else 0."""
    x, other = stop_gradient(x), stop_gradient(other)
    return multiply(g, wins(x, other).astype(g.dtype) + 0.5 * (x == other).astype(g.dtype))


maximum = elementwise(
    np.maximum,
    lambda g, y, a, b: _share(g, a, b, np.greater),
    lambda g, y, a, b: _share(g, b, a, np.greater),
    name="maximum",
    doc="The larger of a and b. At a tie each has the derivative ½.",
)
minimum = elementwise(
    np.minimum,
    lambda g, y, a, b: _share(g, a, b, np.less),
    lambda g, y, a, b: _share(g, b, a, np.less),
    name="minimum",
    doc="The smaller of a and b. At a tie each has the derivative ½.",
)

where: Primitive = elementwise(
    np.where,
    None,
    lambda g, y, condition, a, b: where(condition, g, 0.0),
    lambda g, y, condition, a, b: where(condition, 0.0, g),
    name="where",
    doc="a where the condition holds, else b. The condition is a constant.",
)

_clip = elementwise(
    np.clip,
    lambda g, y, x, low, high: multiply(
        g, np.logical_and(stop_gradient(x) >= low, stop_gradient(x) <= high)
    ),
    None,
    None,
    name="clip",
)


def clip(x: Array, a_min: Any = None, a_max: Any = None) -> Array:
    """x limited to [a_min, a_max] (constants; None: no limit).

    At the limits themselves the subgradient is 1.
    """
    return _clip(x, -np.inf if a_min is None else a_min, np.inf if a_max is None else a_max)
