"""How long one update of Conv-Small takes and what it occupies, beside PyTorch (channels-last).

    python -m experiments.bench_conv [--json] [--threads 2] [--rounds 5]

A supervised update of 32 images and a semi-supervised VAT update of 32 + 128, in float32. As
experiments/bench.py does, it settles the threads and measures in processes that begin with them
(experiments/bench_conv_update.py); peak memory in one process for each update and library.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from experiments import common
from experiments.bench import limit_threads
from minivat.nn.images import DATASETS

LIBRARIES = ("minivat", "torch")
UPDATES = ("supervised", "vat")


def parser() -> common.Parser:
    """The command line."""
    parser = common.Parser(__doc__)
    for flag, default, text in (
        ("--threads", 2, "threads, the same for all"),
        ("--rounds", 5, "timed updates of each"),
    ):
        common.add_count(parser, flag, 1, default, text)
    parser.add_argument(
        "--dataset", choices=DATASETS, default="cifar10", help="whose Conv-Small (default: cifar10)"
    )
    parser.add_argument(
        "--width",
        type=common.positive,
        default=1.0,
        metavar="X",
        help="times the channels (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return parser


def measured(task: Sequence[str], environment: dict[str, str]) -> dict[str, Any]:
    """What a process for that task finds: its last line, in JSON. The lines before are passed on.

    Raises SystemExit with the process's code where it fails.
    """
    command = [sys.executable, "-m", "experiments.bench_conv_update", *task]
    last = None
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if last is not None:
                print(last, flush=True)
            last = line.rstrip("\n")
    if process.returncode:
        if last is not None:
            print(last, flush=True)
        raise SystemExit(process.returncode)
    return json.loads(last)


def ratio(a: float | None, b: float | None) -> float | None:
    """a / b, None where either is missing."""
    return None if a is None or b is None else a / b


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when PyTorch, where it is present, gave the same gradients."""
    args = parser().parse_args(argv)
    environment = limit_threads(args.threads)
    network = [args.dataset, str(args.width)]
    result = measured(["time", *network, str(args.rounds)], environment)
    peak = {
        update: {
            library: measured(["memory", *network, update, library], environment)["peak_mib"]
            for library in LIBRARIES
        }
        for update in UPDATES
    }
    print(
        "\nPeak memory of a process that does nothing but these updates, its libraries included:\n"
    )
    header = ("", *(f"{library}, MiB" for library in LIBRARIES), "ratio")
    memory = {update: ratio(*peak[update].values()) for update in UPDATES}
    lines = [
        (
            update,
            *(_shown(value, "{:.0f}") for value in peak[update].values()),
            _shown(memory[update], "{:.2f}"),
        )
        for update in UPDATES
    ]
    print(common.table(header, lines))
    if args.json:
        print(
            json.dumps(
                {
                    **result,
                    "peak_memory_ratio_to_torch": memory["supervised"],
                    "vat_peak_memory_ratio_to_torch": memory["vat"],
                    "peak_memory_mib": peak,
                }
            )
        )
    return 0


def _shown(value: float | None, style: str) -> str:
    return "-" if value is None else style.format(value)


if __name__ == "__main__":
    sys.exit(main())
