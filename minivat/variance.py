"""The variance of the stochastic gradient: the normalized standard deviation norm, eq. 21.

The paper explains a part of VAT's advantage over random perturbations by it (sections 3.4, 4.5):
one power iteration leaves the gradient of R⁽ᴷ⁾ less noise from the random directions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .backend import to_host
from .typing import RawArray


class SDNorm(NamedTuple):
    """An estimate of eq. 21 and its standard error, both 0 or more."""

    value: float
    standard_error: float


def normalized_sd_norm(gradients: RawArray) -> SDNorm:
    """√(trace Var g) / ‖E g‖₂ (eq. 21), estimated from independent draws of a gradient g.

    gradients: (n, P), n ≥ 3, each row that of R⁽ᴷ⁾ in all P parameters, for a minibatch and random
        directions of its own.
    trace Var g and ‖E g‖² are estimated without bias; the latter may then be 0 or less where n is
    too small to tell the mean from the noise, and the value is infinite. The standard error is the
    jackknife's, over the draws. Raises ValueError for another shape.
    """
    if gradients.ndim != 2 or len(gradients) < 3:
        raise ValueError(f"gradients must be (n, P) with n from 3, got shape {gradients.shape}")
    n = len(gradients)
    mean: RawArray = gradients.mean(axis=0, dtype=np.float64)
    squares, along = np.zeros(n), np.zeros(n)  # of each g − E g: ‖·‖², and its product with E g
    for i, gradient in enumerate(gradients):
        centred = gradient - mean
        squares[i], along[i] = to_host(centred @ centred), to_host(centred @ mean)
    total, square_of_mean = squares.sum(), float(to_host(mean @ mean))
    value = _ratio(n, total / (n - 1), square_of_mean)
    left = _ratio(  # without each draw in turn
        n - 1,
        (total - squares * n / (n - 1)) / (n - 2),
        square_of_mean - 2 * along / (n - 1) + squares / (n - 1) ** 2,
    )
    error = np.sqrt((n - 1) * np.var(left)) if np.isfinite(left).all() else np.inf
    return SDNorm(float(value), float(error))


def _ratio(n: int, variance: Any, square_of_mean: Any) -> Any:
    """The estimate, from trace Var g and the squared norm of the mean of n draws."""
    unbiased = square_of_mean - variance / n
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(unbiased > 0, np.sqrt(np.maximum(variance, 0) / unbiased), np.inf)
