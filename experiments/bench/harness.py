"""What the benches share: their flags, updates of minivat and of a peer, comparison and timing."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any
from unittest import mock

import numpy as np

from experiments.bench.peers import Settings
from experiments.lab import cli, machine
from minivat import backend, nn, objective, optim, training, vat
from minivat.autodiff import Primitive, Tensor

# Idle threads of OpenBLAS and OpenMP spin for a while and would hinder those of the next library.
PAUSE = 0.05

Arrays = dict[str, np.ndarray]
Step = Callable[[], Any]


def parser(name: str, description: str, *counts: tuple[str, int, str]) -> cli.Parser:
    """A bench's command line: --threads, --json, and integers from 1 (flag, default, help)."""
    parser = cli.Parser(description, name)
    for flag, default, text in (("--threads", 2, "threads, the same for all"), *counts):
        cli.add_count(parser, flag, 1, default, text)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return parser


# Updates ------------------------------------------------------------------------------------------


def make_trainer(
    network: nn.Network,
    images: np.ndarray,
    labels: np.ndarray,
    settings: Settings,
    method: str,
    direction: str = "exact",
    **options: Any,
) -> training.Trainer:
    """minivat's own trainer, on the CPU. options: its batch sizes, unlabelled images, optimizer."""
    return training.Trainer(
        network,
        backend.select_device("cpu"),
        images,
        labels,
        regularization=objective.Regularization(
            method,
            epsilon=settings.epsilon,
            alpha=settings.alpha,
            power_iteration=vat.PowerIteration(direction=direction, xi=settings.xi),
        ),
        learning_rate=lambda update: settings.learning_rate,
        seed=settings.seed,
        **options,
    )


def minivat_step(trainer: training.Trainer) -> Step:
    """One update of minivat at each call."""
    updates = count()
    return lambda: trainer.step(next(updates))


def peer_step(peer: Any, images: np.ndarray, labels: np.ndarray, *sizes: int) -> Step:
    """One update of the peer at each call, on batches drawn as minivat's trainer draws them.

    sizes: of the labelled batch and, where the peer's step takes one, of the unlabelled batch.
    """
    peer.load(images, labels)
    device = backend.select_device("cpu")
    purposes = ("batches", "unlabelled batches")[: len(sizes)]
    batches = [
        training.Batches(device, peer.settings.seed, purpose, len(images), size, "size")
        for purpose, size in zip(purposes, sizes, strict=True)
    ]
    updates = count()

    def step() -> Any:
        update = next(updates)
        return peer.step(*(rows(update) for rows in batches))

    return step


# The same loss and gradients ----------------------------------------------------------------------


def first_update(trainer: training.Trainer) -> tuple[float, Arrays]:
    """The loss and the gradients of the trainer's first update, which is made."""
    terms = trainer.step(0)
    # From zero moments Adam's first step leaves g in the first moment (divided by 1 − β₁).
    gradients = nn.unpack(trainer.arrays["first_moment"], trainer.params)
    return float(terms["nll"] + trainer.regularization.alpha * terms["regularizer"]), gradients


def differences(
    ours: tuple[float, Mapping[str, np.ndarray]],
    theirs: tuple[float, Mapping[str, np.ndarray]],
    norm: Callable[[np.ndarray], float],
) -> tuple[float, float]:
    """How far their (loss, gradients) are from ours, relatively; the largest of all arrays.

    A bias before batch norm has no influence and a gradient of zero but for rounding: its
    difference is divided by the norm of its weight's gradient.
    """
    loss, gradients = ours
    other_loss, others = theirs
    return abs(other_loss / loss - 1), max(
        float(norm(others[name] - gradient) / norm(gradients[name.replace("bias", "weight")]))
        for name, gradient in gradients.items()
    )


# Time and memory ----------------------------------------------------------------------------------


def interleaved(steps: Mapping[Any, Step], rounds: int, warm_up: int) -> dict[Any, list[float]]:
    """Milliseconds of `rounds` updates of each, in turn, every round beginning with another.

    Before a timed update come a pause, in which the other's threads fall asleep, and an untimed
    update, which fills the caches: it then runs as it would in training, where it is alone.
    """
    names = list(steps)
    for step in steps.values():
        for _ in range(warm_up):
            step()
    gc.freeze()  # as lab/loop.py does before training; here for all
    times: dict[Any, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        shift = i % len(names)
        for name in names[shift:] + names[:shift]:
            time.sleep(PAUSE)
            steps[name]()
            start = time.perf_counter()
            steps[name]()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def peak_memory(step: Step, updates: int) -> dict[str, float]:
    """The most MiB that this process has occupied, before and after so many updates."""
    before = machine.peak_memory_mib()
    for _ in range(updates):
        step()
    return {"before_mib": before, "peak_mib": machine.peak_memory_mib()}


# The parts of minivat's time ----------------------------------------------------------------------


def time_by_kind(
    make: Callable[..., training.Trainer],
    kind: Callable[[str], str],
    rounds: int,
    warm_up: int,
) -> dict[str, float]:
    """Milliseconds an update by kind of work, in the mean; they add up to the whole.

    Every operation that computes on arrays is timed where the engine calls it, under the kind of
    its name. What remains is Python: recording, the walk back, the rules, the batch.
    make: a trainer, with the `optimizer` given.
    """
    seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def timed(label: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[label] += time.perf_counter() - start

    class TimedAdam(optim.Adam):
        def update(self, *args: Any, **options: Any) -> None:
            with timed("Adam"):
                super().update(*args, **options)

    class TimedStream(backend.RandomStream):
        def normal(self, *args: Any) -> Any:
            with timed("random directions"):
                return super().normal(*args)

        def uniform(self, *args: Any) -> Any:
            with timed("dropout masks"):
                return super().uniform(*args)

    call = Primitive.__call__

    def timed_call(self: Primitive, *args: Any, **attrs: Any) -> Any:
        if any(type(a) is Tensor for a in args):
            return call(self, *args, **attrs)
        with timed(kind(self.name)):
            return call(self, *args, **attrs)

    trainer = make(optimizer=TimedAdam())
    with (
        mock.patch.object(Primitive, "__call__", timed_call),
        mock.patch.object(backend, "RandomStream", TimedStream),
    ):
        for update in range(warm_up):
            trainer.step(update)
        seconds.clear()
        start = time.perf_counter()
        for update in range(warm_up, warm_up + rounds):
            trainer.step(update)
        whole = time.perf_counter() - start
    parts = dict(sorted(seconds.items(), key=lambda item: -item[1]))
    parts["engine, gathering the gradient, batch"] = whole - sum(parts.values())
    return {label: 1e3 * part / rounds for label, part in parts.items()}


def print_shares(title: str, parts: Mapping[str, float], digits: int) -> None:
    """Print what `time_by_kind` found, with the shares of the whole."""
    whole = sum(parts.values())
    lines = [(part, f"{ms:.{digits}f}", f"{100 * ms / whole:.0f} %") for part, ms in parts.items()]
    print(f"\n{title}:\n")
    print(cli.table(("", "ms", "share"), lines))
