"""Exact curvature: all routes, the whole spectrum, directions, half an iteration, the maximum.

The oracle's H is made of complex steps and of F entry by entry, in float64. The networks are random
ones with logits up to ±50, and networks trained on the 8×8 digits.
"""

from copy import copy
from functools import cache

import numpy as np
import pytest
import scipy.linalg
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minivat import curvature, data, grad, nn, ops, training, vat
from minivat.backend import Device
from minivat.divergence import Categorical, bernoulli, categorical, gaussian
from minivat.objective import Regularization
from minivat.vat import PowerIteration
from tests import oracle
from tests.test_vat import Problem, each_divergence, each_statistics, seeds

ACTIVATIONS = ("relu", "leaky_relu", "tanh")
EXACT_ROUTES = [route for route in curvature.ROUTES if route != "finite-difference"]
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


class Case:
    """A network for minivat and for the oracle, and a batch. scale multiplies the logits."""

    def __init__(self, problem, x, scale=1.0):
        self.problem, self.x, self.scale = problem, x, scale

    def network(self, x):
        return self.problem.network(x) * self.scale

    def oracle(self, x):
        return self.problem.oracle(x) * self.scale

    def blocks(self):
        """H of each example, (N, D, D)."""
        return np.stack([oracle.hessian(self.oracle, x[None]) for x in self.x])

    def on(self, device, dtype):
        """The network and the batch on a device in a dtype."""
        problem = self.problem
        params, state = (
            {name: device.asarray(array.astype(dtype)) for name, array in arrays.items()}
            for arrays in (problem.params, problem.state)
        )

        def network(x):
            return problem.model(params, x, state, statistics=problem.statistics)[0] * self.scale

        return network, device.asarray(self.x.astype(dtype))


@st.composite
def cases(draw, statistics="running", largest=(1.0, 10.0, 50.0), **options):
    """Random networks of all kinds, logits up to ±largest, duplicate and constant inputs."""
    sizes = (draw(st.integers(1, 5)), draw(st.integers(3, 8)), draw(st.integers(2, 20)))
    options = {
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "batch_norm": draw(st.booleans()),
        **options,
    }
    # Two or three examples have nearly the same statistics whatever they are, and H is nearly 0.
    batch = draw(st.integers(1, 4)) if statistics == "running" else 5
    problem = Problem(draw(seeds), statistics, sizes, batch, **options)
    x = problem.x
    match draw(st.sampled_from(["different", "duplicate", "constant"])):
        case "duplicate":
            x[:] = x[0]
        case "constant":
            x[:] = 0.5
    return Case(problem, x, draw(st.sampled_from(largest)) / np.abs(problem.oracle(x)).max())


@cache
def trained_problem(activation, batch_norm):
    """A network trained on the digits for a moment, with its statistics re-estimated."""
    digits = data.load("digits")
    problem = Problem(0, sizes=(64, 30, 20, 10), activation=activation, batch_norm=batch_norm)
    trainer = training.Trainer(
        problem.model,
        Device(),
        digits.train_images.astype(float),
        digits.train_labels,
        regularization=Regularization("mle"),
        learning_rate=lambda update: 0.01,
        seed=1,
        batch_size=50,
    )
    for update in range(150):
        trainer.step(update)
    trainer.reestimate_statistics()
    problem.params, problem.state, problem.x = trainer.params, trainer.state, digits.test_images
    assert trainer.error(problem.x.astype(float), digits.test_labels) < 10
    return problem


def trained(activation="relu", batch_norm=True, images=3):
    """That network and the first images of the test set."""
    problem = trained_problem(activation, batch_norm)
    return Case(problem, problem.x[:images].astype(float))


def each_trained(test):
    test = pytest.mark.parametrize("activation", ACTIVATIONS)(test)
    return pytest.mark.parametrize("batch_norm", [False, True])(test)


def assert_near(a, b, tolerance):
    """Relative to the largest entry of b."""
    assert np.shape(a) == np.shape(b)
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def quadratic(h, d):
    """dᵀHd of each example."""
    return np.einsum("ni,nij,nj->n", d, h, d)


# H as an operator


def assert_routes_agree(case, divergence=categorical):
    d = np.random.default_rng(0).standard_normal(case.x.shape)
    first, *others = (
        curvature.hessian(case.network, case.x, route=route, divergence=divergence)(d)
        for route in EXACT_ROUTES
    )
    for other in others:
        assert_near(other, first, 1e-10)


@each_divergence
@each_statistics
@given(data=st.data())
def test_the_exact_routes_agree(divergence, statistics, data):
    assert_routes_agree(data.draw(cases(statistics, largest=(1.0, 3.0))), divergence)


@each_trained
def test_the_exact_routes_agree_on_trained_networks(activation, batch_norm):
    case = trained(activation, batch_norm)
    for divergence in (categorical, bernoulli, gaussian(2.0)):
        assert_routes_agree(case, divergence)
    if batch_norm:
        coupled = Case(copy(case.problem), trained(images=10).x)
        coupled.problem.statistics = "batch"
        assert_routes_agree(coupled)


@each_statistics
@given(data=st.data())
def test_the_dense_matrix_is_the_oracles_however_saturated_p_is(statistics, data):
    case = data.draw(cases(statistics))
    found = curvature.dense(curvature.hessian(case.network, case.x), case.x)
    assert_near(found, oracle.hessian(case.oracle, case.x), 1e-10)


