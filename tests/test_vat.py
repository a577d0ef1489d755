"""The method: every route to H d, what it captures, what is constant, and each trap on the way.

In float64 the routes are compared entry by entry. In float32 with a small ξ the entries are mostly
rounding noise, in which the curvature survives: there the Rayleigh quotient is compared.
"""

from functools import partial

import numpy as np
import pytest
import scipy.linalg
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse.linalg import LinearOperator, eigsh

from minivat import grad, hvp, nn, ops, value_and_grad, vat
from minivat.backend import RandomStream
from minivat.divergence import bernoulli, categorical, gaussian
from minivat.vat import PowerIteration
from tests import oracle

seeds = st.integers(0, 2**32 - 1)
each_statistics = pytest.mark.parametrize("statistics", ["batch", "running"])
each_divergence = pytest.mark.parametrize(
    "divergence", [categorical, bernoulli, gaussian(0.5)], ids=lambda d: type(d).__name__
)


class Problem:
    """A small random network with all its parameters away from their first values, and a batch.

    Leaky, since in a small network with running statistics all ReLUs may be off for an example.
    """

    def __init__(self, seed, statistics="running", sizes=(4, 7, 6, 3), batch=5, **options):
        self.generator = np.random.default_rng(seed)
        options = {"activation": "leaky_relu", **options}
        self.slope = {"relu": 0.0, "leaky_relu": 0.1, "tanh": None}[options["activation"]]
        self.model = nn.mlp(sizes, **options)
        params, state = self.model.init(self.generator, np.float64)
        self.params = {n: a + 0.3 * self.normal(*a.shape) for n, a in params.items()}
        self.state = {n: a + 0.3 * self.generator.random(a.shape) for n, a in state.items()}
        self.x, self.d = self.normal(2, batch, sizes[0])
        self.labels = self.generator.integers(0, sizes[-1], batch)
        self.statistics = statistics
        self.noise = None

    def normal(self, *shape):
        return self.generator.standard_normal(shape)

    def network(self, x, params=None):
        """The function of the input that minivat sees."""
        return self.model(
            self.params if params is None else params,
            x,
            self.state,
            statistics=self.statistics,
            noise=self.noise,
        )[0]

    def oracle(self, x, params=None):
        """The same without the engine; complex numbers welcome."""
        state = self.state if self.statistics == "running" else None
        params = self.params if params is None else params
        return oracle.network(params, x, state, self.noise, self.slope)

    def divergence(self, divergence=categorical):
        """D of the whole batch as a function of the perturbation."""
        logits = self.network(self.x)
        return lambda r: ops.sum(divergence(logits, self.network(self.x + r)))


def assert_same(a, b, tolerance=1e-10):
    """Relative to the size of the whole array."""
    assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


def dense(product, x):
    """The matrix of a linear map of arrays shaped like x."""
    columns = [product(e.reshape(x.shape)).ravel() for e in np.eye(x.size)]
    return np.stack(columns, axis=1)


def quotients(hessians, d):
    """Rayleigh quotients dᵀHd / dᵀd of each example."""
    return np.einsum("ni,nij,nj->n", d, hessians, d) / np.einsum("ni,ni->n", d, d)


# H d


@each_divergence
@each_statistics
@given(seed=seeds)
def test_all_routes_to_the_product_agree(divergence, statistics, seed):
    problem = Problem(seed, statistics)
    x, d = problem.x, problem.d
    divergence_at = problem.divergence(divergence)
    product, logits = vat.hessian_vector_product(problem.network, x, divergence)
    exact = product(d)
    np.testing.assert_array_equal(logits, problem.network(x))

    reverse_over_reverse = grad(lambda r: ops.sum(grad(divergence_at)(r) * d))(np.zeros_like(x))
    assert_same(reverse_over_reverse, exact)
    forward_over_reverse = hvp(divergence_at, np.zeros_like(x), d)
    assert_same(forward_over_reverse, exact)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh"])
@pytest.mark.parametrize("batch_norm", [False, True])
@each_statistics
@given(seed=seeds)
def test_the_product_is_that_of_the_dense_hessian(activation, batch_norm, statistics, seed):
    problem = Problem(seed, statistics, activation=activation, batch_norm=batch_norm)
    product, _ = vat.hessian_vector_product(problem.network, problem.x)
    expected = oracle.hessian(problem.oracle, problem.x)
    assert_same(dense(product, problem.x), expected)


