"""How long one update of Conv-Small takes and what it occupies, compared with PyTorch's.

    python -m experiments bench-conv [--json] [--threads 2] [--rounds 5]

A supervised update of 32 images and a semi-supervised VAT update of 32 + 128, in float32, with
batch norm, dropout and Adam; PyTorch has its images channels-last. The images are random: it takes
no less time. Peak memory is that of one process for each update and library.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from experiments.bench import harness, launcher, peers
from experiments.lab import cli, machine, runs
from minivat import backend, nn, training
from minivat.nn.images import CLASSES, DATASETS

METHODS = {"supervised": "mle", "vat": "vat"}  # by the update's name
LIBRARIES = ("minivat", "torch")
LABELLED, UNLABELLED = 32, 128
FEW = (8, 16)  # of the check in float64
SETTINGS = peers.Settings(epsilon=10.0, learning_rate=0.001)
IMAGES = 2000
IMAGE_SHAPE = (32, 32, 3)
WARM_UP = 1
# Finite differences are off by ξ times a third derivative, and by the kinks that ξ d crosses.
TOLERANCE = 1e-5
# In float32 rounding puts a few of the millions of units on the other side of a kink: 5e-3 between
# both, and from the gradient in float64 3e-3 (minivat) and 5e-3 (PyTorch), were measured.
FLOAT32_TOLERANCE = 5e-2
KINDS = {  # of operations, by the beginning of their names
    "conv2d": "convolutions",
    "batch_norm": "batch norm and leaky ReLU",
    "max_pool2d": "pooling",
}


def parser() -> cli.Parser:
    """The command line."""
    parser = harness.parser("bench-conv", __doc__, ("--rounds", 5, "timed updates of each"))
    parser.add_argument(
        "--dataset", choices=DATASETS, default="cifar10", help="whose Conv-Small (default: cifar10)"
    )
    parser.add_argument(
        "--width",
        type=cli.positive,
        default=1.0,
        metavar="X",
        help="times the channels (default: 1)",
    )
    return parser


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when PyTorch, where it is present, gave the same gradients."""
    args = parser().parse_args(argv)
    measured = partial(
        launcher.measured, threads=args.threads, dataset=args.dataset, width=args.width
    )
    found = measured(times, rounds=args.rounds)
    peak = {
        update: {library: measured(memory, update=update, library=library) for library in LIBRARIES}
        for update in METHODS
    }
    ratios = {
        update: None if None in mib.values() else mib["minivat"] / mib["torch"]
        for update, mib in peak.items()
    }
    print(
        "\nPeak memory of a process that does nothing but these updates, its libraries included:\n"
    )
    header = ("", *(f"{library}, MiB" for library in LIBRARIES), "ratio")
    lines = [
        (update, *(_shown(value, 0) for value in mib.values()), _shown(ratios[update], 2))
        for update, mib in peak.items()
    ]
    print(cli.table(header, lines))
    if args.json:
        memory_ratios = {
            "peak_memory_ratio_to_torch": ratios["supervised"],
            "vat_peak_memory_ratio_to_torch": ratios["vat"],
        }
        print(json.dumps({**found, **memory_ratios, "peak_memory_mib": peak}))
    return 0


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


# The measurements, each in a process of its own ---------------------------------------------------


def times(dataset: str, width: float, rounds: int) -> dict[str, float | None]:
    """Check, time and take apart both updates, and print all that; what --json prints of it."""
    print(machine.benchmarked())
    network = conv_small(dataset, width)
    torch = peers.load("torch_conv")
    differences = dict.fromkeys(("float64", "float32")) if torch is None else check(torch, network)

    images, labels = random_data(IMAGES)
    steps = {}
    for update in METHODS:
        trainer = make_trainer(network, update, images, labels)
        steps[update, "minivat"] = harness.minivat_step(trainer)
        if torch is not None:
            steps[update, "torch"] = torch_step(torch, trainer.params, update, images, labels)
    milliseconds = harness.interleaved(steps, rounds, WARM_UP)
    medians = {name: float(np.median(values)) for name, values in milliseconds.items()}
    ratios = {
        update: None if torch is None else medians[update, "minivat"] / medians[update, "torch"]
        for update in METHODS
    }
    print(f"\nOne update in float32, {rounds} of each in turn:\n")
    lines = [
        (
            f"{update}, {library}",
            f"{medians[update, library]:.0f}",
            f"{min(values):.0f}",
            f"{ratios[update]:.2f}" if torch and library == "minivat" else "",
        )
        for (update, library), values in milliseconds.items()
    ]
    print(cli.table(("", "median ms", "fastest ms", "/ PyTorch"), lines))

    for update in METHODS:
        make = partial(make_trainer, network, update, images, labels)
        parts = harness.time_by_kind(make, kind, min(rounds, 3), WARM_UP)
        harness.print_shares(f"Where minivat's time goes ({update})", parts, digits=1)
    return {
        **{f"{update}_ratio_to_torch": value for update, value in ratios.items()},
        "max_relative_gradient_difference": differences["float64"],
        "max_relative_gradient_difference_float32": differences["float32"],
        **{f"{update}_{library}_ms": ms for (update, library), ms in medians.items()},
    }


