"""Address space where it is limited (`ulimit -v`). This file loads nothing, see `__main__`.

OpenBLAS waits for ever for memory that it is refused while it is loaded, and other libraries say
many things then. So the least that all of them need is asked for before the first is loaded.
"""

from __future__ import annotations

import os

MIB = 1 << 20


def needed() -> int:
    """Bytes for the libraries and a small run: OpenBLAS has buffers for each of its threads."""
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "")
    return (768 + 64 * (int(threads) if threads.isdigit() else os.cpu_count() or 1)) * MIB


def limit() -> int | None:
    """Bytes that this process may have; None: as many as there are, or not told (Windows)."""
    try:
        import resource
    except ModuleNotFoundError:
        return None
    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if allowed == resource.RLIM_INFINITY else allowed


def shortage() -> str:
    """What is wrong with the limit, in a line; "" where nothing is."""
    allowed = limit()
    if allowed is None or allowed >= needed():
        return ""
    return (
        f"too little memory: ulimit -v allows {allowed // MIB} MiB of address space, "
        f"and the libraries need {needed() // MIB}"
    )


def is_shortage(error: Exception) -> bool:
    """Whether a library could not be loaded, or had no memory, for what the limit allows."""
    if limit() is None or isinstance(error, ModuleNotFoundError):
        return False
    of_library = isinstance(error, OSError) and error.errno is None  # from llvmlite
    return isinstance(error, (ImportError, MemoryError)) or of_library