@given(seed=seeds)
def test_batch_statistics_couple_the_examples_and_running_ones_do_not(seed):
    for statistics, coupled in [("running", False), ("batch", True)]:
        problem = Problem(seed, statistics)
        product, _ = vat.hessian_vector_product(problem.network, problem.x)
        d = np.zeros_like(problem.x)
        d[0] = problem.d[0]
        assert product(d)[1:].any() == coupled


@pytest.mark.parametrize("normalized", [False, True])
@given(seed=seeds)
def test_finite_differences_are_right_to_first_order_in_xi(normalized, seed):
    """(∇D(ξd))/ξ = H d + ξ c + O(ξ²) for a smooth network: extrapolation to ξ = 0 removes c."""
    generator = np.random.default_rng(seed)
    weights = generator.standard_normal((4, 8)), generator.standard_normal((8, 3))
    x, d = generator.standard_normal((2, 5, 4))

    def network(x):
        u = x @ weights[0]
        u = ops.normalize(u, axis=0, epsilon=1e-2)[0] if normalized else u
        return ops.tanh(u) @ weights[1]

    exact = vat.hessian_vector_product(network, x)[0](d)
    coarse, fine = (vat.finite_difference_product(network, x, xi)[0](d) for xi in (2e-4, 1e-4))
    assert_same(fine, exact, 1e-2)
    # What is left is ξ² times a third derivative, and rounding of 1e-16/ξ.
    assert_same(2 * fine - coarse, exact, 1e-5)
    assert not np.array_equal(fine, exact)


@each_statistics
@given(seed=seeds)
def test_the_top_eigenpair_is_that_of_the_dense_hessian(statistics, seed):
    problem = Problem(seed, statistics)
    x = problem.x
    product, _ = vat.hessian_vector_product(problem.network, x)
    operator = LinearOperator(
        (x.size, x.size), lambda d: product(d.reshape(x.shape)).ravel(), dtype=float
    )
    values, vectors = scipy.linalg.eigh(oracle.hessian(problem.oracle, x))
    assume(values[-1] - values[-2] > 1e-2 * values[-1])
    value, vector = eigsh(operator, k=1, v0=problem.d.ravel(), tol=1e-14)
    assert value[0] == pytest.approx(values[-1], rel=1e-10)
    assert abs(vector[:, 0] @ vectors[:, -1]) == pytest.approx(1.0, abs=1e-10)
    # H is positive semi-definite, of rank C − 1 for each example at most.
    assert values[0] > -1e-12 * values[-1]
    rank = (values > 1e-12 * values[-1]).sum()
    assert rank <= len(x) * 2


