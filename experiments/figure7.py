"""Figure 7: the normalized SD norm (eq. 21) of the gradients of R0 (RPT) and R1 (VAT) in training.

Both are measured on the same network, which VAT trains, after more and more updates: a run's first
updates do not depend on its length, so shorter runs are its earlier stages. Each estimate is from
40 minibatches with random directions of their own, of 100 images on MNIST and 128 on CIFAR-10, with
batch statistics as in training; its standard error is the jackknife's. VAT's direction is the exact
one and, as in the paper, that of the finite difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.images import Cifar10Semisup
from experiments.lab import figure
from experiments.lab.results import Run
from experiments.lab.spec import Spec
from experiments.lab.sweep import FEW_EVALUATIONS, Result
from experiments.mnist import MnistSup
from minivat import backend, value_and_grad, vat
from minivat.training import Trainer
from minivat.variance import SDNorm, normalized_sd_norm

DRAWS = 40
STAGES = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 60_000)  # updates
REGULARIZERS = {
    "rpt": vat.PowerIteration(0),
    "vat-exact": vat.PowerIteration(1),
    "vat-finite-difference": vat.PowerIteration(1, "finite-difference"),
}
TITLES = {
    "rpt": "R⁽⁰⁾",
    "vat-exact": "R⁽¹⁾, exact",
    "vat-finite-difference": "R⁽¹⁾, finite difference",
}


def sd_norm(
    trainer: Trainer, epsilon: float, settings: vat.PowerIteration, size: int, seed: int
) -> SDNorm:
    """Eq. 21 for R⁽ᴷ⁾ of the trainer's network, over minibatches of its (unlabelled) images."""
    source = trainer.unlabelled or trainer.labelled
    device, images = trainer.device, source.images

    def gradient(draw: int) -> Any:
        chosen = backend.host_generator(seed, "figure7", draw).choice(len(images), size, False)
        x = images[device.asarray(chosen)]
        random = device.random(seed, "figure7", draw)
        d = random.normal(x.shape, x.dtype)
        noise = trainer.network.draw_noise(random, size, x.dtype)

        def regularizer(params: Any) -> Any:
            model = lambda x: trainer.network(params, x, trainer.state, noise=noise)[0]  # noqa: E731
            return vat.regularizer(model, x, [d], epsilon, settings)[0]

        of_params = value_and_grad(regularizer)(trainer.params)[1]
        return np.concatenate([np.ravel(each) for each in of_params.values()])

    return normalized_sd_norm(np.stack([gradient(draw) for draw in range(DRAWS)]))


def measure(runs: Mapping[str, Run], place: figure.Place) -> dict[str, dict[str, Any]]:
    """At every stage, for each regularizer: the estimate and its standard error, None where the
    mean of the draws cannot be told from their noise."""

    def stage(run: Run) -> dict[str, Any]:
        trainer, spec = run.trainer(place.dataset, place.device), run.spec
        size = getattr(spec, "unlabelled_batch_size", None) or spec.batch_size
        found = {
            name: sd_norm(trainer, spec.epsilon, settings, size, spec.seed)
            for name, settings in REGULARIZERS.items()
        }
        return {
            name: [number if np.isfinite(number) else None for number in each]
            for name, each in found.items()
        }

    return {name: stage(run) for name, run in runs.items()}


def draw(canvas: Any, found: Mapping[str, Sequence[Result]]) -> None:
    """A line for each regularizer, with the standard error of every estimate."""
    from experiments.lab import plotting

    canvas.set_size_inches(6.5, 4)
    axes = canvas.subplots()
    for name, title in TITLES.items():
        for i, stages in enumerate(zip(*found.values(), strict=True)):  # one seed after another
            updates = [each["settings"]["updates"] for each in stages]
            measured = np.array([each["measured"][name] for each in stages], float)  # None: NaN
            values, errors = measured.T
            axes.errorbar(
                updates,
                values,
                errors,
                color=plotting.colour(name),
                marker=".",
                capsize=2,
                label=None if i else title,
            )
    axes.set(xlabel="update", ylabel="normalized SD norm (eq. 21)", xscale="log", ylim=(0, None))
    axes.grid(color="0.9", which="both")
    axes.legend(fontsize="small")


def stages(spec: Spec, updates: Sequence[int]) -> dict[str, Spec]:
    """The runs that stop after so many updates."""
    return {f"{n:05}": spec.replace(updates=n) for n in updates}


FIGURES = (
    figure.Figure(
        "figure7",
        __doc__,
        "MNIST, all labels; epsilon 2.1, 60,000 updates.",
        stages(MnistSup(method="vat-exact"), STAGES),
        draw,
        measure,
        seeds=(1,),
    ),
    figure.Figure(
        "figure7-cifar10",
        __doc__,
        "CIFAR-10, 4,000 labels, Conv-Small of a quarter of the width; epsilon 10, the full rate.",
        stages(
            Cifar10Semisup(method="vat-exact", width=0.25, decay_updates=1, holdout=10_000),
            STAGES[:6],
        ),
        draw,
        measure,
        seeds=(1,),
        evaluations=FEW_EVALUATIONS,
    ),
)
