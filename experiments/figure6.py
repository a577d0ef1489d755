"""Figure 6: who is misled by whose virtual adversarial examples, by their size epsilon.

M_v is trained with VAT, M_0 without; Ex_v and Ex_0 are the examples of each: of the first 1,000
test images (200 of CIFAR-10, for the time that the maximiser takes), by four exact iterations and
the sign that moves the output more. The share that each network misidentifies, four curves; thin,
with the true maximiser of D on the ball (by projected ascent) in place of r_vadv. Below, one image
that both identify, by every other epsilon: "yes" where a network changes its mind, M_v first.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.images import Cifar10Semisup
from experiments.lab import figure, scene
from experiments.lab.results import Run
from experiments.lab.runs import RunError
from experiments.lab.sweep import FEW_EVALUATIONS, Result
from experiments.mnist import MnistSup
from minivat import backend, curvature, vat

EPSILONS = tuple(round(10 ** (exponent / 4), 4) for exponent in range(-8, 5))  # 0.01 to 10
STEPS = 16  # of the ascent
CHUNK = 100
NAMES = {"vat": "v", "mle": "0"}  # of networks and examples, by point
WAYS = ("r_vadv", "maximiser")


def measure(
    runs: Mapping[str, Run], place: figure.Place, images: int = scene.FEW
) -> dict[str, dict[str, Any]]:
    """For the examples of each network: the percentages that both misidentify, and pictures."""
    seen = scene.scene(runs["vat"], place.dataset, place.data_dir, images)
    networks = {name: run.network(place.dataset, backend.Device()) for name, run in runs.items()}
    by_network = {name: classes(network, seen.x) for name, network in networks.items()}
    right = np.all([found == seen.labels for found in by_network.values()], axis=0)
    if not right.any():
        raise RunError("no test image is identified by both networks")
    example = int(np.flatnonzero(right)[0])
    return {name: of_examples(networks, name, seen, example) for name in networks}


def of_examples(
    networks: Mapping[str, vat.Model], name: str, seen: scene.Scene, example: int
) -> dict[str, Any]:
    """The measure of one network's examples."""
    rates: dict[str, dict[str, list[float]]] = {way: {n: [] for n in networks} for way in WAYS}
    shown, changed = [], []
    for epsilon in EPSILONS:
        perturbed = attack(networks[name], seen.x, epsilon)
        for way, x in perturbed.items():
            for other, network in networks.items():
                rates[way][other].append(100 * float(np.mean(classes(network, x) != seen.labels)))
        one = perturbed["r_vadv"][[example]]
        shown.append(seen.pixels(one).reshape(seen.shape))
        misled = {n: bool(classes(f, one)[0] != seen.labels[example]) for n, f in networks.items()}
        changed.append(misled)
    pictures = scene.encoded(np.stack(shown))
    return {"epsilons": EPSILONS, "misidentified": rates, "pictures": pictures, "changed": changed}


def attack(network: vat.Model, x: np.ndarray, epsilon: float) -> dict[str, np.ndarray]:
    """x + r for r_vadv and for the true maximiser, which is sought from it."""
    found: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
    for start in range(0, len(x), CHUNK):
        chunk = x[start : start + CHUNK]
        r = scene.perturbation(network, chunk, epsilon)
        top = curvature.true_maximiser(network, chunk, epsilon, [r], steps=STEPS)
        found["r_vadv"].append(chunk + r)
        found["maximiser"].append(chunk + top.r)
    return {way: np.concatenate(parts) for way, parts in found.items()}


def classes(network: vat.Model, x: np.ndarray) -> np.ndarray:
    """What the network takes the images for."""
    parts = np.array_split(x, max(1, len(x) // CHUNK))
    return np.concatenate([network(part).argmax(axis=1) for part in parts])


def draw(canvas: Any, found: Mapping[str, Sequence[Result]]) -> None:
    """Graph A for the examples of the network with VAT, B for those without; below, one image."""

    canvas.set_size_inches(11, 6)
    above, below = canvas.subfigures(2, 1, height_ratios=[3, 1.6])
    graphs = above.subplots(1, 2, sharey=True)
    strips = below.subplots(2, len(EPSILONS[::2]), squeeze=False)
    for graph, strip, (point, each) in zip(graphs, strips, found.items(), strict=False):
        for other, colour in zip(NAMES, ("#0072b2", "#000000"), strict=True):
            for way, width, style in zip(WAYS, (1.8, 0.7), ("-", "--"), strict=True):
                values = [one["measured"]["misidentified"][way][other] for one in each]
                label = f"$M_{NAMES[other]}$" + ("" if way == "r_vadv" else ", true maximiser")
                mean = np.mean(values, axis=0)
                graph.plot(EPSILONS, mean, color=colour, lw=width, ls=style, label=label)
        graph.set(xscale="log", xlabel=r"$\epsilon$", title=f"examples of $M_{NAMES[point]}$")
        graph.grid(color="0.9", which="both")
        graph.legend(fontsize="small")
        one = each[0]["measured"]
        every = zip(
            strip,
            scene.decoded(one["pictures"])[::2],
            one["changed"][::2],
            EPSILONS[::2],
            strict=True,
        )
        for axis, picture, changed, epsilon in every:
            axis.imshow(picture, cmap="gray_r", vmin=0, vmax=255)
            verdict = ", ".join("yes" if changed[n] else "no" for n in NAMES)
            axis.set(xticks=[], yticks=[])
            axis.set_title(rf"$\epsilon$ = {epsilon:.2g}: {verdict}", fontsize=7, pad=2)
        strip[0].set_ylabel(f"$Ex_{NAMES[point]}$", rotation=0, ha="right", va="center")
    graphs[0].set_ylabel("misidentified (%)")


CIFAR10 = Cifar10Semisup(width=0.25, updates=8000, decay_updates=2500, holdout=10_000)
FIGURES = (
    figure.Figure(
        "figure6",
        __doc__,
        "MNIST, all labels, 60,000 updates.",
        {"vat": MnistSup(method="vat-exact"), "mle": MnistSup(method="mle")},
        draw,
        measure,
    ),
    figure.Figure(
        "figure6-cifar10",
        __doc__,
        "CIFAR-10, 4,000 labels, Conv-Small of a quarter of the width, 8,000 updates.",
        {"vat": CIFAR10.replace(method="vat-exact"), "mle": CIFAR10.replace(method="mle")},
        draw,
        functools.partial(measure, images=200),
        seeds=(1,),
        evaluations=FEW_EVALUATIONS,
    ),
)
