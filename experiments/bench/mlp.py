"""How long one VAT update takes, compared with PyTorch and JAX; --memory: what training occupies.

    python -m experiments bench [--json] [--memory] [--threads 2]

One VAT update of the supervised MNIST task: 784-1200-600-300-150-10, batch norm after every dense
layer, batch 100 (and 256 and 1,024), float32, K = 1, Adam included. The images are random: it takes
no less time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.bench import harness, launcher, peers
from experiments.lab import cli, machine
from experiments.mnist import NETWORK
from minivat import nn
from minivat.objective import Regularization
from minivat.vat import PowerIteration

SIZES = NETWORK["mnist"]
# Finite differences are off by ξ times a third derivative, relatively.
TOLERANCE = 1e-5
MODULES = {
    "minivat_exact": "minivat",
    "minivat_finite_difference": "minivat",
    "torch_eager": "torch",
    "jax_jit": "jax",
}
DIRECTIONS = dict.fromkeys(MODULES, "finite-difference") | {"minivat_exact": "exact"}
LARGER_BATCHES = (256, 1024)
KINDS = {"matmul": "matrix products", "": "batch norm and elementwise"}


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when every implementation present gave the same gradient."""
    parser = harness.parser(
        "bench",
        __doc__,
        ("--rounds", 50, "timed updates of each"),
        ("--updates", 200, "updates of a training run, with --memory"),
    )
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    args = parser.parse_args(argv)
    modules = peers.installed(MODULES)
    if args.memory:
        title = f"Memory of {args.updates} updates, 188 MiB of it images"
        some = {name: modules[name] for name in ("minivat_exact", "torch_eager") if name in modules}
        found = harness.compare_memory(title, memory, some, args.threads, updates=args.updates)
    else:
        found = launcher.measured(times, args.threads, modules=modules, rounds=args.rounds)
    if args.json:
        print(json.dumps(found))
    return 0


def times(modules: Mapping[str, str], rounds: int) -> dict[str, float]:
    """Check, time and take apart one update, and print all that; what --json prints."""
    print(machine.benchmarked())
    # In float64 ξ = 1e-6 is not rounding noise.
    difference = harness.check("Update in float64", tasks(modules, 1000, np.float64), TOLERANCE)
    found = harness.compare_times("Update in float32", tasks(modules, 10_000), KINDS, rounds)
    for size in LARGER_BATCHES:
        steps = harness.make_steps(tasks(modules, 10_000, batch_size=size))
        times = harness.summarized(harness.interleaved(steps, max(1, rounds // 5)))
        title, columns = f"Update of batch {size:,}", ("median", "fastest")
        found |= harness.compare(title, columns, "ms", times, f"batch_{size}_")
    return {**found, "max_relative_gradient_difference": difference}


def memory(name: str, module: str, updates: int) -> tuple[float, float]:
    """Peak memory of a library that does nothing else, on as many images as MNIST has."""
    return harness.peak_memory(tasks({name: module}, 60_000)[name], updates)


def tasks(
    modules: Mapping[str, str], images: int, dtype: Any = np.float32, batch_size: int = 100
) -> harness.Tasks:
    """Updates on so many random images."""
    data = harness.random_data(images, SIZES[:1], SIZES[-1], dtype)

    def task(module: str, direction: str) -> harness.Task:
        regularization = Regularization(power_iteration=PowerIteration(direction=direction))
        network = nn.mlp(SIZES)
        return harness.Task(module, network, *data, regularization, batch_size=batch_size)

    return {name: task(module, DIRECTIONS[name]) for name, module in modules.items()}
