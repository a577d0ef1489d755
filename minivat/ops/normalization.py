"""Fused primitives with closed-form rules: softmax, its relatives, and the batch-norm core.

Each has a plain composite twin among the tests, which use it as oracle.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autodiff.tensor import Primitive
from .elementwise import add, divide, exp, multiply, sqrt, subtract
from .reduction import mean, sum
from .shape import broadcast_to, size_along


def _softmax_values(x, axis):
    y = np.exp(x - np.max(x, axis=axis, keepdims=True))
    y /= np.sum(y, axis=axis, keepdims=True)
    return y


def _fisher(u, p, x, axis):
    """(diag p − p pᵀ) u, the symmetric Jacobian of softmax at p = softmax(x), applied to u."""
    pu = multiply(p, u)
    return subtract(pu, multiply(p, sum(pu, axis, keepdims=True)))


_softmax = Primitive(_softmax_values, [_fisher], [_fisher], name="softmax")


def softmax(x: Any, axis: int = -1) -> Any:
    """exp xᵢ / Σ exp xⱼ along an axis, without overflow."""
    return _softmax(x, axis=axis)


def _log_softmax_values(x, axis):
    y = x - np.max(x, axis=axis, keepdims=True)
    y -= np.log(np.sum(np.exp(y), axis=axis, keepdims=True))
    return y


_log_softmax = Primitive(
    _log_softmax_values,
    [lambda g, y, x, axis: subtract(g, multiply(exp(y), sum(g, axis, keepdims=True)))],
    [lambda t, y, x, axis: subtract(t, sum(multiply(exp(y), t), axis, keepdims=True))],
    name="log_softmax",
)


def log_softmax(x: Any, axis: int = -1) -> Any:
    """log softmax(x) along an axis; finite where differences of x are."""
    return _log_softmax(x, axis=axis)


def _cross_entropy_values(logits, labels):
    log_p = _log_softmax_values(logits, axis=-1)
    return -np.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]


def _cross_entropy_slope(y, logits, labels):
    """∂(−log p_label)/∂logits = p − onehot(label)."""
    classes = np.arange(logits.shape[-1], dtype=labels.dtype, like=labels)
    one_hot = (labels[..., None] == classes).astype(logits.dtype)
    return subtract(softmax(logits), one_hot)


_cross_entropy = Primitive(
    _cross_entropy_values,
    [lambda g, y, z, labels: multiply(g[..., None], _cross_entropy_slope(y, z, labels)), None],
    [lambda t, y, z, labels: sum(multiply(t, _cross_entropy_slope(y, z, labels)), -1), None],
    name="cross_entropy",
)


def cross_entropy(logits: Any, labels: Any) -> Any:
    """−log p(label), from logits (..., C) and integer labels (...); shape (...).

    Labels must lie in [0, C), which is not checked: it would have to wait for a GPU.
    Raises ValueError for labels that are not integers or whose shape does not fit.
    """
    if labels.dtype.kind not in "iu" or labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"cross_entropy: labels must be integers of shape {logits.shape[:-1]}, "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    return _cross_entropy(logits, labels)


def _kl_values(p_logits, q_logits):
    log_p = _log_softmax_values(p_logits, axis=-1)
    log_q = _log_softmax_values(q_logits, axis=-1)
    return np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)


def _kl_slope_p(y, p_logits, q_logits):
    """∂KL/∂p_logits = p (log p − log q − KL)."""
    difference = subtract(log_softmax(p_logits), log_softmax(q_logits))
    return multiply(softmax(p_logits), subtract(difference, y[..., None]))


def _kl_slope_q(y, p_logits, q_logits):
    """∂KL/∂q_logits = q − p."""
    return subtract(softmax(q_logits), softmax(p_logits))


def _rowwise(slope):
    """Both rules of a function of rows from its gradient with respect to a row."""
    vjp = lambda g, y, *args: multiply(g[..., None], slope(y, *args))  # noqa: E731
    jvp = lambda t, y, *args: sum(multiply(t, slope(y, *args)), -1)  # noqa: E731
    return vjp, jvp


_kl = Primitive(
    _kl_values,
    *zip(_rowwise(_kl_slope_p), _rowwise(_kl_slope_q), strict=True),
    name="kl",
)


def kl(p_logits: Any, q_logits: Any) -> Any:
    """KL[p‖q] = Σ p (log p − log q) of p = softmax(p_logits) and q = softmax(q_logits); eq. 17.

    From logits (..., C), shape (...); finite where differences of logits are, and 0 or more up to
    rounding. Raises ValueError where the
    shapes differ.
    """
    if p_logits.shape != q_logits.shape:
        raise ValueError(
            f"kl: p_logits and q_logits must have one shape, got {p_logits.shape} "
            f"and {q_logits.shape}"
        )
    return _kl(p_logits, q_logits)


def _normalize_values(x, axis, epsilon):
    mean_ = np.mean(x, axis=axis, keepdims=True)
    y = x - mean_
    var = np.mean(np.square(y), axis=axis, keepdims=True)
    y *= 1.0 / np.sqrt(var + epsilon)
    return y, mean_, var


def _centred(u, y, axis):
    """u without its components along 1 and y: the projection in batch norm's Jacobian."""
    return subtract(
        subtract(u, mean(u, axis, keepdims=True)),
        multiply(y, mean(multiply(y, u), axis, keepdims=True)),
    )


def _normalize_vjp(g, outputs, x, axis, epsilon):
    (g_y, g_mean, g_var), (y, _, var) = g, outputs
    std = sqrt(add(var, epsilon))
    size = size_along(x.shape, axis)
    parts = []
    if g_y is not None:
        parts.append(divide(_centred(g_y, y, axis), std))
    if g_mean is not None:
        parts.append(broadcast_to(multiply(g_mean, 1.0 / size), x.shape))
    if g_var is not None:
        parts.append(multiply(multiply(g_var, 2.0 / size), multiply(y, std)))
    total = parts[0]
    for part in parts[1:]:
        total = add(total, part)
    return total


def _normalize_jvp(t, outputs, x, axis, epsilon):
    y, _, var = outputs
    std = sqrt(add(var, epsilon))
    covariance = mean(multiply(y, t), axis, keepdims=True)
    centred = subtract(t, mean(t, axis, keepdims=True))
    return (
        divide(subtract(centred, multiply(y, covariance)), std),
        mean(t, axis, keepdims=True),
        multiply(multiply(2.0, std), covariance),
    )


_normalize = Primitive(
    _normalize_values, [_normalize_vjp], [_normalize_jvp], name="normalize", outputs=3
)


def normalize(x: Any, axis: int | tuple[int, ...], epsilon: float) -> tuple[Any, Any, Any]:
    """The batch-norm core: y = (x − mean) / √(var + epsilon), with mean and var over `axis`.

    Returns (y, mean, var); mean and var (biased) keep the reduced axes with size 1. Ioffe and
    Szegedy, arXiv 1502.03167, algorithm 1, without scale and shift.
    """
    return _normalize(x, axis=axis, epsilon=epsilon)