@given(seed=seeds)
def test_power_iteration_converges_to_the_dominant_eigenvector_of_each_example(seed):
    problem = Problem(seed, batch=4)
    product, _ = vat.hessian_vector_product(problem.network, problem.x)
    values, vectors = np.linalg.eigh(blocks(problem))
    ratio = (values[:, -2] / values[:, -1]).max()
    assume(ratio < 0.9)
    u1 = vectors[:, :, -1]
    before = np.abs((vat.unit(problem.d) * u1).sum(axis=1))
    assume(before.min() > 1e-3)
    # The angle to u₁ shrinks by λ₂/λ₁ in every iteration, from at most 1000.
    iterations = int(np.log(1e-11) / np.log(ratio)) + 1
    d = vat.power_iteration(product, problem.d, iterations)
    signs = np.sign((d * u1).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(d, signs * u1, rtol=0, atol=1e-7)


def blocks(problem):
    """H of each example, (N, D, D), with running statistics."""
    return np.stack([oracle.hessian(problem.oracle, x[None]) for x in problem.x])


@given(seed=seeds)
def test_each_iteration_captures_at_least_as_much_curvature(seed):
    problem = Problem(seed)
    hessians = blocks(problem)
    product, _ = vat.hessian_vector_product(problem.network, problem.x)
    captured = [quotients(hessians, vat.power_iteration(product, problem.d, k)) for k in range(4)]
    largest = np.linalg.eigvalsh(hessians)[:, -1]
    assert (np.diff(captured, axis=0) >= -1e-12 * largest).all()
    assert (captured[-1] <= largest * (1 + 1e-12)).all()


# Rounding: what ξ does in float32 and in float64


@pytest.fixture(scope="module")
def images():
    """A wide network in float64 and float32, a batch, and each example's λ₁ and H d."""

    class Images:
        model = nn.mlp([784, 300, 100, 10])

        def __init__(self):
            generator = np.random.default_rng(0)
            params, state = self.model.init(generator, np.float64)
            self.x = generator.random((20, 784))
            self.d = generator.standard_normal(self.x.shape)
            # Running statistics that fit, so that every example has its own H.
            _, state = self.model(params, self.x, state, decay=0.0)
            self.params, self.state = params, state
            _, _, pullback = vat.linearize(self.network(np.float64), self.x)
            rows = [pullback(np.tile(e, (20, 1))) for e in np.eye(10)]
            self.j = np.stack(rows, axis=1)
            logits = self.network(np.float64)(self.x)
            p = np.exp(oracle.log_softmax(logits))
            self.f = np.einsum("nc,ce->nce", p, np.eye(10)) - np.einsum("nc,ne->nce", p, p)
            # The non-zero spectrum of JᵀFJ is that of F J Jᵀ.
            fjj = self.f @ self.j @ self.j.transpose(0, 2, 1)
            self.largest = np.linalg.eigvals(fjj).real.max(axis=1)

        def network(self, dtype):
            params, state = (
                {name: array.astype(dtype) for name, array in arrays.items()}
                for arrays in (self.params, self.state)
            )
            return lambda x: self.model(params, x, state, statistics="running")[0]

        def direction(self, dtype, **options):
            """d after one power iteration, computed in dtype."""
            x, d = self.x.astype(dtype), self.d.astype(dtype)
            r, _ = vat.virtual_adversarial_perturbation(
                self.network(dtype), x, d, 1.0, PowerIteration(**options)
            )
            assert r.dtype == dtype
            return r.astype(float)

        def captured(self, d):
            """dᵀHd / λ₁ for each example, 1 at best, by the true H."""
            jd = np.einsum("nci,ni->nc", self.j, d)
            return np.einsum("nc,nce,ne->n", jd, self.f, jd) / self.largest

    return Images()


def test_float32_captures_the_curvature_that_float64_does(images):
    exact = images.captured(images.direction(np.float64))
    np.testing.assert_allclose(images.captured(images.direction(np.float32)), exact, rtol=1e-4)
    for xi in (1e-4, 1e-3, 1e-2):
        d = images.direction(np.float32, direction="finite-difference", xi=xi)
        np.testing.assert_allclose(images.captured(d).mean(), exact.mean(), rtol=0.02)
    assert images.captured(vat.unit(images.d)).max() < 0.05 < 0.4 < exact.min()


def test_the_papers_xi_is_rounding_noise_in_float32_that_still_captures_curvature(images):
    exact = images.direction(np.float64)
    noisy = images.direction(np.float32, direction="finite-difference", xi=1e-6)
    random = images.captured(vat.unit(images.d))
    assert np.median(np.abs((noisy * exact).sum(axis=1))) < 0.9
    captured = np.median(images.captured(noisy)) / np.median(images.captured(exact))
    assert captured > 0.5
    assert np.median(images.captured(noisy)) > 20 * np.median(random)


@pytest.mark.parametrize("xi", [1e-7, 1e-6, 1e-5])
def test_in_float64_the_papers_xi_gives_the_exact_direction(images, xi):
    exact = images.direction(np.float64)
    d = images.direction(np.float64, direction="finite-difference", xi=xi)
    cosine = (d * exact).sum(axis=1)
    assert cosine.min() > 1 - 1e-6


def test_a_large_xi_is_no_finite_difference(images):
    """ξ = 10, which other implementations use, leaves the neighbourhood of r = 0."""
    d = images.direction(np.float64, direction="finite-difference", xi=10.0)
    exact = images.captured(images.direction(np.float64))
    assert np.median(images.captured(d)) < 0.5 * np.median(exact)


# Normalising


@given(
    arrays(np.float64, (3, 4), elements=st.floats(-1, 1).filter(lambda v: v == 0 or abs(v) > 1e-3)),
    st.integers(-37, 37),
    st.sampled_from([np.float32, np.float64]),
)
def test_unit_rows_have_length_one_at_any_scale_and_zero_rows_stay_zero(d, exponent, dtype):
    d = (d * 10.0**exponent).astype(dtype)
    u = vat.unit(d)
    assert u.dtype == dtype
    zero = ~d.any(axis=1)
    assert not u[zero].any()
    lengths = np.sqrt((u[~zero].astype(float) ** 2).sum(axis=1))
    np.testing.assert_allclose(lengths, 1.0, rtol=8 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(np.sign(u), np.sign(d))


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-12, 1.0, 1e30])
def test_unit_of_extreme_rows_in_float32(device, scale):
    if device.name == "cuda" and scale < 1e-38:
        pytest.skip("below the normal numbers CuPy's kernels have zeros (-ftz=true)")
    d = np.array([[3.0, -4.0], [0.0, 0.0], [0.0, 1.0]], np.float32) * np.float32(scale)
    u = device.to_host(vat.unit(device.asarray(d)))
    # Below the normal numbers d itself has only a few bits left.
    tolerance = 0.05 if scale < 1e-38 else 1e-6
    np.testing.assert_allclose(u, [[0.6, -0.8], [0, 0], [0, 1]], rtol=0, atol=tolerance)


