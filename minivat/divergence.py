"""Output distributions given by their logits: divergences D[p, q] with their F, likelihoods.

F is the second derivative of D[p, q] with respect to q's logits at q = p. At r = 0 the first
derivative vanishes, so the Hessian of D with respect to the input is exactly H = Jᵀ F J with
J = ∂logits/∂x (eq. 9). `root` is a square root R of it, F = R Rᵀ, so that H = (RᵀJ)ᵀ(RᵀJ).
Values are 0 or more up to rounding. An outcome that p rules out by an infinite logit adds nothing:
0 · log 0 = 0.

Each also defines its targets: `nll` is −log p(target|x), and `check_labels` checks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import sqrt

import numpy as np

from . import ops
from .typing import Array, RawArray


@dataclass(frozen=True)
class Categorical:
    """KL[p‖q] of categorical distributions p = softmax(p_logits), q = softmax(q_logits); eq. 17."""

    def __call__(self, p_logits: Array, q_logits: Array) -> Array:
        """KL per example, shape (N,), from logits (N, C); finite where their differences are."""
        return ops.kl(p_logits, q_logits)

    def fisher(self, p_logits: Array, t: Array) -> Array:
        """(diag p − p pᵀ) t, shape (N, C).

        A constant added to t changes nothing. With t zero for the likeliest class, nothing
        large cancels, however close to 1 its probability is.
        """
        top = np.argmax(ops.stop_gradient(p_logits), axis=-1)[..., None]
        t = t - ops.take_along_axis(t, top, axis=-1)
        p = ops.softmax(p_logits)
        pt = p * t
        return pt - p * ops.sum(pt, axis=-1, keepdims=True)

    def root(self, p_logits: Array, t: Array) -> Array:
        """(diag √p − p √pᵀ) t, shape (N, C)."""
        # For the likeliest class s − p Σs = s (1 − p) − p Σ's, Σ' over the others, where 1 − p is
        # the sum of the others' p: nothing cancels, however close to 1 its own is.
        p = ops.softmax(p_logits)
        s = ops.sqrt(p) * t
        top = np.argmax(ops.stop_gradient(p_logits), axis=-1)[..., None]
        is_top = np.arange(p.shape[-1], like=top) == top
        is_other = (~is_top).astype(p.dtype)
        rest = ops.sum(is_other * p, axis=-1, keepdims=True)
        s_rest = ops.sum(is_other * s, axis=-1, keepdims=True)
        return ops.where(is_top, s * rest - p * s_rest, s - p * ops.sum(s, axis=-1, keepdims=True))

    def nll(self, logits: Array, labels: RawArray) -> Array:
        """−log p(label|x) per example, shape (N,), from logits (N, C) and integers (N,)."""
        return ops.cross_entropy(logits, labels)

    def entropy(self, logits: Array) -> Array:
        """−Σ p log p per example, shape (N,), from logits (N, C); finite where differences are."""
        log_p = ops.log_softmax(logits)
        log_p = _unless_ruled_out(log_p, log_p)
        return -ops.sum(ops.exp(log_p) * log_p, axis=-1)

    def check_labels(self, labels: RawArray, count: int, outputs: int) -> None:
        """ValueError unless labels are `count` integers in [0, outputs)."""
        _check_classes(labels, count, outputs)


@dataclass(frozen=True)
class Bernoulli:
    """KL[p‖q] of independent Bernoulli distributions, one logit each; the paper's figure 1."""

    def __call__(self, p_logits: Array, q_logits: Array) -> Array:
        """KL per example, shape (N,), from logits (N, 1) (or (N, C): summed over C)."""
        p, not_p = ops.sigmoid(p_logits), ops.sigmoid(-p_logits)
        unless_no = partial(_unless_ruled_out, p_logits)
        unless_yes = partial(_unless_ruled_out, -ops.stop_gradient(p_logits))
        # log sigmoid(z) = −softplus(−z)
        true = p * (ops.softplus(-unless_no(q_logits)) - ops.softplus(-unless_no(p_logits)))
        false = not_p * (ops.softplus(unless_yes(q_logits)) - ops.softplus(unless_yes(p_logits)))
        return ops.sum(true + false, axis=-1)

    def fisher(self, p_logits: Array, t: Array) -> Array:
        """p (1 − p) t, shape (N, C)."""
        return ops.sigmoid(p_logits) * ops.sigmoid(-p_logits) * t

    def root(self, p_logits: Array, t: Array) -> Array:
        """√(p (1 − p)) t, shape (N, C)."""
        return ops.sqrt(ops.sigmoid(p_logits) * ops.sigmoid(-p_logits)) * t

    def nll(self, logits: Array, labels: RawArray) -> Array:
        """−log p(label|x) per example, shape (N,), from logits (N, C) and labels 0 or 1.

        Labels have the shape of the logits, or (N,) for a single logit.
        """
        sign = 1 - 2 * labels.reshape(logits.shape).astype(logits.dtype)
        return ops.sum(ops.softplus(sign * logits), axis=-1)

    def entropy(self, logits: Array) -> Array:
        """−p log p − (1 − p) log(1 − p) per example, shape (N,), from logits (N, C)."""
        unless_no = partial(_unless_ruled_out, logits)
        unless_yes = partial(_unless_ruled_out, -ops.stop_gradient(logits))
        true = ops.sigmoid(logits) * ops.softplus(-unless_no(logits))
        false = ops.sigmoid(-logits) * ops.softplus(unless_yes(logits))
        return ops.sum(true + false, axis=-1)

    def check_labels(self, labels: RawArray, count: int, outputs: int) -> None:
        """ValueError unless labels are `count` integers 0 or 1 and there is one output."""
        if outputs != 1:
            raise ValueError(f"network must have one output, the logit of label 1, got {outputs}")
        _check_classes(labels, count, 2)


