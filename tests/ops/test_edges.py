"""Kinks and ties as documented; no NaN, overflow or lost digits at the edges."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import minivat
from minivat import ops
from minivat.divergence import bernoulli, categorical

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


@pytest.mark.parametrize("axis", [1, None])
def test_logsumexp_of_minus_infinity(axis):
    x = np.array([[-np.inf, -np.inf], [-np.inf, 0.0]])
    x = x if axis else x[:1]
    y, jvp, vjp = minivat.linearize(lambda x: ops.logsumexp(x, axis=axis), x)
    np.testing.assert_array_equal(y, [-np.inf, 0.0] if axis else -np.inf)
    np.testing.assert_array_equal(vjp(np.ones_like(y)), np.exp(x))
    np.testing.assert_array_equal(jvp(np.ones_like(x)), [0.0, 1.0] if axis else 0.0)
    second = minivat.hvp(lambda x: ops.sum(ops.logsumexp(x, axis=axis)), x, np.ones_like(x))
    np.testing.assert_array_equal(second, np.zeros_like(x))


# Classes that are ruled out by a logit of −∞: everything is as if they were not there

RULED_OUT = {
    "softmax": lambda z: ops.sum(ops.softmax(z) * ops.softmax(z), axis=-1),
    "log_softmax": lambda z: ops.log_softmax(z)[:, 0],
    "logsumexp": lambda z: ops.logsumexp(z, axis=-1),
    "cross_entropy": lambda z: ops.cross_entropy(z, np.zeros(len(z), int)),
    "entropy": categorical.entropy,
    "kl": lambda z: ops.kl(z, z[::-1]),
    "kl of equals": lambda z: ops.kl(z, z),
    "kl, by p": lambda z: ops.kl(z, ops.stop_gradient(z)[::-1]),
    "kl, by q": lambda z: ops.kl(ops.stop_gradient(z)[::-1], z),
}


@pytest.mark.parametrize("name", RULED_OUT)
@both_dtypes
@given(seed=st.integers(0, 2**32 - 1), out=st.sets(st.integers(1, 4), min_size=1))
def test_a_class_ruled_out_is_as_if_it_were_not_there(name, dtype, seed, out):
    f, out = RULED_OUT[name], list(out)
    left = [c for c in range(5) if c not in out]
    z, t = (3 * np.random.default_rng(seed).standard_normal((2, 3, 5))).astype(dtype)
    z[:, out] = -np.inf

    def results(z, t):
        y, jvp, vjp = minivat.linearize(f, z)
        second = minivat.hvp(lambda z: ops.sum(f(z)), z, t)
        return y, jvp(t), vjp(np.ones_like(y)), second

    *values, first, second = results(z, t)
    assert not first[:, out].any() and not second[:, out].any()
    got = *values, first[:, left], second[:, left]
    tolerance = 100 * np.finfo(dtype).eps
    for one, other in zip(got, results(z[:, left], t[:, left]), strict=True):
        assert one.dtype == np.dtype(dtype)
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=10 * tolerance)


def test_values_of_classes_ruled_out():
    z = np.array([[0.0, -np.inf, np.log(3.0)], [-np.inf, 0.0, -np.inf]])
    np.testing.assert_allclose(ops.softmax(z), [[0.25, 0, 0.75], [0, 1, 0]], rtol=1e-15)
    np.testing.assert_allclose(
        ops.log_softmax(z),
        [[np.log(0.25), -np.inf, np.log(0.75)], [-np.inf, 0, -np.inf]],
        rtol=1e-15,
    )
    # What only p rules out adds nothing; what only q rules out is infinitely far away.
    np.testing.assert_allclose(ops.kl(z, 0 * z[:1, :1] + np.zeros_like(z))[1], np.log(3.0))
    np.testing.assert_array_equal(ops.kl(np.zeros((2, 3)), z), [np.inf, np.inf])
    slope = minivat.grad(lambda q: ops.sum(ops.kl(np.zeros((2, 3)), q)))(z)
    np.testing.assert_allclose(slope, ops.softmax(z) - 1 / 3, atol=1e-15)


@pytest.mark.parametrize(
    "f",
    [
        ops.softmax,
        ops.log_softmax,
        lambda z: ops.cross_entropy(z, np.array([0, 0])),
        lambda z: ops.kl(z, np.zeros_like(z)),
        lambda z: ops.kl(np.zeros_like(z), z),
        categorical.entropy,
        minivat.grad(lambda z: ops.sum(ops.cross_entropy(z, np.array([0, 0])))),
    ],
)
def test_an_example_without_a_class_is_named(f):
    with pytest.raises(ValueError, match="an example has no class left, all its logits are -inf"):
        f(np.array([[0.0, 1.0], [-np.inf, -np.inf]]))


@given(seed=st.integers(0, 2**32 - 1))
def test_a_bernoulli_logit_of_infinity_is_the_limit(seed):
    """What is certain has no entropy, and is as far from q as −log q says."""
    rng = np.random.default_rng(seed)
    q, sign = rng.standard_normal((4, 1)), rng.choice([-1.0, 1.0], (4, 1))
    p, far = np.inf * sign, 800.0 * sign
    np.testing.assert_allclose(bernoulli(p, q), np.logaddexp(0, -sign * q)[:, 0], rtol=1e-14)
    for f in (bernoulli.entropy, lambda z: bernoulli(z, q), lambda z: bernoulli(z, z)):
        np.testing.assert_array_equal(f(p), f(far))
        for route in (minivat.grad, lambda f: lambda z: minivat.hvp(f, z, np.ones_like(z))):
            total = lambda z, f=f: ops.sum(f(z))  # noqa: E731
            np.testing.assert_array_equal(route(total)(p), np.zeros_like(p))


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


# The function, its first derivative and its second, each of terms of one sign.
DERIVATIVES = {
    "expm1": (ops.expm1, np.exp, np.exp),
    "log1p": (ops.log1p, lambda x: 1 / (1 + x), lambda x: -1 / (1 + x) ** 2),
    "tanh": (
        ops.tanh,
        lambda x: 1 / np.cosh(x) ** 2,
        lambda x: -2 * np.tanh(x) / np.cosh(x) ** 2,
    ),
    "sigmoid": (
        ops.sigmoid,
        lambda x: 1 / (2 * np.cosh(x / 2)) ** 2,
        lambda x: -np.tanh(x / 2) / (2 * np.cosh(x / 2)) ** 2,
    ),
    "softplus": (
        ops.softplus,
        lambda x: 1 / (1 + np.exp(-x)),
        lambda x: 1 / (2 * np.cosh(x / 2)) ** 2,
    ),
}


@pytest.mark.parametrize("name", DERIVATIVES)
@both_dtypes
@given(x=st.floats(-40.0, 40.0, width=32))
def test_derivatives_keep_their_digits_where_the_value_has_none_left(name, dtype, x):
    """Where y + 1, 1 − y and 1 − y² would be 0; computed in twice the digits, or in more."""
    f, first, second = DERIVATIVES[name]
    x = np.array([x], dtype)
    if name == "log1p":
        x = np.expm1(x / 4)
    exact = x.astype(np.longdouble)
    tolerance = 10 * np.finfo(dtype).eps
    np.testing.assert_allclose(derivative(f, x), first(exact), rtol=tolerance)
    np.testing.assert_allclose(
        derivative(minivat.grad(lambda x: ops.sum(f(x))), x),
        second(exact),
        rtol=tolerance,
        atol=tolerance * float(np.abs(first(exact)).max()),
    )


def test_derivatives_that_had_no_digits():
    """The bug reports' numbers."""
    for f, x, expected in [
        (ops.expm1, -40.0, np.exp(-40.0)),
        (ops.sigmoid, 40.0, np.exp(-40.0)),
        (ops.tanh, 20.0, 4 * np.exp(-40.0)),
        (ops.expm1, np.float32(-18), np.float32(np.exp(-18.0))),
    ]:
        x = np.asarray(x)
        np.testing.assert_allclose(derivative(f, x), expected, rtol=2 * np.finfo(x.dtype).eps)


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


