"""CIFAR-10 and SVHN: all labels (the paper's Table 2) and few of them (Tables 4 to 6).

The recipe is that of the authors' code: Adam at 0.001, whose learning rate falls linearly to 0 at
the end of the run while β₁ is 0.5 instead of 0.9; 32 labelled and 128 unlabelled images in an
update; the running statistics of batch norm re-estimated before the last evaluation. CIFAR-10 is
whitened (ZCA, fitted on the training images), SVHN is not.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.lab import spec
from experiments.lab.spec import COUNT, FROM_0, POSITIVE, YES_OR_NO, setting
from minivat import data, nn

NETWORKS = {"conv-small": nn.conv_small, "conv-large": nn.conv_large}
EPSILON = {"cifar10": {"no": 10.0, "yes": 8.0}, "svhn": {"no": 2.5, "yes": 3.5}}  # by augmentation
MAX_SHIFT = 2  # pixels, of augmentation


@dataclass(frozen=True, kw_only=True)
class Images(spec.Spec):
    """What the experiments on images share."""

    named = "{dataset}-{model}-{method}"
    shorten = "--width or --updates"
    direction = "finite-difference"
    usual = spec.Spec.usual | {
        **{"model": "conv-small", "width": 1.0, "augment": "no"},
        **{"learning_rate": 0.001, "beta1": 0.9, "beta1_of_decay": 0.5},
        # Ours: an hour's work is worth keeping, and a checkpoint costs part of a second.
        "checkpoint_every": 200,
    }
    decay_share: ClassVar[float]  # of the updates, in which the learning rate falls

    model: str | None = setting("the network", choices=tuple(NETWORKS))
    width: float | None = setting(
        "factor of the network's numbers of channels; below 1 it is faster", **POSITIVE
    )
    augment: str | None = setting(
        f"random translation by up to {MAX_SHIFT} pixels, of CIFAR-10 mirroring as well, of every "
        "batch",
        **YES_OR_NO,
    )
    decay_updates: int | None = setting(
        "the last N updates, in which the learning rate falls to 0 (default: a share of all)",
        **COUNT,
    )
    beta1: float | None = None
    beta1_of_decay: float | None = None

    def defaults(self) -> dict[str, Any]:
        return {
            **super().defaults(),
            "epsilon": EPSILON[self.dataset][self.augment],
            "decay_updates": max(1, round(self.decay_share * self.updates)),
        }

    def build(self) -> nn.Network:
        try:
            return NETWORKS[self.model](self.datasets[0], self.width)
        except ValueError as error:
            raise ValueError(f"--width {self.width:g}: {error}") from error

    def options(self) -> dict[str, Any]:
        augment = functools.partial(
            data.translate_and_flip, max_shift=MAX_SHIFT, flip=self.dataset == "cifar10"
        )
        start, first, last = self.decay_start, self.beta1, self.beta1_of_decay
        return {
            **super().options(),
            "beta1": lambda update: first if update < start else last,
            "augment": augment if self.augment == "yes" else None,
        }

    def parts_of_title(self) -> list[str]:
        width = "" if self.width == 1 else f" x {self.width:g}"
        augmented = ["augmented"] if self.augment == "yes" else []
        return [*super().parts_of_title(), self.model + width, *augmented]


@dataclass(frozen=True, kw_only=True)
class OnCifar10(spec.Spec):
    """What the experiments on CIFAR-10 share: whitening, and a test set that may be missing."""

    datasets = ("cifar10",)

    holdout: int | None = setting(
        "where the official test batch is missing: N training images, always the same, are the "
        "test set",
        **FROM_0,
    )
    zca_epsilon: float | None = None

    def defaults(self) -> dict[str, Any]:
        return {**super().defaults(), "holdout": 0, "zca_epsilon": data.whitening.EPSILON}

    def load(self, data_dir: str | None) -> data.Dataset:
        return data.whiten(data.load("cifar10", data_dir, self.holdout or 0))


@dataclass(frozen=True, kw_only=True)
class Cifar10Sup(OnCifar10, Images):
    """Supervised learning on CIFAR-10 (the paper's Table 2), one method.

    Every method trains Conv-Large with dropout; --method mle adds nothing to it. The paper's text
    names the network and no more: the rest is as in the semi-supervised experiments, or ours, such
    as 300 epochs of the 50,000 images and a learning rate that falls over the last third of them.
    Where the official test batch is missing, --holdout takes a test set out of the training images.
    """

    experiment = "cifar10-sup"
    methods = ("mle", "rpt", "vat-exact", "vat-finite-difference")
    titles: ClassVar[Mapping[str, str]] = {"mle": "dropout only"}
    usual = Images.usual | {
        **{"model": "conv-large", "augment": "yes", "updates": 150_000, "batch_size": 100},
    }
    decay_share = 1 / 3


@dataclass(frozen=True, kw_only=True)
class ImagesWithFewLabels(spec.FewLabels, Images):
    """What the experiments with few labels share."""

    named = Images.named + "-{labels}labels"
    titles: ClassVar[Mapping[str, str]] = {"mle": "labels alone"}
    usual = Images.usual | {"batch_size": 32, "unlabelled_batch_size": 128}

    def meaningless(self) -> dict[str, str]:
        unused = super().meaningless()
        return unused | ({"unlabelled_batch_size": "labels alone"} if self.method == "mle" else {})


@dataclass(frozen=True, kw_only=True)
class Cifar10Semisup(OnCifar10, ImagesWithFewLabels):
    """Semi-supervised learning on CIFAR-10 (Tables 4 to 6), one method.

    The labelled examples are drawn from the training images, the same number of each class, and all
    training images are the unlabelled ones, these included. --method mle trains on the labelled
    ones alone. Labelled examples and initial weights both follow from the seed. RPT's perturbations
    have VAT's size; the paper does not say which they had.
    Where the official test batch is missing, --holdout takes a test set out of the training images.
    """

    experiment = "cifar10-semisup"
    usual = ImagesWithFewLabels.usual | {"updates": 200_000, "labels": 4000}
    decay_share = 16_000 / 200_000


@dataclass(frozen=True, kw_only=True)
class SvhnSemisup(ImagesWithFewLabels):
    """Semi-supervised learning on SVHN (Tables 4 and 5), one method.

    The labelled examples are drawn from the training images, whatever their class, as in the
    authors' code, and all training images are the unlabelled ones, these included; the "extra"
    images are not used. --method mle trains on the labelled ones alone. Labelled examples and
    initial weights both follow from the seed. RPT's perturbations have VAT's size; the paper does
    not say which they had.
    """

    experiment = "svhn-semisup"
    datasets = ("svhn",)
    balanced = False
    usual = ImagesWithFewLabels.usual | {"updates": 48_000, "labels": 1000}
    decay_share = 16_000 / 48_000
