"""How long the exact spectra of 10,000 images take, compared with PyTorch's torch.func.

    python -m experiments bench-curvature [--json] [--threads 2]

Every eigenvalue and the first eigenvector of each image's H, for 784-1200-600-300-150-10 with batch
norm, running statistics, float32; trained for a moment, since p and with it H are those of a real
network only then.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments.bench import harness, launcher, peers
from experiments.bench.mlp import SIZES
from experiments.lab import cli, runs
from minivat import curvature, data, nn, training
from minivat.objective import Regularization

TRAINING_IMAGES, IMAGES = 20_000, 10_000
WARM_UP = 500  # images
HESSIAN_IMAGES, JACOBIAN_IMAGES = 16, 1000  # that the peers are timed on
# What is promised of float32. torch.func's Hessian in float64 is the truth, relative to λ₁.
TOLERANCE = 1e-4


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when minivat's eigenvalues agree with torch.func's, or there is no PyTorch."""
    counts = ("--updates", 200, "updates to train the network for before")
    parser = harness.parser("bench-curvature", __doc__, counts)
    parser.add_argument("--data-dir", metavar="DIR", help="where MNIST's files are")
    args = parser.parse_args(argv)
    torch = bool(peers.installed({"torch": "torch_func"}))
    found = launcher.measured(
        times, args.threads, torch=torch, updates=args.updates, data_dir=args.data_dir
    )
    if args.json:
        print(json.dumps(found))
    return 0


def times(torch: bool, updates: int, data_dir: str | None) -> dict[str, float]:
    """Train, time, compare, and print all that; what --json prints.

    Raises RunFailed where the eigenvalues differ by more than TOLERANCE.
    """
    *training_set, x = load(data_dir)
    trainer = train(*training_set, updates)

    def spectrum(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        model = partial(trainer.network, trainer.params, state=trainer.state, statistics="running")
        found = curvature.spectrum(lambda x: model(x)[0], x)
        return found.eigenvalues, found.eigenvectors

    measured = {"minivat": timed(spectrum, x)}
    seconds, values = measured["minivat"]
    found = {"seconds_for_10000": 1e4 * seconds}
    truth = np.full_like(values, np.nan)  # where there is no PyTorch
    if torch:
        peer = peers.load("torch_func")
        model = partial(peer.model, trainer.params, trainer.state)
        few, more = x[:HESSIAN_IMAGES], x[:JACOBIAN_IMAGES]
        measured["torch.func, Hessian"] = timed(partial(peer.hessian_spectrum, model()), few)
        measured["torch.func, Jacobian"] = timed(partial(peer.jacobian_spectrum, model()), more)
        truth, _ = peer.hessian_spectrum(model(np.float64), few.astype(np.float64))
        found["speedup_over_torch_func"] = measured["torch.func, Hessian"][0] / seconds
        found["max_relative_eigenvalue_difference"] = difference(values, truth)
    rows = {
        name: [f"{1e4 * rate:.1f}", f"{rate / seconds:.1f}", f"{difference(values, truth):.1e}"]
        for name, (rate, values) in measured.items()
    }
    title = (
        f"Spectra of {len(x)} images, all eigenvalues and u₁, float32; the network after {updates} "
        f"updates: λ₁ from {values[:, 0].min():.1e} to {values[:, 0].max():.1e}"
    )
    harness.print_table(title, ("s for 10,000", "/ minivat", "difference from float64"), rows)
    worst = found.get("max_relative_eigenvalue_difference", 0.0)
    if not worst <= TOLERANCE:
        raise runs.RunFailed(f"eigenvalues differ from torch.func's in float64 by {worst:.1e} λ₁")
    return found


def load(data_dir: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training images, their labels, and test images; random ones where MNIST is not."""
    try:
        mnist = data.mnist.load(data_dir)
    except data.Unavailable as failure:
        print(f"{failure}. Going on with random images.", file=sys.stderr)
        pixels, labels = harness.random_data(TRAINING_IMAGES + IMAGES, SIZES[:1], SIZES[-1])
        return pixels[:TRAINING_IMAGES], labels[:TRAINING_IMAGES], pixels[TRAINING_IMAGES:]
    some = slice(TRAINING_IMAGES)
    return mnist.train_images[some], mnist.train_labels[some], mnist.test_images[:IMAGES]


def train(images: np.ndarray, labels: np.ndarray, updates: int) -> training.Trainer:
    """A trained network, its statistics re-estimated at the end."""
    task = harness.Task("minivat", nn.mlp(SIZES), images, labels, Regularization("mle"))
    trainer = task.trainer()
    for update in range(updates):
        trainer.step(update)
    trainer.reestimate_statistics()
    return trainer


def timed(compute: Callable[[Any], Any], x: np.ndarray) -> tuple[float, np.ndarray]:
    """Seconds for each example, and the eigenvalues; after a warm-up on the first few."""
    compute(x[:WARM_UP])
    start = time.perf_counter()
    values, _ = compute(x)
    return (time.perf_counter() - start) / len(x), values


def difference(values: np.ndarray, truth: np.ndarray) -> float:
    """The largest of all eigenvalues and of truth's images, relative to the image's λ₁."""
    return float(np.max(np.abs(values[: len(truth)] - truth) / truth[:, :1]))