def test_unit_normalizes_each_example_over_all_its_axes():
    d = np.random.default_rng(0).standard_normal((3, 2, 4, 5))
    lengths = np.linalg.norm(vat.unit(d).reshape(3, -1), axis=1)
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("direction", vat.DIRECTIONS)
def test_saturated_outputs_give_no_perturbation_and_no_nan(direction, dtype):
    weight = np.eye(4, 3).astype(dtype) * dtype(1e4)
    x = np.array([[1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, -1.0, 0.5]]).astype(dtype)
    x[2] = 0  # a uniform p beside two saturated ones
    d = np.random.default_rng(0).standard_normal(x.shape).astype(dtype)

    def network(x):
        return x @ weight

    settings = PowerIteration(1, direction, xi=1e-6)
    r, logits = vat.virtual_adversarial_perturbation(network, x, d, 1e-3, settings)
    assert not r[:2].any()
    assert np.linalg.norm(r[2]) == pytest.approx(1e-3, rel=1e-5)
    values = vat.lds(network, x, r, logits)
    assert not values[:2].any()
    assert np.isfinite(values).all()

    def objective(weight):
        return vat.regularizer(lambda x: x @ weight, x, [d], 1e-3, settings)[0]

    assert np.isfinite(grad(objective)(weight)).all()


# The local distributional smoothness


@given(seed=seeds)
def test_lds_is_the_divergence_from_the_clean_distribution(seed):
    problem = Problem(seed)
    x, r = problem.x, problem.d
    clean, perturbed = problem.oracle(x), problem.oracle(x + r)
    values = vat.lds(problem.network, x, r, problem.network(x))
    np.testing.assert_allclose(values, oracle.kl(clean, perturbed), rtol=1e-9, atol=1e-13)
    assert not np.allclose(values, oracle.kl(perturbed, clean), rtol=1e-3)


@each_statistics
@pytest.mark.parametrize("options", [{}, {"noise": 0.5}, {"dropout": 0.5}], ids=str)
def test_with_shared_noise_the_divergence_and_its_gradient_vanish_at_zero(statistics, options):
    problem = Problem(3, statistics, sizes=(4, 30, 20, 3), batch=6, **options)
    problem.noise = problem.model.draw_noise(RandomStream(problem.generator), 6, np.float64)
    zero = np.zeros_like(problem.x)
    assert not vat.lds(problem.network, problem.x, zero, problem.network(problem.x)).any()
    assert not grad(problem.divergence())(zero).any()

    # The exact product relies on it, and is that of the network with its noise.
    product, _ = vat.hessian_vector_product(problem.network, problem.x)
    h = oracle.hessian(problem.oracle, problem.x)
    assert_same(product(problem.d).ravel(), h @ problem.d.ravel())


@pytest.mark.parametrize("difference", ["noise", "statistics"])
def test_with_another_noise_or_other_statistics_it_does_not_vanish(difference):
    """The traps themselves: why all passes have to be the same function."""
    problem = Problem(3, "batch", sizes=(4, 30, 20, 3), batch=6, noise=0.5)
    logits = problem.network(problem.x)
    if difference == "noise":
        problem.noise = problem.model.draw_noise(RandomStream(problem.generator), 6, np.float64)
    else:
        problem.statistics = "running"
    zero = np.zeros_like(problem.x)
    assert (vat.lds(problem.network, problem.x, zero, logits) > 1e-3).all()


@given(seed=seeds)
def test_for_small_epsilon_the_maximum_is_half_epsilon_squared_lambda_and_the_sign_is_free(seed):
    problem = Problem(seed)
    values, vectors = np.linalg.eigh(blocks(problem))
    assume(values[:, -1].min() > 1e-2)
    epsilon = 1e-5
    logits = problem.network(problem.x)
    for sign in (1, -1):
        r = sign * epsilon * vectors[:, :, -1]
        found = vat.lds(problem.network, problem.x, r, logits)
        # Off by the third order, ε relatively; and by rounding, 1e-16 / (½ ε² λ₁) ≈ 1e-4.
        np.testing.assert_allclose(found, epsilon**2 * values[:, -1] / 2, rtol=1e-2)


# The perturbations


