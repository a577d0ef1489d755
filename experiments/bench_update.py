"""The measurements of experiments/bench.py, which starts this file with its threads settled.

One VAT update of the supervised MNIST task: 784-1200-600-300-150-10, batch norm after every dense
layer, batch 100, float32, K = 1, Adam included. The images are random: it takes no less time.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import json
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any
from unittest import mock

import numpy as np

from experiments import common
from experiments.lab import runs
from experiments.mnist_sup import SIZES
from minivat import backend, nn, optim, training, vat
from minivat.autodiff import Primitive, Tensor

BATCH_SIZE = 100
EPSILON, ALPHA, XI, LEARNING_RATE = 2.1, 1.0, 1e-6, 0.002
SEED = 1
WARM_UP = 5
# Idle threads of OpenBLAS and OpenMP go on spinning for a while and would hinder the next one's.
PAUSE = 0.05
# Finite differences are off by ξ times a third derivative, relatively: 2e-7 was measured.
TOLERANCE = 1e-5

NAMES = {
    "minivat_exact": "minivat, exact",
    "minivat_finite_difference": "minivat, finite differences",
    "torch_eager": "PyTorch eager",
    "jax_jit": "JAX jit",
}
PEERS = {
    "torch_eager": ("torch", "PyTorch", "experiments.peer_torch", "TorchPeer"),
    "jax_jit": ("jax", "JAX", "experiments.peer_jax", "JaxPeer"),
}


def random_data(examples: int, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Images (examples, 784) in [0, 1) and labels."""
    generator = backend.host_generator(SEED, "bench")
    return generator.random((examples, 784), dtype=dtype), generator.integers(0, 10, examples)


def make_trainer(
    images: np.ndarray,
    labels: np.ndarray,
    direction: str,
    optimizer: optim.Adam = optim.Adam(),  # noqa: B008  frozen, without state
) -> training.Trainer:
    """minivat's own trainer, on the CPU."""
    return training.Trainer(
        nn.mlp(SIZES["mnist"]),
        backend.select_device("cpu"),
        images,
        labels,
        regularization=training.Regularization(
            "vat", EPSILON, ALPHA, vat.PowerIteration(1, direction, XI)
        ),
        learning_rate=lambda update: LEARNING_RATE,
        seed=SEED,
        batch_size=BATCH_SIZE,
        optimizer=optimizer,
    )


def peer_class(name: str) -> Callable[..., Any] | None:
    """The peer of that name; None, and a line saying so, where its library is not installed."""
    library, title, module, kind = PEERS[name]
    if importlib.util.find_spec(library) is None:
        print(f"{title} is not installed (pip install {library}): left out")
        return None
    return getattr(importlib.import_module(module), kind)


def make_peer(kind: Callable[..., Any], params: dict[str, np.ndarray]) -> Any:
    """A peer that starts from these parameters."""
    return kind(params, epsilon=EPSILON, alpha=ALPHA, xi=XI, learning_rate=LEARNING_RATE, seed=SEED)


# The same loss and gradient -----------------------------------------------------------------------


def check(peers: dict[str, Callable[..., Any]]) -> float:
    """Print how far the others are from minivat's exact update; the gradients' largest difference.

    In float64, where ξ = 1e-6 is not rounding noise, from the same weights, batch and directions d.
    Every array's largest difference is divided by the array's largest entry. A bias before batch
    norm has no influence and a gradient of zero but for rounding: it is measured by its weight.
    Raises RunFailed where a difference is above TOLERANCE.
    """
    images, labels = random_data(1000, np.float64)
    results = {}
    for direction in ("exact", "finite-difference"):
        trainer = make_trainer(images, labels, direction)
        params = {name: array.copy() for name, array in trainer.params.items()}
        terms = trainer.step(0)
        # From zero moments Adam's first step leaves g in the first moment (divided by 1 − β₁).
        g = trainer.arrays["first_moment"]
        loss = float(terms["nll"] + ALPHA * terms["regularizer"])
        results[f"minivat_{direction.replace('-', '_')}"] = loss, nn.unpack(g, params)
    rows = trainer.labelled.batches(0)
    d = trainer.device.random(SEED, "directions", 0).normal((BATCH_SIZE, 784), np.float64)
    for name, kind in peers.items():
        peer = make_peer(kind, params)
        results[name] = peer.loss_and_gradients(images[rows], labels[rows], d)

    loss, gradient = results.pop("minivat_exact")
    scales = {name: np.abs(g).max() for name, g in gradient.items()}
    differences = {
        name: (
            abs(other_loss / loss - 1),
            max(
                np.abs(other[key] - g).max() / scales[key.replace("bias", "weight")]
                for key, g in gradient.items()
            ),
        )
        for name, (other_loss, other) in results.items()
    }
    print(f"\nOne update in float64, relative difference from minivat's exact one (xi {XI:g}):\n")
    lines = [(NAMES[name], f"{a:.1e}", f"{b:.1e}") for name, (a, b) in differences.items()]
    print(common.table(("", "loss", "gradient"), lines))
    largest = max(b for _, b in differences.values())
    if not max(max(pair) for pair in differences.values()) < TOLERANCE:
        raise runs.RunFailed(f"the losses or gradients differ by more than {TOLERANCE:g}")
    return float(largest)