@each_divergence
@each_dtype
@each_statistics
@given(data=st.data())
def test_it_is_symmetric_positive_semidefinite_and_of_low_rank(divergence, dtype, statistics, data):
    network, x = data.draw(cases(statistics)).on(Device(), dtype)
    classes = network(x).shape[1]
    h = curvature.dense(curvature.hessian(network, x, divergence=divergence), x).astype(float)
    assume(np.abs(h).max() > 1e-30)  # below float32's normal numbers there are few digits
    tolerance = 1e-4 if dtype == np.float32 else 1e-11
    assert_near(h, h.T, tolerance)
    values = np.linalg.eigvalsh((h + h.T) / 2)[::-1]
    assert values[-1] >= -tolerance * values[0]
    rank = len(x) * (classes - 1 if divergence is categorical else classes)
    assert (values[rank:] <= tolerance * values[0]).all()


@given(cases(largest=(1.0,), activation="tanh"), seeds)
def test_finite_differences_are_off_by_the_first_order_in_xi(case, seed):
    d = np.random.default_rng(seed).standard_normal(case.x.shape)
    exact = curvature.hessian(case.network, case.x)(d)
    coarse, fine = (
        curvature.hessian(case.network, case.x, route="finite-difference", xi=xi)(d)
        for xi in (1e-5, 5e-6)
    )
    assert_near(coarse, exact, 1e-2)
    assert_near(2 * fine - coarse, exact, 1e-6)
    assert not np.array_equal(coarse, exact)


@each_divergence
@given(case=cases(largest=(1.0, 5.0), activation="tanh"), seed=seeds)
def test_what_the_quadratic_form_leaves_of_the_divergence_is_of_third_order(divergence, case, seed):
    """Richardson's ratios: halving r divides the odd part by 8 and the even part by 16."""
    x, logits = case.x, case.network(case.x)
    d = oracle.unit(np.random.default_rng(seed).standard_normal(x.shape))
    half = (d * curvature.hessian(case.network, x, divergence=divergence)(d)).sum(axis=1) / 2

    def parts(size):
        above, below = (divergence(logits, case.network(x + s * size * d)) for s in (1, -1))
        return (above - below) / 2, (above + below) / 2 - size**2 * half

    size = 4e-3
    for whole, halved, order in zip(parts(size), parts(size / 2), (3, 4), strict=True):
        # Where that order is there at all: not lost in rounding, nor in the next orders.
        clear = np.abs(whole) > 0.1 * size**order * np.maximum(half, 1e-3)
        np.testing.assert_allclose((whole / halved)[clear], 2**order, rtol=0.05)
        assert (np.abs(whole) <= 1e3 * size**order * (1 + half)).all()


@each_dtype
def test_as_an_operator_for_scipy(device, dtype):
    case = trained()
    network, x = case.on(device, dtype)
    product = curvature.hessian(network, x[:1])
    h = device.to_host(curvature.dense(product, x[:1]))
    operator = curvature.linear_operator(product, x[:1])
    assert operator.dtype == h.dtype == dtype
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    assert_near(operator @ np.eye(64, dtype=dtype), h, tolerance)
    assert_near(operator.T @ np.ones(64, dtype), h.sum(axis=0), tolerance)


# eigsh


def assert_eigsh_is_right(case, k):
    operator = curvature.linear_operator(curvature.hessian(case.network, case.x), case.x)
    values, vectors = curvature.eigsh(operator, k)
    h = oracle.hessian(case.oracle, case.x)
    assert_near(values, scipy.linalg.eigh(h)[0][::-1][:k], 1e-10)
    assert_near(vectors.T @ vectors, np.eye(k), 1e-10)
    assert np.linalg.norm(h @ vectors - values * vectors, axis=0).max() <= 1e-9 * values[0]


@each_statistics
@given(data=st.data())
def test_eigsh_agrees_for_the_whole_batch(statistics, data):
    case = data.draw(cases(statistics))
    assume(case.x.size > 2)
    assert_eigsh_is_right(case, k=min(3, case.x.size - 1))


@each_trained
def test_eigsh_agrees_on_trained_networks(activation, batch_norm):
    case = trained(activation, batch_norm, images=1)
    assert_eigsh_is_right(case, k=5)
    operator = curvature.linear_operator(curvature.hessian(case.network, case.x), case.x)
    values, vectors = curvature.eigsh(operator, 2)
    found = curvature.spectrum(case.network, case.x, eigenvectors=2)
    assert_near(values, found.eigenvalues[0, :2], 1e-10)
    assert_near(np.abs(vectors.T @ found.eigenvectors[0].T), np.eye(2), 1e-8)


@pytest.mark.parametrize("size", [1e-200, 1e-20, 1.0, 1e100])
def test_eigsh_does_not_depend_on_the_size_of_h(size):
    a = np.random.default_rng(0).standard_normal((60, 60))
    h = size * a @ a.T
    operator = curvature.linear_operator(lambda d: h @ d, np.zeros(60))
    values, vectors = curvature.eigsh(operator, 3)
    assert_near(values, np.linalg.eigvalsh(h)[::-1][:3], 1e-12)
    assert_near(h @ vectors, values * vectors, 1e-10)