@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize("direction", vat.DIRECTIONS)
@each_statistics
@given(seed=seeds)
def test_the_virtual_adversarial_perturbation(iterations, direction, statistics, seed):
    problem = Problem(seed, statistics)
    r, logits = vat.virtual_adversarial_perturbation(
        problem.network,
        problem.x,
        problem.d,
        0.7,
        PowerIteration(iterations, direction, xi=1e-7),
    )
    np.testing.assert_array_equal(logits, problem.network(problem.x))
    np.testing.assert_allclose(np.linalg.norm(r, axis=1), 0.7, rtol=1e-12)
    h = oracle.hessian(problem.oracle, problem.x)
    expected = oracle.unit(problem.d)
    for _ in range(iterations):
        expected = oracle.unit((h @ expected.ravel()).reshape(r.shape))
    tolerance = 1e-9 if direction == "exact" or iterations == 0 else 1e-4
    np.testing.assert_allclose(r, 0.7 * expected, rtol=0, atol=tolerance)


@given(seed=seeds, exponent=st.integers(-30, 30))
def test_the_scale_of_the_random_direction_does_not_matter(seed, exponent):
    problem = Problem(seed)
    r, scaled = (
        vat.virtual_adversarial_perturbation(problem.network, problem.x, d, 2.0)[0]
        for d in (problem.d, problem.d * 2.0**exponent)
    )
    np.testing.assert_array_equal(r, scaled)


@each_statistics
@given(seed=seeds)
def test_adversarial_perturbations_maximise_the_loss_to_first_order(statistics, seed):
    problem = Problem(seed, statistics)
    x, labels = problem.x, problem.labels

    def loss(x):
        return oracle.cross_entropy(problem.oracle(x), labels).sum()

    g = oracle.gradient(loss, x)
    assume(np.abs(g).min() > 1e-6)
    # Hölder: ⟨g, r⟩ attains the dual norm of g, so no r of this norm does better.
    for norm, dual, epsilon in [("l2", 2, 2.0), ("linf", 1, 0.1)]:
        r, logits = vat.adversarial_perturbation(problem.network, x, labels, epsilon, norm=norm)
        np.testing.assert_array_equal(logits, problem.network(x))
        length = np.linalg.norm(r, axis=1) if norm == "l2" else np.abs(r)
        np.testing.assert_allclose(length, epsilon, rtol=1e-12)
        gain = (g * r).sum(axis=1)
        np.testing.assert_allclose(gain, epsilon * np.linalg.norm(g, dual, axis=1), rtol=1e-8)
        np.testing.assert_allclose(loss(x + 1e-7 * r) - loss(x), 1e-7 * gain.sum(), rtol=1e-2)


# R and its derivative


@pytest.mark.parametrize("iterations", [0, 1, 2])
@given(seed=seeds)
def test_the_regularizer_is_the_mean_over_examples_and_random_directions(iterations, seed):
    problem = Problem(seed)
    directions = list(problem.normal(3, *problem.x.shape))
    value, logits = vat.regularizer(
        problem.network, problem.x, directions, 1.5, PowerIteration(iterations)
    )
    found = []
    for d in directions:
        r, _ = vat.virtual_adversarial_perturbation(
            problem.network, problem.x, d, 1.5, PowerIteration(iterations)
        )
        found.append(oracle.kl(problem.oracle(problem.x), problem.oracle(problem.x + r)))
    np.testing.assert_allclose(value, np.mean(found), rtol=1e-9)
    np.testing.assert_array_equal(logits, problem.network(problem.x))


@given(seed=seeds)
def test_rpt_perturbs_in_the_random_directions_themselves(seed):
    problem = Problem(seed)
    r = 1.5 * oracle.unit(problem.d)
    value, _ = vat.regularizer(problem.network, problem.x, [problem.d], 1.5, PowerIteration(0))
    expected = oracle.kl(problem.oracle(problem.x), problem.oracle(problem.x + r)).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-9)


@pytest.mark.parametrize("iterations", [0, 1, 2])
@pytest.mark.parametrize("direction", vat.DIRECTIONS)
@each_statistics
def test_p_and_r_are_constants_of_the_derivative(iterations, direction, statistics):
    problem = Problem(5, statistics)
    x, d = problem.x, problem.d
    settings = PowerIteration(iterations, direction, xi=1e-3)

    def regularizer(params, constant=None):
        model = lambda x: problem.network(x, params)  # noqa: E731
        return vat.regularizer(model, x, [d], 1.5, settings, constant=constant)[0]

    gradient = grad(regularizer)(problem.params)
    same = grad(lambda params: regularizer(params, problem.network))(problem.params)
    for name, array in gradient.items():
        np.testing.assert_array_equal(same[name], array)
    r, _ = vat.virtual_adversarial_perturbation(problem.network, x, d, 1.5, settings)
    p_logits = problem.oracle(x)
    for name, array in problem.params.items():

        def frozen(changed, name=name):
            params = {**problem.params, name: changed}
            return oracle.kl(p_logits, problem.oracle(x + r, params)).mean()

        expected = oracle.gradient(frozen, array)
        np.testing.assert_allclose(gradient[name], expected, rtol=1e-9, atol=1e-12)


