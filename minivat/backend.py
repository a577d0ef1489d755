"""Devices, their arrays and their random numbers. The only file that imports CuPy.

Operations are written with NumPy's functions; CuPy's arrays answer them through NumPy's own
protocols (`__array_ufunc__`, `__array_function__`). What is left for a device is to create
arrays, to move them, and to draw random numbers.
"""

from __future__ import annotations

import ctypes
import hashlib
import operator
import os
import platform
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import DTypeLike

from .kernels import (
    ConvolutionKernels,
    blas,
    cublas,
    cuda,
    cuda_images,
    loops,
    philox,
    plain,
)
from .typing import Array, RawArray

T = TypeVar("T")


class DeviceError(ValueError):
    """A device cannot be used; the message is one line."""


def stream_key(seed: int, purpose: str, step: int = 0) -> int:
    """128 bits that name one stream of random numbers: the generator's whole state.

    Streams of different seeds, purposes or steps are independent, so a run resumed at an update
    draws what an uninterrupted run draws there.
    """
    name = f"{seed}/{purpose}/{step}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")


def host_generator(seed: int, purpose: str, step: int = 0) -> np.random.Generator:
    """NumPy's generator of that stream, for permutations, splits and initial weights."""
    # ignore: NumPy's stubs have no ISeedSequence here; its documentation does.
    key = _Key(stream_key(seed, purpose, step))
    return np.random.Generator(np.random.Philox(key))  # type: ignore[arg-type]


class _Key(ISeedSequence):
    """What gives Philox its key. For its argument `key` NumPy first asks the system for another,
    which takes longer than all the rest."""

    def __init__(self, key: int):
        self._key = key

    def generate_state(self, n_words: int, dtype: DTypeLike = np.uint32) -> RawArray:
        return np.frombuffer(self._key.to_bytes(16, "little"), "<u8").astype(dtype)


