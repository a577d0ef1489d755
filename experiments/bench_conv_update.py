"""The measurements of experiments/bench_conv.py, which starts this file with its threads settled.

One update of Conv-Small with batch norm, dropout and Adam, from random images: it takes no less
time. Every task's last line is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from experiments import common
from experiments.bench_update import interleaved, peak_mib, where_the_time_goes
from experiments.lab import runs
from minivat import backend, nn, optim, training
from minivat.nn.images import DATASETS

LABELLED, UNLABELLED = 32, 128
FEW = (8, 16)  # of the check in float64
EPSILON, ALPHA, XI, LEARNING_RATE = 10.0, 1.0, 1e-6, 0.001
SEED = 1
IMAGES = 2000
IMAGE_SHAPE = (32, 32, 3)
WARM_UP = 1
# Finite differences are off by ξ times a third derivative, and by the kinks that ξ d crosses.
TOLERANCE = 1e-5
# In float32 rounding puts a few of the millions of units on the other side of a kink: 5e-3 between
# both, and from the gradient in float64 3e-3 (minivat) and 5e-3 (PyTorch), were measured.
FLOAT32_TOLERANCE = 5e-2
# By the update's name: the method of minivat's trainer.
METHODS = {"supervised": "mle", "vat": "vat"}


def random_data(examples: int, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Images of unit variance, as whitened ones have, and labels."""
    generator = backend.host_generator(SEED, "bench")
    images = generator.standard_normal((examples, *IMAGE_SHAPE), dtype=dtype)
    return images, generator.integers(0, 10, examples)


def make_trainer(
    network: nn.Network,
    update: str,
    images: np.ndarray,
    labels: np.ndarray,
    optimizer: optim.Adam = optim.Adam(),  # noqa: B008  frozen, without state
    *,
    sizes: tuple[int, int] = (LABELLED, UNLABELLED),
    seed: int = SEED,
) -> training.Trainer:
    """minivat's own trainer, on the CPU."""
    return training.Trainer(
        network,
        backend.select_device("cpu"),
        images,
        labels,
        unlabelled=images,
        unlabelled_batch_size=sizes[1],
        regularization=training.Regularization(METHODS[update], epsilon=EPSILON, alpha=ALPHA),
        learning_rate=lambda update: LEARNING_RATE,
        seed=seed,
        batch_size=sizes[0],
        optimizer=optimizer,
    )


def torch_peer() -> Callable[..., Any] | None:
    """The peer; None, and a line saying so, where PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed (pip install torch): left out")
        return None
    peer = importlib.import_module("experiments.peer_torch_conv").TorchConvPeer
    return partial(
        peer, epsilon=EPSILON, alpha=ALPHA, xi=XI, learning_rate=LEARNING_RATE, seed=SEED
    )


# The same loss and gradient -----------------------------------------------------------------------


def difference(
    peer: Callable[..., Any],
    network: nn.Network,
    update: str,
    dtype: Any,
    sizes: tuple[int, int],
) -> tuple[float, float]:
    """How far the peer's loss and gradients are from minivat's, relatively.

    From the same weights, batches, masks and random directions. Of gradients it is the largest over
    the arrays of ‖difference‖₂ / ‖gradient‖₂, with the weight's gradient below for a bias, which
    has no influence where batch norm follows.
    """
    images, labels = random_data(max(64, *sizes), dtype)
    trainer = make_trainer(network, update, images, labels, sizes=sizes)
    params = {name: array.copy() for name, array in trainer.params.items()}
    rows = trainer.labelled.batches(0)
    stream = partial(trainer.device.random, SEED)

    def masks(purpose: str, size: int) -> list[np.ndarray]:
        return list(network.draw_noise(stream(purpose, 0), size, dtype).values())

    labelled = images[rows], labels[rows], masks("noise", sizes[0])
    unlabelled = None
    if update == "vat":
        x = images[trainer.unlabelled.batches(0)]
        d = stream("directions", 0).normal(x.shape, dtype)
        unlabelled = x, masks("unlabelled noise", sizes[1]), d
    other_loss, other = peer(params).loss_and_gradients(labelled, unlabelled)

    terms = trainer.step(0)
    # From zero moments Adam's first step leaves g in the first moment (divided by 1 − β₁).
    gradient = nn.unpack(trainer.arrays["first_moment"], params)
    loss = float(terms["nll"] + ALPHA * terms["regularizer"])
    return abs(other_loss / loss - 1), max(
        float(
            np.linalg.norm(other[key] - g) / np.linalg.norm(gradient[key.replace("bias", "weight")])
        )
        for key, g in gradient.items()
    )


def check(peer: Callable[..., Any], network: nn.Network) -> dict[str, float]:
    """Print the differences; the largest of a gradient in float64 and in float32.

    In float64 ξ = 1e-6 is not rounding noise: there the VAT update is compared as well.
    Raises RunFailed where a difference is above its tolerance.
    """
    cases = [
        ("supervised", np.float64, FEW, TOLERANCE),
        ("vat", np.float64, FEW, TOLERANCE),
        ("supervised", np.float32, (LABELLED, UNLABELLED), FLOAT32_TOLERANCE),
    ]
    lines, found = [], {"float64": 0.0, "float32": 0.0}
    for update, dtype, sizes, tolerance in cases:
        pair = difference(peer, network, update, dtype, sizes)
        name = np.dtype(dtype).name
        lines.append((f"{update}, {name}", *(f"{value:.1e}" for value in pair)))
        found[name] = max(found[name], pair[1])
        if not max(pair) < tolerance:
            raise runs.RunFailed(
                f"{update} update in {name}: the loss or gradients differ by {max(pair):.1e}, "
                f"more than {tolerance:g}"
            )
    print(
        f"\nOne update, PyTorch's relative difference from minivat's (its exact Hd, xi {XI:g}):\n"
    )
    print(common.table(("", "loss", "gradient"), lines))
    return {
        "max_relative_gradient_difference": found["float64"],
        "max_relative_gradient_difference_float32": found["float32"],
    }


# Time ---------------------------------------------------------------------------------------------


def minivat_step(trainer: training.Trainer) -> Callable[[], None]:
    """One update after the other."""
    updates = count()
    return lambda: trainer.step(next(updates)) and None


def peer_step(peer: Any, update: str, images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    """The same of the peer, on batches taken as minivat's trainer takes them."""
    peer.load(images, labels)
    device = backend.select_device("cpu")
    batches, others = (
        training.Batches(device, SEED, purpose, len(images), size, "size")
        for purpose, size in (("batches", LABELLED), ("unlabelled batches", UNLABELLED))
    )
    updates = count()

    def step() -> None:
        i = next(updates)
        peer.step(batches(i), others(i) if update == "vat" else None)

    return step


