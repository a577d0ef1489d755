"""Devices, their arrays and their random numbers. The only file that imports CuPy.

Operations are written with NumPy's functions; CuPy's arrays answer them through NumPy's own
protocols (`__array_ufunc__`, `__array_function__`). What is left for a device is to create
arrays, to move them, and to draw random numbers.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from .kernels import blas, plain
from .parallel import in_parallel

Array = Any  # numpy.ndarray or cupy.ndarray


class DeviceError(ValueError):
    """A device that was asked for cannot be used; the message is one line."""


def stream_key(seed: int, purpose: str, step: int = 0) -> int:
    """128 bits that name one stream of random numbers: the generator's whole state.

    Streams of different seeds, purposes or steps are independent, so a run resumed at an update
    draws what an uninterrupted run draws there.
    """
    name = f"{seed}/{purpose}/{step}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")


def host_generator(seed: int, purpose: str, step: int = 0) -> np.random.Generator:
    """NumPy's generator of that stream, for permutations, splits and initial weights."""
    return np.random.Generator(np.random.Philox(key=stream_key(seed, purpose, step)))


class Device:
    """The CPU. Arrays are NumPy's."""

    name = "cpu"

    @property
    def description(self) -> str:
        """The processor's name, for people and for the records of a run."""
        try:
            with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
                models = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
        except OSError:
            models = []
        return f"cpu: {models[0] if models else platform.processor() or platform.machine()}"

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """A host array (or anything np.asarray takes) on this device."""
        return np.asarray(array, dtype)

    def to_host(self, array: Array) -> np.ndarray:
        """The array as NumPy's; waits for the device where it has to."""
        return np.asarray(array)

    def synchronize(self) -> None:
        """Wait until all work given to the device is done."""

    def random(self, seed: int, purpose: str, step: int = 0) -> RandomStream:
        """The random numbers of one (seed, purpose, step), drawn on this device."""
        return RandomStream(host_generator(seed, purpose, step))


class CudaDevice(Device):
    """One CUDA GPU. Arrays are CuPy's. Its random numbers differ from the CPU's."""

    name = "cuda"

    def __init__(self, cupy: Any):
        self._cupy = cupy

    @property
    def description(self) -> str:
        properties = self._cupy.cuda.runtime.getDeviceProperties(self._cupy.cuda.Device().id)
        return f"cuda: {properties['name'].decode()}"

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        return self._cupy.asarray(array, dtype)

    def to_host(self, array: Array) -> np.ndarray:
        return self._cupy.asnumpy(array)

    def synchronize(self) -> None:
        self._cupy.cuda.get_current_stream().synchronize()

    def random(self, seed: int, purpose: str, step: int = 0) -> RandomStream:
        # cuRAND's Philox takes 64 bits and draws the same on every GPU; CuPy's newer Generator
        # keeps 32 of them and allocates a state for every thread that the GPU can hold.
        return CudaRandomStream(
            lambda: self._cupy.random.RandomState(
                stream_key(seed, purpose, step) % 2**64,
                method=self._cupy.cuda.curand.CURAND_RNG_PSEUDO_PHILOX4_32_10,
            )
        )


class RandomStream:
    """Random numbers from one of NumPy's generators."""

    def __init__(self, generator: np.random.Generator):
        self._generator = generator

    def normal(self, shape: Sequence[int], dtype: Any = np.float32) -> Array:
        """Standard normal numbers."""
        return self._generator.standard_normal(tuple(shape), dtype=dtype)

    def uniform(self, shape: Sequence[int], dtype: Any = np.float32) -> Array:
        """Numbers uniform in [0, 1)."""
        return self._generator.random(tuple(shape), dtype=dtype)


class CudaRandomStream(RandomStream):
    """Random numbers from one of CuPy's RandomStates, made at the first draw."""

    def __init__(self, make: Callable[[], Any]):
        self._make = make

    @cached_property
    def _generator(self) -> Any:
        return self._make()

    def uniform(self, shape: Sequence[int], dtype: Any = np.float32) -> Array:
        return self._generator.random_sample(tuple(shape), dtype=dtype)


def to_host(array: Array) -> np.ndarray:
    """An array of any device as NumPy's; waits for the device where it has to."""
    return array.get() if hasattr(array, "get") else np.asarray(array)


def from_dlpack(array: Any, like: Array) -> Array:
    """Another library's array as one of like's kind, NumPy's or CuPy's, around the same memory."""
    if isinstance(like, np.ndarray):
        return np.from_dlpack(array)
    import cupy

    return cupy.from_dlpack(array)


def convolution_kernels(*arrays: Array) -> Any:
    """The module of `minivat.kernels` that convolves arrays of this kind."""
    return blas if all(isinstance(array, np.ndarray) for array in arrays) else plain


def in_chunks(fun: Callable[..., None], *arrays: Array, size: int = 1 << 16) -> None:
    """fun(*chunks, scratch) over chunks of flat arrays of one length, in place.

    scratch: an uninitialised array of the chunk's length. On the CPU a chunk of each array stays in
    the cache while fun goes over it again and again; a GPU takes the arrays whole. The result does
    not depend on the size. (A second thread gains nothing: OpenBLAS's idle one keeps its core.)
    """
    length = arrays[0].size
    if not isinstance(arrays[0], np.ndarray):
        size = length
    scratch = np.empty_like(arrays[0], shape=min(size, length))
    for start in range(0, length, size):
        chunks = [array[start : start + size] for array in arrays]
        fun(*chunks, scratch[: chunks[0].size])


def in_pieces(work: Callable[[int, int], Any], rows: Array, size: int = 1 << 16) -> list[Any]:
    """[work(start, stop), ...] over pieces of a matrix's rows, about `size` numbers each.

    On the CPU a piece stays in the cache while work goes over it again and again, and threads share
    the pieces; a GPU takes the matrix whole. The pieces do not depend on the number of threads.
    """
    count = len(rows)
    if not isinstance(rows, np.ndarray):
        return [work(0, count)]
    length = max(1, size // max(1, rows.shape[1]))
    starts = range(0, count, length)

    def share(first: int, last: int) -> list[Any]:
        return [work(start, min(start + length, count)) for start in starts[first:last]]

    return [result for part in in_parallel(share, len(starts)) for result in part]


def select_device(name: str = "auto") -> Device:
    """The device to compute on: "cpu", "cuda", or "auto".

    "auto" is what the environment variable MINIVAT_DEVICE names, else the GPU where CuPy can use
    one, else the CPU. Raises DeviceError for another name, and for "cuda" where something that it
    needs is missing, saying what.
    """
    source = "device"
    if name == "auto" and os.environ.get("MINIVAT_DEVICE"):
        source, name = "MINIVAT_DEVICE", os.environ["MINIVAT_DEVICE"]
    if name not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"{source} must be auto, cpu or cuda, got {name!r}")
    if name == "cpu":
        return Device()
    try:
        return CudaDevice(_usable_cupy())
    except DeviceError:
        if name == "cuda":
            raise
        return Device()


def _usable_cupy() -> Any:
    """CuPy, proven able to compute here: its import alone succeeds on machines with no GPU."""
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
        # NVRTC, cuRAND and cuBLAS, each a library of its own that may be missing.
        cupy.random.RandomState(0).normal(size=(2, 2)) @ cupy.ones((2, 2))
    except Exception as error:  # a CUDA library is missing or too old: any of several types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DeviceError(f"device cuda: CuPy cannot compute here: {reason}") from None
    return cupy