@each_dtype
def test_eigsh_of_zero_is_zero(dtype):
    operator = curvature.linear_operator(np.zeros_like, np.ones((2, 3), dtype))
    values, vectors = curvature.eigsh(operator, 2)
    assert values.dtype == vectors.dtype == dtype
    np.testing.assert_array_equal(values, [0, 0])
    np.testing.assert_array_equal(vectors.T @ vectors, np.eye(2))


# The spectrum


def assert_spectrum_is_right(case, divergence=categorical):
    """Every eigenpair, against H by products and against SciPy's eigenvalues of it."""
    x = case.x.reshape(len(case.x), -1)
    rank = min(case.oracle(x).shape[1], x.shape[1])
    found = curvature.spectrum(case.network, x, eigenvectors=rank, divergence=divergence)
    assert found.eigenvalues.shape == (len(x), rank)
    assert found.eigenvectors.shape == (len(x), rank, x.shape[1])
    for i in range(len(x)):
        product = curvature.hessian(case.network, x[i : i + 1], divergence=divergence)
        h = curvature.dense(product, x[i : i + 1])
        values, u = found.eigenvalues[i], found.eigenvectors[i].T
        expected = scipy.linalg.eigh((h + h.T) / 2)[0][::-1]
        assert_near(values, expected[:rank], 1e-10)
        assert (np.linalg.norm(h @ u - values * u, axis=0) <= 1e-9 * values[0]).all()
        there = values > 0
        assert_near(u.T @ u, np.diag(there.astype(float)), 1e-8)
        np.testing.assert_allclose(np.linalg.norm(u[:, there], axis=0), 1, rtol=1e-12)


@each_divergence
@given(case=cases())
def test_every_eigenpair_is_that_of_the_dense_hessian(divergence, case):
    assert_spectrum_is_right(case, divergence)


@each_trained
def test_every_eigenpair_of_trained_networks(activation, batch_norm):
    assert_spectrum_is_right(trained(activation, batch_norm))


@given(cases())
def test_the_spectrum_is_the_oracles_falling_and_of_low_rank(case):
    values = curvature.spectrum(case.network, case.x).eigenvalues
    for h, found in zip(case.blocks(), values, strict=True):
        assert_near(found, scipy.linalg.eigh(h)[0][::-1][: len(found)], 1e-10)
    assert (np.diff(values, axis=1) <= 0).all()
    assert (values >= 0).all()
    assert ((values > 0).sum(axis=1) <= case.oracle(case.x).shape[1] - 1).all()


class WrongRoot(Categorical):
    """√F with a factor, without its second term, or transposed."""

    def __init__(self, how):
        object.__setattr__(self, "how", how)

    def root(self, p_logits, t):
        p = ops.softmax(p_logits)
        match self.how:
            case "factor":
                return super().root(p_logits, t) * 1.001
            case "term":
                return ops.sqrt(p) * t
            case "transposed":
                return ops.sqrt(p) * (t - ops.sum(p * t, axis=-1, keepdims=True))


@pytest.mark.parametrize("how", ["factor", "term", "transposed"])
def test_a_wrong_root_is_caught(how):
    with pytest.raises(AssertionError):
        assert_spectrum_is_right(trained(), WrongRoot(how))


@each_dtype
@given(case=cases(largest=(1.0, 50.0, 1e3)))
def test_in_either_dtype_never_nan_of_low_rank_and_of_unit_length(dtype, case):
    network, x = case.on(Device(), dtype)
    classes = network(x).shape[1]
    rank = min(classes, x.shape[1])
    found = curvature.spectrum(network, x, eigenvectors=rank)
    assert found.eigenvalues.dtype == found.eigenvectors.dtype == dtype
    assert np.isfinite(found.eigenvalues).all()
    assert ((found.eigenvalues > 0).sum(axis=1) <= classes - 1).all()
    lengths = np.linalg.norm(found.eigenvectors.astype(float), axis=2)
    np.testing.assert_allclose(lengths, found.eigenvalues > 0, atol=1e-6)


def assert_float32_is_float64(case, tolerance=1e-4):
    """Each eigenvalue above 1e-6 λ₁, relative to itself, and of the very same weights."""
    single, x = case.on(Device(), np.float32)
    rounded = copy(case.problem)
    for name in ("params", "state"):
        arrays = getattr(case.problem, name)
        setattr(rounded, name, {n: a.astype(np.float32).astype(float) for n, a in arrays.items()})
    double = Case(rounded, x.astype(float), case.scale)
    found = curvature.spectrum(single, x).eigenvalues.astype(float)
    expected = curvature.spectrum(double.network, double.x).eigenvalues
    clear = expected > 1e-6 * expected[:, :1]
    # Below the normal numbers of float32 p itself has only a few digits.
    clear &= expected[:, :1] > 1e-30
    np.testing.assert_allclose(found[clear], expected[clear], rtol=tolerance)


@given(cases(activation="tanh"))
def test_float32_eigenvalues_are_those_of_float64(case):
    assert_float32_is_float64(case)


@each_trained
def test_float32_eigenvalues_of_trained_networks(activation, batch_norm):
    assert_float32_is_float64(trained(activation, batch_norm, images=200))