@dataclass(frozen=True)
class Gaussian:
    """KL of Gaussians with the outputs as means and one constant variance: for regression."""

    variance: float = 1.0

    def __post_init__(self) -> None:
        if not self.variance > 0:
            raise ValueError(f"variance must be positive, got {self.variance}")

    def __call__(self, p_mean: Array, q_mean: Array) -> Array:
        """‖p_mean − q_mean‖² / (2 variance) per example, shape (N,), from means (N, C)."""
        difference = q_mean - p_mean
        return ops.sum(difference * difference, axis=-1) * (0.5 / self.variance)

    def fisher(self, p_mean: Array, t: Array) -> Array:
        """t / variance, shape (N, C)."""
        return t * (1.0 / self.variance)

    def root(self, p_mean: Array, t: Array) -> Array:
        """t / √variance, shape (N, C)."""
        return t * (1.0 / sqrt(self.variance))

    def nll(self, mean: Array, targets: RawArray) -> Array:
        """−log p(target|x) up to a constant: ‖target − mean‖² / (2 variance), shape (N,).

        Targets have the shape of the means (N, C), or (N,) for a single output.
        """
        return self(ops.reshape(targets, mean.shape), mean)

    def check_labels(self, labels: RawArray, count: int, outputs: int) -> None:
        """ValueError unless labels are finite floating point numbers, as `nll` takes them."""
        shapes = [(count,), (count, 1)] if outputs == 1 else [(count, outputs)]
        if labels.dtype.kind != "f" or labels.shape not in shapes:
            raise ValueError(
                f"labels must be floating point numbers of shape {' or '.join(map(str, shapes))}, "
                f"got {labels.dtype} of shape {labels.shape}"
            )
        if not np.isfinite(labels).all():
            raise ValueError("labels must be finite, got NaN or infinity")


def _unless_ruled_out(log_p: Array, z: Array) -> Array:
    """z, but 0 where p is 0: what is computed of it is to be multiplied by p."""
    return ops.where(ops.stop_gradient(log_p) == -np.inf, 0.0, z)


def _check_classes(labels: RawArray, count: int, classes: int) -> None:
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise ValueError(
            f"labels must be {count} integers, one for each image, "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must lie in [0, {classes}), got {labels.min()} to {labels.max()}")


categorical = Categorical()
bernoulli = Bernoulli()
gaussian = Gaussian