def test_with_r_or_p_not_constant_the_derivative_would_be_another():
    """What the test above would see if either leaked."""
    problem = Problem(5)
    x, d, name = problem.x, problem.d, "dense1.weight"
    r, _ = vat.virtual_adversarial_perturbation(problem.network, x, d, 1.5)

    def leaking_p(weight):
        params = {**problem.params, name: weight}
        return ops.mean(ops.kl(problem.network(x, params), problem.network(x + r, params)))

    def leaking_r(weight):
        params = {**problem.params, name: weight}
        moved, _ = vat.virtual_adversarial_perturbation(
            lambda x: problem.network(x, params), x, d, 1.5
        )
        return oracle.kl(problem.oracle(x), problem.oracle(x + moved, params)).mean()

    def regularizer(weight):
        params = {**problem.params, name: weight}
        return vat.regularizer(lambda x: problem.network(x, params), x, [d], 1.5)[0]

    weight = problem.params[name]
    found = grad(regularizer)(weight)
    assert np.linalg.norm(grad(leaking_p)(weight) - found) > 1e-2 * np.linalg.norm(found)
    step = problem.normal(*weight.shape) * 1e-6
    slope = (leaking_r(weight + step) - leaking_r(weight - step)) / 2
    assert abs(slope - (found * step).sum()) > 1e-2 * abs(slope)


@given(seed=seeds)
def test_p_is_that_of_the_clean_pass_whatever_the_divergence_of_the_regression(seed):
    problem = Problem(seed)
    value, _ = vat.regularizer(
        problem.network, problem.x, [problem.d], 0.5, divergence=gaussian(2.0)
    )
    h = problem.oracle
    j = oracle.jacobian(h, problem.x)
    r = oracle.unit((j.T @ j @ oracle.unit(problem.d).ravel()).reshape(problem.x.shape)) * 0.5
    expected = ((h(problem.x + r) - h(problem.x)) ** 2).sum(axis=1).mean() / 4
    np.testing.assert_allclose(value, expected, rtol=1e-8)


# The conditional entropy


