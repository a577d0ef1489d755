"""Virtual adversarial training: the paper's equations, one function each.

`model` is a function of the input alone, x (N, D) ↦ logits (N, C), that closes over parameters,
batch-norm statistics and noise: `lambda x: network(params, x, state, noise=noise)[0]`. All passes
of an update must be the *same* function, with the same statistics (batch or running), dropout masks
and noise; otherwise D[p(x), p(x + r)] would not vanish at r = 0 and its gradient there would not
be zero, which every formula below relies on. Models of other frameworks: `minivat.interop`.

Inside `value_and_grad` over the parameters these functions need no care: the perturbation r and
the distribution p(y|x, θ̂) are constants by construction, as eq. 5 to 8 want them.

Everything is computed in the dtype of x, float32 or float64. Half precision is refused: q − p, of
which the direction is made, underflows in it.

With batch statistics the examples of a batch influence each other. H is then the Hessian of the
batch as a whole, and each example's direction is its own slice of the product, normalised by
itself, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from . import ops
from .autodiff import grad, linearize, stop_gradient
from .backend import of_rows
from .divergence import categorical
from .typing import Array, Divergence, HasEntropy, LinearMap, Model, RawArray, is_integer

DIRECTIONS = ("exact", "finite-difference")


@dataclass(frozen=True)
class PowerIteration:
    """How a random direction d is turned into that of r_vadv: K times d ← unit(H d), eq. 11.

    iterations: K, an integer from 0, or 0.5. 0 leaves d as it is, the random perturbation of RPT;
        0.5 is `half_product`, which is always exact.
    direction: how H d is computed, "exact" (`hessian_vector_product`) or "finite-difference"
        (`finite_difference_product`, the paper's).
    xi: ξ, the step of the finite difference, positive.
    Raises ValueError for values outside these.
    """

    iterations: float = 1
    direction: str = "exact"
    xi: float = 1e-6

    def __post_init__(self) -> None:
        k = self.iterations
        if k != 0.5 and not (is_integer(k) and k >= 0):
            raise ValueError(f"iterations must be 0.5 or 0, 1, 2, ..., got {k!r}")
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction must be one of {DIRECTIONS}, got {self.direction!r}")
        if k == 0.5 and self.direction != "exact":
            raise ValueError(
                f"direction must be 'exact' with iterations 0.5, got {self.direction!r}"
            )
        if not 0 < self.xi < np.inf:
            raise ValueError(f"xi must be positive, got {self.xi}")


ONE_EXACT = PowerIteration()


def unit(d: RawArray) -> RawArray:
    """d / ‖d‖₂ for each example (all axes but the first); the bar over d in eq. 11.

    Divided by the largest element first: a finite-difference gradient is of size ξ or less and
    its squares vanish in float32. There is no constant in the denominator, which would switch VAT
    off for such gradients. An example whose d is zero (a saturated p) keeps zero, so its r is 0 and
    its LDS is 0: no direction is preferred there, and none is made up. Raises ValueError for a d of
    one axis, of which every number would be an example.
    """
    _check_examples("d", d)
    if kernel := of_rows("unit", d):
        return kernel(d)
    rows = d.reshape(len(d), prod(d.shape[1:]))
    largest = np.max(np.abs(rows), axis=1, keepdims=True)
    rows = rows / np.where(largest > 0, largest, 1.0)
    length = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    rows /= np.where(length > 0, length, 1.0)
    return rows.reshape(d.shape)


def linearized(model: Model, x: RawArray) -> tuple[Array, LinearMap, LinearMap]:
    """The logits z at x, and t ↦ J t and g ↦ Jᵀ g with J = ∂z/∂x held constant (θ̂ in eq. 5).

    A model of another framework brings a method `linearize` of its own (`minivat.interop`).
    """
    own = getattr(model, "linearize", None)
    return own(x) if own is not None else linearize(model, x, frozen=True)


def hessian_vector_product(
    model: Model, x: RawArray, divergence: Divergence = categorical
) -> tuple[LinearMap, Array]:
    """d ↦ H d, exactly, and the logits at x.

    H = Jᵀ F J is the Hessian of D[p(y|x), p(y|x + r)] in r at r = 0 (eq. 9): one product with J,
    one with F and one with Jᵀ over the recorded clean forward pass. No ξ, no rounding noise, no
    extra forward pass. The logits still carry the derivative with respect to what `model`
    closes over, so that the likelihood can share this pass; the products do not (θ̂ in eq. 5).
    """
    logits, jvp, vjp = linearized(model, x)
    p_logits = stop_gradient(logits)
    return lambda d: vjp(divergence.fisher(p_logits, jvp(d))), logits


def divergence_slope(divergence: Divergence, p_logits: Array, q_logits: Array) -> RawArray:
    """∂D[p, q]/∂(q's logits) for each example, (N, C), a constant."""
    total = lambda q: ops.sum(divergence(p_logits, q))  # noqa: E731
    return grad(total)(stop_gradient(q_logits))


def finite_difference_product(
    model: Model, x: RawArray, xi: float, divergence: Divergence = categorical
) -> tuple[LinearMap, Array]:
    """d ↦ (∇_r D at r = ξ d) / ξ ≈ H d, the paper's eq. 12, 13 and 15, and the logits at x.

    In float32 with the paper's ξ = 1e-6, q − p is mostly rounding noise. It still passes through
    Jᵀ, so the result keeps some curvature: on the trained MNIST networks one iteration has a median
    dᵀHd/λ₁ of 0.57 without VAT and 0.29 with it, where the exact product has 0.94 and 0.89 (`make
    audit`). Without ξ, and cheaper: `hessian_vector_product`.
    """
    logits = model(x)
    p_logits = stop_gradient(logits)

    def product(d: Array) -> RawArray:
        q_logits, _, vjp = linearized(model, x + xi * d)
        return vjp(divergence_slope(divergence, p_logits, q_logits)) / xi

    return product, logits


def power_iteration(product: LinearMap, d: RawArray, iterations: int) -> RawArray:
    """The unit vectors after K times d ← unit(H d), eq. 11; K = 0 gives unit(d).

    Converges to the dominant eigenvector u₁ at the rate λ₂/λ₁. The sign is arbitrary, as d's.
    """
    d = unit(d)
    for _ in range(iterations):
        d = unit(product(d))
    return d


def half_product(
    model: Model, x: RawArray, divergence: Divergence = categorical
) -> tuple[LinearMap, Array]:
    """z ↦ Jᵀ F^½ z, and the logits at x: half a power iteration, for one product with Jᵀ.

    z: standard normal numbers of the logits' shape (N, C). The result is then normal with
    covariance H: it lies in H's range already, with the eigenvectors weighted by √λᵢ, where a
    random d of x's shape gives all D axes equal weights and H d (K = 1) has the weights λᵢ. Not in
    the paper.
    """
    logits, _, vjp = linearized(model, x)
    p_logits = stop_gradient(logits)
    return lambda z: vjp(divergence.root(p_logits, z)), logits


def hessian_product(
    model: Model,
    x: RawArray,
    power_iteration: PowerIteration = ONE_EXACT,
    *,
    divergence: Divergence = categorical,
) -> tuple[LinearMap, Array]:
    """d ↦ H d by the route that `power_iteration.direction` names, and the logits at x."""
    if power_iteration.direction == "exact":
        return hessian_vector_product(model, x, divergence)
    return finite_difference_product(model, x, power_iteration.xi, divergence)


def virtual_adversarial_perturbation(
    model: Model,
    x: RawArray,
    d: RawArray,
    epsilon: float,
    power_iteration: PowerIteration = ONE_EXACT,
    *,
    divergence: Divergence = categorical,
) -> tuple[RawArray, Array]:
    """r_vadv ≈ ε · unit(d), eq. 6, 10 and 14; and the logits at x.

    The logits are there for the likelihood and the LDS to share the clean pass.
    x: inputs (N, D). epsilon: L2 norm of the perturbation, > 0, in the units of x.
    d: random directions of x's shape, standard normal; their scale does not matter. For half an
        iteration they have the logits' shape.
    r has x's shape and dtype and is a constant. It is 0 for examples with H d = 0.
    Raises ValueError for an epsilon that is not positive, an x of one axis, logits that are not
    (N, C) and a d that does not fit.
    """
    perturbations, logits = _perturbations(model, x, [d], epsilon, power_iteration, divergence)
    return perturbations[0], logits


def _perturbations(
    model: Model,
    x: RawArray,
    directions: Sequence[RawArray],
    epsilon: float,
    settings: PowerIteration,
    divergence: Divergence,
) -> tuple[list[RawArray], Array]:
    """One perturbation for each random direction, over one clean pass."""
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    _check_examples("x", x)
    epsilon = float(epsilon)  # a NumPy scalar of float64 would make r one, too
    if settings.iterations == 0.5:
        product, logits = half_product(model, x, divergence)
        _check_logits(logits, x)
        _check_directions(directions, logits, "the logits'")
        return [epsilon * unit(product(z)) for z in directions], logits
    _check_directions(directions, x, "x's")
    if settings.iterations == 0:
        logits = model(x)
        _check_logits(logits, x)
        return [epsilon * unit(d) for d in directions], logits
    product, logits = hessian_product(model, x, settings, divergence=divergence)
    _check_logits(logits, x)
    iterations = int(settings.iterations)
    return [epsilon * power_iteration(product, d, iterations) for d in directions], logits


def _check_examples(name: str, x: Array) -> None:
    if len(x.shape) < 2:
        raise ValueError(
            f"{name} must be a batch (N, D) or (N, ...), got {x.shape}; one example is {name}[None]"
        )


def _check_logits(logits: Array, x: Array) -> None:
    if len(logits.shape) < 2 or logits.shape[0] != x.shape[0]:
        raise ValueError(
            f"model must return logits (N, C), ({x.shape[0]}, C) for x {x.shape}, "
            f"got {logits.shape}"
        )


def _check_directions(directions: Sequence[RawArray], like: Array, whose: str) -> None:
    for d in directions:
        if d.shape != like.shape or d.dtype != like.dtype:
            raise ValueError(
                f"d must have {whose} shape and dtype, {like.shape} and {like.dtype}, "
                f"got {d.shape} and {d.dtype}"
            )


def adversarial_perturbation(
    model: Model,
    x: RawArray,
    labels: RawArray,
    epsilon: float,
    *,
    norm: str = "l2",
    divergence: Divergence = categorical,
) -> tuple[RawArray, Array]:
    """r_adv (eq. 2 to 4): where the loss of the true label grows fastest; and the logits at x.

    norm: "l2" gives epsilon g/‖g‖₂ (eq. 3), "linf" epsilon sign(g) (eq. 4), with
        g = ∇ₓ(−log p(label|x)).
    labels: integers (N,), or what else the divergence's `nll` takes. r is a constant of x's shape.
    Raises ValueError for another norm, an epsilon that is not positive, an x of one axis and logits
    that are not (N, C).
    """
    if norm not in ("l2", "linf"):
        raise ValueError(f"norm must be 'l2' or 'linf', got {norm!r}")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    _check_examples("x", x)
    epsilon = float(epsilon)
    logits, _, vjp = linearized(model, x)
    _check_logits(logits, x)
    g = vjp(grad(lambda z: ops.sum(divergence.nll(z, labels)))(stop_gradient(logits)))
    return epsilon * (unit(g) if norm == "l2" else np.sign(g)), logits


def lds(
    model: Model, x: Array, r: Array, logits: Array, divergence: Divergence = categorical
) -> Array:
    """LDS(x, θ) = D[p(y|x, θ̂), p(y|x + r, θ)] for each example, shape (N,); eq. 5.

    0 or more up to rounding. The clean distribution comes first and is a constant, D[p‖q] for the
    KL divergence; `logits` are those of the clean pass. Raises ValueError for an x of one axis, an
    r of another shape and logits that are not (N, C).
    """
    _check_examples("x", x)
    if r.shape != x.shape:
        raise ValueError(f"r must have x's shape, {x.shape}, got {r.shape}")
    moved = model(x + r)
    _check_logits(moved, x)
    return divergence(stop_gradient(logits), moved)


def regularizer(
    model: Model,
    x: RawArray,
    directions: Sequence[RawArray],
    epsilon: float,
    power_iteration: PowerIteration = ONE_EXACT,
    *,
    divergence: Divergence = categorical,
    constant: Model | None = None,
) -> tuple[Array, Array]:
    """R⁽ᴷ⁾: the mean LDS over the batch and the random directions (eq. 7 and 16); and the logits.

    K ≥ 1 is R_vadv; K = 0 is random perturbation training. Arguments and errors as in
    `virtual_adversarial_perturbation`, with a list of random directions.
    constant: the model with parameters that are constants, p(y|x, θ̂). The clean pass is then its,
        nothing of it is kept, and the logits carry no derivative. None: they do, for the likelihood
        to share the clean pass.
    """
    perturbations, logits = _perturbations(
        constant or model, x, directions, epsilon, power_iteration, divergence
    )
    total: Any = sum(ops.mean(lds(model, x, r, logits, divergence)) for r in perturbations)
    return total * (1.0 / len(perturbations)), logits


def conditional_entropy(logits: Array, divergence: HasEntropy = categorical) -> Array:
    """H(Y|X), the mean entropy of p(y|x, θ) over the batch; eq. 18.

    Here p is no constant: minimising it makes the network sure of its predictions. From
    log-softmax, so it and its gradient are finite for saturated logits, where both vanish.
    """
    return ops.mean(divergence.entropy(logits))
