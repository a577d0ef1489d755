"""The CPU's cores, shared out by pieces of the batch instead of inside each matrix product.

A product of a few hundred rows gains little from a second thread, and what NumPy does between the
products gains nothing. Threads that take half of the images each through all of it gain both:
NumPy gives up the interpreter's lock while it computes. Each then multiplies on one thread, which
needs threadpoolctl; without it, or with one thread, the caller's thread does the work and BLAS
divides the products.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any


def in_parallel(work: Callable[[int, int], Any], count: int) -> list:
    """[work(start, stop), ...] over parts of range(count), one for each of BLAS's threads.

    The parts depend on nothing but the count and the number of threads, and the results come in
    their order. What work raises is raised.
    """
    threads = min(_threads(), count)
    if threads < 2:
        return [work(0, count)]
    bounds = [count * i // threads for i in range(threads + 1)]
    with _blas().limit(limits=1):
        others = [_pool().submit(work, *part) for part in pairwise(bounds[1:])]
        first = work(0, bounds[1])
        return [first, *(other.result() for other in others)]


@cache
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@cache
def _threads() -> int:
    try:
        return max((library["num_threads"] for library in _blas().info()), default=1)
    except ImportError:
        return 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_threads() - 1, thread_name_prefix="minivat")


# A forked process has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
