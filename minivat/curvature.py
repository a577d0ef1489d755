"""Exact curvature: H itself, its whole spectrum, and the true maximum that VAT approximates.

The paper never sees H. It expands D to second order (eq. 9), follows H's dominant eigenvector by
one power iteration (eq. 11) over a finite difference (eq. 12), and infers from K = 1 sufficing
that λ₁/λ₂ must be large (section 4.3). Here all of it can be measured, on real networks:

    H as an operator     `hessian`, by four routes; `dense`, `linear_operator`, `eigsh`
    its spectrum         `spectrum`: every eigenvalue, for every example of a data set
    a direction d        `captured_curvature` dᵀHd/λ₁ and `alignment` |⟨d, u₁⟩|
    the true maximum     `true_maximiser`: max D on the ball, at the ε that training uses

`model` is as in `minivat.vat`: x (N, D) ↦ logits (N, C). Models of other frameworks, wrapped by
`minivat.interop`, work as well unless stated otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np
from scipy.sparse import linalg

from . import ops, vat
from .autodiff import grad, hvp, stop_gradient
from .backend import host_generator, to_host
from .divergence import categorical
from .typing import Array, Divergence, LinearMap, Model, RawArray
from .vat import linearized, unit

Slope: TypeAlias = Callable[[Array], tuple[RawArray, RawArray]]

ROUTES = ("fisher", "reverse-over-reverse", "forward-over-reverse", "finite-difference")
# Eigenvalues are those of a C×C matrix computed in float64. Below this share of the largest they
# are rounding noise of its entries.
RESOLUTION = 1e-12
LARGEST_DENSE = 4096
LARGEST_STEP = 1024.0  # times ε; more than enough to turn r into the direction of the gradient
CHUNK = 1 << 22  # numbers in the arrays that one chunk of examples needs


# H as an operator --------------------------------------------------------------------------------


def hessian(
    model: Model,
    x: RawArray,
    *,
    route: str = "fisher",
    xi: float = 1e-6,
    divergence: Divergence = categorical,
) -> LinearMap:
    """d ↦ H d, for d of x's shape: H of the whole batch, Σ over its examples of D (eq. 9).

    route: "fisher" is Jᵀ F J over one recorded forward pass (`vat.hessian_vector_product`);
        "reverse-over-reverse" and "forward-over-reverse" differentiate D itself twice, without
        the insight that its first derivative vanishes; "finite-difference" is the paper's eq. 12
        with step `xi`. The first three agree to rounding. The two in the middle need a model
        made of minivat.ops, and lose digits as p gets close to 1, where "fisher" does not.
    With running statistics the examples do not influence each other, and each slice of d meets
    its own example's H. Raises ValueError for another route or a xi that is not positive, and for
    the two in the middle with a model of another framework.
    """
    if route not in ROUTES:
        raise ValueError(f"route must be one of {ROUTES}, got {route!r}")
    if not xi > 0:
        raise ValueError(f"xi must be positive, got {xi}")
    if route == "fisher":
        return vat.hessian_vector_product(model, x, divergence)[0]
    if route == "finite-difference":
        return vat.finite_difference_product(model, x, xi, divergence)[0]
    if hasattr(model, "linearize"):
        raise ValueError(
            "route must be 'fisher' or 'finite-difference' for a model of another framework, "
            f"got {route!r}"
        )
    p_logits = stop_gradient(model(x))
    zero = np.zeros_like(x)

    def total(r: Array) -> Array:
        return ops.sum(divergence(p_logits, model(x + r)))

    if route == "forward-over-reverse":
        return lambda d: hvp(total, zero, d)
    return lambda d: grad(lambda r: ops.sum(grad(total)(r) * d))(zero)


def dense(product: LinearMap, x: RawArray) -> RawArray:
    """The matrix (N·D, N·D) of a linear map of arrays shaped like x, column by column.

    For one example's H, give that example alone. Raises ValueError above 4096 rows.
    """
    if x.size > LARGEST_DENSE:
        raise ValueError(f"x must have at most {LARGEST_DENSE} numbers, got {x.size}")
    axes = np.identity(x.size, x.dtype, like=x)
    columns = [np.ravel(product(axes[i].reshape(x.shape))) for i in range(x.size)]
    return np.stack(columns, axis=1)


def linear_operator(product: LinearMap, x: RawArray) -> linalg.LinearOperator:
    """The same map for SciPy: a symmetric LinearOperator on flat host arrays of x's dtype.

    Vectors are moved to x's device and back. For one example's H, give that example alone.
    """

    def matvec(v: np.ndarray) -> np.ndarray:
        d = np.asarray(v.reshape(x.shape), dtype=x.dtype, like=x)
        return to_host(product(d)).ravel()

    return linalg.LinearOperator((x.size, x.size), matvec, matvec, dtype=x.dtype)


def eigsh(operator: linalg.LinearOperator, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest eigenvalues, falling, and unit eigenvectors (n, k) by ARPACK.

    For a zero operator, on which ARPACK fails, the eigenvalues are 0 and the eigenvectors the first
    axes. Raises ValueError unless 0 < k < n, and where H is not finite.
    """
    n = operator.shape[0]
    if not 0 < k < n:
        raise ValueError(f"k must lie in [1, {n - 1}], got {k}")
    # The same start on every call; a random vector has a part along every eigenvector.
    start = host_generator(0, "eigsh").standard_normal(n).astype(operator.dtype)
    scale = np.abs(operator.matvec(start)).max()
    if not np.isfinite(scale):
        raise ValueError("operator must give finite numbers, got NaN or infinity")
    if scale == 0:
        return np.zeros(k, operator.dtype), np.eye(n, k, dtype=operator.dtype)
    # ARPACK accepts an eigenvalue once its error is far below 1: H is scaled to that size.
    scaled = linalg.LinearOperator(
        operator.shape, lambda v: operator.matvec(v) / scale, dtype=operator.dtype
    )
    values, vectors = linalg.eigsh(scaled, k, which="LA", v0=start)
    return scale * values[::-1], vectors[:, ::-1]


