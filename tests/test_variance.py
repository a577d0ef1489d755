"""Eq. 21: without bias, and equal to closed forms on a linear network."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivat import ops, value_and_grad, vat
from minivat.divergence import Gaussian
from minivat.variance import normalized_sd_norm

BATCH, DIMENSION, EPSILON = 4, 9, 0.5


def regularizers_gradients(w, iterations, draws, scale=1.0):
    """∂R⁽ᴷ⁾/∂W of the network x ↦ x Wᵀ with Gaussian outputs, x ~ N(0, scale²): (draws, P)."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        x, d = random.standard_normal((2, BATCH, DIMENSION))

        def objective(w, x=scale * x, d=d):
            model = lambda x: ops.matmul(x, ops.transpose(w))  # noqa: E731
            settings = vat.PowerIteration(iterations)
            return vat.regularizer(model, x, [d], EPSILON, settings, divergence=Gaussian())[0]

        found.append(value_and_grad(objective)(w)[1].ravel())
    return np.array(found)


@pytest.mark.parametrize("scale", [0.0, 0.3])
def test_random_perturbations_of_a_linear_network(scale):
    """The LDS is ½‖W (x + r) − Ŵ x‖² with Ŵ constant, its gradient W r (x + r)ᵀ.

    r is isotropic and independent of x, so E g = ε²/D · W, and
    E ‖W r (x + r)ᵀ‖² = ε²/D · ‖W‖² (E‖x‖² + ε²).
    """
    w = np.random.default_rng(1).standard_normal((3, DIMENSION))
    value, error = normalized_sd_norm(regularizers_gradients(w, 0, 2000, scale))
    square_of_x = DIMENSION * scale**2
    right = np.sqrt((DIMENSION * (square_of_x + EPSILON**2) / EPSILON**2 - 1) / BATCH)
    assert 0 < error < 0.05 * right
    assert abs(value - right) < 4 * error


def test_a_power_iteration_leaves_no_variance_where_there_is_one_direction():
    """With W of rank 1 every r is ±ε u₁; at x = 0 g is then the same for every batch."""
    w = np.outer([1.0, -2.0, 0.5], np.random.default_rng(1).standard_normal(DIMENSION))
    value, error = normalized_sd_norm(regularizers_gradients(w, 1, 8, scale=0.0))
    assert value < 1e-12 and error < 1e-12


def test_the_estimates_have_no_bias():
    """Over all samples of a population the two estimates are the population's, on average."""
    population = np.random.default_rng(2).standard_normal((4, 3)) + 1
    variance = np.sum(np.var(population, axis=0))
    mean = np.sum(np.mean(population, axis=0) ** 2)
    found = []
    for each in itertools.product(population, repeat=3):
        g = np.array(each)
        trace = np.sum(np.var(g, axis=0, ddof=1))
        squared_norm = np.sum(np.mean(g, axis=0) ** 2) - trace / 3
        found.append([trace, squared_norm])
        value = normalized_sd_norm(g).value
        right = np.sqrt(trace / squared_norm) if squared_norm > 1e-9 else np.inf
        assert value == pytest.approx(right, rel=1e-6) or squared_norm < 1e-9
    assert np.mean(found, axis=0) == pytest.approx([variance, mean])


@given(st.integers(3, 8), st.integers(1, 5), st.floats(0.01, 100), st.integers(0, 1000))
def test_it_is_scale_free_and_its_error_is_the_jackknifes(n, size, scale, seed):
    g = np.random.default_rng(seed).standard_normal((n, size)) + 3
    value, error = normalized_sd_norm(g)
    assert normalized_sd_norm(scale * g) == pytest.approx((value, error), rel=1e-6, abs=1e-9)
    if n > 3:
        without = [normalized_sd_norm(np.delete(g, i, axis=0)).value for i in range(n)]
        if np.isfinite(without).all():
            assert error == pytest.approx(np.sqrt((n - 1) * np.var(without)), rel=1e-6, abs=1e-9)
        else:
            assert error == np.inf


def test_a_mean_that_cannot_be_told_from_noise():
    g = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.1], [0.0, -0.1]])
    assert normalized_sd_norm(g) == (np.inf, np.inf)


@pytest.mark.parametrize("shape", [(3,), (2, 5), (3, 4, 5), (0, 4)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"^gradients must be \(n, P\) with n from 3, got shape"):
        normalized_sd_norm(np.zeros(shape))