@each_statistics
@given(seed=seeds)
def test_the_conditional_entropy_and_its_gradient_in_which_p_is_no_constant(statistics, seed):
    problem = Problem(seed, statistics)
    x = problem.x

    def entropy(params):
        return oracle.entropy(problem.oracle(x, params)).mean()

    value, gradient = value_and_grad(
        lambda params: vat.conditional_entropy(problem.network(x, params))
    )(problem.params)
    np.testing.assert_allclose(value, entropy(problem.params), rtol=1e-12)
    for name, array in problem.params.items():
        expected = oracle.gradient(lambda a, name=name: entropy({**problem.params, name: a}), array)
        np.testing.assert_allclose(gradient[name], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("divergence", [categorical, bernoulli])
def test_the_conditional_entropy_of_sure_predictions_is_zero_and_so_is_its_gradient(
    device, divergence, dtype
):
    logits = device.asarray(np.array([[1e30, 0, -1e30], [-3e3, 4e3, 1e4]], dtype))
    value, gradient = value_and_grad(lambda z: vat.conditional_entropy(z, divergence))(logits)
    assert value.dtype == gradient.dtype == dtype
    # A logit of 0 beside one of 1e30 is an even chance to the Bernoulli distribution.
    expected = 0.5 * np.log(2) if divergence is bernoulli else 0.0
    assert float(device.to_host(value)) == pytest.approx(expected, rel=1e-6, abs=1e-30)
    assert not device.to_host(gradient).any()


# Dtypes, devices, mistakes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("direction", vat.DIRECTIONS)
@each_statistics
def test_on_every_device_in_its_dtype(device, dtype, direction, statistics):
    problem = Problem(1, statistics)

    def run(on):
        params, state = (
            {name: on(array.astype(dtype)) for name, array in arrays.items()}
            for arrays in (problem.params, problem.state)
        )
        x, d, labels = on(problem.x.astype(dtype)), on(problem.d.astype(dtype)), on(problem.labels)

        def objective(params):
            def network(x):
                return problem.model(params, x, state, statistics=statistics)[0]

            settings = PowerIteration(1, direction, xi=1e-3)
            r, _ = vat.adversarial_perturbation(network, x, labels, 0.1)
            linf, _ = vat.adversarial_perturbation(network, x + r, labels, 0.1, norm="linf")
            value, logits = vat.regularizer(network, x + linf, [d], 0.5, settings)
            return value + ops.mean(ops.cross_entropy(logits, labels))

        return grad(objective)(params)

    here, there = run(np.asarray), run(device.asarray)
    scale = max(np.abs(array).max() for array in here.values())
    for name, array in here.items():
        assert array.dtype == there[name].dtype == dtype
        difference = np.abs(device.to_host(there[name]) - array).max()
        assert difference <= (1e-3 if dtype == np.float32 else 1e-9) * scale


@pytest.mark.parametrize("epsilon", [0.0, -1.0, np.nan])
def test_an_epsilon_that_is_not_positive_is_named(epsilon):
    problem = Problem(0)
    with pytest.raises(ValueError, match=f"epsilon must be positive, got {epsilon}"):
        vat.virtual_adversarial_perturbation(problem.network, problem.x, problem.d, epsilon)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": -1}, "iterations must be 0.5 or 0, 1, 2, ..., got -1"),
        ({"iterations": 1.5}, "iterations must be 0.5 or 0, 1, 2, ..., got 1.5"),
        ({"iterations": -0.5}, "iterations must be 0.5 or 0, 1, 2, ..., got -0.5"),
        ({"iterations": np.nan}, "iterations must be 0.5 or 0, 1, 2, ..., got nan"),
        ({"iterations": np.inf}, "iterations must be 0.5 or 0, 1, 2, ..., got inf"),
        ({"iterations": True}, "iterations must be 0.5 or 0, 1, 2, ..., got True"),
        ({"iterations": "one"}, "iterations must be 0.5 or 0, 1, 2, ..., got 'one'"),
        ({"direction": "best"}, "direction must be one of .* got 'best'"),
        (
            {"iterations": 0.5, "direction": "finite-difference"},
            "direction must be 'exact' with iterations 0.5, got 'finite-difference'",
        ),
        ({"xi": 0.0}, "xi must be positive, got 0.0"),
        ({"xi": np.nan}, "xi must be positive, got nan"),
        ({"xi": np.inf}, "xi must be positive, got inf"),
    ],
    ids=str,
)
def test_a_power_iteration_checks_itself(options, message):
    with pytest.raises(ValueError, match=message) as error:
        PowerIteration(**options)
    assert "\n" not in str(error.value)


def test_one_exact_iteration_is_what_is_done_if_nothing_is_said():
    problem = Problem(0)
    arguments = problem.network, problem.x, problem.d, 1.0
    r, _ = vat.virtual_adversarial_perturbation(*arguments)
    expected, _ = vat.virtual_adversarial_perturbation(*arguments, PowerIteration(1, "exact"))
    np.testing.assert_array_equal(r, expected)
    assert PowerIteration(np.int64(2)) == PowerIteration(2, "exact", xi=1e-6)
    product, _ = vat.hessian_product(problem.network, problem.x)
    exact, _ = vat.hessian_vector_product(problem.network, problem.x)
    np.testing.assert_array_equal(product(problem.d), exact(problem.d))


def test_mistakes_in_adversarial_perturbations_are_named():
    problem = Problem(0)
    arguments = problem.network, problem.x, problem.labels
    with pytest.raises(ValueError, match="norm must be 'l2' or 'linf', got 'l1'"):
        vat.adversarial_perturbation(*arguments, 1.0, norm="l1")
    with pytest.raises(ValueError, match="epsilon must be"):
        vat.adversarial_perturbation(*arguments, 0.0)
    with pytest.raises(ValueError, match="labels must be integers"):
        vat.adversarial_perturbation(*arguments[:2], problem.labels.astype(float), 1.0)


@pytest.mark.parametrize("direction", vat.DIRECTIONS)
def test_half_precision_is_refused(direction):
    """q − p underflows there: the direction would be noise, or nothing."""
    x = np.ones((2, 3), np.float16)
    with pytest.raises(TypeError, match="float16"):
        vat.virtual_adversarial_perturbation(
            lambda x: x * 2.0, x, x, 1.0, PowerIteration(1, direction)
        )


@pytest.mark.parametrize("iterations", [0, 1])
@pytest.mark.parametrize(
    "d", [np.ones((1, 3)), np.ones(3), np.ones((2, 3), np.float32), np.ones((2, 1))]
)
def test_a_direction_that_does_not_fit_is_named(d, iterations):
    with pytest.raises(ValueError, match="d must have x's shape and dtype"):
        vat.virtual_adversarial_perturbation(
            lambda x: x * 2.0, np.ones((2, 3)), d, 1.0, PowerIteration(iterations)
        )


