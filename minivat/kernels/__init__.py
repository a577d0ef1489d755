"""The arithmetic of convolutions, on arrays themselves.

Images are (N, height, width, channels), weights (height, width, inputs, outputs), all C-contiguous;
`kernel_shape` is the (height, width) of the weight. Strides and paddings are numbers only.
`backend.convolution_kernels` chooses the module. (The arithmetic of batch norm, for arrays of any
kind, is in `batch_norm`.)
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

from ..typing import RawArray

Shape: TypeAlias = tuple[int, ...]
IntPair: TypeAlias = tuple[int, int]  # (down, right), (height, width)
Borders: TypeAlias = tuple[IntPair, IntPair]  # ((top, bottom), (left, right))


class ConvolutionKernels(Protocol):
    """The bilinear map and its two transposes: functions of a module, or an object's methods."""

    def forward(
        self, x: RawArray, weight: RawArray, stride: IntPair, padding: Borders
    ) -> RawArray: ...

    def input_gradient(
        self, g: RawArray, weight: RawArray, input_shape: Shape, stride: IntPair, padding: Borders
    ) -> RawArray:
        """Like the input."""

    def weight_gradient(
        self, x: RawArray, g: RawArray, kernel_shape: IntPair, stride: IntPair, padding: Borders
    ) -> RawArray:
        """Like the weight."""
