"""The experiments, and settings of their process that must be made before NumPy is loaded.

Both are about speed alone and give way to what the user's environment says already.
"""

import ctypes
import os
import sys


def _use_avx512() -> None:
    """Have OpenBLAS use AVX-512 where the processor has it.

    The OpenBLAS in NumPy's wheels takes AMD's Zen 4 and 5 for Haswell and multiplies matrices at
    half their speed (measured: 120 instead of 235 GFLOP/s a core on Zen 5, OpenBLAS 0.3.31).
    """
    if "OPENBLAS_CORETYPE" in os.environ or "numpy" in sys.modules:
        return
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            flags = next((line.split() for line in lines if line.startswith("flags")), [])
    except OSError:
        return
    if {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"} <= set(flags):
        os.environ["OPENBLAS_CORETYPE"] = "SkylakeX"


def _keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next update instead of returning it to the system.

    Every update allocates the same few tens of megabytes; fetching and clearing them page by page
    took a quarter of its time.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(mmap_threshold, 1 << 25)
    mallopt(trim_threshold, 1 << 29)


_use_avx512()
_keep_freed_memory()
