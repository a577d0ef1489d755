"""A stand-in for nvidia-cudnn-frontend that needs no GPU: the same calls, refused where they err.

`FakeCudnn()` takes the place of the module. It refuses names and keyword arguments that the tables
below do not have, and steps out of order; `kernels/test_cudnn.py` compares the tables with the
package where that can be imported. A graph is executed by NumPy, on the memory at the addresses
given, read by the sizes and strides that were declared and by nothing else.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

# name: the parameters, in order, of what minivat calls.
FUNCTIONS = {"create_handle": "", "set_stream": "handle stream"}
GRAPH = {
    "__init__": "name io_data_type intermediate_data_type compute_data_type handle",
    "tensor": "dim stride data_type is_virtual is_pass_by_value ragged_offset reordering_type "
    "name uid",
    "validate": "",
    "build_operation_graph": "",
    "create_execution_plans": "heuristics",
    "deselect_numeric_notes": "notes",
    "deselect_workspace_greater_than": "workspace_limit",
    "check_support": "",
    "build_plans": "",
    "get_workspace_size": "",
    "execute": "tensor_dict workspace handle",
}
OPERATIONS = {"conv_fprop": "image weight", "conv_dgrad": "loss filter", "conv_wgrad": "image loss"}
GEOMETRY = "pre_padding post_padding stride dilation"
TENSOR = {
    "set_output": "value",
    "set_uid": "uid",
    "set_data_type": "dtype",
    "set_dim": "dim",
    "set_stride": "stride",
}
ENUMS = {
    "data_type": "FLOAT DOUBLE HALF",
    "heur_mode": "A B FALLBACK",
    "numerical_note": "TENSOR_CORE DOWN_CONVERT_INPUTS REDUCED_PRECISION_REDUCTION FFT "
    "NONDETERMINISTIC WINOGRAD",
}
ORDER = """
    validate build_operation_graph create_execution_plans check_support build_plans
