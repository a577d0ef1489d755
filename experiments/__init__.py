"""The experiments of the paper: one file for each table or figure."""

import ctypes


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


_keep_freed_memory()
