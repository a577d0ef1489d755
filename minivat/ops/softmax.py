"""Softmax and what is made of it, each one primitive with rules in closed form.

A logit of −∞ is a class that is ruled out: p = 0, and 0 · log 0 = 0. Where that is every class of
an example there is no p: a ValueError for NumPy's arrays, NaN for others, since to look would mean
to wait for a GPU.

The tests compute each from simpler operations as well, and compare.
"""

from __future__ import annotations

import numpy as np

from ..autodiff.tensor import Function, Primitive, stop_gradient
from ..backend import of_rows
from ..typing import Array, RawArray
from .elementwise import as_floats, exp, multiply, subtract, where
from .reduction import sum


def _shifted(name: str, x: RawArray, axis: int) -> RawArray:
    """x less its largest element along the axis, which softmax does not change by.

    The axis changes places with the first one: NumPy adds up columns at several times the speed of
    short rows.
    """
    x = as_floats(x).swapaxes(0, axis).copy()
    top = np.max(x, axis=0)
    if type(top) is np.ndarray and np.any(top == -np.inf):
        raise ValueError(f"{name}: an example has no class left, all its logits are -inf")
    x -= top
    return x


def _softmax_values(x: RawArray, axis: int) -> RawArray:
    if axis in (1, -1) and x.ndim == 2 and (kernel := of_rows("softmax", x)):
        return kernel(x)
    y = _shifted("softmax", x, axis)
    np.exp(y, out=y)
    y /= np.sum(y, axis=0)
    return y.swapaxes(0, axis).copy()


def _fisher(u: Array, p: Array, x: Array, axis: int) -> Array:
    """(diag p − p pᵀ) u, the symmetric Jacobian of softmax at p = softmax(x), applied to u."""
    pu = multiply(p, u)
    return subtract(pu, multiply(p, sum(pu, axis, keepdims=True)))


_softmax = Primitive(_softmax_values, [_fisher], [_fisher], name="softmax")


def softmax(x: Array, axis: int = -1) -> Array:
    """exp xᵢ / Σ exp xⱼ along an axis, without overflow; 0 for xᵢ = −∞.

    Raises ValueError where all x along the axis are −∞ (NaN on a GPU), as all functions of p do.
    """
    return _softmax(x, axis=axis)


def _log_softmax_values(x: RawArray, axis: int) -> RawArray:
    if axis in (1, -1) and x.ndim == 2 and (kernel := of_rows("log_softmax", x)):
        return kernel(x)
    y = _shifted("log_softmax", x, axis)
    y -= np.log(np.sum(np.exp(y), axis=0))
    return y.swapaxes(0, axis).copy()


_log_softmax = Primitive(
    _log_softmax_values,
    [lambda g, y, x, axis: subtract(g, multiply(exp(y), sum(g, axis, keepdims=True)))],
    [lambda t, y, x, axis: subtract(t, sum(multiply(exp(y), t), axis, keepdims=True))],
    name="log_softmax",
)


def log_softmax(x: Array, axis: int = -1) -> Array:
    """log softmax(x) along an axis; finite where differences of x are, −∞ for xᵢ = −∞."""
    return _log_softmax(x, axis=axis)


def _row_vjp(slope: Function) -> Function:
    """The VJP of a function of rows, from its gradient with respect to a row."""
    return lambda g, y, *args: multiply(g[..., None], slope(y, *args))


def _row_jvp(slope: Function) -> Function:
    return lambda t, y, *args: sum(multiply(t, slope(y, *args)), -1)


def _cross_entropy_values(logits: RawArray, labels: RawArray) -> RawArray:
    log_p = _log_softmax_values(logits, axis=-1)
    return -np.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]


def _cross_entropy_slope(y: Array, logits: Array, labels: RawArray) -> Array:
    """∂(−log p_label)/∂logits = p − onehot(label)."""
    classes = np.arange(logits.shape[-1], dtype=labels.dtype, like=labels)
    one_hot = (labels[..., None] == classes).astype(logits.dtype)
    return subtract(softmax(logits), one_hot)


_cross_entropy = Primitive(
    _cross_entropy_values,
    [_row_vjp(_cross_entropy_slope), None],
    [_row_jvp(_cross_entropy_slope), None],
    name="cross_entropy",
)


def cross_entropy(logits: Array, labels: RawArray) -> Array:
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


def _log_ratio(log_p: Array, log_q: Array) -> Array:
    """log p − log q; 0 where p is 0, by which it is to be multiplied."""
    ruled_out = stop_gradient(log_p) == -np.inf
    return subtract(where(ruled_out, 0.0, log_p), where(ruled_out, 0.0, log_q))


def _kl_values(p_logits: RawArray, q_logits: RawArray) -> RawArray:
    log_p = _log_softmax_values(p_logits, axis=-1)
    log_q = _log_softmax_values(q_logits, axis=-1)
    return np.sum(np.exp(log_p) * _log_ratio(log_p, log_q), axis=-1)


def _kl_slope_p(y: Array, p_logits: Array, q_logits: Array) -> Array:
    """∂KL/∂p_logits = p (log p − log q − KL)."""
    difference = _log_ratio(log_softmax(p_logits), log_softmax(q_logits))
    return multiply(softmax(p_logits), subtract(difference, y[..., None]))


def _kl_slope_q(y: Array, p_logits: Array, q_logits: Array) -> Array:
    """∂KL/∂q_logits = q − p."""
    return subtract(softmax(q_logits), softmax(p_logits))


_kl = Primitive(
    _kl_values,
    [_row_vjp(_kl_slope_p), _row_vjp(_kl_slope_q)],
    [_row_jvp(_kl_slope_p), _row_jvp(_kl_slope_q)],
    name="kl",
)


def kl(p_logits: Array, q_logits: Array) -> Array:
    """KL[p‖q] = Σ p (log p − log q) of p = softmax(p_logits) and q = softmax(q_logits); eq. 17.

    From logits (..., C), shape (...); finite where differences of logits are, and 0 or more up to
    rounding. A class with p = 0 adds nothing; one with q = 0 alone makes it infinite.
    Raises ValueError where the shapes differ.
    """
    if p_logits.shape != q_logits.shape:
        raise ValueError(
            f"kl: p_logits and q_logits must have one shape, got {p_logits.shape} "
            f"and {q_logits.shape}"
        )
    return _kl(p_logits, q_logits)
