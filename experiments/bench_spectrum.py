"""The measurements of experiments/bench_curvature.py, which starts this file with its threads.

784-1200-600-300-150-10 with batch norm, running statistics, float32; trained for a moment, since p
and with it H are those of a real network only then.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments import common
from experiments.lab import runs
from experiments.mnist_sup import SIZES
from minivat import backend, curvature, data, nn, training

SEED = 1
TRAINING_IMAGES = 20_000
WARM_UP = 500
JACOBIAN_IMAGES = 1000  # that the fairer peer is timed on
# What is promised of float32. torch.func's Hessian in float64 is the truth, relative to λ₁.
TOLERANCE = 1e-4

Arrays = dict[str, np.ndarray]


def load(images: int, data_dir: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training images, their labels, and so many test images; random ones where MNIST is not."""
    try:
        mnist = data.mnist.load(data_dir)
    except data.Unavailable as failure:
        print(f"{failure}. Going on with random images.", file=sys.stderr)
        generator = backend.host_generator(SEED, "bench")
        pixels = generator.random((TRAINING_IMAGES + images, SIZES["mnist"][0]), np.float32)
        labels = generator.integers(0, SIZES["mnist"][-1], TRAINING_IMAGES)
        return pixels[:TRAINING_IMAGES], labels, pixels[TRAINING_IMAGES:]
    if images > len(mnist.test_images):
        raise runs.RunError(f"--images {images} is too many: MNIST has {len(mnist.test_images)}")
    some = slice(TRAINING_IMAGES)
    return mnist.train_images[some], mnist.train_labels[some], mnist.test_images[:images]


def train(
    images: np.ndarray, labels: np.ndarray, updates: int
) -> tuple[nn.Network, Arrays, Arrays]:
    """The network, its parameters, and its statistics, re-estimated at the end."""
    network = nn.mlp(SIZES["mnist"])
    trainer = training.Trainer(
        network,
        backend.select_device("cpu"),
        images,
        labels,
        regularization=training.Regularization("mle"),
        learning_rate=lambda update: 0.002,
        seed=SEED,
    )
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
    params: Arrays, state: Arrays, x: np.ndarray, peer_images: int
) -> tuple[dict[str, tuple[float, np.ndarray]], np.ndarray] | None:
    """Of each of PyTorch's two ways, seconds an image and eigenvalues; and the true eigenvalues.

    None, and a line saying so, where PyTorch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed (pip install torch): left out")
        return None
    import torch

    from experiments import peer_torch_func as peer

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


def measure(
    images: int, peer_images: int, updates: int, data_dir: str | None, as_json: bool
) -> None:
    """Train, time, compare, print. Raises RunFailed where they differ by more than TOLERANCE."""
    train_images, labels, x = load(images, data_dir)
    network, params, state = train(train_images, labels, updates)

    def logits(x: Any) -> Any:
        return network(params, x, state, statistics="running")[0]

    seconds, found = timed(lambda x: curvature.spectrum(logits, x), x, WARM_UP)
    peers, truth = torch_rates(params, state, x, peer_images) or ({}, None)
    rates = {"minivat": (seconds, found.eigenvalues[:peer_images]), **peers}
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
    header = ("", "s for 10,000", "/ minivat", "difference from float64")
    print(common.table(header, lines))
    ours = differences["minivat"]
    if ours is not None and not ours <= TOLERANCE:
        raise runs.RunFailed(f"eigenvalues differ from torch.func's in float64 by {ours:.1e} λ₁")
    if as_json:
        hessian = peers.get("torch.func, Hessian")
        print(
            json.dumps(
                {
                    "seconds_for_10000": 1e4 * seconds,
                    "speedup_over_torch_func": hessian and hessian[0] / seconds,
                    "max_relative_eigenvalue_difference": ours,
                }
            )
        )


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """`IMAGES PEER_IMAGES UPDATES [--data-dir DIR] [--json]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("images", "peer_images", "updates"):
        parser.add_argument(name, type=common.integer(1))
    parser.add_argument("--data-dir")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    measure(args.images, args.peer_images, args.updates, args.data_dir, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