@each_divergence
@each_dtype
@given(case=cases(), seed=seeds)
def test_no_direction_has_more_curvature_than_the_first_eigenvalue(divergence, dtype, case, seed):
    network, x = case.on(Device(), dtype)
    found = curvature.spectrum(network, x, divergence=divergence)
    product = curvature.hessian(network, x, divergence=divergence)
    largest = found.eigenvalues[:, 0]
    clear = largest > 1e-30
    tolerance = 1e-4 if dtype == np.float32 else 1e-10
    for d in np.random.default_rng(seed).standard_normal((50, *x.shape)).astype(dtype):
        captured = curvature.captured_curvature(product, vat.unit(d), largest)
        assert (captured[clear] <= 1 + tolerance).all()
    u = found.eigenvectors[:, 0]
    first = curvature.captured_curvature(product, u, largest)
    np.testing.assert_allclose(first[clear], 1, rtol=tolerance)
    np.testing.assert_allclose(curvature.alignment(u, -u), largest > 0, rtol=1e-5)


@each_divergence
@each_dtype
@given(case=cases(), seed=seeds)
def test_permuting_the_batch_permutes_the_answers(divergence, dtype, case, seed):
    network, x = case.on(Device(), dtype)
    order = np.random.default_rng(seed).permutation(len(x))
    found = curvature.spectrum(network, x, divergence=divergence)
    permuted = curvature.spectrum(network, x[order], divergence=divergence)
    tolerance = 1e-4 if dtype == np.float32 else 1e-9
    expected = found.eigenvalues[order]
    atol = tolerance * expected[:, :1]
    assert (np.abs(permuted.eigenvalues - expected) <= np.maximum(atol, 1e-30)).all()
    if expected.shape[1] > 1:
        clear = (expected[:, 0] > 1.1 * expected[:, 1]) & (expected[:, 0] > 1e-30)
        u, v = found.eigenvectors[order][clear], permuted.eigenvectors[clear]
        np.testing.assert_allclose(np.abs(v), np.abs(u), atol=20 * tolerance)


@each_divergence
@given(case=cases(largest=(1.0, 10.0)), scale=st.floats(0.1, 5.0))
def test_scaling_the_logits(divergence, case, scale):
    """s z has the Jacobian s J, and F at s z: for the Gaussian, whose F is constant, s² H."""
    scaled = Case(case.problem, case.x, scale * case.scale)
    found = curvature.spectrum(scaled.network, case.x, divergence=divergence).eigenvalues
    for x, values in zip(case.x, found, strict=True):
        j = oracle.jacobian(case.oracle, x[None])
        z = scale * case.oracle(x[None])
        f = np.stack([divergence.fisher(z, e[None])[0] for e in np.eye(z.shape[1])], axis=1)
        expected = np.linalg.eigvalsh(scale**2 * j.T @ f @ j)[::-1]
        assert_near(values, expected[: len(values)], 1e-9)
    if isinstance(divergence, gaussian):
        before = curvature.spectrum(case.network, case.x, divergence=divergence).eigenvalues
        assert_near(found, scale**2 * before, 1e-10)


@given(cases(largest=(1.0, 10.0)), seeds)
def test_what_all_logits_share_does_not_matter(case, seed):
    common = np.random.default_rng(seed).standard_normal((case.x.shape[1], 1))
    found = curvature.spectrum(lambda x: case.network(x) + x @ common, case.x).eigenvalues
    expected = curvature.spectrum(case.network, case.x).eigenvalues
    # Rounding is relative to the gradients, of which the common part is no small one.
    gradients = np.sum(np.square(common)) + np.abs(expected).max()
    assert np.abs(found - expected).max() <= 1e-9 * np.abs(expected).max() + 1e-15 * gradients


def test_a_bernoulli_is_a_categorical_of_two_classes():
    problem = Problem(0, sizes=(4, 7, 1))

    def two(x):
        z = problem.network(x)
        return ops.concat([z * 0.0, z], axis=1)

    one = curvature.spectrum(problem.network, problem.x, divergence=bernoulli)
    both = curvature.spectrum(two, problem.x)
    np.testing.assert_allclose(one.eigenvalues[:, 0], both.eigenvalues[:, 0], rtol=1e-12)
    assert not both.eigenvalues[:, 1].any()


def flat(x):
    """A network of four classes with H = 0 everywhere."""
    return x @ np.zeros((x.shape[1], 4), x.dtype)


@each_dtype
def test_where_h_is_zero_all_is_zero(dtype):
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(dtype)
    found = curvature.spectrum(flat, x, eigenvectors=4)
    for array in (found.eigenvalues, found.eigenvectors):
        assert array.dtype == dtype
        assert not array.any()
    product, largest = curvature.hessian(flat, x), found.eigenvalues[:, 0]
    assert not curvature.captured_curvature(product, vat.unit(x), largest).any()
    best = curvature.true_maximiser(flat, x, 1.0)
    assert not best.r.any()
    assert not best.divergence.any()
    r, _ = vat.virtual_adversarial_perturbation(
        flat, x, np.ones((3, 4), dtype), 1.0, PowerIteration(0.5)
    )
    assert not r.any()


