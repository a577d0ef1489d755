"""Figure 5: the error on CIFAR-10 with 4,000 labels by epsilon, and what epsilon does to images.

Conv-Small of a quarter of the width, 8,000 updates, tested on 10,000 training images, without
augmentation: a reduced scale. Beside the errors stand virtual adversarial examples of the networks
trained with too small an epsilon (1), with the best of these (2) and with too large a one (3), each
with an epsilon of its own, as in the paper.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.images import Cifar10Semisup
from experiments.lab import figure, scene
from experiments.lab.results import Run
from experiments.lab.sweep import FEW_EVALUATIONS, Result
from minivat import backend

EPSILONS = (1.0, 3.0, 10.0, 30.0)
EXAMPLES = 4  # images
POINTS = {
    f"epsilon{epsilon:g}": Cifar10Semisup(
        method="vat-exact",
        epsilon=epsilon,
        width=0.25,
        updates=8000,
        decay_updates=2500,
        holdout=10_000,
    )
    for epsilon in EPSILONS
}


def measure(runs: Mapping[str, Run], place: figure.Place) -> dict[str, dict[str, Any]]:
    """The first test images, and what each network is most sensitive to at its own epsilon."""
    any_run = next(iter(runs.values()))  # the test images are the same for all
    seen = scene.scene(any_run, place.dataset, place.data_dir, EXAMPLES)

    def examples(run: Run) -> dict[str, Any]:
        network = run.network(place.dataset, backend.Device())
        x = seen.x
        r = scene.perturbation(network, x, run.spec.epsilon)
        both = np.stack([x, x + r])
        pictures = seen.pixels(both.reshape(-1, *x.shape[1:])).reshape(2, EXAMPLES, *seen.shape)
        return {"clean and perturbed": scene.encoded(pictures)}

    return {point: examples(run) for point, run in runs.items()}


def draw(canvas: Any, found: Mapping[str, Sequence[Result]]) -> None:
    """Left the error by epsilon; right the examples of the three networks."""
    from experiments.lab import plotting

    canvas.set_size_inches(11, 4)
    left, right = canvas.subfigures(1, 2)
    axes = left.subplots()
    line = {
        each[0]["settings"]["epsilon"]: [one["test_error"] for one in each]
        for each in found.values()
    }
    plotting.spread(axes, line, "VAT, exact", plotting.colour("vat-exact"))
    axes.set(xlabel=r"$\epsilon$", ylabel="error on held-out images (%)", xscale="log")
    axes.grid(color="0.9", which="both")
    best = min(line, key=lambda epsilon: statistics.mean(line[epsilon]))
    chosen = list(dict.fromkeys((min(line), best, max(line))))
    for number, epsilon in enumerate(chosen, start=1):
        height = statistics.mean(line[epsilon])
        axes.annotate(f"({number})", (epsilon, height), (0, 8), textcoords="offset points")
    by_epsilon = {each[0]["settings"]["epsilon"]: each[0]["measured"] for each in found.values()}
    rows = right.subplots(1 + len(chosen), EXAMPLES, squeeze=False)
    pictures = [scene.decoded(by_epsilon[e]["clean and perturbed"]) for e in chosen]
    names = ["x", *(rf"({i}) $\epsilon$ = {e:g}" for i, e in enumerate(chosen, start=1))]
    for row, name, shown in zip(
        rows, names, [pictures[0][0], *(p[1] for p in pictures)], strict=True
    ):
        for axis, picture in zip(row, shown, strict=True):
            axis.imshow(picture, cmap="gray_r", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")


FIGURES = (
    figure.Figure(
        "figure5",
        __doc__,
        "CIFAR-10, 4,000 labels, Conv-Small of a quarter of the width, 8,000 updates.",
        POINTS,
        draw,
        measure,
        seeds=(1,),
        evaluations=FEW_EVALUATIONS,
    ),
)
