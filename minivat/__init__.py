"""Virtual Adversarial Training (Miyato et al., arXiv 1704.03976), transparent and exact."""

from . import ops
from .autodiff import Tensor, grad, hvp, jvp, linearize, stop_gradient, value_and_grad, vjp

__version__ = "0.1.0"

__all__ = [
    "Tensor",
    "grad",
    "hvp",
    "jvp",
    "linearize",
    "ops",
    "stop_gradient",
    "value_and_grad",
    "vjp",
]
