"""A small reverse- and forward-mode autodiff engine; read tensor.py, families.py, transforms.py."""

from .families import bilinear, elementwise, linear
from .tensor import Primitive, Tensor, stop_gradient
from .transforms import grad, hvp, jvp, linearize, value_and_grad, vjp

__all__ = [
    "Primitive",
    "Tensor",
    "bilinear",
    "elementwise",
    "grad",
    "hvp",
    "jvp",
    "linear",
    "linearize",
    "stop_gradient",
    "value_and_grad",
    "vjp",
]
