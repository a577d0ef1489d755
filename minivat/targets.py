"""Targets for predictions of unlabelled inputs: the methods that people compare VAT with.

Each asks the prediction p = softmax(logits) of an unlabelled input to be near a target, and they
differ in where the target is from:

    pseudo-labels         the prediction itself, made a label     Lee, 2013, ICML workshop
    Π-model               another pass with noise of its own      Laine and Aila, arXiv 1610.02242
    temporal ensembling   the average of the epochs before        the same
    mean teacher          a network with averaged weights         Tarvainen and Valpola, 1703.01780

What is added to the likelihood is the mean distance times alpha, which grows to its full size over
the first updates. The distance is the squared difference, averaged over the classes as well, and
for pseudo-labels the cross-entropy. The default alphas are the papers': where these divide it by
the ratio of all examples to the labelled ones, they divide the likelihood by it, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp
from typing import NamedTuple

import numpy as np

from . import ops
from .autodiff import stop_gradient
from .nn import unpack
from .parallel import in_chunks
from .typing import Array, Arrays, RawArray, RawArrays, is_integer

Predictor = tuple[RawArrays, RawArrays]  # parameters and running statistics, by name


class Batch(NamedTuple):
    """What a target may be made of, besides the logits of an update's unlabelled batch.

    rows: which of the unlabelled examples these are, (N,). parts: slices of the batch, each of one
        epoch, so that none has an example twice.
    params: the network's parameters.
    another_pass: parameters ↦ logits (N, C) of the same examples, with augmentation, masks and
        noise drawn anew.
    """

    rows: RawArray
    parts: Sequence[slice]
    params: Arrays
    another_pass: Callable[[Arrays], Array]


@dataclass(frozen=True)
class Targets(ABC):
    """A method: its term of the objective, and what it remembers from update to update.

    alpha: weight of the term, positive. ramp_up: updates in which it grows to that, from 0.
    What is remembered lies among the trainer's arrays, so that a checkpoint holds it.
    Raises ValueError for values outside these.
    """

    alpha: float
    ramp_up: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.alpha < np.inf:
            raise ValueError(f"alpha must be positive, got {self.alpha}")
        if not is_integer(self.ramp_up) or self.ramp_up < 0:
            raise ValueError(f"ramp_up must be an integer from 0, got {self.ramp_up}")
        for name in ("decay", "decay_of_ramp_up"):
            if not 0 <= getattr(self, name, 0.0) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")

    def weight(self, update: int) -> float:
        """alpha · exp(−5 (1 − t)²), t the share of the ramp-up that is over; the update from 0.

        Laine and Aila's, section 2.3; Tarvainen and Valpola's too. Lee's grows linearly.
        """
        left = 1 - update / self.ramp_up if update < self.ramp_up else 0.0
        return self.alpha * exp(-5 * left**2)

    def init(self, network: RawArrays, examples: int, outputs: int) -> RawArrays:
        """What is remembered, before the first update, by name.

        network: the flat parameters, "params", and the running statistics. examples: how many
            unlabelled ones there are. outputs: C.
        """
        return {}

    @abstractmethod
    def loss(self, logits: Array, batch: Batch, arrays: RawArrays) -> Array:
        """The mean distance of the predictions, by logits (N, C), from their targets: a scalar.

        arrays: the trainer's, what `init` returned among them.
        """

    def remember(  # noqa: B027  most remember nothing
        self, logits: RawArray, batch: Batch, arrays: RawArrays, update: int
    ) -> None:
        """Change what is remembered, in place, at the end of an update.

        logits: of the pass that `loss` was given. arrays: the trainer's, after the update.
        """

    def predictor(self, params: RawArrays, state: RawArrays, arrays: RawArrays) -> Predictor:
        """The network that is evaluated, given the one that is trained."""
        return params, state


@dataclass(frozen=True)
class PseudoLabels(Targets):
    """The target is the likeliest class, by the same pass; Lee, eq. 15 with α_f = 3."""

    alpha: float = 3.0

    def loss(self, logits: Array, batch: Batch, arrays: RawArrays) -> Array:
        labels: RawArray = np.argmax(stop_gradient(logits), axis=-1)
        return ops.mean(ops.cross_entropy(logits, labels))


@dataclass(frozen=True)
class PiModel(Targets):
    """The target is the prediction of another pass; Laine and Aila, algorithm 1 with w_max = 100.

    Both passes are trained, as in theirs: it is the only target that is no constant.
    """

    alpha: float = 100.0

    def loss(self, logits: Array, batch: Batch, arrays: RawArrays) -> Array:
        return _squared(logits, ops.softmax(batch.another_pass(batch.params)))


@dataclass(frozen=True)
class TemporalEnsembling(Targets):
    """The target is the average of an example's predictions in the epochs before.

    Laine and Aila, algorithm 2 with w_max = 30: Z ← decay Z + (1 − decay) p whenever an example was
    in a batch, and the target is Z / (1 − decayᵗ) after t of them. The divisor is the sum of Z, as
    that of p is 1. An example's first prediction has no target.
    """

    alpha: float = 30.0
    decay: float = 0.6

    def init(self, network: RawArrays, examples: int, outputs: int) -> RawArrays:
        return {"ensemble": np.zeros_like(network["params"], shape=(examples, outputs))}

    def loss(self, logits: Array, batch: Batch, arrays: RawArrays) -> Array:
        ensemble = arrays["ensemble"][batch.rows]
        total = np.sum(ensemble, axis=1, keepdims=True)
        known = total > 0
        # Its own target: the distance and its gradient are 0.
        own = ops.softmax(stop_gradient(logits))
        return _squared(logits, np.where(known, ensemble / np.where(known, total, 1.0), own))

    def remember(self, logits: RawArray, batch: Batch, arrays: RawArrays, update: int) -> None:
        ensemble, p = arrays["ensemble"], ops.softmax(logits)
        for part in batch.parts:  # CuPy's assignment to a row that is named twice is undefined
            rows = batch.rows[part]
            ensemble[rows] = self.decay * ensemble[rows] + (1 - self.decay) * p[part]


@dataclass(frozen=True)
class MeanTeacher(Targets):
    """The target is the prediction of the teacher, with noise of its own; it is a constant.

    The teacher's weights are the averages θ' ← decay θ' + (1 − decay) θ of the network's, with the
    decay 0.99 in the ramp-up and 0.999 after it (Tarvainen and Valpola, section 3), but in update t
    at most 1 − 1/t, the plain average, as in their PyTorch code. Its running statistics are
    averaged in the same way, which is our choice. The teacher is what is evaluated.
    """

    alpha: float = 100.0
    decay: float = 0.999
    decay_of_ramp_up: float = 0.99

    def init(self, network: RawArrays, examples: int, outputs: int) -> RawArrays:
        return {f"teacher.{name}": array.copy() for name, array in network.items()}

    def loss(self, logits: Array, batch: Batch, arrays: RawArrays) -> Array:
        teacher = unpack(arrays["teacher.params"], batch.params)
        return _squared(logits, ops.softmax(batch.another_pass(teacher)))

    def remember(self, logits: RawArray, batch: Batch, arrays: RawArrays, update: int) -> None:
        decay = self.decay_of_ramp_up if update < self.ramp_up else self.decay
        decay = min(decay, update / (update + 1))

        def average(mean: RawArray, new: RawArray, scratch: RawArray) -> None:
            np.subtract(new, mean, out=scratch)
            scratch *= 1 - decay
            mean += scratch

        for name, mean in arrays.items():
            if name.startswith("teacher."):
                in_chunks(average, mean, arrays[name.removeprefix("teacher.")])

    def predictor(self, params: RawArrays, state: RawArrays, arrays: RawArrays) -> Predictor:
        averaged = {name: arrays[f"teacher.{name}"] for name in state}
        return unpack(arrays["teacher.params"], params), averaged


def _squared(logits: Array, target: Array) -> Array:
    """The mean of (softmax(logits) − target)² over examples and classes."""
    difference = ops.softmax(logits) - target
    return ops.mean(difference * difference)


METHODS: dict[str, type[Targets]] = {
    "pseudo-labels": PseudoLabels,
    "pi-model": PiModel,
    "temporal-ensembling": TemporalEnsembling,
    "mean-teacher": MeanTeacher,
}
