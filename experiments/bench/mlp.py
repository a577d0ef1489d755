"""How long one VAT update takes, compared with PyTorch and JAX; --memory: what training occupies.

    python -m experiments bench [--json] [--memory] [--threads 2]

One VAT update of the supervised MNIST task: 784-1200-600-300-150-10, batch norm after every dense
layer, batch 100, float32, K = 1, Adam included. The images are random: it takes no less time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from experiments.bench import harness, launcher, peers
from experiments.lab import cli, machine, runs
from experiments.mnist import NETWORK
from minivat import backend, nn, training

SIZES = NETWORK["mnist"]
BATCH_SIZE = 100
SETTINGS = peers.Settings(epsilon=2.1, learning_rate=0.002)
WARM_UP = 5
# Finite differences are off by ξ times a third derivative, relatively: 2e-7 was measured.
TOLERANCE = 1e-5

NAMES = {
    "minivat_exact": "minivat, exact",
    "minivat_finite_difference": "minivat, finite differences",
    "torch_eager": "PyTorch eager",
    "jax_jit": "JAX jit",
}
DIRECTIONS = {"minivat_exact": "exact", "minivat_finite_difference": "finite-difference"}
PEERS = {"torch_eager": "torch", "jax_jit": "jax"}  # by name: the module in peers/


def parser() -> cli.Parser:
    """The command line."""
    parser = harness.parser(
        "bench",
        __doc__,
        ("--rounds", 50, "timed updates of each"),
        ("--updates", 200, "updates of a training run, with --memory"),
    )
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    return parser


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when every implementation present gave the same gradient."""
    args = parser().parse_args(argv)
    if args.memory:
        for library in ("minivat", "torch"):
            found = launcher.measured(memory, args.threads, library=library, updates=args.updates)
            if found is not None:
                print(
                    f"{peers.TITLES.get(library, library):<8}  peak memory "
                    f"{found['peak_mib']:.0f} MiB after {args.updates} updates, "
                    f"{found['before_mib']:.0f} MiB before the first (188 MiB of it images)"
                )
        return 0
    found = launcher.measured(times, args.threads, rounds=args.rounds)
    if args.json:
        print(json.dumps(found))
    return 0


# The measurements, each in a process of its own ---------------------------------------------------


def times(rounds: int) -> dict[str, float | None]:
    """Check, time and take apart one update, and print all that; what --json prints."""
    print(machine.benchmarked())
    present = {name: peer for name in PEERS if (peer := peers.load(PEERS[name]))}
    difference = check(present)

    images, labels = random_data(10_000)
    steps = {}
    for name, direction in DIRECTIONS.items():
        trainer = make_trainer(images, labels, direction)
        steps[name] = harness.minivat_step(trainer)
    for name, peer in present.items():
        peer = peer.Peer(trainer.params, SETTINGS)
        steps[name] = harness.peer_step(peer, images, labels, BATCH_SIZE)
    milliseconds = harness.interleaved(steps, rounds, WARM_UP)
    medians = {name: float(np.median(values)) for name, values in milliseconds.items()}
    print(f"\nOne update in float32, {rounds} of each in turn:\n")
    lines = [
        (
            NAMES[name],
            f"{medians[name]:.1f}",
            f"{min(values):.1f}",
            *(f"{medians[name] / medians[peer]:.2f}" for peer in present),
        )
        for name, values in milliseconds.items()
    ]
    header = ("", "median ms", "fastest ms", *(f"/ {NAMES[name]}" for name in present))
    print(cli.table(header, lines))

    harness.print_shares(
        "Where minivat's time goes (exact; each operation timed, which itself takes a little)",
        harness.time_by_kind(
            partial(make_trainer, images, labels, "exact"),
            lambda name: "matrix products" if name == "matmul" else "batch norm and elementwise",
            rounds,
            WARM_UP,
        ),
        digits=2,
    )
    exact = medians["minivat_exact"]
    ratios = {name: exact / medians[name] if name in present else None for name in PEERS}
    return {
        **{f"{name}_ms": medians.get(name) for name in NAMES},
        **{f"ratio_to_{name}": ratio for name, ratio in ratios.items()},
        "max_relative_gradient_difference": difference,
    }


def memory(library: str, updates: int) -> dict[str, float] | None:
    """Peak memory of minivat or of PyTorch, which does nothing else; None where it is missing."""
    images, labels = random_data(60_000)
    if library == "minivat":
        step = harness.minivat_step(make_trainer(images, labels, "exact"))
    else:
        peer = peers.load(library)
        if peer is None:
            return None
        params, _ = nn.mlp(SIZES).init(backend.host_generator(SETTINGS.seed, "init"))
        step = harness.peer_step(peer.Peer(params, SETTINGS), images, labels, BATCH_SIZE)
    return harness.peak_memory(step, updates)


# What is measured ---------------------------------------------------------------------------------


def random_data(examples: int, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Images (examples, 784) in [0, 1) and labels."""
    generator = backend.host_generator(SETTINGS.seed, "bench")
    images = generator.random((examples, SIZES[0]), dtype=dtype)
    return images, generator.integers(0, SIZES[-1], examples)


def make_trainer(
    images: np.ndarray, labels: np.ndarray, direction: str, **options: Any
) -> training.Trainer:
    """minivat's own trainer of this network, with VAT."""
    network = nn.mlp(SIZES)
    options = {"batch_size": BATCH_SIZE, **options}
    return harness.make_trainer(network, images, labels, SETTINGS, "vat", direction, **options)


def check(present: Mapping[str, ModuleType]) -> float:
    """Print how far the others are from minivat's exact update; the gradients' largest difference.

    In float64, where ξ = 1e-6 is not rounding noise, from the same weights, batch and directions d.
    Every array's largest difference is divided by the array's largest entry.
    Raises RunFailed where a difference is above TOLERANCE.
    """
    images, labels = random_data(1000, np.float64)
    results = {}
    for name, direction in DIRECTIONS.items():
        trainer = make_trainer(images, labels, direction)
        params = {key: array.copy() for key, array in trainer.params.items()}
        results[name] = harness.first_update(trainer)
    rows, x, _ = trainer.labelled(0)
    d = trainer.device.random(SETTINGS.seed, "directions", 0).normal(x.shape, x.dtype)
    for name, peer in present.items():
        peer = peer.Peer(params, SETTINGS)
        results[name] = peer.loss_and_gradients(x, labels[rows], d)

    exact = results.pop("minivat_exact")
    found = {
        name: harness.differences(exact, other, lambda array: np.abs(array).max())
        for name, other in results.items()
    }
    xi = SETTINGS.xi
    print(f"\nOne update in float64, relative difference from minivat's exact one (xi {xi:g}):\n")
    lines = [(NAMES[name], f"{a:.1e}", f"{b:.1e}") for name, (a, b) in found.items()]
    print(cli.table(("", "loss", "gradient"), lines))
    if not max(max(pair) for pair in found.values()) < TOLERANCE:
        raise runs.RunFailed(f"the losses or gradients differ by more than {TOLERANCE:g}")
    return max(gradient for _, gradient in found.values())