# The spectrum ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spectrum:
    """What `spectrum` finds, for N examples.

    eigenvalues: (N, min(C, D)), falling, 0 or more. eigenvectors: (N, k, *x.shape[1:]), unit
    length, in the order of the eigenvalues; zero where the eigenvalue is 0.
    """

    eigenvalues: RawArray
    eigenvectors: RawArray


def spectrum(
    model: Model,
    x: RawArray,
    *,
    eigenvectors: int = 1,
    divergence: Divergence = categorical,
) -> Spectrum:
    """Every non-zero eigenvalue of each example's H, and its first eigenvectors, exactly.

    H = Jᵀ F J = AᵀA with A = RᵀJ (C, D) and F = R Rᵀ, so its non-zero eigenvalues are those of the
    C×C matrix A Aᵀ, and where that has the eigenvector w, H has Aᵀw / √λ. The rows of A cost C
    products with Jᵀ, for all examples at once. H has rank C − 1 at most for the categorical
    divergence.

    x: (N, D), or (N, ...). eigenvectors: how many, 0 to min(C, D).
    The C×C matrix is taken to float64; results have x's dtype. Eigenvalues that are less than
    1e-12 of the largest cannot be told from zero and are given as 0. In float32 the products with
    Jᵀ have rounding of their own, so that an eigenvalue below about 1e-6 of the largest is known
    less well than to 1e-4, and one that should be 0 may come out as up to about 1e-12 of what all
    logits have in common. H = 0, as of a p that is saturated to the last digit, gives zeros.
    Raises ValueError where the examples of a batch influence each other (batch statistics): there
    is no H of one example then, see `hessian` and `linear_operator` for that of the batch; and
    where the logits are not of shape (N, C), or not finite.
    """
    classes = _check_model(model, x)
    rank = min(classes, prod(x.shape[1:]))
    if not 0 <= eigenvectors <= rank:
        raise ValueError(f"eigenvectors must lie in [0, {rank}], got {eigenvectors}")
    parts = [
        _spectrum(model, x[part], rank, eigenvectors, divergence)
        for part in _chunks(len(x), classes * prod(x.shape[1:]))
    ]
    values, vectors = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Spectrum(values, vectors)


def _spectrum(
    model: Model, x: RawArray, rank: int, eigenvectors: int, divergence: Divergence
) -> tuple[RawArray, RawArray]:
    tracked, _, vjp = linearized(model, x)
    logits: RawArray = stop_gradient(tracked)
    _refuse_non_finite(logits)
    axes = np.identity(logits.shape[1], logits.dtype, like=logits)
    rows = []
    for i in range(logits.shape[1]):
        root = divergence.root(logits, np.broadcast_to(axes[i], logits.shape))
        rows.append(vjp(root).reshape(len(x), -1).astype(np.float64))
    a = np.stack(rows, axis=1)
    values, w = np.linalg.eigh(a @ np.swapaxes(a, 1, 2))
    values, w = values[:, ::-1][:, :rank], w[:, :, ::-1][:, :, :eigenvectors]
    values = np.where(values > RESOLUTION * values[:, :1], values, 0.0).astype(x.dtype)
    # Divided by its own length: √λ has lost digits where λ is small compared with λ₁.
    u = np.swapaxes(w, 1, 2) @ a
    u = unit(u.reshape(-1, a.shape[2])).reshape(u.shape)
    u = np.where(values[:, :eigenvectors, None] > 0, u, 0.0)
    return values, u.reshape(len(x), eigenvectors, *x.shape[1:]).astype(x.dtype)


