"""How long what people run takes, compared with PyTorch: methods, evaluation, the estimator.

    python -m experiments bench-updates [--json] [--threads 2] [--rounds 20]

Updates of the MNIST network, batch 100 where no other is named, float32, Adam included; evaluation
of 10,000 images; `VATClassifier.fit` on scikit-learn's digits, 100 of them with their class; and
one recorded operation on four numbers. Both compute the same gradients, which is checked first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import minivat
from experiments.bench import harness, launcher, mlp, peers
from experiments.lab import cli, machine
from minivat import data, nn, ops
from minivat.objective import Regularization
from minivat.vat import PowerIteration

MODULES = {"minivat": "minivat", "torch": "torch"}
Update = tuple[Regularization, dict[str, int]]  # and the batch sizes
UPDATES: dict[str, Update] = {
    "MLE": (Regularization("mle"), {}),
    "adversarial, L2": (Regularization("at-l2"), {}),
    "VAT, K = 1": (Regularization(), {}),
    "VAT, K = 2": (Regularization(power_iteration=PowerIteration(2)), {}),
    "VAT, K = 4": (Regularization(power_iteration=PowerIteration(4)), {}),
    "VAT, 64 + 256": (Regularization(), {"batch_size": 64, "unlabelled_batch_size": 256}),
}
# In float64 the peer's finite differences are off by ξ times a third derivative, at every K.
TOLERANCE = 1e-4
EVALUATED = 10_000
LABELLED, ITERATIONS = 100, 300  # of the estimator
OPERATIONS = 500


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when PyTorch, where it is present, gave the same gradients."""
    parser = harness.parser("bench-updates", __doc__, ("--rounds", 20, "timed runs of each"))
    args = parser.parse_args(argv)
    modules = peers.installed(MODULES)
    found = launcher.measured(times, args.threads, modules=modules, rounds=args.rounds)
    if args.json:
        print(json.dumps(found))
    return 0


def times(modules: Mapping[str, str], rounds: int) -> dict[str, float]:
    """Check and time everything, and print it; what --json prints of it."""
    print(machine.benchmarked())
    found: dict[str, float] = {}
    for name, update in UPDATES.items():
        if "torch" in modules:
            harness.check(name, tasks(modules, update, 1000, np.float64), TOLERANCE)
        found |= compared(name, harness.make_steps(tasks(modules, update, 10_000)), rounds)
    few = max(1, rounds // 5)
    found |= compared(f"Evaluation of {EVALUATED:,} images", evaluations(modules), few)
    found |= compared("VATClassifier.fit on digits", fits(modules), few)
    found |= compared(f"{OPERATIONS} operations, recorded", operations(modules), rounds)
    return found


def tasks(
    modules: Mapping[str, str], update: Update, images: int, dtype: Any = np.float32
) -> harness.Tasks:
    """Updates on so many random images."""
    regularization, sizes = update
    random = harness.random_data(images, mlp.SIZES[:1], mlp.SIZES[-1], dtype)
    return {
        name: harness.Task(module, nn.mlp(mlp.SIZES), *random, regularization, **sizes)
        for name, module in modules.items()
    }


def evaluations(modules: Mapping[str, str]) -> dict[str, harness.Step]:
    """The error on random images."""
    found: dict[str, harness.Step] = {}
    for name, task in tasks(modules, UPDATES["MLE"], EVALUATED).items():
        owner = task.trainer() if task.module == "minivat" else task.peer()
        found[name] = lambda owner=owner, task=task: owner.error(task.images, task.labels)
    return found


def fits(modules: Mapping[str, str]) -> dict[str, harness.Step]:
    """The estimator's training, and the peer's of the same network on the same batches."""
    from minivat.sklearn import VATClassifier

    digits = data.digits.load()
    x, y = digits.train_images, digits.train_labels
    some = np.where(np.arange(len(y)) < LABELLED, y, -1)

    def ours() -> Any:
        return VATClassifier(max_iter=ITERATIONS, random_state=0).fit(x, some)

    model = ours()
    width = model.hidden_layer_sizes
    network = nn.mlp([x.shape[1], *width, 10], batch_norm=False)
    regularization = model._regularization(x.shape[1], 0.0)

    def theirs(module: str) -> None:
        sizes = {"batch_size": model.batch_size, "unlabelled_batch_size": 256}
        task = harness.Task(module, network, x, y, regularization, model.learning_rate, **sizes)
        step = harness.make_step(task)
        for _ in range(ITERATIONS):
            step()

    return {
        name: ours if module == "minivat" else lambda module=module: theirs(module)
        for name, module in modules.items()
    }


def operations(modules: Mapping[str, str]) -> dict[str, harness.Step]:
    """A product of four numbers with as many constants, again and again, and the derivative."""
    x, factors = np.linspace(0.9, 1.1, 4), np.linspace(1.01, 0.99, 4)

    def chain(x: Any) -> Any:
        for _ in range(OPERATIONS):
            x = ops.multiply(x, factors)
        return ops.sum(x)

    found: dict[str, harness.Step] = {"minivat": lambda: minivat.value_and_grad(chain)(x)}
    if "torch" in modules:
        found["torch"] = peers.load("torch").multiplied(x, factors, OPERATIONS)
    return found


def compared(title: str, steps: Mapping[str, harness.Step], rounds: int) -> dict[str, float]:
    """Print and compare the milliseconds of each."""
    found = harness.summarized(harness.interleaved(steps, rounds))
    prefix = "".join(c if c.isalnum() else "_" for c in title.lower()) + "_"
    return harness.compare(title, ("median", "fastest"), "ms", found, prefix)
