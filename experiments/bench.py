"""How long one VAT update takes, beside PyTorch and JAX; with --memory, what training occupies.

    python -m experiments.bench [--json] [--memory] [--threads 2]

The measurements run in processes of their own (experiments/bench_update.py), which find the number
of threads settled before they load NumPy, PyTorch or JAX: bound to that many processors, and told
so by the environment. OpenBLAS, PyTorch and XLA all start their threads accordingly.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from experiments import common


def parser() -> common.Parser:
    """The command line."""
    parser = common.Parser(__doc__)
    for flag, default, text in (
        ("--threads", 2, "threads, the same for all"),
        ("--rounds", 50, "timed updates of each"),
        ("--updates", 200, "updates of a training run, with --memory"),
    ):
        common.add_count(parser, flag, 1, default, text)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    return parser


def limit_threads(threads: int) -> dict[str, str]:
    """Bind this process, and so those it starts, to as many processors; the environment for them.

    Where the system cannot bind processes (macOS) the environment alone has to do; XLA ignores it.
    """
    if hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))[:threads]
        os.sched_setaffinity(0, processors)
        threads = len(processors)
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads)), "JAX_PLATFORMS": "cpu"}


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when every implementation present gave the same gradient."""
    args = parser().parse_args(argv)
    environment = limit_threads(args.threads)
    command = [sys.executable, "-m", "experiments.bench_update"]
    if args.memory:
        tasks = [["memory", name, str(args.updates)] for name in ("minivat", "torch")]
    else:
        tasks = [["time", str(args.rounds), *(["--json"] if args.json else [])]]
    codes = [subprocess.run([*command, *task], env=environment).returncode for task in tasks]
    return next(filter(None, codes), 0)


if __name__ == "__main__":
    sys.exit(main())
