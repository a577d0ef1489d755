"""Convolution of images: one bilinear map and its two transposes, whose rules are each other."""

from __future__ import annotations

from ..autodiff.families import bilinear
from ..autodiff.tensor import Primitive
from ..backend import convolution_kernels
from ..typing import Array
from .windows import Padding, Pair, check_images, resolve_padding, resolve_pair

# With c for the convolution, ⟨g, c(x, w)⟩ = ⟨x, input_gradient(g, w)⟩ = ⟨w, weight_gradient(x, g)⟩:
# one form, linear in each of x, w and g, and each primitive is its derivative by one of them.

_conv2d: Primitive = bilinear(
    lambda x, w, **options: convolution_kernels(x, w).forward(x, w, **options),
    lambda g, y, x, w, **options: _input_gradient(g, w, input_shape=x.shape, **options),
    lambda g, y, x, w, **options: _weight_gradient(x, g, kernel_shape=w.shape[:2], **options),
    name="conv2d",
)
_input_gradient: Primitive = bilinear(
    lambda g, w, **options: convolution_kernels(g, w).input_gradient(g, w, **options),
    lambda t, y, g, w, input_shape, **options: _conv2d(t, w, **options),
    lambda t, y, g, w, input_shape, **options: _weight_gradient(
        t, g, kernel_shape=w.shape[:2], **options
    ),
    name="conv2d_input_gradient",
)
_weight_gradient: Primitive = bilinear(
    lambda x, g, **options: convolution_kernels(x, g).weight_gradient(x, g, **options),
    lambda t, y, x, g, kernel_shape, **options: _input_gradient(
        g, t, input_shape=x.shape, **options
    ),
    lambda t, y, x, g, kernel_shape, **options: _conv2d(x, t, **options),
    name="conv2d_weight_gradient",
)


def conv2d(x: Array, weight: Array, stride: Pair = 1, padding: Padding = "same") -> Array:
    """The cross-correlation of images (N, height, width, in) with weights (kh, kw, in, out).

    y[n, u, v, o] = Σ_ijc x[n, u·stride + i, v·stride + j, c] weight[i, j, c, o], with zeros around
    x; shape (N, height', width', out), without bias.

    stride: a positive integer, or two, (down, right).
    padding: "same": as many zeros as make height' = ⌈height / stride⌉, the odd one at the bottom
        and at the right (TensorFlow's); "valid": none; or how many, as an integer, two (at top and
        bottom, at left and right) or ((top, bottom), (left, right)).
    On the CPU 3×3 windows at stride 1 over 16 channels and more are computed by Winograd's
    algorithm: an output's rounding error is in proportion to the largest pixel within 5 pixels of
    it, not to those of its own window alone. Images in which one is more than 1024 times the other,
    or that are not finite, are computed by definition, in about twice the time.
    Raises ValueError for other strides and paddings, arrays without 4 axes, channels that differ,
    and weights that are empty or larger than the padded image.
    """
    check_images("conv2d", x)
    if len(weight.shape) != 4:
        raise ValueError(f"conv2d: weight must be (kh, kw, in, out), got {weight.shape}")
    if x.shape[3] != weight.shape[2]:
        raise ValueError(
            f"conv2d: weight must take the {x.shape[3]} channels of x {x.shape}, got {weight.shape}"
        )
    if 0 in weight.shape:
        raise ValueError(f"conv2d: weight must not be empty, got {weight.shape}")
    stride = resolve_pair("conv2d", "stride", stride)
    padding = resolve_padding("conv2d", x.shape, weight.shape[:2], stride, padding)
    return _conv2d(x, weight, stride=stride, padding=padding)
