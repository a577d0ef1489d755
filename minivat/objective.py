"""The objective of training: the likelihood, the regularizer (eq. 8), the entropy (eq. 18)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from . import ops, vat
from .autodiff import stop_gradient
from .divergence import categorical
from .typing import Array, Divergence, HasEntropy, Model, RawArray, is_integer
from .vat import ONE_EXACT, PowerIteration

METHODS = ("mle", "rpt", "at-l2", "at-linf", "vat")
ADVERSARIAL = ("at-l2", "at-linf")
NONE = PowerIteration(0)


@dataclass(frozen=True)
class Regularization:
    """What is added to the negative log-likelihood, and how strongly.

    method: "mle" nothing; "rpt" R⁽⁰⁾ (random perturbations); "at-l2", "at-linf" adversarial
        training; "vat" R_vadv.
    epsilon: size of the perturbation (L2 norm; L∞ for at-linf), in the units of x.
    alpha: weight of the term, eq. 8.
    power_iteration: how r_vadv is found (vat).
    samples: perturbations averaged in an update (rpt, vat).
    entropy_weight: weight of the conditional entropy, eq. 18, whatever the method; the paper's
        VAT+EntMin has 1. 0: without it.
    Raises ValueError for values outside these.
    """

    method: str = "vat"
    epsilon: float = 2.1
    alpha: float = 1.0
    power_iteration: PowerIteration = ONE_EXACT
    samples: int = 1
    entropy_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {self.method!r}")
        for name in ("epsilon", "alpha"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not is_integer(self.samples) or self.samples < 1:
            raise ValueError(f"samples must be an integer from 1, got {self.samples}")
        if not 0 <= self.entropy_weight < np.inf:
            raise ValueError(f"entropy_weight must be 0 or more, got {self.entropy_weight}")

    @property
    def random_directions(self) -> int:
        """How many random directions an update needs."""
        return self.samples if self.method in ("rpt", "vat") else 0

    @property
    def half_iteration(self) -> bool:
        """Whether the random directions have the logits' shape (`vat.half_product`)."""
        return self.method == "vat" and self.power_iteration.iterations == 0.5

    @property
    def uses_unlabelled(self) -> bool:
        """Whether any term is one that needs no labels."""
        return self.method in ("rpt", "vat") or self.entropy_weight > 0

    def objective(
        self,
        model: Model,
        x: RawArray,
        labels: RawArray,
        directions: Sequence[RawArray],
        *,
        unlabelled: tuple[Model, RawArray] | None = None,
        constant: Model | None = None,
        consistency: tuple[float, Callable[[Array], Array]] | None = None,
        divergence: Divergence = categorical,
    ) -> tuple[Array, dict[str, Array]]:
        """NLL + alpha · R (eq. 8) + entropy_weight · H(Y|X) (eq. 18), and each of the terms.

        All are means over a batch: the NLL and adversarial training, which need labels, over
        (x, labels), the others over the inputs in `unlabelled`, with the model that sees them
        (its noise is another). None: over x as well, and all terms share one clean pass.
        directions: standard normal arrays of those inputs' shape (of the logits' shape for half
            an iteration), as many as `self.random_directions`.
        consistency: a weight, and a function of the clean pass's logits that it is the weight of;
            see `minivat.targets`.
        """
        term: Array | None
        if self.method in ADVERSARIAL:
            term, logits = self._adversarial_loss(model, x, labels, divergence)
            clean = logits if unlabelled is None else unlabelled[0](unlabelled[1])
        elif unlabelled is None:
            term, logits = self._regularizer(model, x, directions, divergence)
            clean = logits
        else:
            logits = model(x)
            shared = self.entropy_weight or consistency is not None
            term, clean = self._regularizer(
                *unlabelled, directions, divergence, None if shared else constant
            )
        nll = ops.mean(divergence.nll(logits, labels))
        total = nll
        terms: dict[str, Array] = {"nll": nll, "regularizer": np.zeros_like(stop_gradient(nll))}
        if term is not None:
            terms["regularizer"] = term
            total = total + self.alpha * term
        if self.entropy_weight:
            terms["entropy"] = vat.conditional_entropy(clean, self.with_entropy(divergence))
            total = total + self.entropy_weight * terms["entropy"]
        if consistency is not None:
            weight, distance = consistency
            terms["consistency"] = distance(clean)
            total = total + weight * terms["consistency"]
        return total, terms

    def with_entropy(self, divergence: Divergence) -> HasEntropy:
        """The divergence; ValueError if it has no method `entropy`, as the Gaussian one."""
        if not isinstance(divergence, HasEntropy):
            raise ValueError(
                "entropy_weight must be 0 for a divergence without a method entropy, "
                f"got {self.entropy_weight}"
            )
        return divergence

    def _adversarial_loss(
        self, model: Model, x: RawArray, labels: RawArray, divergence: Divergence
    ) -> tuple[Array, Array]:
        """The NLL at x + r_adv, and the logits of the clean pass."""
        norm = self.method.removeprefix("at-")
        r, logits = vat.adversarial_perturbation(
            model, x, labels, self.epsilon, norm=norm, divergence=divergence
        )
        return ops.mean(divergence.nll(model(x + r), labels)), logits

    def _regularizer(
        self,
        model: Model,
        x: RawArray,
        directions: Sequence[RawArray],
        divergence: Divergence,
        constant: Model | None = None,
    ) -> tuple[Array | None, Array]:
        """R⁽ᴷ⁾, None for mle, and the logits of the clean pass."""
        if self.method == "mle":
            return None, model(x)
        settings = NONE if self.method == "rpt" else self.power_iteration
        return vat.regularizer(
            model, x, directions, self.epsilon, settings, divergence=divergence, constant=constant
        )
