"""What the benches share: an update of minivat and of its peers, checked, timed and taken apart."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any
from unittest import mock

import numpy as np

from experiments.bench import launcher, peers
from experiments.lab import cli, machine, runs
from minivat import backend, nn, optim, training
from minivat.autodiff import Primitive
from minivat.objective import Regularization

# Idle threads of OpenBLAS and OpenMP spin for a while and would hinder those of the next library.
PAUSE = 0.05

Step = Callable[[], Any]
Result = tuple[float, dict[str, np.ndarray]]  # a loss and its gradients


def parser(name: str, description: str, *counts: tuple[str, int, str]) -> cli.Parser:
    """A bench's command line: --threads, --json, and integers from 1 (flag, default, help)."""
    parser = cli.Parser(description, name)
    for flag, default, text in (("--threads", 2, "threads, the same for all"), *counts):
        cli.add_count(parser, flag, 1, default, text)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return parser


def print_table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """Print a line for each name."""
    print(f"\n{title}:\n")
    print(cli.table(("", *columns), [(name.replace("_", " "), *row) for name, row in rows.items()]))


# Updates ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Task:
    """Updates by minivat, or by a peer with finite differences; by default MNIST's, on the CPU.

    module: the peer's, or "minivat". unlabelled_batch_size: of a second batch of the same images;
    None: VAT sees the first. capture: on a GPU, as a CUDA graph.
    """

    module: str
    network: nn.Network
    images: np.ndarray
    labels: np.ndarray
    regularization: Regularization = Regularization()  # noqa: RUF009  frozen
    learning_rate: float = 0.002
    batch_size: int = 100
    unlabelled_batch_size: int | None = None
    seed: int = 1
    device: str = "cpu"
    tf32: bool = False
    capture: bool = True

    def trainer(self) -> training.Trainer:
        """minivat's own."""
        return training.Trainer(
            self.network,
            backend.select_device(self.device, self.tf32),
            self.images,
            self.labels,
            unlabelled=None if self.unlabelled_batch_size is None else self.images,
            regularization=self.regularization,
            learning_rate=lambda update: self.learning_rate,
            seed=self.seed,
            batch_size=self.batch_size,
            unlabelled_batch_size=self.unlabelled_batch_size,
            capture=self.capture,
        )

    def peer(self) -> Any:
        """The peer with the trainer's first parameters."""
        generator = backend.host_generator(self.seed, "init")
        params, _ = self.network.init(generator, self.images.dtype)
        return peers.load(self.module).Peer(params, self)


Tasks = Mapping[str, Task]  # of one update, by the name to print; the first is minivat's