def test_inputs_of_any_shape():
    case = trained()

    def network(x):
        return case.network(ops.reshape(x, (x.shape[0], 64)))

    images = case.x.reshape(-1, 8, 8)
    found, flat = (
        curvature.spectrum(f, x, eigenvectors=3)
        for f, x in ((network, images), (case.network, case.x))
    )
    np.testing.assert_array_equal(found.eigenvalues, flat.eigenvalues)
    assert found.eigenvectors.shape == (3, 3, 8, 8)
    np.testing.assert_array_equal(found.eigenvectors.reshape(3, 3, 64), flat.eigenvectors)
    best, flat_best = (
        curvature.true_maximiser(f, x, 0.5, [x], steps=3)
        for f, x in ((network, images), (case.network, case.x))
    )
    assert best.r.shape == images.shape
    np.testing.assert_array_equal(best.divergence, flat_best.divergence)


def test_chunks_of_examples_change_nothing(monkeypatch):
    case = trained(images=7)
    whole = (
        curvature.spectrum(case.network, case.x),
        curvature.true_maximiser(case.network, case.x, 0.5, steps=4),
    )
    monkeypatch.setattr(curvature, "CHUNK", 3 * 640)
    parts = (
        curvature.spectrum(case.network, case.x),
        curvature.true_maximiser(case.network, case.x, 0.5, steps=4),
    )
    np.testing.assert_allclose(parts[0].eigenvalues, whole[0].eigenvalues, rtol=1e-8)
    np.testing.assert_allclose(parts[1].divergence, whole[1].divergence, rtol=1e-8)
    assert parts[0].eigenvectors.shape == (7, 1, 64)
    assert parts[1].by_start.shape == (3, 7)


@pytest.mark.parametrize("examples", [1, 5, 20])
def test_batch_statistics_are_refused(examples):
    problem = Problem(0, "batch", batch=examples)
    for compute in (
        lambda: curvature.spectrum(problem.network, problem.x),
        lambda: curvature.true_maximiser(problem.network, problem.x, 1.0),
    ):
        with pytest.raises(
            ValueError, match=r"depend on the other examples .* use statistics='run"
        ):
            compute()


@pytest.mark.parametrize("same", [False, True])
def test_batch_statistics_of_a_fresh_network_are_refused(same):
    # Of examples that are all alike batch norm makes zeros, where a ReLU has no gradient.
    model = nn.mlp((6, 8, 3))
    params, state = model.init(np.random.default_rng(0), np.float64)
    x = np.random.default_rng(1).random((1, 6))
    x = np.tile(x, (5, 1)) if same else x
    with pytest.raises(ValueError, match="depend on the other examples"):
        curvature.spectrum(lambda x: model(params, x, state)[0], x)
    curvature.spectrum(lambda x: model(params, x, state, statistics="running")[0], x)


# What a direction finds


@each_divergence
@each_dtype
@given(case=cases(), seed=seeds)
def test_captured_curvature_never_falls_as_k_grows(divergence, dtype, case, seed):
    network, x = case.on(Device(), dtype)
    product = curvature.hessian(network, x, divergence=divergence)
    largest = curvature.spectrum(network, x, divergence=divergence).eigenvalues[:, 0]
    d = np.random.default_rng(seed).standard_normal(x.shape).astype(dtype)
    captured = np.stack(
        [
            curvature.captured_curvature(product, vat.power_iteration(product, d, k), largest)
            for k in range(7)
        ]
    )
    clear = largest > 1e-30
    tolerance = 1e-4 if dtype == np.float32 else 1e-11
    assert (np.diff(captured[:, clear], axis=0) >= -tolerance).all()
    if divergence is categorical and dtype == np.float64:
        expected = quadratic(case.blocks(), oracle.unit(d))
        np.testing.assert_allclose(captured[0] * largest, expected, rtol=1e-8)


@each_trained
def test_the_power_iteration_converges_at_the_rate_of_the_eigenvalues(activation, batch_norm):
    """The tangent of the angle to u₁ shrinks by λ₂/λ₁ or less; in span(u₁, u₂) by just that."""
    case = trained(activation, batch_norm, images=10)
    found = curvature.spectrum(case.network, case.x, eigenvectors=2)
    rate = found.eigenvalues[:, 1] / found.eigenvalues[:, 0]
    product = curvature.hessian(case.network, case.x)
    u1, u2 = found.eigenvectors[:, 0], found.eigenvectors[:, 1]

    def tangents(d):
        for k in range(6):
            v = vat.power_iteration(product, d, k)
            along = (v * u1).sum(axis=1, keepdims=True)
            yield np.linalg.norm(v - along * u1, axis=1) / np.abs(along[:, 0])

    expected = rate ** np.arange(6)[:, None]
    found = np.array(list(tangents(np.random.default_rng(0).standard_normal(case.x.shape))))
    assert (found <= expected * found[0] * (1 + 1e-6) + 1e-10).all()
    np.testing.assert_allclose(list(tangents(u1 + u2)), expected, rtol=1e-6, atol=1e-10)


# Half a power iteration


@each_divergence
@each_statistics
def test_half_a_product_has_the_covariance_h(divergence, statistics):
    """z ↦ M z with M Mᵀ = H, and so it is with standard normal z."""
    problem = Problem(2, statistics)
    x = problem.x
    product, logits = vat.half_product(problem.network, x, divergence)
    np.testing.assert_array_equal(logits, problem.network(x))
    axes = np.eye(logits.size).reshape(-1, *logits.shape)
    m = np.stack([product(e).ravel() for e in axes], axis=1)
    h = curvature.dense(curvature.hessian(problem.network, x, divergence=divergence), x)
    assert_near(m @ m.T, h, 1e-12)