def _check_model(model: Model, x: RawArray) -> int:
    """The number of classes; ValueError where examples have no H of their own, or no logits."""
    if not len(x):
        raise ValueError("x must hold at least one example, got none")
    # The first few inputs, and others, in case those are all alike.
    few = np.concatenate([x[:4], 0.5 * x[:4] + 1.0])
    logits, _, vjp = linearized(model, few)
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != len(few):
        given = type(logits).__name__ if shape is None else shape
        raise ValueError(
            f"model must return logits (N, C), ({len(few)}, C) for {len(few)} inputs, got {given}"
        )
    _refuse_non_finite(stop_gradient(logits))
    first = np.zeros_like(logits)
    first[0] = np.arange(1, shape[1] + 1, like=first)
    if to_host(np.any(vjp(first)[1:] != 0)):
        raise ValueError(
            "model: an example's logits depend on the other examples of the batch, as with "
            "statistics='batch'; one example has no H of its own then: use statistics='running'"
        )
    return shape[1]


def _refuse_non_finite(logits: RawArray) -> None:
    if not to_host(np.isfinite(logits).all()):
        raise ValueError("model: its logits must be finite, got NaN or infinity")


def _chunks(examples: int, numbers: int) -> Iterator[slice]:
    """Slices of examples, chosen so that `numbers` per example add up to a moderate array."""
    size = max(1, CHUNK // numbers)
    return (slice(start, start + size) for start in range(0, examples, size))


# What a direction finds --------------------------------------------------------------------------


def captured_curvature(product: LinearMap, d: RawArray, largest: RawArray) -> RawArray:
    """dᵀHd / λ₁ for each example's unit d, shape (N,), in [0, 1] up to rounding.

    1 for u₁; trace(H) / (D λ₁) in the mean over random d. product: of a model whose examples do
    not influence each other. largest: λ₁ (N,), from `spectrum`. 0 where H = 0.
    """
    return np.where(largest > 0, _dot(d, product(d)) / np.where(largest > 0, largest, 1.0), 0.0)


def alignment(d: RawArray, u: RawArray) -> RawArray:
    """|⟨d, u⟩| for each example's unit vectors, shape (N,), in [0, 1] up to rounding."""
    return np.abs(_dot(d, u))


def _dot(a: RawArray, b: RawArray) -> RawArray:
    return np.sum((a * b).reshape(len(a), -1), axis=1)


# The true maximum --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Maximiser:
    """What `true_maximiser` finds, for N examples.

    r: the best perturbation, of x's shape. divergence: D there, (N,). by_start: D that each start
    ended at, (S, N): from ε u₁, −ε u₁, the best direction towards a class, and the given starts.
    Where all are alike, the maximum is likely the global one.
    """

    r: RawArray
    divergence: RawArray
    by_start: RawArray


def true_maximiser(
    model: Model,
    x: RawArray,
    epsilon: float,
    starts: Sequence[RawArray] = (),
    *,
    steps: int = 32,
    divergence: Divergence = categorical,
) -> Maximiser:
    """The r with the largest D[p(y|x), p(y|x + r)] found on the ball ‖r‖₂ ≤ ε: eq. 6 without eq. 9.

    Projected gradient ascent, with a step size of each example's own that doubles after a step
    that has raised D and shrinks to a quarter after one that has not (and is not taken). It starts
    from ±ε u₁, the maximum for ε → 0; from ε times the one of `class_directions` with the largest
    D, which is there even where p is saturated and H = 0; and from `starts`.

    epsilon: > 0 and finite, in the units of x. starts: further perturbations of x's shape and
    dtype, first projected onto the ball: another method's r, below whose D the result never falls,
    or random ones. steps: of each ascent, a forward and a backward pass each.
    D is computed in float64 from the logits, and is a lower bound of the maximum up to the
    rounding of these. Raises ValueError as `spectrum` does, and for arguments out of range.
    """
    if not 0 < epsilon < np.inf:
        raise ValueError(f"epsilon must be positive and finite, got {epsilon}")
    if steps < 0:
        raise ValueError(f"steps must be 0 or more, got {steps}")
    starts = list(starts)
    for r in starts:
        if r.shape != x.shape or r.dtype != x.dtype:
            raise ValueError(
                f"starts must have x's shape and dtype, {x.shape} and {x.dtype}, "
                f"got {r.shape} and {r.dtype}"
            )
    epsilon = float(epsilon)
    u = spectrum(model, x, divergence=divergence).eigenvectors[:, 0]
    parts = []
    for part in _chunks(len(x), 4 * prod(x.shape[1:])):
        change, slope = _objective(model, x[part], divergence)
        towards = (epsilon * d for d in class_directions(model, x[part]))
        first = [epsilon * u[part], -epsilon * u[part], _best((r, change(r)) for r in towards)[0]]
        given = [onto_ball(r[part], epsilon) for r in starts]
        ends = [_ascend(slope, r, epsilon, steps) for r in (*first, *given)]
        parts.append((*_best(ends), np.stack([value for _, value in ends])))
    r, value, by_start = zip(*parts, strict=True)
    return Maximiser(np.concatenate(r), np.concatenate(value), np.concatenate(by_start, axis=1))


def class_directions(model: Model, x: RawArray) -> Iterator[RawArray]:
    """For each class, d of x's shape: where its logit gains most on the largest one; unit length.

    For a single logit: those in which it rises, and falls.
    """
    logits, _, vjp = linearized(model, x)
    logits = stop_gradient(logits)
    classes = np.arange(logits.shape[1], like=logits)
    top = (classes == np.argmax(logits, axis=1)[:, None]).astype(logits.dtype)
    if logits.shape[1] == 1:
        yield from (unit(vjp(sign * top)) for sign in (1, -1))
        return
    for c in range(logits.shape[1]):
        yield unit(vjp((classes == c).astype(logits.dtype) - top))


def _objective(model: Model, x: RawArray, divergence: Divergence) -> tuple[LinearMap, Slope]:
    """r ↦ D, and r ↦ D and the gradient of D (of any length), for each example."""

    def wide(logits: Array) -> RawArray:
        # In float32 a small D would be the rounding noise of log p − log q. The logits' is less.
        return stop_gradient(logits).astype(np.float64)

    def distance(q_logits: RawArray) -> RawArray:
        return stop_gradient(divergence(p_logits, q_logits)).astype(x.dtype)

    p_logits = wide(model(x))

    def slope(r: Array) -> tuple[RawArray, RawArray]:
        logits, _, vjp = linearized(model, x + r)
        q_logits = wide(logits)
        g = unit(vat.divergence_slope(divergence, p_logits, q_logits)).astype(x.dtype)
        return distance(q_logits), vjp(g)

    return lambda r: distance(wide(model(x + r))), slope


def _best(pairs: Iterable[tuple[RawArray, RawArray]]) -> tuple[RawArray, RawArray]:
    """Of pairs (r, value) that with the larger value, example by example."""
    pairs = iter(pairs)
    best, most = next(pairs)
    for r, value in pairs:
        better = value > most
        best, most = np.where(_column(better, r), r, best), np.where(better, value, most)
    return best, most


def _ascend(slope: Slope, r: RawArray, epsilon: float, steps: int) -> tuple[RawArray, RawArray]:
    value, g = slope(r)
    size = np.ones_like(value)
    for _ in range(steps):
        new = onto_ball(r + epsilon * _column(size, r) * unit(g), epsilon)
        new_value, new_g = slope(new)
        better = new_value > value
        value = np.where(better, new_value, value)
        r, g = (np.where(_column(better, r), b, a) for a, b in ((r, new), (g, new_g)))
        size = np.where(better, np.minimum(2 * size, LARGEST_STEP), size / 4)
    return r, value


def onto_ball(r: RawArray, epsilon: float) -> RawArray:
    """The nearest r of L2 norm ≤ epsilon, for each example."""
    length = np.sqrt(_dot(r, r))
    return r * _column(np.where(length > epsilon, epsilon / np.maximum(length, epsilon), 1.0), r)


def _column(a: RawArray, like: RawArray) -> RawArray:
    """(N,) as (N, 1, ...), to go with `like`."""
    return a.reshape(-1, *[1] * (like.ndim - 1))
