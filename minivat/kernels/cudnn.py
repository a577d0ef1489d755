"""Convolution by NVIDIA's cuDNN, for float32 arrays on a GPU, through its graph API.

cuDNN names the axes of images N, C, H, W and those of weights K, C, R, S, whatever their order in
memory: that is said by strides. So images stay as they are; weights are copied to (K, R, S, C),
channels last as well, for which its kernels are made. They are small, and it costs little.

What cuDNN finds for a shape, a plan, is kept: the first convolution of a shape takes long, and is
no part of a CUDA graph; the others only launch kernels, and can be captured.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from . import Borders, IntPair, Shape, plain

# cuDNN's operations, and their names for the two arrays they take.
INPUTS = {
    "conv_fprop": ("image", "weight"),
    "conv_dgrad": ("loss", "filter"),
    "conv_wgrad": ("image", "loss"),
}
FIRST, SECOND, RESULT = 1, 2, 3  # what the arrays are called when a plan is executed
OUTPUTS_FIRST, OUTPUTS_LAST = (3, 0, 1, 2), (1, 2, 3, 0)  # the axes of weights, moved
# In bytes: what kernels that read several numbers at once rely on.
ALIGNMENT = 16
# In bytes: kernels that want more than this are left out.
WORKSPACE = 2**30


class CudnnKernels:
    """The kernels of `minivat.kernels`, by cuDNN where it can, else by `plain`.

    It can for float32 arrays that are not empty, on the GPU that was current at construction, in
    shapes for which it has a deterministic kernel; where it has none, a warning says so, once. As
    all plans share one workspace, convolutions are given to one stream at a time.
    """

    def __init__(self, cudnn: Any, stream: Callable[[], int], tf32: Callable[[], bool]):
        """cudnn: the module of nvidia-cudnn-frontend.

        stream: the address of CUDA's current stream.
        tf32: whether factors may be rounded to TensorFloat-32's 10 bits, for tensor cores.
        """
        self._cudnn = cudnn
        self._stream = stream
        self._tf32 = tf32
        self._handle = cudnn.create_handle()
        self._plans: dict[tuple[Any, ...], Any] = {}
        self._workspace: Any = None

    def forward(self, x: Any, weight: Any, stride: IntPair, padding: Borders) -> Any:
        """As `plain.forward`."""
        size = plain.output_size(x.shape, weight.shape[:2], stride, padding)
        shape = (x.shape[0], *size, weight.shape[3])
        weights = np.transpose(weight, OUTPUTS_FIRST)
        y = self._convolve("conv_fprop", x, weights, shape, stride, padding)
        return plain.forward(x, weight, stride, padding) if y is None else y

    def input_gradient(
        self, g: Any, weight: Any, input_shape: Shape, stride: IntPair, padding: Borders
    ) -> Any:
        """As `plain.input_gradient`."""
        weights = np.transpose(weight, OUTPUTS_FIRST)
        x = self._convolve("conv_dgrad", g, weights, input_shape, stride, padding)
        return plain.input_gradient(g, weight, input_shape, stride, padding) if x is None else x

    def weight_gradient(
        self, x: Any, g: Any, kernel_shape: IntPair, stride: IntPair, padding: Borders
    ) -> Any:
        """As `plain.weight_gradient`."""
        shape = (g.shape[3], *kernel_shape, x.shape[3])
        weight = self._convolve("conv_wgrad", x, g, shape, stride, padding)
        if weight is None:
            return plain.weight_gradient(x, g, kernel_shape, stride, padding)
        return np.transpose(weight, OUTPUTS_LAST).copy()

    def _convolve(
        self,
        operation: str,
        first: Any,
        second: Any,
        shape: Shape,
        stride: IntPair,
        padding: Borders,
    ) -> Any:
        """The result, of that shape; or None where cuDNN is not to compute it, or cannot."""
        if not first.dtype == second.dtype == np.float32 or 0 in (*first.shape, *second.shape):
            return None
        key = (operation, first.shape, second.shape, shape, stride, padding, self._tf32())
        if key not in self._plans:
            self._plans[key] = self._plan(first, *key)
        if self._plans[key] is None:
            return None
        graph, workspace = self._plans[key]
        first, second = _readable(first), _readable(second)
        result = np.empty_like(first, shape=shape, order="C")
        arrays = {FIRST: first.data.ptr, SECOND: second.data.ptr, RESULT: result.data.ptr}
        self._cudnn.set_stream(handle=self._handle, stream=self._stream())
        graph.execute(arrays, workspace.data.ptr, handle=self._handle)
        return result

    def _plan(self, like: Any, operation: str, *configuration: Any) -> Any:
        """A graph that is ready to execute, and the workspace it needs; or None, with a warning."""
        try:
            graph = self._graph(operation, *configuration)
        except (self._cudnn.cudnnGraphNotSupportedError, RuntimeError, ValueError) as error:
            first, second, result, stride, padding, _ = configuration
            warnings.warn(
                f"cuDNN has no {operation} of {first} and {second} to {result}, stride {stride}, "
                f"padding {padding}; cuBLAS computes it ({' '.join(str(error).split())[:200]})",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        size = graph.get_workspace_size()
        # Graphs that are captured know its address: an outgrown one stays with its plans.
        if self._workspace is None or self._workspace.nbytes < size:
            self._workspace = np.empty_like(like, shape=(size,), dtype=np.uint8)
        return graph, self._workspace

    def _graph(
        self,
        operation: str,
        first: Shape,
        second: Shape,
        result: Shape,
        stride: IntPair,
        padding: Borders,
        tf32: bool,
    ) -> Any:
        cudnn, notes = self._cudnn, self._cudnn.numerical_note
        float32 = cudnn.data_type.FLOAT
        graph = cudnn.pygraph(
            io_data_type=float32,
            intermediate_data_type=float32,
            compute_data_type=float32,
            handle=self._handle,
        )
        inputs = {
            name: graph.tensor(dim=dim, stride=strides, data_type=float32, uid=uid)
            for name, uid, (dim, strides) in zip(
                INPUTS[operation], (FIRST, SECOND), map(_axes, (first, second)), strict=True
            )
        }
        (top, bottom), (left, right) = padding
        output = getattr(graph, operation)(
            **inputs,
            pre_padding=[top, left],
            post_padding=[bottom, right],
            stride=list(stride),
            dilation=[1, 1],
        )
        dim, strides = _axes(result)
        output.set_output(True).set_uid(RESULT).set_data_type(float32)
        output.set_dim(dim).set_stride(strides)
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        # TF32 is what tensor cores make of float32; inputs converted down would be half precision.
        tensor_cores = [] if tf32 else [notes.TENSOR_CORE]
        graph.deselect_numeric_notes(
            [notes.NONDETERMINISTIC, notes.DOWN_CONVERT_INPUTS, *tensor_cores]
        )
        graph.deselect_workspace_greater_than(WORKSPACE)
        graph.check_support()
        graph.build_plans()
        return graph


def _axes(shape: Shape) -> tuple[list[int], list[int]]:
    """cuDNN's sizes and strides, in elements, of an array whose channels are last."""
    n, height, width, channels = shape
    dim = [n, channels, height, width]
    return dim, [height * width * channels, 1, width * channels, channels]


def _readable(array: Any) -> Any:
    """The array as its shape says that it lies in memory, and aligned; most are already."""
    ready = array.flags.c_contiguous and array.data.ptr % ALIGNMENT == 0
    return array if ready else array.copy()
