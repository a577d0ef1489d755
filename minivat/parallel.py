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
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np

# Numbers in a piece that stays in the cache with some temporaries of its size.
PIECE = 1 << 17


def in_parallel(work: Callable[[int, int], Any], count: int) -> list:
    """[work(start, stop), ...] over parts of range(count), one for each of BLAS's threads.

    The parts depend on nothing but the count and the number of threads, and the results come in
    their order; a call inside of work, or while another thread's is running, has one part. What
    work raises is raised, after all parts have ended.
    """
    threads = min(_threads(), count)
    if threads < 2 or not _turn.acquire(blocking=False):
        return [work(0, count)]
    try:
        bounds = [count * i // threads for i in range(threads + 1)]
        with _blas().limit(limits=1):
            others = [_pool().submit(work, *part) for part in pairwise(bounds[1:])]
            try:
                first = work(0, bounds[1])
            finally:
                wait(others)
            return [first, *(other.result() for other in others)]
    finally:
        _turn.release()


def map_rows(fun: Callable[..., Any], *arrays: Any) -> Any:
    """fun(*arrays) for a function of each row alone, rows of arrays with one first axis.

    fun returns an array or a tuple of arrays. On the CPU the threads take large arrays piece by
    piece, so that the temporaries of fun stay in the cache; on a GPU it takes them whole.
    """
    pieces = _pieces(arrays)
    if pieces < 2:
        return fun(*arrays)
    count = len(arrays[0])
    bounds = [count * i // pieces for i in range(pieces + 1)]
    none = fun(*(array[:0] for array in arrays))
    results = [np.empty((count, *part.shape[1:]), part.dtype) for part in _tuple(none)]

    def work(start, stop):
        for a, b in pairwise(bounds[start : stop + 1]):
            parts = fun(*(array[a:b] for array in arrays))
            for result, part in zip(results, _tuple(parts), strict=True):
                result[a:b] = part

    in_parallel(work, pieces)
    return tuple(results) if isinstance(none, tuple) else results[0]


def _tuple(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def in_pieces(work: Callable[[int, int], Any], rows: Any, size: int = 1 << 18) -> list:
    """[work(start, stop), ...] over pieces of a matrix's rows, about `size` numbers each.

    For work that writes where it belongs, and may return something: on the CPU a piece stays in
    the cache while work goes over it again and again; a GPU takes the matrix whole. The pieces do
    not depend on the number of threads.
    """
    count, pieces = len(rows), max(1, _pieces((rows,), size))

    def share(first: int, last: int) -> list:
        bounds = [count * i // pieces for i in range(first, last + 1)]
        return [work(*bound) for bound in pairwise(bounds)]

    return [result for part in in_parallel(share, pieces) for result in part]


def _pieces(arrays: tuple, size: int = PIECE) -> int:
    """How many pieces of the arrays fit into the cache one at a time; 1 for a GPU's arrays."""
    if not all(isinstance(array, np.ndarray) for array in arrays):
        return 1
    return min(arrays[0].size // size, len(arrays[0])) if arrays[0].ndim else 1


@cache
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def _threads() -> int:
    try:
        return max((library.num_threads for library in _blas().lib_controllers), default=1)
    except ImportError:
        return 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="minivat")


# One call at a time has the threads; one inside of it, or from another thread, does without.
_turn = Lock()


def _forget() -> None:
    global _turn
    _pool.cache_clear()
    _turn = Lock()


# A forked process has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