ONE_EXAMPLE = np.linspace(-1.0, 1.0, 784)
HALF, ONE_EXACT = PowerIteration(0.5), PowerIteration(1)
FINITE = PowerIteration(1, "finite-difference")


@pytest.mark.parametrize(
    "f",
    [
        *(
            partial(method, epsilon=2.0, power_iteration=settings)
            for method in (
                vat.virtual_adversarial_perturbation,
                lambda model, x, d, **options: vat.regularizer(model, x, [d], **options),
            )
            for settings in (
                PowerIteration(0),
                HALF,
                PowerIteration(1),
                PowerIteration(2, "finite-difference"),
            )
        ),
        lambda model, x, d: vat.adversarial_perturbation(model, x, np.array(0), 2.0),
        lambda model, x, d: vat.lds(model, x, d, model(x)),
        lambda model, x, d: vat.unit(d),
    ],
)
def test_one_example_alone_is_no_batch(f):
    """Of one axis, every feature would be taken for an example, with an r of its own length 2."""
    weights = np.random.default_rng(0).standard_normal((784, 10)) / 28
    with pytest.raises(ValueError, match=r"[xd] must be a batch .* got \(784,\)") as error:
        f(lambda x: x @ weights, ONE_EXAMPLE, ONE_EXAMPLE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("settings", [PowerIteration(0), HALF, PowerIteration(1)], ids=str)
def test_logits_that_are_not_one_row_an_example_are_named(settings):
    x = np.ones((3, 4))
    for model, given_ in [
        (lambda x: ops.sum(x, axis=1), r"\(3,\)"),
        (lambda x: ops.sum(x, axis=0, keepdims=True), r"\(1, 4\)"),
    ]:
        d = np.ones_like(model(x) if settings is HALF else x)
        with pytest.raises(ValueError, match=rf"must return logits .* got {given_}"):
            vat.virtual_adversarial_perturbation(model, x, d, 2.0, settings)
        with pytest.raises(ValueError, match=rf"must return logits .* got {given_}"):
            vat.adversarial_perturbation(model, x, np.zeros(3, int), 2.0)
        with pytest.raises(ValueError, match=rf"must return logits .* got {given_}"):
            vat.lds(model, x, x, x)


def test_an_r_of_another_shape_is_named():
    with pytest.raises(ValueError, match=r"r must have x's shape, \(3, 4\), got \(4,\)"):
        vat.lds(lambda x: x, np.ones((3, 4)), np.ones(4), np.ones((3, 4)))


@pytest.mark.parametrize("settings", [PowerIteration(0), HALF, ONE_EXACT, FINITE], ids=str)
@pytest.mark.parametrize("mask", ["add", "where"])
def test_a_class_ruled_out_is_as_if_the_network_did_not_have_it(settings, mask):
    """By a logit of −∞: r, LDS, the entropy, H d and the gradients by the weights."""
    rng = np.random.default_rng(0)
    weights, x, d = rng.standard_normal((6, 5)), *rng.standard_normal((2, 4, 6))
    left = np.array([0, 1, 3])
    allowed = np.isin(np.arange(5), left)

    def masked(weights):
        if mask == "add":
            return lambda x: ops.tanh(x @ weights) + np.where(allowed, 0.0, -np.inf)
        return lambda x: ops.where(allowed, ops.tanh(x @ weights), -np.inf)

    def without(weights):
        return lambda x: ops.tanh(x @ weights[:, left])

    def results(network, chosen):
        directions = chosen if settings.iterations == 0.5 else d
        r, _ = vat.virtual_adversarial_perturbation(network(weights), x, directions, 0.5, settings)

        def objective(weights):
            model = network(weights)
            value, logits = vat.regularizer(model, x, [directions], 0.5, settings)
            return value + vat.conditional_entropy(logits) + ops.mean(vat.lds(model, x, r, logits))

        hd = vat.hessian_product(network(weights), x)[0](d)
        adversarial, _ = vat.adversarial_perturbation(network(weights), x, np.zeros(4, int), 1.0)
        return r, hd, adversarial, *value_and_grad(objective)(weights)

    z = rng.standard_normal((4, 5))
    tolerance = 1e-4 if settings == FINITE else 1e-10
    for got, other in zip(results(masked, z), results(without, z[:, left]), strict=True):
        np.testing.assert_allclose(got, other, rtol=tolerance, atol=tolerance)
