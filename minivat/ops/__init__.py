"""Every operation, under NumPy's names and with NumPy's semantics, on arrays and on Tensors."""

import operator

from ..autodiff.tensor import Function as _Function
from ..autodiff.tensor import Tensor, stop_gradient
from .batch_norm import batch_norm, normalize
from .convolution import conv2d
from .elementwise import (
    abs,
    add,
    clip,
    cos,
    divide,
    exp,
    expm1,
    leaky_relu,
    log,
    log1p,
    maximum,
    minimum,
    multiply,
    negative,
    power,
    relu,
    sigmoid,
    sin,
    softplus,
    sqrt,
    subtract,
    tanh,
    where,
)
from .matmul import matmul
from .pooling import avg_pool2d, max_pool2d
from .reduction import logsumexp, max, mean, min, norm, sum
from .shape import (
    broadcast_to,
    concat,
    getitem,
    pad,
    reshape,
    stack,
    take_along_axis,
    transpose,
)
from .softmax import cross_entropy, kl, log_softmax, softmax

__all__ = [
    "abs",
    "add",
    "avg_pool2d",
    "batch_norm",
    "broadcast_to",
    "clip",
    "concat",
    "conv2d",
    "cos",
    "cross_entropy",
    "divide",
    "exp",
    "expm1",
    "getitem",
    "kl",
    "leaky_relu",
    "log",
    "log1p",
    "log_softmax",
    "logsumexp",
    "matmul",
    "max",
    "max_pool2d",
    "maximum",
    "mean",
    "min",
    "minimum",
    "multiply",
    "negative",
    "norm",
    "normalize",
    "pad",
    "power",
    "relu",
    "reshape",
    "sigmoid",
    "sin",
    "softmax",
    "softplus",
    "sqrt",
    "stack",
    "stop_gradient",
    "subtract",
    "sum",
    "take_along_axis",
    "tanh",
    "transpose",
    "where",
]


def _comparison(compare: _Function) -> _Function:
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
# A comparison has no derivative: its result is a plain array, of the values.
for _name in ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__"):
    setattr(Tensor, _name, _comparison(getattr(operator, _name)))
Tensor.__getitem__ = lambda self, index: getitem(self, index)
Tensor.T = property(transpose)
