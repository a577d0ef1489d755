"""Figure 4: R_vadv by the number K of power iterations.

The paper's text leaves open whether every K has a network of its own. Left: networks trained with
each K (0 is RPT), and their R_vadv at epsilon = 2 by one exact iteration, by the exact eigenvector
u1 with the sign that moves the output more, and, since the paper may mean that, by as many
iterations as each was trained with. Right: one network, trained with K = 1, and R_vadv with the
direction after each K. Half an iteration is ours; K = 8 is u1 for all that can be told, but for the
sign, which is the random direction's. With every network stands the median of lambda1/lambda2,
which the paper infers to be very large.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.images import Cifar10Semisup
from experiments.lab import figure
from experiments.lab.results import Run
from experiments.lab.runner import R_VADV_EPSILON
from experiments.lab.spec import Spec
from experiments.lab.sweep import FEW_EVALUATIONS, Result
from experiments.mnist import MnistSup
from minivat import backend, curvature, data, vat
from minivat.backend import to_host

ITERATIONS = (0, 0.5, 1, 2, 4, 8)
IMAGES, CHUNK = 1000, 100  # that are measured, and how many at once
EIGENVECTOR = "+-u1"  # with the sign that moves the output more


def point(k: float) -> str:
    """The name of the network that is trained with K."""
    return f"k{k:g}"


def points(rpt: Spec, trained: Spec, iterations: Sequence[float]) -> dict[str, Spec]:
    """The networks of every K; that of K = 0 is `rpt`."""
    of_k = {point(k): trained.replace(power_iterations=k) for k in iterations if k}
    return {point(0): rpt, **of_k}


def measure(runs: Mapping[str, Run], place: figure.Place) -> dict[str, dict[str, Any]]:
    """Of every network: R_vadv by the direction of each K and of u₁; the median λ₁/λ₂."""
    return {name: of_network(run, place.dataset, place.device) for name, run in runs.items()}


def of_network(run: Run, dataset: data.Dataset, device: backend.Device) -> dict[str, Any]:
    """The measure of one network, on held-out images."""
    network = run.network(dataset, device)
    images = run.spec.split(dataset).held_out[0][:IMAGES]
    sums = dict.fromkeys([*map(point, ITERATIONS), EIGENVECTOR], 0.0)
    ratios = []
    for start in range(0, len(images), CHUNK):
        x = device.asarray(images[start : start + CHUNK])
        random = device.random(0, "figure4", start)
        spectrum = curvature.spectrum(network, x, eigenvectors=1)
        ratios.append(to_host(spectrum.eigenvalues[:, 0] / spectrum.eigenvalues[:, 1]))
        logits = network(x)
        change = functools.partial(smoothness, network, x, logits)
        top = R_VADV_EPSILON * spectrum.eigenvectors[:, 0]
        found = {EIGENVECTOR: np.maximum(change(top), change(-top))}
        for k in ITERATIONS:
            d = random.normal(logits.shape if k == 0.5 else x.shape, x.dtype)
            r, _ = vat.virtual_adversarial_perturbation(
                network, x, d, R_VADV_EPSILON, vat.PowerIteration(k)
            )
            found[point(k)] = change(r)
        for name, of_images in found.items():
            sums[name] += float(to_host(np.sum(of_images)))
    return {
        "r_vadv": {name: total / len(images) for name, total in sums.items()},
        "lambda1_over_lambda2": float(np.nanmedian(np.concatenate(ratios))),
    }


def smoothness(network: vat.Model, x: Any, logits: Any, r: Any) -> Any:
    """The LDS of every image for perturbations of any dtype."""
    return vat.lds(network, x, r.astype(x.dtype), logits)


def draw(canvas: Any, found: Mapping[str, Sequence[Result]]) -> None:
    """Left: every network. Right: the one of K = 1, and of K = 0 beside it."""
    canvas.set_size_inches(10, 4)
    left, right = canvas.subplots(1, 2)
    trained = {k: found[point(k)] for k in ITERATIONS if point(k) in found}
    # Results from before u₁ had a sign do not hold it.
    every = (one["measured"] for each in trained.values() for one in each)
    with_u1 = all(EIGENVECTOR in measured["r_vadv"] for measured in every)
    _by_network(left, trained, with_u1)
    _by_direction(right, {k: trained[k] for k in (1, 0) if k in trained}, with_u1)
    ratios = {
        k: np.mean([one["measured"]["lambda1_over_lambda2"] for one in each])
        for k, each in trained.items()
    }
    below = {k: f"\n{ratio:.1f}" for k, ratio in ratios.items()}
    for axes in (left, right):
        axes.set(ylabel=rf"$R_{{vadv}}$ at $\epsilon$ = {R_VADV_EPSILON:g}", yscale="log")
        labels = [f"{k:g}{below.get(k, '') if axes is left else ''}" for k in ITERATIONS]
        axes.set_xticks(range(len(ITERATIONS)), labels)
        axes.margins(y=0.12)
        axes.grid(color="0.9", which="both")
        axes.legend(fontsize="small")


def _by_network(axes: Any, trained: Mapping[float, Sequence[Result]], with_u1: bool) -> None:
    """R_vadv of networks trained with each K: by one iteration, by their own K, by u₁."""
    from experiments.lab import plotting

    by: dict[str, Callable[[float], str]] = {
        "after one exact iteration": lambda k: point(1),
        "after the K of training": point,
    }
    if with_u1:
        by["u₁, the sign that moves more"] = lambda k: EIGENVECTOR
    for i, (label, direction) in enumerate(by.items()):
        line = {ITERATIONS.index(k): r_vadv(each, direction(k)) for k, each in trained.items()}
        plotting.spread(axes, line, label, plotting.SHADES[i], plotting.LINES[i])
    axes.set(xlabel="K of training; below it the median λ₁/λ₂")


def _by_direction(axes: Any, trained: Mapping[float, Sequence[Result]], with_u1: bool) -> None:
    """R_vadv of one network by the direction of each K; a line where u₁ is."""
    from experiments.lab import plotting

    for (k, each), colour in zip(trained.items(), plotting.SHADES, strict=False):
        line = {i: r_vadv(each, point(by)) for i, by in enumerate(ITERATIONS)}
        plotting.spread(axes, line, f"trained with K = {k}", colour, "-")
        if with_u1:
            limit = np.mean(r_vadv(each, EIGENVECTOR))
            axes.axhline(limit, color=colour, linestyle=":", label=f"K = {k}, by u₁")
    axes.set(xlabel="K of the direction")


def r_vadv(results: Sequence[Result], by: str) -> list[float]:
    """Of every seed, by a direction of the measurement."""
    return [one["measured"]["r_vadv"][by] for one in results]


MNIST = MnistSup(method="vat-exact", epsilon=2.0)
CIFAR10 = Cifar10Semisup(
    method="vat-exact", width=0.25, updates=8000, decay_updates=2500, holdout=10_000
)
FIGURES = (
    figure.Figure(
        "figure4",
        __doc__,
        "MNIST, all labels; epsilon 2, 60,000 updates.",
        points(MnistSup(method="rpt", epsilon=2.0), MNIST, ITERATIONS),
        draw,
        measure,
    ),
    figure.Figure(
        "figure4-cifar10",
        __doc__,
        "CIFAR-10, 4,000 labels, Conv-Small of a quarter of the width, 8,000 updates.",
        points(CIFAR10.replace(method="rpt"), CIFAR10, (0, 0.5, 1, 2, 4)),
        draw,
        measure,
        seeds=(1,),
        evaluations=FEW_EVALUATIONS,
    ),
)
