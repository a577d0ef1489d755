"""Products of matrices by NVIDIA's cuBLAS, called directly, for arrays on a GPU.

CuPy calls it, too, but refuses to while a stream is captured as a CUDA graph ("calling cuBLAS API
during stream capture is currently unsupported"). cuBLAS itself allows it, if its workspace stays
where it is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

# cuBLAS's numbers for them (cublas_api.h, library_types.h).
PLAIN, TRANSPOSED = 0, 1
FLOAT32, FLOAT64 = 0, 1
COMPUTE_FLOAT32, COMPUTE_TF32, COMPUTE_FLOAT64 = 68, 77, 70
DEFAULT_ALGORITHM = -1
WORKSPACE = 2**25  # bytes: what NVIDIA recommends for the largest GPUs

Argument = ctypes.c_void_p | ctypes.c_int


class CublasProducts:
    """a @ b of two matrices of float32 or float64; the same to the bit, captured or not.

    library: cuBLAS, loaded. stream: the address of CUDA's current stream; products are given to
    one stream at a time. tf32: whether factors may be rounded to TensorFloat-32, for tensor cores.
    """

    def __init__(self, library: Any, stream: Callable[[], int], tf32: Callable[[], bool]):
        self._library, self._stream, self._tf32 = library, stream, tf32
        self._handle = ctypes.c_void_p()
        self._workspace: Any = None
        self._current: int | None = None  # the handle's stream
        self._numbers = {
            np.dtype(kind): (ctypes.byref(c_type(1)), ctypes.byref(c_type(0)))
            for kind, c_type in ((np.float32, ctypes.c_float), (np.float64, ctypes.c_double))
        }

    def __call__(self, a: Any, b: Any) -> Any:
        """(m, k) @ (k, n), in C's order. Raises ValueError where the shapes do not fit."""
        if a.shape[1] != b.shape[0]:
            raise ValueError(f"matmul: shapes {a.shape} and {b.shape} do not fit")
        (m, k), n = a.shape, b.shape[1]
        product = np.empty_like(a, shape=(m, n), order="C")
        if 0 in (m, n, k):
            product[...] = 0
            return product
        (a, op_a, lda), (b, op_b, ldb) = _factor(a), _factor(b)
        one, zero = self._numbers[a.dtype]
        kind, compute = FLOAT64, COMPUTE_FLOAT64
        if a.dtype == np.float32:
            kind, compute = FLOAT32, COMPUTE_TF32 if self._tf32() else COMPUTE_FLOAT32
        self._settle(a)
        # cuBLAS has its matrices in Fortran's order: there ours are transposed, (a b)ᵀ = bᵀ aᵀ.
        self._call(
            "cublasGemmEx",
            *map(ctypes.c_int, (op_b, op_a, n, m, k)),
            one,
            *_matrix(b, kind, ldb),
            *_matrix(a, kind, lda),
            zero,
            *_matrix(product, kind, n),
            *map(ctypes.c_int, (compute, DEFAULT_ALGORITHM)),
        )
        return product

    def _settle(self, like: Any) -> None:
        """Make the current stream the handle's. A new stream takes the workspace away."""
        stream = self._stream()
        if stream == self._current:
            return
        if self._workspace is None:
            self._check(
                "cublasCreate_v2", self._library.cublasCreate_v2(ctypes.byref(self._handle))
            )
            self._workspace = np.empty_like(like, shape=(WORKSPACE,), dtype=np.uint8)
        address = ctypes.c_void_p(self._workspace.data.ptr)
        self._call("cublasSetStream_v2", ctypes.c_void_p(stream))
        self._call("cublasSetWorkspace_v2", address, ctypes.c_size_t(WORKSPACE))
        self._current = stream

    def _call(self, name: str, *arguments: Any) -> None:
        self._check(name, getattr(self._library, name)(self._handle, *arguments))

    def _check(self, name: str, status: int) -> None:
        if status:
            raise RuntimeError(f"cuBLAS: {name} failed with status {status}")


def _factor(x: Any) -> tuple[Any, int, int]:
    """A matrix that lies in one piece, whether it is transposed there, and its longer stride."""
    if x.flags.c_contiguous:
        return x, PLAIN, x.shape[1]
    if x.flags.f_contiguous:
        return x, TRANSPOSED, x.shape[0]
    return x.copy(), PLAIN, x.shape[1]


def _matrix(x: Any, kind: int, stride: int) -> tuple[Argument, ...]:
    return ctypes.c_void_p(x.data.ptr), ctypes.c_int(kind), ctypes.c_int(stride)