""".split()


class NotSupported(Exception):
    """cudnnGraphNotSupportedError: not a RuntimeError, as in the package."""


class FakeCudnn:
    """The module. `plans`: the notes of the kernels that it has for every graph, best first."""

    cudnnGraphNotSupportedError = NotSupported

    def __init__(self, plans: tuple = ((),), workspace: Sequence[int] = (64,) * 99):
        self.plans = plans
        self.workspace = iter(workspace)
        self.graphs: list[FakeGraph] = []
        self.streams: list[int] = []
        for name, members in ENUMS.items():
            setattr(self, name, SimpleNamespace(**{m: f"{name}.{m}" for m in members.split()}))

    def backend_version_string(self) -> str:
        return "9.28.0"

    def create_handle(self) -> object:
        self.handle = object()
        return self.handle

    def set_stream(self, handle: object, stream: int) -> None:
        assert handle is self.handle
        assert isinstance(stream, int)
        self.streams.append(stream)

    def pygraph(self, **kwargs: Any) -> FakeGraph:
        _accept("pygraph", GRAPH["__init__"], kwargs)
        assert kwargs.pop("handle") is self.handle
        assert set(kwargs.values()) == {self.data_type.FLOAT}
        self.graphs.append(FakeGraph(self))
        return self.graphs[-1]


class FakeGraph:
    def __init__(self, cudnn: FakeCudnn):
        self.cudnn = cudnn
        self.steps: list[str] = []
        self.tensors: dict[int, FakeTensor] = {}
        self.allowed = list(cudnn.plans)
        self.runs: list[dict] = []

    def tensor(self, **kwargs: Any) -> FakeTensor:
        _accept("tensor", GRAPH["tensor"], kwargs)
        assert kwargs["data_type"] == self.cudnn.data_type.FLOAT
        tensor = FakeTensor().set_uid(kwargs["uid"])
        self.tensors[kwargs["uid"]] = tensor.set_dim(kwargs["dim"]).set_stride(kwargs["stride"])
        return tensor

    def _convolve(self, operation: str, **kwargs: Any) -> FakeTensor:
        _accept(operation, f"{OPERATIONS[operation]} {GEOMETRY}", kwargs)
        self.operation = operation
        self.inputs = [kwargs.pop(name) for name in OPERATIONS[operation].split()]
        assert all(type(n) is int for value in kwargs.values() for n in value)
        assert all(type(value) is list and len(value) == 2 for value in kwargs.values())
        assert kwargs["dilation"] == [1, 1]
        self.geometry = kwargs
        self.output = FakeTensor()
        return self.output

    def __getattr__(self, name: str) -> Any:
        if name not in OPERATIONS:
            raise AttributeError(name)
        return lambda **kwargs: self._convolve(name, **kwargs)

    def _step(self, name: str) -> None:
        assert self.steps == ORDER[: ORDER.index(name)]
        self.steps.append(name)

    def validate(self) -> None:
        self._step("validate")
        assert self.output.output
        for tensor in (*self.inputs, self.output):
            assert len(tensor.dim) == len(tensor.stride) == 4
            if min(tensor.dim) < 1:
                raise ValueError("a dimension is not positive")
        self.tensors[self.output.uid] = self.output
        assert len(self.tensors) == 3

    def build_operation_graph(self) -> None:
        self._step("build_operation_graph")

    def create_execution_plans(self, heuristics: list) -> None:
        self._step("create_execution_plans")
        modes = self.cudnn.heur_mode
        assert heuristics == [modes.A, modes.FALLBACK]

    def deselect_numeric_notes(self, notes: list) -> None:
        assert self.steps[-1] == "create_execution_plans"  # earlier, some versions forget it
        self.allowed = [plan for plan in self.allowed if not set(plan) & set(notes)]

    def deselect_workspace_greater_than(self, workspace_limit: int) -> None:
        self.workspace_limit = workspace_limit

    def check_support(self) -> None:
        self._step("check_support")
        if not self.allowed:
            raise NotSupported("No execution plans\nsupport the graph.")

    def build_plans(self) -> None:
        self._step("build_plans")
        self.plan = self.allowed[0]
        self.size = next(self.cudnn.workspace)

    def get_workspace_size(self) -> int:
        assert self.steps == ORDER
        return self.size

    def execute(self, tensor_dict: dict, workspace: int, handle: object) -> None:
        assert self.steps == ORDER
        assert handle is self.cudnn.handle
        assert set(tensor_dict) == set(self.tensors)
        assert all(type(address) is int for address in (*tensor_dict.values(), workspace))
        assert not any(address % 16 for address in tensor_dict.values())
        self.runs.append({**tensor_dict, "workspace": workspace})
        arrays = [tensor.memory(tensor_dict[tensor.uid]) for tensor in (*self.inputs, self.output)]
        arrays[2][...] = CONVOLVE[self.operation](*arrays, **self.geometry)


class FakeTensor:
    def __init__(self):
        self.output = False

    def set_output(self, value: bool) -> FakeTensor:
        self.output = value
        return self

    def set_uid(self, uid: int) -> FakeTensor:
        self.uid = uid
        return self

    def set_data_type(self, dtype: Any) -> FakeTensor:
        assert dtype == "data_type.FLOAT"
        return self

    def set_dim(self, dim: list) -> FakeTensor:
        assert all(type(n) is int for n in dim)
        self.dim = dim
        return self

    def set_stride(self, stride: list) -> FakeTensor:
        assert all(type(n) is int for n in stride)
        self.stride = stride
        return self

    def memory(self, address: int) -> np.ndarray:
        last = sum((n - 1) * step for n, step in zip(self.dim, self.stride, strict=True))
        numbers = np.ctypeslib.as_array((ctypes.c_float * (last + 1)).from_address(address))
        return np.lib.stride_tricks.as_strided(numbers, self.dim, [4 * n for n in self.stride])


def _accept(what: str, parameters: str, kwargs: dict) -> None:
    refused = set(kwargs) - set(parameters.split())
    if refused:
        raise TypeError(f"{what} got unexpected arguments {sorted(refused)}")


# The three operations as cuDNN defines them, for arrays NCHW and KCRS, in float64.


def _windows(image, weight_dim, output_dim, stride):
    """(r, s, view of the pixels that the weights at r, s meet) of the padded image."""
    (_, _, height, width), (_, _, high, wide) = weight_dim, output_dim
    for r, s in np.ndindex(height, width):
        rows = slice(r, r + (high - 1) * stride[0] + 1, stride[0])
        columns = slice(s, s + (wide - 1) * stride[1] + 1, stride[1])
        yield r, s, image[:, :, rows, columns]


def _padded(image, pre_padding, post_padding):
    around = [(0, 0), (0, 0), *zip(pre_padding, post_padding, strict=True)]
    return np.pad(np.asarray(image, np.float64), around)


def _fprop(x, w, y, pre_padding, post_padding, stride, dilation):
    total = np.zeros(y.shape)
    padded = _padded(x, pre_padding, post_padding)
    for r, s, pixels in _windows(padded, w.shape, y.shape, stride):
        total += np.einsum("nchw,kc->nkhw", pixels, w[:, :, r, s])
    return total


def _dgrad(g, w, x, pre_padding, post_padding, stride, dilation):
    padded = _padded(np.zeros(x.shape), pre_padding, post_padding)
    for r, s, pixels in _windows(padded, w.shape, g.shape, stride):
        pixels += np.einsum("nkhw,kc->nchw", g, w[:, :, r, s])
    (top, left), (_, _, height, width) = pre_padding, x.shape
    return padded[:, :, top : top + height, left : left + width]


def _wgrad(x, g, w, pre_padding, post_padding, stride, dilation):
    total = np.zeros(w.shape)
    padded = _padded(x, pre_padding, post_padding)
    for r, s, pixels in _windows(padded, w.shape, g.shape, stride):
        total[:, :, r, s] = np.einsum("nchw,nkhw->kc", pixels, g)
    return total


CONVOLVE = {"conv_fprop": _fprop, "conv_dgrad": _dgrad, "conv_wgrad": _wgrad}