@pytest.mark.parametrize(
    ("base", "expected"),
    [(0.0, 0.0), (-2.0, 0.0), (1.0, 0.0), (2.0, 8 * np.log(2)), (0j, 0.0), (2j, -8j * np.log(2j))],
)
def test_the_exponents_derivative_where_the_base_has_a_logarithm_and_where_not(base, expected):
    """y log a, at a = 0 its limit 0; taken as 0 for a < 0. A base that is an array, too."""
    b = np.array(3.0 + 0j if isinstance(base, complex) else 3.0)
    for a in (base, np.array(base)):
        _, tangent = minivat.jvp(partial(ops.power, a), b, np.ones_like(b))
        np.testing.assert_allclose(tangent, expected, rtol=1e-14)


@pytest.mark.parametrize("base", [0.0, 0j, np.array(0.0), np.array(0j)])
def test_the_exponents_derivative_at_zero_to_the_power_of_zero(base):
    b = np.zeros_like(base)
    assert minivat.jvp(partial(ops.power, base), b, np.ones_like(b)) == (1.0, 0.0)


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "logsumexp", "norm", "softmax"])
def test_what_is_not_given_is_as_in_numpy(name):
    x = np.arange(6.0).reshape(2, 3) / 7
    reference = {
        "logsumexp": lambda x: np.log(np.exp(x).sum()),
        "norm": np.linalg.norm,
        "softmax": lambda x: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True),
    }.get(name) or getattr(np, name)
    found = getattr(ops, name)(x)
    assert np.shape(found) == np.shape(reference(x))
    np.testing.assert_allclose(found, reference(x), rtol=1e-14)