class Device:
    """The CPU. Arrays are NumPy's."""

    name = "cpu"
    captures = False  # whether it has `capture`

    @property
    def description(self) -> str:
        """The processor's name, for logs and records."""
        try:
            with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
                models = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
        except OSError:
            models = []
        return f"cpu: {models[0] if models else platform.processor() or platform.machine()}"

    def asarray(self, array: Any, dtype: DTypeLike | None = None) -> RawArray:
        """A host array (or anything np.asarray takes) on this device."""
        return np.asarray(array, dtype)

    def to_host(self, array: Array) -> RawArray:
        """The array as NumPy's; waits for the device if necessary."""
        return np.asarray(array)

    def synchronize(self) -> None:
        """Wait until all work given to the device is done."""

    def random(self, seed: int, purpose: str, step: int | RawArray = 0) -> RandomStream:
        """The random numbers of one (seed, purpose, step), drawn on this device.

        A device that `captures` takes the step in an array (1,) of uint64, too.
        """
        return RandomStream(host_generator(seed, purpose, operator.index(step)))

    def capture(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """work's result and its recording: (result, launch), where the device `captures`.

        work is run once, but the device does none of it before launch() is called, and all of it
        again, into the same arrays, at every call. It must not wait for the device.
        """
        raise DeviceError(f"device {self.name} records nothing")


class CudaDevice(Device):
    """One CUDA GPU. Arrays are CuPy's. Its random numbers are by counter, and not the CPU's.

    tf32: let tensor cores round the factors of float32 products and convolutions to TensorFloat-32,
        10 bits of mantissa, on GPUs of compute capability 8.0 and higher. This is CuPy's own
        setting, one for the process: the device made last decides.
    """

    name = "cuda"
    captures = True

    def __init__(self, cupy: Any, tf32: bool = False):
        capability = int(cupy.cuda.Device().compute_capability)
        if tf32 and capability < 80:
            raise DeviceError(
                "device cuda: tf32 needs a GPU of compute capability 8.0 or higher, "
                f"this one has {capability / 10}"
            )
        self._cupy = cupy
        self._philox = philox.CudaKernels(cupy)
        linalg = cupy._core._routines_linalg
        linalg.set_compute_type(
            np.float32, linalg.COMPUTE_TYPE_TF32 if tf32 else linalg.COMPUTE_TYPE_DEFAULT
        )

    @property
    def description(self) -> str:
        """The GPU's name, whether convolutions use cuDNN, and whether products use TF32."""
        properties = self._cupy.cuda.runtime.getDeviceProperties(self._cupy.cuda.Device().id)
        tf32 = ", TF32" if _tf32(self._cupy) else ""
        return f"cuda: {properties['name'].decode()}, {_cuda_kernels()[1]}{tf32}"

    def asarray(self, array: Any, dtype: DTypeLike | None = None) -> RawArray:
        return self._cupy.asarray(array, dtype)

    def to_host(self, array: Array) -> RawArray:
        return self._cupy.asnumpy(array)

    def synchronize(self) -> None:
        self._cupy.cuda.get_current_stream().synchronize()

    def random(self, seed: int, purpose: str, step: int | RawArray = 0) -> RandomStream:
        return CounterStream(self._philox, self._cupy.empty, seed, purpose, step)

    def capture(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """As a CUDA graph."""
        cuda = self._cupy.cuda
        # Nobody else may be given the memory of arrays that work frees: every launch writes there.
        pool = cuda.MemoryPool()
        stream = cuda.Stream(non_blocking=True)  # the default stream cannot be captured
        self.synchronize()
        with stream, cuda.using_allocator(pool.malloc):
            stream.begin_capture()
            try:
                result = work()
            finally:
                graph = stream.end_capture()

        def launch(pool: Any = pool) -> None:  # which lives as long as the graph
            graph.launch()

        return result, launch


class RandomStream:
    """Random numbers from one of NumPy's generators."""

    def __init__(self, generator: np.random.Generator):
        self._generator: Any = generator  # Any: CuPy's have no types

    def normal(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> RawArray:
        """Standard normal numbers."""
        return self._generator.standard_normal(tuple(shape), dtype=dtype)

    def uniform(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> RawArray:
        """Numbers uniform in [0, 1)."""
        return self._generator.random(tuple(shape), dtype=dtype)


class CounterStream(RandomStream):
    """Random numbers by counter (`kernels.philox`): no generator has a state.

    kernels: who fills an array; empty: (shape, dtype) ↦ one to fill. step: an integer from 0, or
    an array (1,) of uint64.
    """

    def __init__(
        self,
        kernels: philox.PhiloxKernels,
        empty: Callable[[Sequence[int], DTypeLike], RawArray],
        seed: int,
        purpose: str,
        step: int | RawArray,
    ):
        self._kernels, self._empty = kernels, empty
        self._key, self._step = stream_key(seed, purpose) % 2**64, step
        self._draws = 0

    def normal(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> RawArray:
        return self._drawn(self._kernels.normal, shape, dtype)

    def uniform(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> RawArray:
        return self._drawn(self._kernels.uniform, shape, dtype)

    def _drawn(self, fill: Any, shape: Sequence[int], dtype: DTypeLike) -> RawArray:
        out = self._empty(tuple(shape), dtype)
        fill(self._key, self._step, self._draws, out)
        self._draws += 1
        return out


def to_host(array: Any) -> RawArray:
    """An array of any device as NumPy's; waits for the device if necessary."""
    return array.get() if hasattr(array, "get") else np.asarray(array)


def from_dlpack(array: Any, like: RawArray) -> RawArray:
    """Another library's array as one of like's kind, NumPy's or CuPy's, around the same memory."""
    if isinstance(like, np.ndarray):
        return np.from_dlpack(array)
    import cupy

    return cupy.from_dlpack(array)


def convolution_kernels(*arrays: RawArray) -> ConvolutionKernels:
    """The kernels, of those in `minivat.kernels`, that convolve arrays of this kind."""
    # ignore: mypy asks whether the arrays of a class are hashable, not the class.
    kernels = {_kernels_for(type(array)) for array in arrays}  # type: ignore[arg-type]
    return kernels.pop() if len(kernels) == 1 else plain


@cache
def _kernels_for(kind: type) -> ConvolutionKernels:
    if issubclass(kind, np.ndarray):
        return blas
    return _cuda_kernels()[0] if hasattr(kind, "__cuda_array_interface__") else plain


def matmul(a: Any, b: Any) -> RawArray:
    """a @ b as np.matmul's; two matrices of CuPy's so that they may be captured, too."""
    kind = type(a)
    if (
        kind is np.ndarray
        or not hasattr(kind, "__cuda_array_interface__")
        or kind is not type(b)
        or not a.ndim == b.ndim == 2
        or a.dtype != b.dtype
        or a.dtype.char not in "fd"
    ):
        return np.matmul(a, b)
    return _cuda_products()(a, b)


@cache
def _cuda_products() -> Callable[[RawArray, RawArray], RawArray]:
    """cuBLAS, which is loaded already: CuPy needs it."""
    import cupy
    from cuda.pathfinder import load_nvidia_dynamic_lib

    library = ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    return cublas.CublasProducts(
        library, lambda: cupy.cuda.get_current_stream().ptr, lambda: _tf32(cupy)
    )


def compiled(loop: loops.Loop, *arrays: RawArray) -> loops.Loop | None:
    """A loop of `kernels.loops`, compiled for arrays of this kind and of one dtype; or None.

    For NumPy's by Numba, where that is installed, for CuPy's by CUDA's compiler. None: what the
    loop stands for has to do it.
    """
    kind = type(arrays[0])
    if kind is np.ndarray:
        return loops.compiled(loop, *arrays)
    if not hasattr(kind, "__cuda_array_interface__"):
        return None
    alike = len({(type(array), array.dtype) for array in arrays}) == 1
    return _cuda_loops().compiled(loop, arrays[0]) if alike else None


def of_rows(name: str, x: RawArray) -> Callable[[RawArray], RawArray] | None:
    """A kernel of `kernels.cuda.CudaRows`, for CuPy's arrays; None for others."""
    if type(x) is np.ndarray or not hasattr(type(x), "__cuda_array_interface__"):
        return None
    return _cuda_rows().compiled(name, x)


def of_images(*arrays: RawArray) -> cuda_images.CudaImages | None:
    """The kernels for images, for CuPy's arrays of one floating dtype; None for others."""
    kind, dtype = type(arrays[0]), arrays[0].dtype
    if kind is np.ndarray or not hasattr(kind, "__cuda_array_interface__"):
        return None
    alike = len({(type(array), array.dtype) for array in arrays}) == 1
    return _cuda_images(dtype.char) if alike and dtype.char in cuda.KINDS else None


@cache
def _cuda_images(char: str) -> cuda_images.CudaImages:
    import cupy

    return cuda_images.CudaImages(cupy, char)


@cache
def _cuda_rows() -> cuda.CudaRows:
    import cupy

    return cuda.CudaRows(cupy)


@cache
def _cuda_loops() -> cuda.CudaLoops:
    import cupy

    return cuda.CudaLoops(cupy)


@cache
def _cuda_kernels() -> tuple[ConvolutionKernels, str]:
    """The kernels for CuPy's arrays, cuDNN's if it works, and a description of them."""
    import cupy

    try:
        import cudnn

        from .kernels.cudnn import CudnnKernels

        kernels = CudnnKernels(
            cudnn, lambda: cupy.cuda.get_current_stream().ptr, lambda: _tf32(cupy)
        )
        return kernels, f"cuDNN {cudnn.backend_version_string()}"
    except ModuleNotFoundError:
        return plain, "without cuDNN: nvidia-cudnn-frontend is not installed"
    except Exception as error:  # its library is missing, too old or unfit: any of several types
        return plain, f"without cuDNN: {_first_line(error)}"


def _tf32(cupy: Any) -> bool:
    linalg = cupy._core._routines_linalg
    return linalg.get_compute_type(np.float32) == linalg.COMPUTE_TYPE_TF32


@cache
def keep_freed_memory() -> None:
    """Tell the C library to keep the memory that arrays give back, for the next ones.

    An update allocates the same few tens of megabytes as the one before. By default glibc returns
    large blocks to the system at once, which has to clear them, page by page, when they are asked
    for again: batch norm of 100 × 1,200 numbers with its products with J and Jᵀ takes 1,764 µs,
    and 574 with this setting. The price: up to 512 MiB that the process has used once stay with
    it, and the setting is the whole process's, until it ends. `Trainer` calls it on the CPU; a
    second call does nothing, as does the first on other systems than Linux with glibc.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # TypeError: Windows takes no None
        return
    mallopt(mmap_threshold, 1 << 25)
    mallopt(trim_threshold, 1 << 29)


def select_device(name: str = "auto", tf32: bool = False) -> Device:
    """The device to compute on: "cpu", "cuda", or "auto".

    "auto" is what the environment variable MINIVAT_DEVICE names, else the GPU if CuPy can use one,
    else the CPU. tf32: see CudaDevice; it means nothing on the CPU. Raises DeviceError for another
    name, for "cuda" if something that it needs is missing, naming it, and for tf32 on a GPU
    without it.
    """
    source = "device"
    if name == "auto" and os.environ.get("MINIVAT_DEVICE"):
        source, name = "MINIVAT_DEVICE", os.environ["MINIVAT_DEVICE"]
    if name not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"{source} must be auto, cpu or cuda, got {name!r}")
    if name == "cpu":
        return Device()
    try:
        cupy = _usable_cupy()
    except DeviceError:
        if name == "cuda":
            raise
        return Device()
    return CudaDevice(cupy, tf32)


def _usable_cupy() -> Any:
    """CuPy, after a trial computation: its import alone succeeds on machines without a GPU."""
    try:
        import cupy
    except ImportError:
        raise DeviceError(
            "device cuda: CuPy is not installed; pip install 'minivat[cuda12]' or "
            "'minivat[cuda13]', whichever CUDA version nvidia-smi names"
        ) from None
    if not cupy.cuda.is_available():
        raise DeviceError("device cuda: CuPy finds no usable CUDA GPU or driver here")
    try:
        # NVRTC and cuBLAS, each a library of its own that may be missing.
        cupy.ones((2, 2)) @ cupy.ones((2, 2))
    except Exception as error:  # a CUDA library is missing or too old: any of several types
        raise DeviceError(f"device cuda: CuPy cannot compute here: {_first_line(error)}") from None
    return cupy


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
