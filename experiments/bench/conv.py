"""How long one update of Conv-Small takes and what it occupies, compared with PyTorch's.

    python -m experiments bench-conv [--model conv-large] [--json] [--threads 2] [--rounds 5]

A supervised update of 32 images and a semi-supervised VAT update of 32 + 128, in float32, with
batch norm, dropout and Adam; PyTorch has its images channels-last. The images are random: it takes
no less time. Peak memory is that of one process for each update and library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.bench import harness, launcher, peers
from experiments.images import NETWORKS
from experiments.lab import cli, machine
from minivat import nn
from minivat.nn.images import CLASSES, DATASETS
from minivat.objective import Regularization

Sizes = tuple[int, int | None]  # of the labelled and the unlabelled batch

UPDATES: dict[str, Sizes] = {"supervised": (32, None), "vat": (32, 128)}
CHECKS: tuple[tuple[str, str, Sizes, float], ...] = (
    # Finite differences are off by ξ times a third derivative, and by the kinks that ξ d crosses.
    # In float64 ξ = 1e-6 is not rounding noise: only there the VAT update can be compared.
    ("supervised", "float64", (8, None), 1e-5),
    ("vat", "float64", (8, 16), 1e-5),
    # In float32 rounding puts a few of the millions of units on the other side of a kink: 5e-3
    # between both, and from the gradient in float64 3e-3 (minivat) and 5e-3 (PyTorch), were
    # measured.
    ("supervised", "float32", UPDATES["supervised"], 5e-2),
)
MODULES = {"minivat": "minivat", "torch": "torch_conv"}
IMAGES = 2000
IMAGE_SHAPE = (32, 32, 3)
KINDS = {
    "conv2d": "convolutions",
    "batch_norm": "batch norm and leaky ReLU",
    "max_pool2d": "pooling",
    "": "other operations",
}


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when PyTorch, where it is present, gave the same gradients."""
    parser = harness.parser("bench-conv", __doc__, ("--rounds", 5, "timed updates of each"))
    parser.add_argument(
        "--model", choices=NETWORKS, default="conv-small", help="default: conv-small"
    )
    parser.add_argument(
        "--dataset", choices=DATASETS, default="cifar10", help="whose network (default: cifar10)"
    )
    parser.add_argument(
        "--width", type=cli.positive, default=1.0, metavar="X", help="of the layers (default: 1)"
    )
    args = parser.parse_args(argv)
    network = {"model": args.model, "dataset": args.dataset, "width": args.width}
    modules = peers.installed(MODULES)
    found = launcher.measured(times, args.threads, modules=modules, rounds=args.rounds, **network)
    for update in UPDATES:
        found |= harness.compare_memory(
            f"Memory of a process that makes no other updates ({update})",
            memory,
            modules,
            args.threads,
            f"{update}_",
            update=update,
            **network,
        )
    if args.json:
        print(json.dumps(found))
    return 0


def times(
    modules: Mapping[str, str], rounds: int, model: str, dataset: str, width: float
) -> dict[str, float]:
    """Check, time and take apart both updates, and print all that; what --json prints of it."""
    print(machine.benchmarked())
    network = NETWORKS[model](dataset, width, image_shape=IMAGE_SHAPE)
    found = {}
    for update, dtype, sizes, tolerance in CHECKS if "torch" in modules else ():
        difference = harness.check(
            f"Update in {dtype} ({update})", tasks(modules, network, sizes, dtype), tolerance
        )
        found[f"{update}_max_relative_gradient_difference_{dtype}"] = difference
    for update, sizes in UPDATES.items():
        title = f"Update in float32 ({update})"
        these = tasks(modules, network, sizes)
        found |= harness.compare_times(title, these, KINDS, rounds, f"{update}_")
    return found


def memory(
    name: str, module: str, update: str, model: str, dataset: str, width: float
) -> tuple[float, float]:
    """Peak memory of some updates of a library that does nothing else."""
    network = NETWORKS[model](dataset, width, image_shape=IMAGE_SHAPE)
    return harness.peak_memory(tasks({name: module}, network, UPDATES[update])[name], updates=3)


def tasks(
    modules: Mapping[str, str], network: nn.Network, sizes: Sizes, dtype: Any = np.float32
) -> harness.Tasks:
    """Updates on random images; supervised ones where there is no unlabelled batch."""
    data = harness.random_data(IMAGES, IMAGE_SHAPE, CLASSES, dtype)
    objective = Regularization("vat" if sizes[1] else "mle", epsilon=10.0)
    return {
        name: harness.Task(module, network, *data, objective, 0.001, *sizes)
        for name, module in modules.items()
    }
