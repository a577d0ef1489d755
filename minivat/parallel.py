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

import numpy as np

# Numbers in a piece that stays in the cache with some temporaries of its size.
PIECE = 1 << 17


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
    first = fun(*(array[: bounds[1]] for array in arrays))
    several = isinstance(first, tuple)
    results = [np.empty((count, *part.shape[1:]), part.dtype) for part in _tuple(first)]

    def keep(a, b, parts):
        for result, part in zip(results, _tuple(parts), strict=True):
            result[a:b] = part

    def work(start, stop):
        for a, b in pairwise(bounds[start + 1 : stop + 2]):
            keep(a, b, fun(*(array[a:b] for array in arrays)))

    keep(0, bounds[1], first)
    in_parallel(work, pieces - 1)
    return tuple(results) if several else results[0]


def _tuple(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def sum_rows(fun: Callable[..., Any], *arrays: Any) -> Any:
    """fun(*arrays) for a sum over the rows of arrays with one first axis, as map_rows."""
    pieces = _pieces(arrays)
    if pieces < 2:
        return fun(*arrays)
    count = len(arrays[0])
    bounds = [count * i // pieces for i in range(pieces + 1)]

    def work(start, stop):
        parts = pairwise(bounds[start : stop + 1])
        return sum(fun(*(array[a:b] for array in arrays)) for a, b in parts)

    return sum(in_parallel(work, pieces))


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