def test_half_a_product_of_normal_numbers():
    case = trained(images=1)
    many = np.repeat(case.x, 4000, axis=0)
    product, logits = vat.half_product(case.network, many)
    samples = product(np.random.default_rng(0).standard_normal(logits.shape))
    h = case.blocks()[0]
    assert np.linalg.norm(np.cov(samples.T) - h) < 0.1 * np.linalg.norm(h)


def perturbation(case, generator, k, epsilon=1.0):
    like = case.network(case.x) if k == 0.5 else case.x
    d = generator.standard_normal(like.shape)
    return vat.virtual_adversarial_perturbation(
        case.network, case.x, d, epsilon, PowerIteration(k)
    )[0]


@each_trained
def test_half_an_iteration_lies_between_none_and_one(activation, batch_norm):
    case = trained(activation, batch_norm, images=40)
    product = curvature.hessian(case.network, case.x)
    largest = curvature.spectrum(case.network, case.x).eigenvalues[:, 0]
    generator = np.random.default_rng(0)
    none, half, one, two = (
        np.mean(
            [
                curvature.captured_curvature(product, perturbation(case, generator, k), largest)
                for _ in range(10)
            ]
        )
        for k in (0, 0.5, 1, 2)
    )
    assert 2 * none < half < one < two <= 1


@each_statistics
@given(seed=seeds)
def test_the_perturbation_of_half_an_iteration(statistics, seed):
    problem = Problem(seed, statistics)
    z = problem.normal(5, 3)
    r, logits = vat.virtual_adversarial_perturbation(
        problem.network, problem.x, z, 0.7, PowerIteration(0.5)
    )
    np.testing.assert_array_equal(logits, problem.network(problem.x))
    p = np.exp(oracle.log_softmax(problem.oracle(problem.x)))
    root_z = np.sqrt(p) * z - p * (np.sqrt(p) * z).sum(axis=1, keepdims=True)
    jacobian = oracle.jacobian(problem.oracle, problem.x)
    expected = 0.7 * oracle.unit((jacobian.T @ root_z.ravel()).reshape(r.shape))
    np.testing.assert_allclose(r, expected, rtol=0, atol=1e-9)

    value, _ = vat.regularizer(problem.network, problem.x, [z, z], 0.7, PowerIteration(0.5))
    lds = oracle.kl(problem.oracle(problem.x), problem.oracle(problem.x + r))
    np.testing.assert_allclose(value, lds.mean(), rtol=1e-9)


@each_statistics
def test_the_perturbation_of_half_an_iteration_is_a_constant_of_the_derivative(statistics):
    problem = Problem(5, statistics)
    x, z, name = problem.x, problem.normal(5, 3), "dense1.weight"
    r, _ = vat.virtual_adversarial_perturbation(problem.network, x, z, 1.5, PowerIteration(0.5))
    p_logits = problem.oracle(x)

    def regularizer(weight):
        params = {**problem.params, name: weight}
        network = lambda x: problem.network(x, params)  # noqa: E731
        return vat.regularizer(network, x, [z], 1.5, PowerIteration(0.5))[0]

    def frozen(weight):
        return oracle.kl(p_logits, problem.oracle(x + r, {**problem.params, name: weight})).mean()

    weight = problem.params[name]
    expected = oracle.gradient(frozen, weight)
    np.testing.assert_allclose(grad(regularizer)(weight), expected, rtol=1e-9, atol=1e-12)


def test_half_an_iteration_needs_directions_like_the_logits():
    problem = Problem(0)
    arguments = problem.network, problem.x, problem.d, 1.0
    message = "d must have the logits' shape and dtype, .* got .5, 4. and"
    with pytest.raises(ValueError, match=message) as error:
        vat.virtual_adversarial_perturbation(*arguments, PowerIteration(0.5))
    assert "\n" not in str(error.value)


# The true maximum


@each_divergence
@given(case=cases(largest=(1.0, 10.0)), seed=seeds, epsilon=st.sampled_from([0.01, 0.3, 3.0]))
def test_the_maximum_is_in_the_ball_and_no_start_is_above_it(divergence, case, seed, epsilon):
    x = case.x
    # Inside the ball, where a start stays as it is, and far outside.
    inside, outside = np.random.default_rng(seed).standard_normal((2, *x.shape))
    given = [0.3 * epsilon * vat.unit(inside), 100 * outside]
    best = curvature.true_maximiser(case.network, x, epsilon, given, steps=5, divergence=divergence)
    assert (np.linalg.norm(best.r, axis=1) <= epsilon * (1 + 1e-12)).all()
    found = divergence(case.network(x), case.network(x + best.r))
    np.testing.assert_allclose(best.divergence, found, rtol=1e-9, atol=1e-15)
    np.testing.assert_array_equal(best.divergence, best.by_start.max(axis=0))
    u = curvature.spectrum(case.network, x, divergence=divergence).eigenvectors[:, 0]

    def change(r):
        return divergence(case.network(x), case.network(x + r))

    towards = [epsilon * d for d in curvature.class_directions(case.network, x)]
    starts = [epsilon * u, -epsilon * u, given[0], epsilon * vat.unit(given[1])]
    values = list(map(change, starts))
    values.insert(2, np.max([change(r) for r in towards], axis=0))
    none = curvature.true_maximiser(case.network, x, epsilon, given, steps=0, divergence=divergence)
    np.testing.assert_allclose(none.by_start, values, rtol=1e-9, atol=1e-15)
    assert (best.by_start >= none.by_start).all()


