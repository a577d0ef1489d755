"""Adam against the textbook, whatever the chunks and threads; schedules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minivat.optim import Adam, constant_then_linear, exponential_decay


def textbook(theta, gradients, rates, beta1, beta2=0.999, epsilon=1e-8):
    """Algorithm 1 of arXiv 1412.6980, line by line; rates and beta1 by update."""
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t, (g, rate, b1) in enumerate(zip(gradients, rates, beta1, strict=True), start=1):
        m = b1 * m + (1 - b1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat = m / (1 - b1**t)
        v_hat = v / (1 - beta2**t)
        theta = theta - rate * m_hat / (np.sqrt(v_hat) + epsilon)
    return theta


def train(adam, theta, gradients, rates, beta1=None):
    theta = theta.copy()
    moments = adam.init(theta)
    for t, g in enumerate(gradients, start=1):
        adam.update(theta, g, moments, t, rates[t - 1], None if beta1 is None else beta1[t - 1])
    return theta


gradients = st.tuples(st.integers(1, 6), st.integers(1, 8)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-1e3, 1e3, allow_subnormal=False))
)


@given(gradients, st.floats(0.5, 0.95))
def test_adam_is_the_textbooks(g, beta1):
    theta = np.linspace(-1, 1, g.shape[1])
    rates = [0.1 / t for t in range(1, len(g) + 1)]
    expected = textbook(theta, g, rates, [beta1] * len(g))
    # The textbook itself cancels in 1 − β₂ᵗ: it is right to about 1e-16 / 1e-3.
    result = train(Adam(beta1=beta1), theta, g, rates)
    np.testing.assert_allclose(result, expected, rtol=1e-11, atol=1e-11)


@given(gradients)
def test_learning_rate_and_beta1_may_change_during_training(g):
    theta = np.linspace(-1, 1, g.shape[1])
    half = len(g) // 2
    beta1 = [0.9] * half + [0.5] * (len(g) - half)
    rates = np.geomspace(1.0, 0.01, len(g))
    expected = textbook(theta, g, rates, beta1)
    np.testing.assert_allclose(train(Adam(), theta, g, rates, beta1), expected, 1e-11, 1e-11)


def test_the_first_step_has_the_learning_rates_size_whatever_the_gradients():
    g = np.array([[1e-3, -1.0, 1e3, 0.0]])
    moved = train(Adam(), np.zeros(4), g, [0.002])
    np.testing.assert_allclose(moved, -0.002 * g[0] / (np.abs(g[0]) + 1e-8), rtol=1e-11)
    np.testing.assert_allclose(moved, [-0.002, 0.002, -0.002, 0.0], rtol=1e-4)


def test_a_gradient_of_zeros_moves_nothing():
    theta = np.ones(3, np.float32)
    np.testing.assert_array_equal(train(Adam(), theta, np.zeros((4, 3), np.float32), [1.0] * 4), 1)


def test_float32_stays_float32_and_close_to_float64(device):
    generator = np.random.default_rng(0)
    g = generator.standard_normal((20, 1000))
    theta = generator.standard_normal(1000)
    rates = [0.002] * 20
    expected = train(Adam(), theta, g, rates)
    adam, flat = Adam(), device.asarray(theta.astype(np.float32))
    moments = adam.init(flat)
    for t, row in enumerate(g, start=1):
        adam.update(flat, device.asarray(row.astype(np.float32)), moments, t, 0.002)
    assert {a.dtype for a in (flat, *moments.values())} == {np.dtype(np.float32)}
    # Twenty subtractions, each rounded to half a unit in the last place of numbers below 8.
    np.testing.assert_allclose(device.to_host(flat), expected, rtol=0, atol=20 * 2.0**-22)


def test_chunks_and_threads_do_not_change_a_bit(monkeypatch):
    generator = np.random.default_rng(0)
    size = 300_001
    g = generator.standard_normal((3, size), dtype=np.float32)
    theta = generator.standard_normal(size, dtype=np.float32)
    rates = [0.002] * 3
    chunks = np.array_split(np.arange(size), 97)
    in_chunks = np.concatenate([train(Adam(), theta[c], g[:, c], rates) for c in chunks])
    for threads in ("1", "2", "3", "8"):
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", threads)
        np.testing.assert_array_equal(train(Adam(), theta, g, rates), in_chunks)


def test_update_works_in_place_and_leaves_the_gradient_alone():
    theta, g = np.ones(4), np.arange(4.0)
    adam = Adam()
    moments = adam.init(theta)
    before = {name: (array, array.copy()) for name, array in moments.items()}
    adam.update(theta, g, moments, 1, 0.1)
    np.testing.assert_array_equal(g, np.arange(4.0))
    assert not np.array_equal(theta, np.ones(4))
    for name, (array, copy) in before.items():
        assert moments[name] is array
        assert not np.array_equal(array, copy)


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        (0, 0.002),
        (599, 0.002),
        (600, 0.0018),
        (1199, 0.0018),
        (1200, 0.00162),
        (59_999, 0.002 * 0.9**99),
    ],
)
def test_exponential_decay(update, expected):
    assert exponential_decay(0.002)(update) == pytest.approx(expected, rel=1e-12)


def test_exponential_decay_at_another_pace():
    assert exponential_decay(1.0, rate=0.5, every=10)(35) == 0.125


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        (0, 0.001),
        (31_999, 0.001),
        (32_000, 0.001),
        (40_000, 0.0005),
        (47_999, 0.001 / 16_000),
        (48_000, 0.0),
        (50_000, 0.0),
    ],
)
def test_constant_then_linear(update, expected):
    assert constant_then_linear(0.001, 32_000, 48_000)(update) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("start", "end"), [(-1, 10), (10, 10), (11, 10)])
def test_constant_then_linear_refuses(start, end):
    with pytest.raises(ValueError, match="decay_start must lie in"):
        constant_then_linear(0.001, start, end)


def test_adams_constants_are_the_papers():
    adam = Adam()
    assert (adam.beta1, adam.beta2, adam.epsilon) == (0.9, 0.999, 1e-8)