def random_data(
    examples: int, shape: Sequence[int], classes: int, dtype: Any = np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Images of unit variance, as whitened ones have, and labels."""
    generator = backend.host_generator(1, "bench")
    images = generator.standard_normal((examples, *shape), dtype=dtype)
    return images, generator.integers(0, classes, examples)


def make_step(task: Task) -> Step:
    """One update at each call."""
    updates = count()
    if task.module == "minivat":
        trainer = task.trainer()
        return lambda: trainer.step(next(updates))
    peer = task.peer()
    # The same batches as those of minivat's trainer.
    sizes = {"batches": task.batch_size, "unlabelled batches": task.unlabelled_batch_size}
    batches = [
        training.Batches(backend.Device(), task.seed, purpose, len(task.images), size, purpose)
        for purpose, size in sizes.items()
        if size
    ]

    def step() -> Any:
        update = next(updates)
        return peer.step(*(rows(update) for rows in batches))

    return step


# The same loss and gradients ----------------------------------------------------------------------


def first_update(task: Task) -> Result:
    """The loss and the gradients of the first update."""
    trainer = task.trainer()
    if task.module == "minivat":
        return first_update_of(trainer)
    return task.peer().loss_and_gradients(*first_batch(trainer))


def first_update_of(trainer: training.Trainer) -> Result:
    """The loss and the gradients of the trainer's first update, which is made."""
    terms = trainer.step(0)
    # From zero moments Adam's first step leaves g in the first moment (divided by 1 − β₁).
    moment = backend.to_host(trainer.arrays["first_moment"])
    nll, regularizer = (float(backend.to_host(terms[name])) for name in ("nll", "regularizer"))
    return nll + trainer.regularization.alpha * regularizer, nn.unpack(moment, trainer.params)


def first_batch(trainer: training.Trainer) -> list[np.ndarray]:
    """What the trainer's first update sees, as the peers' objectives take it: images, labels and
    masks; images and masks of a second batch; for VAT the random directions."""
    rows = trainer.labelled.batches(0)
    x, masks = trainer.labelled(0, rows)
    batch = [x, trainer.labels[rows], *masks.values()]
    if trainer.unlabelled is not None:
        x, masks = trainer.unlabelled(0, trainer.unlabelled.batches(0))
        batch += [x, *masks.values()]
    if trainer.regularization.random_directions:
        batch.append(trainer.device.random(trainer.seed, "directions", 0).normal(x.shape, x.dtype))
    return [backend.to_host(array) for array in batch]


def differences(ours: Result, theirs: Result) -> tuple[float, float]:
    """How far their loss and gradients are from ours, relatively; the largest of all arrays'.

    A bias before batch norm has no influence and a gradient of zero but for rounding: its
    difference is divided by the norm of its weight's gradient.
    """
    norm = np.linalg.norm
    (loss, gradients), (other_loss, others) = ours, theirs
    return abs(other_loss / loss - 1), max(
        float(norm(others[name] - gradient) / norm(gradients[name.replace("bias", "weight")]))
        for name, gradient in gradients.items()
    )


def check(title: str, tasks: Tasks, tolerance: float) -> float:
    """Print how far the others' first updates are from the first one's; the largest of gradients.

    Raises RunFailed where a loss or a gradient differs by more than the tolerance.
    """
    results = {name: first_update(task) for name, task in tasks.items()}
    ours = results.pop(next(iter(tasks)))
    found = {name: differences(ours, theirs) for name, theirs in results.items()}
    rows = {name: [f"{value:.1e}" for value in pair] for name, pair in found.items()}
    print_table(f"{title}, relative to minivat's exact one", ("loss", "gradient"), rows)
    if not all(max(pair) < tolerance for pair in found.values()):
        raise runs.RunFailed(f"the losses or gradients differ by more than {tolerance:g}")
    return max(gradient for _, gradient in found.values())


# Time and memory ----------------------------------------------------------------------------------


def compare_times(
    title: str, tasks: Tasks, kinds: Mapping[str, str], rounds: int, prefix: str = ""
) -> dict[str, float]:
    """Print and compare the milliseconds of updates, and take the first task's apart."""
    steps = make_steps(tasks)
    found = summarized(interleaved(steps, rounds))
    title += f", {rounds} of each in turn"
    compared = compare(title, ("median", "fastest"), "ms", found, prefix)

    parts = time_parts(next(iter(steps.values())), kinds, rounds)
    whole = sum(parts.values())
    rows = {part: (f"{ms:.2f}", f"{100 * ms / whole:.0f} %") for part, ms in parts.items()}
    print_table("Where minivat's time goes, each operation timed", ("ms", "share"), rows)
    return compared


def make_steps(tasks: Tasks) -> dict[str, Step]:
    """An update of each task."""
    return {name: make_step(task) for name, task in tasks.items()}


def summarized(times: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """The median and the fastest of each."""
    return {name: (float(np.median(values)), min(values)) for name, values in times.items()}


def interleaved(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of `rounds` updates of each, in turn, every round beginning with another.

    Before a timed update come a pause, in which the other's threads fall asleep, and an untimed
    update, which fills the caches: it then runs as it would in training, where it is alone.
    """
    names = list(steps)
    for step in steps.values():
        step()
    gc.freeze()  # as lab/loop.py does before training; here for all
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


def compare_memory(
    title: str,
    memory: Callable[..., Sequence[float]],
    modules: Mapping[str, str],
    threads: int,
    prefix: str = "",
    **keywords: Any,
) -> dict[str, float]:
    """Print and compare `memory(name, module, **keywords)`, each in a process of its own."""
    found = {
        name: launcher.measured(memory, threads, name=name, module=module, **keywords)
        for name, module in modules.items()
    }
    return compare(title, ("peak", "before"), "MiB", found, f"{prefix}peak_memory_")


def peak_memory(task: Task, updates: int) -> tuple[float, float]:
    """The most MiB that this process has occupied, after so many updates and before the first."""
    step = make_step(task)
    before = machine.peak_memory_mib()
    for _ in range(updates):
        step()
    return machine.peak_memory_mib(), before


def compare(
    title: str, columns: Sequence[str], unit: str, found: Mapping[str, Sequence[float]], prefix: str
) -> dict[str, float]:
    """Print some numbers of each task, and the ratios of the first of them to those of the peers.

    For JSON: all first numbers, and the ratios of the first task's.
    """
    first = {name: values[0] for name, values in found.items()}
    others = {name: value for name, value in first.items() if not name.startswith("minivat")}
    rows = {
        name: [*map(_digits, values), *(f"{values[0] / o:.2f}" for o in others.values())]
        for name, values in found.items()
    }
    header = [f"{column}, {unit}" for column in columns] + [f"/ {name}" for name in others]
    print_table(title, header, rows)
    ours = next(iter(first.values()))
    return {
        **{f"{prefix}{name}_{unit.lower()}": value for name, value in first.items()},
        **{f"{prefix}ratio_to_{name}": ours / value for name, value in others.items()},
    }


def _digits(number: float) -> str:
    return f"{number:.1f}" if number >= 5 else f"{number:.3f}"


def time_parts(step: Step, kinds: Mapping[str, str], rounds: int) -> dict[str, float]:
    """Milliseconds an update of minivat by kind of work, in the mean; they add up to the whole.

    Every operation that computes on arrays is timed where the engine calls it. What remains is
    Python: recording, the walk back, the rules, the batch.
    kinds: of operations, by the beginning of their names; the first that fits.
    """
    seconds: dict[str, float] = defaultdict(float)

    def kind(operation: Primitive, *_: Any) -> str:
        return next(text for start, text in kinds.items() if operation.name.startswith(start))

    def timed(owner: type, name: str, part: Callable[..., str]) -> Any:
        function = getattr(owner, name)

        def call(*args: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **keywords)
            seconds[part(*args)] += time.perf_counter() - start
            return result

        return mock.patch.object(owner, name, call)

    with ExitStack() as patches:
        for owner, name, part in (
            (Primitive, "_computed", kind),
            (optim.Adam, "apply", lambda *_: "Adam"),
            (backend.RandomStream, "normal", lambda *_: "random directions"),
            (backend.RandomStream, "uniform", lambda *_: "dropout masks"),
        ):
            patches.enter_context(timed(owner, name, part))
        start = time.perf_counter()
        for _ in range(rounds):
            step()
        whole = time.perf_counter() - start
    parts = dict(sorted(seconds.items(), key=lambda item: -item[1]))
    parts["engine, gathering the gradient, batch"] = whole - sum(parts.values())
    return {part: 1e3 * total / rounds for part, total in parts.items()}
