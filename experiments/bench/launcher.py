"""Measurements in processes of their own, in which the number of threads is settled first.

NumPy's OpenBLAS, PyTorch and XLA start their threads as they are loaded. So this file loads none of
them. The process that starts a measurement has to stay small, too: on Linux the peak memory that a
process reports is at least that of the process that started it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any


def measured(function: Callable[..., Any], threads: int, **keywords: Any) -> Any:
    """What `function(**keywords)` returns, or raises, in a new process with so many threads."""
    sys.stdout.flush()
    with ProcessPoolExecutor(1, get_context("spawn"), settle_threads, (threads,)) as process:
        future = process.submit(function, **keywords)
    try:
        return future.result()
    except BrokenProcessPool as error:  # for example for want of memory
        from experiments.lab.runs import RunFailed  # which loads NumPy

        raise RunFailed("a measurement's process was killed from outside") from error


def settle_threads(threads: int) -> None:
    """Let the libraries that this process loads from now on start so many threads.

    The process is bound to as many processors, and the environment says the same. Where the system
    cannot bind processes (macOS), the environment alone has to do; XLA ignores it.
    """
    if hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))[:threads]
        os.sched_setaffinity(0, processors)
        threads = len(processors)
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(threads)
    os.environ["JAX_PLATFORMS"] = "cpu"