@given(cases(largest=(1.0, 5.0)))
def test_for_small_epsilon_it_is_the_first_eigenvector(case):
    found = curvature.spectrum(case.network, case.x)
    largest = found.eigenvalues[:, 0]
    assume(largest.min() > 1e-3)
    epsilon = 1e-5
    best = curvature.true_maximiser(case.network, case.x, epsilon)
    np.testing.assert_allclose(best.divergence, epsilon**2 * largest / 2, rtol=1e-2)
    np.testing.assert_allclose(best.by_start[0], best.by_start[1], rtol=2e-2)
    apart = (found.eigenvalues[:, 1:2] < 0.5 * found.eigenvalues[:, :1]).all(axis=1)
    aligned = curvature.alignment(best.r / epsilon, found.eigenvectors[:, 0])
    np.testing.assert_allclose(aligned[apart], 1, rtol=1e-2)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("epsilon", [0.3, 2.0])
@settings(max_examples=2)
@given(seed=seeds)
def test_on_the_disc_it_is_the_maximum_over_a_grid(activation, epsilon, seed):
    problem = Problem(seed, sizes=(2, 9, 7, 3), batch=3, activation=activation)
    radius = epsilon * np.linspace(0, 1, 41)[1:, None]
    angle = np.linspace(0, 2 * np.pi, 361)[:-1]
    disc = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(-1, 2)
    p_logits = problem.oracle(problem.x)
    grid = [
        oracle.kl(z[None], problem.oracle(x + disc)).max()
        for x, z in zip(problem.x, p_logits, strict=True)
    ]
    angles = np.arange(6) * np.pi / 3
    directions = [np.tile([np.cos(a), np.sin(a)], (3, 1)) for a in angles]
    best = curvature.true_maximiser(problem.network, problem.x, epsilon, directions, steps=40)
    # The grid has no point at the maximum itself.
    assert (best.divergence >= np.array(grid) * (1 - 1e-4)).all()
    assert (best.divergence <= np.array(grid) * 1.05).all()


@pytest.mark.parametrize("epsilon", [1e-3, 1e-2, 1.0])
def test_a_small_maximum_is_no_rounding_noise_in_float32(epsilon):
    case = trained(activation="tanh", images=30)
    exact = curvature.true_maximiser(case.network, case.x, epsilon, steps=8).divergence
    network, x = case.on(Device(), np.float32)
    found = curvature.true_maximiser(network, x, epsilon, steps=8)
    assert found.divergence.dtype == found.by_start.dtype == np.float32
    clear = exact > epsilon**2 * 1e-3  # else the logits' own rounding shows
    assert clear.sum() > 10
    np.testing.assert_allclose(found.divergence[clear], exact[clear], rtol=0.02)


def test_the_maximum_is_found_where_p_is_saturated_and_h_is_zero():
    problem = Problem(0, sizes=(10, 20, 4), batch=100)
    params = {n: a.astype(np.float32) for n, a in problem.params.items()}
    state = {n: a.astype(np.float32) for n, a in problem.state.items()}

    def network(x):
        return problem.model(params, x, state, statistics="running")[0] * 1e3

    x = problem.x.astype(np.float32)
    zero = curvature.spectrum(network, x).eigenvalues[:, 0] == 0
    assert zero.sum() > 10
    best = curvature.true_maximiser(network, x, 2.0)
    assert (best.by_start[:2, zero] == 0).all()
    assert (best.divergence[zero] > 1).mean() > 0.5


def test_the_maximum_does_not_depend_on_the_order_of_the_batch():
    case = trained(images=12)
    d = np.random.default_rng(0).standard_normal(case.x.shape)
    order = np.random.default_rng(1).permutation(12)
    best = curvature.true_maximiser(case.network, case.x, 1.0, [d])
    permuted = curvature.true_maximiser(case.network, case.x[order], 1.0, [d[order]])
    np.testing.assert_allclose(permuted.divergence, best.divergence[order], rtol=1e-5)


@each_trained
def test_the_maximum_is_above_every_methods_perturbation(activation, batch_norm):
    case = trained(activation, batch_norm, images=20)
    generator = np.random.default_rng(0)
    r = [perturbation(case, generator, k, epsilon=1.5) for k in (0, 0.5, 1, 8)]
    best = curvature.true_maximiser(case.network, case.x, 1.5, r)
    logits = case.network(case.x)
    for other in r:
        value = vat.lds(case.network, case.x, other, logits)
        assert (best.divergence >= value * (1 - 1e-10)).all()
    # At this ε the quadratic picture is over, and the maximum is well above ε u₁.
    u = curvature.spectrum(case.network, case.x).eigenvectors[:, 0]
    start = vat.lds(case.network, case.x, 1.5 * u, logits)
    assert best.divergence.mean() > 1.2 * start.mean()


# Devices and mistakes