def kind(name: str) -> str:
    """The kind of work that an operation is."""
    for start, label in (
        ("conv2d", "convolutions"),
        ("batch_norm", "batch norm and leaky ReLU"),
        ("max_pool2d", "pooling"),
    ):
        if name.startswith(start):
            return label
    return "other operations"


def print_times(network: nn.Network, rounds: int) -> dict[str, Any]:
    """Check, time and take apart both updates."""
    print(common.benchmarked())
    peer = torch_peer()
    found: dict[str, Any] = {
        "max_relative_gradient_difference": None,
        "max_relative_gradient_difference_float32": None,
    }
    if peer is not None:
        found = check(peer, network)

    images, labels = random_data(IMAGES)
    steps = {}
    for update in METHODS:
        trainer = make_trainer(network, update, images, labels)
        steps[update, "minivat"] = minivat_step(trainer)
        if peer is not None:
            steps[update, "torch"] = peer_step(peer(trainer.params), update, images, labels)
    times = interleaved(steps, rounds, WARM_UP)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    ratios = {
        update: medians[update, "minivat"] / medians[update, "torch"] if peer else None
        for update in METHODS
    }
    print(f"\nOne update in float32, {rounds} of each in turn:\n")
    lines = [
        (
            f"{update}, {library}",
            f"{medians[update, library]:.0f}",
            f"{min(values):.0f}",
            f"{ratios[update]:.2f}" if peer and library == "minivat" else "",
        )
        for (update, library), values in times.items()
    ]
    print(common.table(("", "median ms", "fastest ms", "/ PyTorch"), lines))

    for update in METHODS:
        parts = where_the_time_goes(
            partial(make_trainer, network, update, images, labels),
            kind,
            min(rounds, 3),
            WARM_UP,
        )
        whole = sum(parts.values())
        print(f"\nWhere minivat's time goes ({update}):\n")
        shares = [(part, f"{ms:.1f}", f"{100 * ms / whole:.0f} %") for part, ms in parts.items()]
        print(common.table(("", "ms", "share"), shares))

    return {
        **{f"{update}_ratio_to_torch": value for update, value in ratios.items()},
        **found,
        **{f"{update}_{library}_ms": ms for (update, library), ms in medians.items()},
    }


def peak_memory(network: nn.Network, update: str, library: str, updates: int = 3) -> float | None:
    """MiB of this process after some updates; None where the library is missing."""
    images, labels = random_data(IMAGES)
    if library == "minivat":
        step = minivat_step(make_trainer(network, update, images, labels))
    else:
        peer = torch_peer()
        if peer is None:
            return None
        params, _ = network.init(backend.host_generator(SEED, "init"))
        step = peer_step(peer(params), update, images, labels)
    for _ in range(updates):
        step()
    return peak_mib()


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """`time DATASET WIDTH ROUNDS` or `memory DATASET WIDTH supervised|vat minivat|torch`."""
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True)
    timing, memory = tasks.add_parser("time"), tasks.add_parser("memory")
    for task in (timing, memory):
        task.add_argument("dataset", choices=DATASETS)
        task.add_argument("width", type=common.positive)
    timing.add_argument("rounds", type=common.integer(1))
    memory.add_argument("update", choices=list(METHODS))
    memory.add_argument("library", choices=["minivat", "torch"])
    args = parser.parse_args(argv)
    network = nn.conv_small(args.dataset, args.width)
    if args.task == "time":
        result = print_times(network, args.rounds)
    else:
        result = {"peak_mib": peak_memory(network, args.update, args.library)}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
