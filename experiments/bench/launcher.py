"""Measurements in processes of their own, in which the number of threads is settled first.

NumPy's OpenBLAS, PyTorch and XLA start their threads as they are loaded. So this file loads none of
them before `settle_threads`. The process that starts a measurement has to stay small, too: on
Linux the peak memory that a process reports is at least that of the process that started it.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def measured(function: Callable[..., Any], threads: int, **keywords: Any) -> Any:
    """What `function(**keywords)` returns in a process that computes with so many threads.

    The keywords and the result travel as JSON. What the function prints is printed.
    Raises SystemExit with the process's exit code where it fails; it has said why.
    """
    name = f"{function.__module__}:{function.__name__}"
    sys.stdout.flush()
    with tempfile.NamedTemporaryFile() as file:
        task = [str(threads), name, json.dumps(keywords), file.name]
        if code := subprocess.run([sys.executable, "-m", __name__, *task]).returncode:
            raise SystemExit(code)
        return json.load(file)


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


def measure(task: Sequence[str]) -> int:
    """The other end of `measured`: call the function that is named, write what it returns."""
    name, keywords, file = task
    module, function = name.split(":")
    result = getattr(importlib.import_module(module), function)(**json.loads(keywords))
    Path(file).write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    settle_threads(int(sys.argv[1]))
    from experiments.lab.cli import command  # it loads NumPy

    sys.exit(command(measure)(sys.argv[2:]))
