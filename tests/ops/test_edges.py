"""Kinks and ties as documented; no NaN, overflow or lost digits at the edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import minivat
from minivat import ops

FAR = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [0.0, 0.0, 1e4], [1e4, 1e4, 1e4]])
LABELS = np.array([1, 0, 2, 2])

both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def derivative(f, x):
    """The derivative of a function of elements, by both modes."""
    y, jvp, vjp = minivat.linearize(f, x)
    np.testing.assert_array_equal(jvp(np.ones_like(x)), vjp(np.ones_like(y)))
    return jvp(np.ones_like(x))


# Kinks and ties


@pytest.mark.parametrize(
    ("f", "at_zero"),
    [
        (ops.abs, 0.0),
        (ops.relu, 0.0),
        (lambda x: ops.leaky_relu(x, 0.2), 0.2),
        (lambda x: ops.clip(x, 0.0, 1.0), 1.0),
        (lambda x: ops.clip(x, -1.0, 0.0), 1.0),
        (lambda x: ops.maximum(x, 0.0), 0.5),
        (lambda x: ops.maximum(0.0, x), 0.5),
        (lambda x: ops.minimum(x, 0.0), 0.5),
        (lambda x: ops.maximum(x, x), 1.0),
        (lambda x: ops.minimum(x, x), 1.0),
        (ops.norm, 0.0),
    ],
)
@both_dtypes
def test_subgradients_at_zero(f, at_zero, dtype):
    got = derivative(f, np.zeros((), dtype))
    assert got.dtype == np.dtype(dtype)
    assert got == np.asarray(at_zero, dtype)


@pytest.mark.parametrize("f", [ops.max, ops.min])
def test_elements_that_tie_share_equally(f):
    x = np.array([[2.0, 2.0, 1.0], [3.0, 3.0, 3.0]])
    if f is ops.min:
        x = -x
    by_row = minivat.grad(lambda x: ops.sum(f(x, axis=1)))(x)
    np.testing.assert_allclose(by_row, [[0.5, 0.5, 0.0], [1 / 3] * 3], rtol=1e-15)
    np.testing.assert_allclose(minivat.grad(f)(x), [[0.0] * 3, [1 / 3] * 3], rtol=1e-15)


# No NaN


@pytest.mark.parametrize(
    "f",
    [
        ops.softmax,
        ops.log_softmax,
        lambda x: ops.logsumexp(x, axis=1),
        ops.logsumexp,
        lambda x: ops.cross_entropy(x, LABELS),
        lambda x: ops.kl(x, x[::-1]),
        lambda x: ops.kl(x, np.zeros_like(FAR, dtype=x.dtype)),
        lambda x: ops.kl(np.zeros_like(FAR, dtype=x.dtype), x),
        lambda x: ops.norm(x, axis=1),
        ops.norm,
        ops.sigmoid,
        ops.softplus,
        ops.tanh,
        lambda x: ops.normalize(x, 1, 1e-5)[0],
        lambda x: ops.normalize(x, 0, 2e-5)[0],
    ],
)
@pytest.mark.parametrize("x", [FAR, 0 * FAR], ids=["far", "zero"])
@both_dtypes
def test_finite_at_the_edges(f, x, dtype):
    """Values, both modes and the second order; an overflow would warn, and so fail."""
    x = x.astype(dtype)
    y, jvp, vjp = minivat.linearize(f, x)
    t, g = np.ones_like(x), np.ones_like(y)
    second = minivat.hvp(lambda x: ops.sum(f(x) * g), x, t)
    for array in (y, jvp(t), vjp(g), second):
        assert np.all(np.isfinite(array))


def test_values_at_the_edges():
    np.testing.assert_array_equal(ops.log_softmax(FAR[:2]), [[0, -2e4, -1e4], [-np.log(3)] * 3])
    np.testing.assert_array_equal(ops.logsumexp(FAR, axis=1)[:1], [1e4])
    np.testing.assert_array_equal(ops.cross_entropy(FAR, LABELS)[[0, 2]], [2e4, 0])
    np.testing.assert_array_equal(ops.kl(FAR[:1], FAR[:1, ::-1]), [1e4])
    np.testing.assert_array_equal(ops.sigmoid(np.array([-1e4, 0, 1e4])), [0, 0.5, 1])
    np.testing.assert_array_equal(ops.softplus(np.array([-1e4, 1e4])), [0, 1e4])
    np.testing.assert_array_equal(ops.norm(np.zeros((2, 3)), axis=1), [0, 0])


def test_logsumexp_of_minus_infinity():
    x = np.array([[-np.inf, -np.inf], [-np.inf, 1.0]])
    np.testing.assert_array_equal(ops.logsumexp(x, axis=1), [-np.inf, 1.0])


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norm_neither_overflows_nor_vanishes(scale):
    x = np.array([[3.0, 4.0]], np.float32) * np.float32(scale)
    np.testing.assert_allclose(ops.norm(x, axis=1), [5 * scale], rtol=3e-7)
    unit = minivat.grad(ops.norm)(x)
    np.testing.assert_allclose(unit, [[0.6, 0.8]], rtol=3e-7)


def test_sigmoid_keeps_its_digits_far_below_zero():
    """exp(x) for x ≪ 0 to relative precision: what a probability near 0 needs."""
    for dtype, x in (("float32", -60.0), ("float64", -600.0)):
        x = np.array([x], dtype)
        np.testing.assert_allclose(ops.softplus(x), np.exp(x), rtol=1e-6)
        np.testing.assert_allclose(derivative(ops.softplus, x), np.exp(x), rtol=1e-6)


@pytest.mark.parametrize(
    ("base", "exponent", "value", "first", "second"),
    [
        (0.0, 2, 0.0, 0.0, 2.0),
        (0.0, 2.0, 0.0, 0.0, 2.0),
        (0.0, 1, 0.0, 1.0, 0.0),
        (0.0, 0, 1.0, 0.0, 0.0),
        (0.0, 3, 0.0, 0.0, 0.0),
        (-2.0, 3, -8.0, 12.0, -12.0),
        (-2.0, 2.0, 4.0, -4.0, 2.0),
        (-2.0, -1, -0.5, -0.25, -0.25),
    ],
)
@both_dtypes
def test_powers_of_zero_and_of_negative_numbers(base, exponent, value, first, second, dtype):
    x = np.array(base, dtype)
    f = lambda x: x**exponent  # noqa: E731
    assert f(x) == value
    assert derivative(f, x) == first
    assert derivative(minivat.grad(f), x) == second
    # An exponent that is an array takes the general rule.
    b = np.array(exponent, dtype)
    assert derivative(lambda x: ops.power(x, b), x) == first
    assert np.isfinite(derivative(lambda b: ops.power(x, b), b))


def test_a_constant_column_is_normalised_to_zero():
    x = np.full((5, 2), 1e4, np.float32)
    y, mean, var = ops.normalize(x, 0, 2e-5)
    np.testing.assert_array_equal(y, np.zeros_like(x))
    np.testing.assert_array_equal(mean, [[1e4, 1e4]])
    np.testing.assert_array_equal(var, [[0, 0]])


logits = arrays(np.float64, (3, 4), elements=st.floats(-1e4, 1e4))


@given(logits, logits)
def test_kl_is_not_negative_and_zero_between_equals(p, q):
    assert np.all(ops.kl(p, q) >= -1e-12)
    np.testing.assert_array_equal(ops.kl(p, p), np.zeros(3))
    np.testing.assert_array_equal(minivat.grad(lambda q: ops.sum(ops.kl(p, q)))(p), 0 * p)


@given(logits)
def test_softmax_sums_to_one(x):
    np.testing.assert_allclose(ops.sum(ops.softmax(x), axis=-1), np.ones(3), rtol=1e-14)
    np.testing.assert_allclose(np.exp(ops.log_softmax(x)), ops.softmax(x), atol=1e-12)


@pytest.mark.parametrize(
    "f", [ops.exp, ops.relu, ops.abs, lambda x: ops.sum(x, axis=0), ops.sum, lambda x: x * x[:, :1]]
)
def test_arrays_without_elements(f):
    x = np.zeros((0, 3))
    y, jvp, vjp = minivat.linearize(f, x)
    assert jvp(x).shape == y.shape
    assert vjp(y).shape == x.shape
