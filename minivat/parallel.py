"""The CPU's cores take parts of the batch instead of parts of each matrix product.

A product of a few hundred rows gains little from a second thread, and what NumPy does between the
products gains nothing. Threads that take half of the images each through all of it gain both:
NumPy releases the interpreter's lock while it computes. Each then multiplies on one thread, to
which threadpoolctl limits BLAS. With one thread, the caller's does the work and BLAS divides the
products.

Python raises KeyboardInterrupt anywhere in the main thread, even between taking a lock and the
`try` after it. So a separate thread, which no signal reaches, takes the turn, limits BLAS and
shares out the work; the caller sends it one message and waits for one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import cache, partial
from itertools import pairwise
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeAlias

import numpy as np

from .typing import RawArray

Parts: TypeAlias = list[Callable[[], Any]]  # of some work
Answer: TypeAlias = SimpleQueue[list[Future[Any]]]
Request: TypeAlias = tuple[Parts, Answer]

# Numbers in a chunk of rows that stays in the cache with some temporaries of its size.
ROW_CHUNK = 1 << 18


def in_parallel(work: Callable[[int, int], Any], count: int) -> list[Any]:
    """[work(start, stop), ...] over parts of range(count), one for each of BLAS's threads.

    The parts depend only on the count and the number of threads, and the results are in their
    order. A call inside of work, or during another thread's call, has one part. Work sees the
    caller's context variables, np.errstate's among them. Its exceptions are raised after all parts
    have ended. An interrupt is raised at once: parts that have begun run to their end, and BLAS
    then has its threads back. Raises ImportError without threadpoolctl.
    """
    threads = min(_threads(), count)
    if threads < 2 or _turn.locked():
        return [work(0, count)]
    bounds = [count * i // threads for i in range(threads + 1)]
    parts: Parts = [partial(copy_context().run, work, *part) for part in pairwise(bounds)]
    answer: Answer = SimpleQueue()
    _requests().put((parts, answer))
    futures = answer.get()
    return [future.result() for future in futures] if futures else [work(0, count)]


def map_rows(fun: Callable[..., Any], *arrays: RawArray) -> Any:
    """fun(*arrays) for a function of each row alone, rows of arrays with one first axis.

    fun returns an array or a tuple of arrays. On the CPU the threads take large arrays chunk by
    chunk, so that the temporaries of fun stay in the cache; on a GPU it takes them whole.
    """
    if _row_chunks(*arrays) < 2:
        return fun(*arrays)
    none = fun(*(array[:0] for array in arrays))
    results = [np.empty((len(arrays[0]), *part.shape[1:]), part.dtype) for part in _tuple(none)]

    def chunk(start: int, stop: int) -> None:
        parts = fun(*(array[start:stop] for array in arrays))
        for result, part in zip(results, _tuple(parts), strict=True):
            result[start:stop] = part

    in_row_chunks(chunk, arrays[0])
    return tuple(results) if isinstance(none, tuple) else results[0]


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def in_row_chunks(work: Callable[[int, int], Any], rows: RawArray) -> list[Any]:
    """[work(start, stop), ...] over chunks of an array's rows, about ROW_CHUNK numbers each.

    For work that writes where it belongs, and may return something: on the CPU a chunk stays in
    the cache while work goes over it again and again; a GPU takes the array whole. The chunks do
    not depend on the number of threads.
    """
    count, chunks = len(rows), max(1, _row_chunks(rows))

    def part(first: int, last: int) -> list[Any]:
        bounds = [count * i // chunks for i in range(first, last + 1)]
        return [work(*bound) for bound in pairwise(bounds)]

    return [result for results in in_parallel(part, chunks) for result in results]


def _row_chunks(*arrays: RawArray) -> int:
    """How many chunks of rows the arrays are taken in; 1 for a GPU's arrays, and for small ones."""
    if not all(isinstance(array, np.ndarray) for array in arrays):
        return 1
    return min(arrays[0].size // ROW_CHUNK, len(arrays[0])) if arrays[0].ndim else 1


def in_chunks(fun: Callable[..., None], *arrays: RawArray, size: int = 1 << 16) -> None:
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


@cache
def _blas() -> Any:
    try:
        from threadpoolctl import ThreadpoolController
    except ModuleNotFoundError:
        raise ImportError(
            "minivat needs threadpoolctl to share work out to threads: pip install threadpoolctl"
        ) from None
    return ThreadpoolController().select(user_api="blas")


def _threads() -> int:
    return max((library.num_threads for library in _blas().lib_controllers), default=1)


@cache
def _requests() -> SimpleQueue[Request]:
    """Where the thread that shares out the work looks for it."""
    requests: SimpleQueue[Request] = SimpleQueue()
    Thread(target=_serve, args=(requests,), name="minivat", daemon=True).start()
    return requests


def _serve(requests: SimpleQueue[Request]) -> None:
    # The pool's threads do all of the work: Python waits for them, not for this one, when it ends.
    pool = ThreadPoolExecutor(thread_name_prefix="minivat")
    while True:
        _answer(pool, *requests.get())


def _answer(pool: ThreadPoolExecutor, parts: Parts, answer: Answer) -> None:
    """Do the parts with BLAS at one thread; their futures, none where there are no threads."""
    global _limit
    futures: list[Future[Any]] = []
    with _turn:
        _limit = _blas().limit(limits=1)
        try:
            for part in parts:
                futures.append(pool.submit(part))
        except RuntimeError:  # Python is about to end, or the system has no thread left
            wait(futures)
            futures = []
        finally:
            wait(futures)
            _limit.restore_original_limits()
            _limit = None
    answer.put(futures)


# One call at a time has the threads; one inside of it, or from another thread, does without.
_turn = Lock()
# What gives BLAS its threads back, during a call.
_limit: Any = None


def _forget() -> None:
    global _turn, _limit
    _requests.cache_clear()
    _turn = Lock()
    if _limit is not None:
        _limit.restore_original_limits()
        _limit = None


# A forked process has none of its parent's threads, and BLAS as it was at that moment.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