def memory(dataset: str, width: float, update: str, library: str, updates: int = 3) -> float | None:
    """Peak memory in MiB of some updates of minivat or PyTorch; None where it is missing."""
    network = conv_small(dataset, width)
    images, labels = random_data(IMAGES)
    if library == "minivat":
        step = harness.minivat_step(make_trainer(network, update, images, labels))
    else:
        torch = peers.load("torch_conv")
        if torch is None:
            return None
        params, _ = network.init(backend.host_generator(SETTINGS.seed, "init"))
        step = torch_step(torch, params, update, images, labels)
    return harness.peak_memory(step, updates)["peak_mib"]


# What is measured ---------------------------------------------------------------------------------


def conv_small(dataset: str, width: float) -> nn.Network:
    """Conv-Small for images of IMAGE_SHAPE."""
    return nn.conv_small(dataset, width, image_shape=IMAGE_SHAPE)


def random_data(examples: int, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Images of unit variance, as whitened ones have, and labels."""
    generator = backend.host_generator(SETTINGS.seed, "bench")
    images = generator.standard_normal((examples, *IMAGE_SHAPE), dtype=dtype)
    return images, generator.integers(0, CLASSES, examples)


def make_trainer(
    network: nn.Network,
    update: str,
    images: np.ndarray,
    labels: np.ndarray,
    sizes: tuple[int, int] = (LABELLED, UNLABELLED),
    **options: Any,
) -> training.Trainer:
    """minivat's own trainer; sizes: of the labelled and the unlabelled batch."""
    return harness.make_trainer(
        network,
        images,
        labels,
        SETTINGS,
        METHODS[update],
        unlabelled=images,
        batch_size=sizes[0],
        unlabelled_batch_size=sizes[1],
        **options,
    )


def torch_step(
    torch: ModuleType,
    params: harness.Arrays,
    update: str,
    images: np.ndarray,
    labels: np.ndarray,
) -> harness.Step:
    """PyTorch's update at each call, from these parameters."""
    sizes = (LABELLED, UNLABELLED) if update == "vat" else (LABELLED,)
    return harness.peer_step(torch.Peer(params, SETTINGS), images, labels, *sizes)


def kind(name: str) -> str:
    """The kind of work that an operation is."""
    found = (text for start, text in KINDS.items() if name.startswith(start))
    return next(found, "other operations")


def first_batches(trainer: training.Trainer) -> tuple[tuple[Any, ...], tuple[Any, ...] | None]:
    """What the trainer's first update sees, as the peer takes it: images, labels and masks; for
    VAT images, masks and random directions, too."""
    rows, x, noise = trainer.labelled(0)
    labelled = x, trainer.labels[rows], list(noise.values())
    if not trainer.regularization.uses_unlabelled:
        return labelled, None
    _, x, noise = trainer.unlabelled(0)
    d = trainer.device.random(trainer.seed, "directions", 0).normal(x.shape, x.dtype)
    return labelled, (x, list(noise.values()), d)


def difference(
    torch: ModuleType, network: nn.Network, update: str, dtype: Any, sizes: tuple[int, int]
) -> tuple[float, float]:
    """How far PyTorch's loss and gradients are from minivat's, relatively.

    From the same weights, batches, masks and random directions. Of gradients it is the largest over
    the arrays of ‖difference‖₂ / ‖gradient‖₂.
    """
    images, labels = random_data(max(64, *sizes), dtype)
    trainer = make_trainer(network, update, images, labels, sizes=sizes)
    peer = torch.Peer(trainer.params, SETTINGS)
    theirs = peer.loss_and_gradients(*first_batches(trainer))
    return harness.differences(harness.first_update(trainer), theirs, np.linalg.norm)


def check(torch: ModuleType, network: nn.Network) -> dict[str, float]:
    """Print the differences; the largest of a gradient by the type of its numbers.

    In float64 ξ = 1e-6 is not rounding noise: there the VAT update is compared as well.
    Raises RunFailed where a difference is above its tolerance.
    """
    cases = [
        ("supervised", "float64", FEW, TOLERANCE),
        ("vat", "float64", FEW, TOLERANCE),
        ("supervised", "float32", (LABELLED, UNLABELLED), FLOAT32_TOLERANCE),
    ]
    lines, largest = [], {"float64": 0.0, "float32": 0.0}
    for update, dtype, sizes, tolerance in cases:
        pair = difference(torch, network, update, np.dtype(dtype), sizes)
        if not max(pair) < tolerance:
            raise runs.RunFailed(
                f"{update} update in {dtype}: the loss or gradients differ by {max(pair):.1e}, "
                f"more than {tolerance:g}"
            )
        lines.append((f"{update}, {dtype}", *(f"{value:.1e}" for value in pair)))
        largest[dtype] = max(largest[dtype], pair[1])
    xi = SETTINGS.xi
    print(
        f"\nOne update, PyTorch's relative difference from minivat's (its exact Hd, xi {xi:g}):\n"
    )
    print(cli.table(("", "loss", "gradient"), lines))
    return largest