def test_what_is_not_given_of_joins_images_and_log_softmax():
    x, images = np.arange(6.0).reshape(2, 3), np.arange(36.0).reshape(1, 6, 6, 1)
    np.testing.assert_array_equal(ops.concat([x, x]), np.concatenate([x, x]))
    np.testing.assert_array_equal(ops.stack([x, x]), np.stack([x, x]))
    np.testing.assert_array_equal(ops.transpose(x), x.T)
    np.testing.assert_array_equal(ops.log_softmax(x), ops.log_softmax(x, axis=1))
    np.testing.assert_array_equal(ops.leaky_relu(-x), -0.1 * x)
    np.testing.assert_array_equal(ops.leaky_relu(x - 2.5, 1.5), np.where(x > 2, 1, 1.5) * (x - 2.5))
    squares = images.reshape(1, 3, 2, 3, 2, 1)
    np.testing.assert_array_equal(ops.max_pool2d(images), squares.max(axis=(2, 4)))
    np.testing.assert_allclose(ops.avg_pool2d(images), squares.mean(axis=(2, 4)), rtol=1e-14)
    kernel = np.ones((3, 3, 1, 1))
    assert ops.conv2d(images, kernel)[0, 0, 0, 0] == images[0, :2, :2].sum()  # padding "same"
    assert ops.conv2d(images, kernel).shape == images.shape
    rows = np.arange(12.0).reshape(4, 3)
    one, zero = np.ones(3), np.zeros(3)
    without = ops.batch_norm(rows, one, zero, 1e-3)[0]
    np.testing.assert_array_equal(without, ops.batch_norm(rows, one, zero, 1e-3, 1.0)[0])
    assert without.min() < 0


def test_a_constant_column_is_normalised_to_zero():
    x = np.full((5, 2), 1e4, np.float32)
    y, mean, var = ops.normalize(x, 0, 2e-5)
    np.testing.assert_array_equal(y, np.zeros_like(x))
    np.testing.assert_array_equal(mean, [[1e4, 1e4]])
    np.testing.assert_array_equal(var, [[0, 0]])


# Complex numbers: right where a function is holomorphic, refused where it is not


def test_the_absolute_value_and_the_norm_of_complex_numbers():
    np.testing.assert_array_equal(ops.norm(np.array([3 + 4j])), 5.0)
    x = np.array([[3 + 4j, 12.0, 1j], [0, 0, 0]])
    np.testing.assert_allclose(ops.norm(x, axis=1), [np.sqrt(170), 0], rtol=1e-15)
    huge = ops.norm(1e30 * x[0].astype(np.complex64))
    assert huge.dtype == np.float32
    np.testing.assert_allclose(huge, np.sqrt(170) * 1e30, rtol=1e-6)


@pytest.mark.parametrize(("name", "f"), [("abs", ops.abs), ("norm", lambda z: ops.norm(z, axis=0))])
@pytest.mark.parametrize("x", [np.array([1.0, -2.0]), np.array([1.0 + 0j, -2.0])], ids=["R", "C"])
def test_what_is_not_holomorphic_is_refused(name, f, x):
    """The gradient of Σ|(3 + 4j)x| is (5, −5) at (1, −2), and not (−1.4, 1.4)."""
    for route in (minivat.grad, lambda f: lambda x: minivat.jvp(f, x, x)):
        with pytest.raises(TypeError, match=f"{name}: not differentiable by complex") as error:
            route(lambda x: ops.sum(f((3 + 4j) * x)))(x)
        assert "\n" not in str(error.value)


def test_a_complex_derivative_of_real_numbers_is_refused():
    with pytest.raises(TypeError, match="float64 has a complex derivative"):
        minivat.grad(lambda x: ops.sum((3 + 4j) * x))(np.array([1.0, -2.0]))
    got = minivat.grad(lambda x: ops.sum((3 + 4j) * x))(np.array([1.0 + 0j, -2.0]))
    np.testing.assert_array_equal(got, [3 + 4j, 3 + 4j])


HOLOMORPHIC = {
    "sigmoid": (ops.sigmoid, lambda z: 1 / (1 + np.exp(-z))),
    "softplus": (ops.softplus, lambda z: np.log(1 + np.exp(z))),
    "tanh": (ops.tanh, np.tanh),
    "expm1": (ops.expm1, lambda z: np.exp(z) - 1),
    "logsumexp": (ops.logsumexp, lambda z: np.log(np.exp(z).sum())),
    "power": (lambda z: ops.power(z, 2.5 - 1j), lambda z: z ** (2.5 - 1j)),
    "power of a base": (lambda z: ops.power(0.5 + 2j, z), lambda z: (0.5 + 2j) ** z),
    "power by array": (lambda z: ops.power(-1 + z, z), lambda z: (-1 + z) ** z),
}


@pytest.mark.parametrize("name", HOLOMORPHIC)
def test_derivatives_by_complex_numbers(name):
    """With those of the same formula along both axes, which agree: it is holomorphic."""
    f, formula = HOLOMORPHIC[name]
    z, h = np.array([0.3 + 0.7j, -0.8 - 0.4j, 0.2 + 1.1j]), 1e-6
    y, jvp, _ = minivat.linearize(f, z)
    np.testing.assert_allclose(y, formula(z), rtol=1e-14)
    for step in (h, 1j * h):
        expected = (formula(z + step) - formula(z - step)) / (2 * step)
        np.testing.assert_allclose(jvp(np.ones_like(z)), expected, rtol=1e-8)


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