# Time ---------------------------------------------------------------------------------------------


def contestants(
    peers: dict[str, Callable[..., Any]], images: np.ndarray, labels: np.ndarray
) -> dict[str, Callable[[], None]]:
    """One update of each, to be called again and again."""
    steps: dict[str, Callable[[], None]] = {}
    for direction in ("exact", "finite-difference"):
        trainer = make_trainer(images, labels, direction)
        steps[f"minivat_{direction.replace('-', '_')}"] = _minivat_step(trainer)
    for name, kind in peers.items():
        steps[name] = _peer_step(make_peer(kind, trainer.params), images, labels)
    return steps


def _minivat_step(trainer: training.Trainer) -> Callable[[], None]:
    updates = count()
    return lambda: trainer.step(next(updates)) and None


def _peer_step(peer: Any, images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    peer.load(images, labels)
    generator = np.random.default_rng(SEED)

    def step() -> None:
        # One of the batches of a permutation, as minivat's trainer takes them.
        start = int(generator.integers(len(order) // BATCH_SIZE)) * BATCH_SIZE
        peer.step(order[start : start + BATCH_SIZE])
        peer.wait()

    order = generator.permutation(len(images))
    return step


def interleaved(
    steps: dict[str, Callable[[], None]], rounds: int, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """Milliseconds of `rounds` updates of each, in turn, every round beginning with another.

    Before a timed update come a pause, in which the other's threads fall asleep, and an untimed
    update, which fills the caches: it then runs as it would in training, where it is alone.
    """
    names = list(steps)
    for step in steps.values():
        for _ in range(warm_up):
            step()
    gc.freeze()  # as minivat.runs does before training; here for all
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        shift = i % len(names)
        for name in names[shift:] + names[:shift]:
            time.sleep(PAUSE)
            steps[name]()
            start = time.perf_counter()
            steps[name]()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


# Where minivat's time goes ------------------------------------------------------------------------


class Stopwatch:
    """Seconds by label."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measuring(self, label: str) -> Iterator[None]:
        """Add what the block takes."""
        start = time.perf_counter()
        yield
        self.seconds[label] += time.perf_counter() - start


def where_the_time_goes(
    make: Callable[[optim.Adam], training.Trainer],
    kinds: Callable[[str], str],
    rounds: int,
    warm_up: int = WARM_UP,
) -> dict[str, float]:
    """Milliseconds an update by kind of work, in the mean; they add up to the whole.

    Every operation that computes on arrays is timed where the engine calls it, under what `kinds`
    makes of its name. What remains is Python: recording, the walk back, the rules, the batch.
    make: a trainer with this optimizer.
    """
    watch = Stopwatch()

    class TimedAdam(optim.Adam):
        def update(self, *args: Any, **options: Any) -> None:
            with watch.measuring("Adam"):
                super().update(*args, **options)

    class TimedStream(backend.RandomStream):
        def normal(self, *args: Any) -> Any:
            with watch.measuring("random directions"):
                return super().normal(*args)

        def uniform(self, *args: Any) -> Any:
            with watch.measuring("dropout masks"):
                return super().uniform(*args)

    call = Primitive.__call__

    def timed_call(self: Primitive, *args: Any, **attrs: Any) -> Any:
        if any(type(a) is Tensor for a in args):
            return call(self, *args, **attrs)
        with watch.measuring(kinds(self.name)):
            return call(self, *args, **attrs)

    trainer = make(TimedAdam())
    with (
        mock.patch.object(Primitive, "__call__", timed_call),
        mock.patch.object(backend, "RandomStream", TimedStream),
    ):
        for update in range(warm_up):
            trainer.step(update)
        watch.seconds.clear()
        start = time.perf_counter()
        for update in range(warm_up, warm_up + rounds):
            trainer.step(update)
        whole = time.perf_counter() - start
    parts = dict(sorted(watch.seconds.items(), key=lambda item: -item[1]))
    parts["engine, gathering the gradient, batch"] = whole - sum(parts.values())
    return {label: 1e3 * seconds / rounds for label, seconds in parts.items()}


# The commands -------------------------------------------------------------------------------------


def print_times(rounds: int, as_json: bool) -> None:
    """Check, time and take apart one update."""
    print(common.benchmarked())
    peers = {name: kind for name in PEERS if (kind := peer_class(name))}
    difference = check(peers)

    images, labels = random_data(10_000)
    times = interleaved(contestants(peers, images, labels), rounds)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    print(f"\nOne update in float32, {rounds} of each in turn:\n")
    lines = [
        (
            NAMES[name],
            f"{medians[name]:.1f}",
            f"{min(values):.1f}",
            *(f"{medians[name] / medians[p]:.2f}" for p in peers),
        )
        for name, values in times.items()
    ]
    header = ("", "median ms", "fastest ms", *(f"/ {NAMES[name]}" for name in peers))
    print(common.table(header, lines))

    parts = where_the_time_goes(
        lambda optimizer: make_trainer(images, labels, "exact", optimizer),
        lambda name: "matrix products" if name == "matmul" else "batch norm and elementwise",
        rounds,
    )
    whole = sum(parts.values())
    print(
        "\nWhere minivat's time goes (exact; each operation timed, which itself takes a little):\n"
    )
    shares = [(part, f"{ms:.2f}", f"{100 * ms / whole:.0f} %") for part, ms in parts.items()]
    print(common.table(("", "ms", "share"), shares))

    if as_json:
        exact = medians["minivat_exact"]
        ratio = {name: exact / medians[name] if name in medians else None for name in PEERS}
        print(
            json.dumps(
                {
                    **{f"{name}_ms": medians.get(name) for name in NAMES},
                    **{f"ratio_to_{name}": value for name, value in ratio.items()},
                    "max_relative_gradient_difference": difference,
                }
            )
        )


def print_memory(name: str, updates: int) -> None:
    """Peak memory of this process: before the first update, and after training."""
    images, labels = random_data(60_000)
    if name == "minivat":
        title, trainer = "minivat", make_trainer(images, labels, "exact")
        step = _minivat_step(trainer)
    else:
        key = next(key for key, (library, *_) in PEERS.items() if library == name)
        title, kind = PEERS[key][1], peer_class(key)
        if kind is None:
            return
        params, _ = nn.mlp(SIZES["mnist"]).init(backend.host_generator(SEED, "init"))
        step = _peer_step(make_peer(kind, params), images, labels)
    before = peak_mib()
    for _ in range(updates):
        step()
    print(
        f"{title:<8}  peak memory {peak_mib():.0f} MiB after {updates} updates, "
        f"{before:.0f} MiB before the first (188 MiB of it images)"
    )


def peak_mib() -> float:
    """The largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """`time ROUNDS [--json]` or `memory minivat|torch|jax UPDATES`."""
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True)
    timing = tasks.add_parser("time")
    timing.add_argument("rounds", type=common.integer(1))
    timing.add_argument("--json", action="store_true")
    memory = tasks.add_parser("memory")
    memory.add_argument("name", choices=["minivat", *(library for library, *_ in PEERS.values())])
    memory.add_argument("updates", type=common.integer(1))
    args = parser.parse_args(argv)
    if args.task == "time":
        print_times(args.rounds, args.json)
    else:
        print_memory(args.name, args.updates)
    return 0


if __name__ == "__main__":
    sys.exit(main())
