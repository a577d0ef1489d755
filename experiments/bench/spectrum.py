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
from typing import Any

import numpy as np

from experiments.bench import harness, launcher, peers
from experiments.bench.mlp import SETTINGS, SIZES
from experiments.lab import cli, runs
from minivat import backend, curvature, data, nn

TRAINING_IMAGES = 20_000
WARM_UP = 500
JACOBIAN_IMAGES = 1000  # that the fairer peer is timed on
# What is promised of float32. torch.func's Hessian in float64 is the truth, relative to λ₁.
TOLERANCE = 1e-4


def parser() -> cli.Parser:
    """The command line."""
    parser = harness.parser(
        "bench-curvature",
        __doc__,
        ("--images", 10_000, "test images; of fewer, the time is that of 10,000 at their rate"),
        ("--peer-images", 16, "images that torch.func is timed on; its time is scaled up likewise"),
        ("--updates", 200, "updates to train the network for before"),
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where MNIST's files are")
    return parser


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when minivat's eigenvalues agree with torch.func's, or there is no PyTorch."""
    args = parser().parse_args(argv)
    found = launcher.measured(
        times,
        args.threads,
        images=args.images,
        peer_images=args.peer_images,
        updates=args.updates,
        data_dir=args.data_dir,
    )
    if args.json:
        print(json.dumps(found))
    return 0


# The measurement, in a process of its own ---------------------------------------------------------


def times(
    images: int, peer_images: int, updates: int, data_dir: str | None
) -> dict[str, float | None]:
    """Train, time, compare, and print all that; what --json prints.

    Raises RunFailed where the eigenvalues differ by more than TOLERANCE.
    """
    train_images, labels, x = load(images, data_dir)
    network, params, state = train(train_images, labels, updates)

    def logits(x: Any) -> Any:
        return network(params, x, state, statistics="running")[0]

    seconds, found = timed(lambda x: curvature.spectrum(logits, x), x, WARM_UP)
    of_torch, truth = torch_rates(params, state, x, peer_images) or ({}, None)
    rates = {"minivat": (seconds, found.eigenvalues[:peer_images]), **of_torch}
    differences = {
        name: None if truth is None else difference(values, truth)
        for name, (_, values) in rates.items()
    }
    first = found.eigenvalues[:, 0]
    print(
        f"\nSpectra of {len(x)} images, all eigenvalues and u₁, float32; the network after "
        f"{updates} updates: λ₁ from {first.min():.1e} to {first.max():.1e}\n"
    )
    lines = [
        (
            name,
            f"{1e4 * rate:.1f}",
            f"{rate / seconds:.1f}",
            "" if differences[name] is None else f"{differences[name]:.1e}",
        )
        for name, (rate, _) in rates.items()
    ]
    print(cli.table(("", "s for 10,000", "/ minivat", "difference from float64"), lines))
    ours = differences["minivat"]
    if ours is not None and not ours <= TOLERANCE:
        raise runs.RunFailed(f"eigenvalues differ from torch.func's in float64 by {ours:.1e} λ₁")
    hessian = of_torch.get("torch.func, Hessian")
    return {
        "seconds_for_10000": 1e4 * seconds,
        "speedup_over_torch_func": hessian and hessian[0] / seconds,
        "max_relative_eigenvalue_difference": ours,
    }


def load(images: int, data_dir: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training images, their labels, and so many test images; random ones where MNIST is not."""
    try:
        mnist = data.mnist.load(data_dir)
    except data.Unavailable as failure:
        print(f"{failure}. Going on with random images.", file=sys.stderr)
        generator = backend.host_generator(SETTINGS.seed, "bench")
        pixels = generator.random((TRAINING_IMAGES + images, SIZES[0]), np.float32)
        labels = generator.integers(0, SIZES[-1], TRAINING_IMAGES)
        return pixels[:TRAINING_IMAGES], labels, pixels[TRAINING_IMAGES:]
    if images > len(mnist.test_images):
        raise runs.RunError(f"--images {images} is too many: MNIST has {len(mnist.test_images)}")
    some = slice(TRAINING_IMAGES)
    return mnist.train_images[some], mnist.train_labels[some], mnist.test_images[:images]


def train(
    images: np.ndarray, labels: np.ndarray, updates: int
) -> tuple[nn.Network, harness.Arrays, harness.Arrays]:
    """The network, its parameters, and its statistics, re-estimated at the end."""
    network = nn.mlp(SIZES)
    trainer = harness.make_trainer(network, images, labels, SETTINGS, "mle")
    for update in range(updates):
        trainer.step(update)
    trainer.reestimate_statistics()
    return network, trainer.params, trainer.state


def timed(compute: Callable[[Any], Any], x: Any, warm_up: int) -> tuple[float, Any]:
    """Seconds for each example, and the result; after a warm-up on the first few."""
    compute(x[:warm_up])
    start = time.perf_counter()
    result = compute(x)
    return (time.perf_counter() - start) / len(x), result


def torch_rates(
    params: harness.Arrays, state: harness.Arrays, x: np.ndarray, peer_images: int
) -> tuple[dict[str, tuple[float, np.ndarray]], np.ndarray] | None:
    """Of each of PyTorch's two ways, seconds an image and eigenvalues; and the true eigenvalues.

    None where PyTorch is not installed.
    """
    peer = peers.load("torch_func")
    if peer is None:
        return None
    import torch

    few, more = (torch.from_numpy(x[:count]) for count in (peer_images, JACOBIAN_IMAGES))
    network = peer.module(params, state)
    rates = {}
    for name, way, images in (
        ("torch.func, Hessian", peer.hessian_spectrum, few),
        ("torch.func, Jacobian", peer.jacobian_spectrum, more),
    ):
        seconds, (values, _) = timed(lambda x, way=way: way(network, x), images, 1)
        rates[name] = seconds, values[:peer_images].numpy()
    double = peer.module(*({n: a.astype(float) for n, a in d.items()} for d in (params, state)))
    return rates, peer.hessian_spectrum(double, few.double())[0].numpy()


def difference(values: np.ndarray, truth: np.ndarray) -> float:
    """The largest of all eigenvalues and images, relative to the image's λ₁."""
    return float(np.max(np.abs(values - truth) / truth[:, :1]))