@each_dtype
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_products_on_every_device(device, dtype, statistics):
    case = Case(Problem(1, statistics), Problem(1).x)
    tolerance = 1e-4 if dtype == np.float32 else 1e-10

    def products(device):
        network, x = case.on(device, dtype)
        d, z = (device.asarray(a.astype(dtype)) for a in (case.problem.d, case.problem.x[:, :3]))
        half, _ = vat.half_product(network, x)
        yield from (curvature.hessian(network, x, route=route)(d) for route in EXACT_ROUTES)
        yield half(z)
        yield curvature.dense(curvature.hessian(network, x), x)
        yield vat.virtual_adversarial_perturbation(network, x, z, 1.0, PowerIteration(0.5))[0]

    for here, there in zip(products(Device()), products(device), strict=True):
        assert there.dtype == dtype
        assert_near(device.to_host(there), here, tolerance)


@each_dtype
def test_spectra_and_maxima_on_every_device(device, dtype):
    case = trained()

    def answers(device):
        network, x = case.on(device, dtype)
        found = curvature.spectrum(network, x, eigenvectors=2)
        product = curvature.hessian(network, x)
        d = vat.unit(device.asarray(case.x.astype(dtype)))
        operator = curvature.linear_operator(curvature.hessian(network, x[:1]), x[:1])
        best = curvature.true_maximiser(network, x, np.float64(0.5), [d], steps=4)
        yield found.eigenvalues
        yield np.abs(found.eigenvectors)
        yield curvature.captured_curvature(product, d, found.eigenvalues[:, 0])
        yield curvature.alignment(d, found.eigenvectors[:, 1])
        yield device.asarray(curvature.eigsh(operator, 3)[0])
        yield best.divergence
        # The eigenvectors it starts from may have either sign.
        yield device.asarray(np.sort(device.to_host(best.by_start), axis=0))
        yield best.r

    tolerance = 1e-3 if dtype == np.float32 else 1e-9
    for here, there in zip(answers(Device()), answers(device), strict=True):
        assert there.dtype == dtype
        assert_near(device.to_host(there), here, tolerance)


def operator():
    return curvature.linear_operator(lambda d: d, np.zeros(3))


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (
            lambda f, x: curvature.hessian(f, x, route="best"),
            r"route must be one of \('fisher', .*\), got 'best'",
        ),
        (
            lambda f, x: curvature.hessian(f, x, route="finite-difference", xi=0.0),
            "xi must be positive, got 0.0",
        ),
        (
            lambda f, x: curvature.hessian(f, x, route="finite-difference", xi=np.nan),
            "xi must be positive, got nan",
        ),
        (
            lambda f, x: curvature.dense(lambda d: d, np.zeros(4097)),
            "x must have at most 4096 numbers, got 4097",
        ),
        (lambda f, x: curvature.eigsh(operator(), 0), r"k must lie in \[1, 2\], got 0"),
        (lambda f, x: curvature.eigsh(operator(), 3), r"k must lie in \[1, 2\], got 3"),
        (
            lambda f, x: curvature.spectrum(f, x, eigenvectors=4),
            r"eigenvectors must lie in \[0, 3\], got 4",
        ),
        (
            lambda f, x: curvature.spectrum(f, x, eigenvectors=-1),
            r"eigenvectors must lie in \[0, 3\], got -1",
        ),
        (lambda f, x: curvature.true_maximiser(f, x, 0.0), "epsilon must be positive .* got 0.0"),
        (
            lambda f, x: curvature.true_maximiser(f, x, np.nan),
            "epsilon must be positive .* got nan",
        ),
        (lambda f, x: curvature.true_maximiser(f, x, 1.0, steps=-1), "steps must be 0 or more"),
        (
            lambda f, x: curvature.true_maximiser(f, x, 1.0, [x[:1]]),
            r"starts must have x's shape .* got \(1, 4\) and float64",
        ),
        (
            lambda f, x: curvature.true_maximiser(f, x, 1.0, iter([x.astype(np.float32)])),
            r"starts must have x's shape .* got \(5, 4\) and float32",
        ),
        (lambda f, x: curvature.true_maximiser(f, x, np.inf), "epsilon must be .* got inf"),
        (lambda f, x: curvature.spectrum(f, x[:0]), "x must hold at least one example, got none"),
        (
            lambda f, x: curvature.spectrum(lambda x: (f(x), {}), x),
            r"model must return logits \(N, C\), .* got tuple",
        ),
        (
            lambda f, x: curvature.spectrum(lambda x: ops.sum(f(x), axis=1), x),
            r"model must return logits \(N, C\), .* got \(8,\)",
        ),
        (lambda f, x: curvature.spectrum(lambda x: f(x) * np.nan, x), "logits must be finite"),
        (
            lambda f, x: curvature.spectrum(f, np.concatenate([x, 0 * x + np.nan])),
            "logits must be finite",
        ),
        (lambda f, x: curvature.eigsh(operator() * np.nan, 1), "must give finite numbers"),
    ],
)
def test_mistakes_are_named(compute, message):
    problem = Problem(0)
    with pytest.raises(ValueError, match=message) as error:
        compute(problem.network, problem.x)
    assert "\n" not in str(error.value)


def test_no_eigenvectors_at_all():
    case = trained()
    found = curvature.spectrum(case.network, case.x, eigenvectors=0)
    assert found.eigenvectors.shape == (3, 0, 64)
    np.testing.assert_array_equal(
        found.eigenvalues, curvature.spectrum(case.network, case.x).eigenvalues
    )
