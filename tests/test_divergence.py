"""Divergences: values, the curvature F at q = p, the order of the arguments, the extremes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from minivat import grad, hvp, ops
from minivat.divergence import bernoulli, categorical, gaussian
from tests import oracle

DIVERGENCES = {"categorical": categorical, "bernoulli": bernoulli, "gaussian": gaussian(0.3)}
# Up to which outputs all must be finite, in float32 too. An exponential overflows sooner.
LARGEST = dict.fromkeys(DIVERGENCES.values(), 1e4)

each_divergence = pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=DIVERGENCES)


def logits(low=-20.0, high=20.0):
    """Two arrays of logits of one shape (N, C), and a direction."""
    element = st.floats(low, high, allow_subnormal=False)
    return array_shapes(min_dims=2, max_dims=2, max_side=5).flatmap(
        lambda shape: st.tuples(*[arrays(np.float64, shape, elements=element)] * 3)
    )


@given(logits())
def test_categorical_is_kl_with_the_clean_distribution_first(pqt):
    p, q, _ = pqt
    np.testing.assert_allclose(categorical(p, q), oracle.kl(p, q), rtol=1e-12, atol=1e-14)


def test_the_order_of_the_arguments_matters():
    p, q = np.array([[0.0, 0.0]]), np.array([[0.0, 3.0]])
    # ½ (log ½ − log q₀) + ½ (log ½ − log q₁)
    forward = np.log(0.5) - 1.5 + np.log1p(np.exp(3.0))
    np.testing.assert_allclose(categorical(p, q), forward, rtol=1e-14)
    assert abs(categorical(q, p) - forward) > 0.1


@given(logits())
def test_bernoulli_is_categorical_with_logits_zero_and_z(pqt):
    p, q, t = (a[:, :1] for a in pqt)

    def two(z):
        return np.concatenate([np.zeros_like(z), z], axis=1)

    np.testing.assert_allclose(bernoulli(p, q), categorical(two(p), two(q)), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(
        bernoulli.fisher(p, t), categorical.fisher(two(p), two(t))[:, 1:], rtol=1e-10, atol=1e-14
    )


@given(logits())
def test_bernoulli_outputs_are_independent(pqt):
    p, q, _ = pqt
    columns = [bernoulli(p[:, [i]], q[:, [i]]) for i in range(p.shape[1])]
    np.testing.assert_allclose(bernoulli(p, q), sum(columns), rtol=1e-12, atol=1e-14)


@given(logits(), st.floats(1e-3, 1e3))
def test_gaussian_is_the_squared_distance_over_twice_the_variance(pqt, variance):
    p, q, t = pqt
    expected = ((p - q) ** 2).sum(axis=1) / (2 * variance)
    np.testing.assert_allclose(gaussian(variance)(p, q), expected, rtol=1e-12)
    np.testing.assert_allclose(gaussian(variance).fisher(p, t), t / variance, rtol=1e-12)


@given(logits(), st.data())
def test_the_likelihood_of_a_class(pqt, data):
    z, _, _ = pqt
    labels = data.draw(arrays(np.int64, len(z), elements=st.integers(0, z.shape[1] - 1)))
    expected = oracle.cross_entropy(z, labels)
    np.testing.assert_allclose(categorical.nll(z, labels), expected, rtol=1e-12, atol=1e-14)


@given(logits(), st.data())
def test_the_likelihood_and_entropy_of_one_logit_are_those_of_logits_zero_and_z(pqt, data):
    z = pqt[0][:, :1]
    labels = data.draw(arrays(np.int64, len(z), elements=st.integers(0, 1)))
    two = np.concatenate([np.zeros_like(z), z], axis=1)
    for given_ in (labels, labels[:, None]):
        expected = categorical.nll(two, labels)
        np.testing.assert_allclose(bernoulli.nll(z, given_), expected, rtol=1e-10, atol=1e-14)
    expected = categorical.entropy(two)
    np.testing.assert_allclose(bernoulli.entropy(z), expected, rtol=1e-10, atol=1e-14)


@given(logits())
def test_the_entropy_is_the_oracles_and_at_most_that_of_the_uniform_distribution(pqt):
    z, _, _ = pqt
    entropy = categorical.entropy(z)
    np.testing.assert_allclose(entropy, oracle.entropy(z), rtol=1e-10, atol=1e-14)
    assert (entropy >= 0).all() and (entropy <= np.log(z.shape[1]) + 1e-12).all()
    np.testing.assert_allclose(categorical.entropy(0 * z), np.log(z.shape[1]), atol=1e-14)


@given(logits(), st.floats(1e-3, 1e3))
def test_the_likelihood_of_a_gaussian_is_its_distance_from_the_target(pqt, variance):
    mean, target, _ = pqt
    divergence = gaussian(variance)
    np.testing.assert_array_equal(divergence.nll(mean, target), divergence(target, mean))
    single = divergence.nll(mean[:, :1], target[:, 0])
    np.testing.assert_array_equal(single, divergence(target[:, :1], mean[:, :1]))


def test_a_gaussian_takes_the_targets_that_its_likelihood_takes():
    gaussian().check_labels(np.zeros((3, 1)), 3, 1)
    gaussian().check_labels(np.zeros(3), 3, 1)
    gaussian().check_labels(np.zeros((3, 2)), 3, 2)
    with pytest.raises(ValueError, match=r"shape \(3, 2\), got float64 of shape \(3,\)"):
        gaussian().check_labels(np.zeros(3), 3, 2)


@pytest.mark.parametrize("variance", [0.0, -1.0, np.nan])
def test_gaussian_refuses_a_variance_that_is_not_positive(variance):
    with pytest.raises(ValueError, match=r"variance must be positive, got"):
        gaussian(variance)


@each_divergence
@given(pqt=logits())
def test_at_q_equal_to_p_the_divergence_and_its_gradient_are_exactly_zero(divergence, pqt):
    p, _, _ = pqt
    assert not divergence(p, p).any()
    assert not grad(lambda q: ops.sum(divergence(p, q)))(p).any()


@each_divergence
@given(pqt=logits())
def test_fisher_is_the_hessian_in_q_at_q_equal_to_p(divergence, pqt):
    p, _, t = pqt
    expected = hvp(lambda q: ops.sum(divergence(p, q)), p, t)
    np.testing.assert_allclose(divergence.fisher(p, t), expected, rtol=1e-10, atol=1e-12)


@given(logits())
def test_the_categorical_fisher_is_diag_p_minus_p_p_transposed(pqt):
    p, _, t = pqt
    expected = (oracle.fisher(p) @ t.ravel()).reshape(t.shape)
    np.testing.assert_allclose(categorical.fisher(p, t), expected, rtol=1e-12, atol=1e-14)


@each_divergence
@given(pqt=logits())
def test_the_root_times_its_transpose_is_fisher(divergence, pqt):
    p, _, _ = pqt
    for z in p[:, None]:
        root, fisher = matrix(divergence.root, z), matrix(divergence.fisher, z)
        np.testing.assert_allclose(root @ root.T, fisher, rtol=1e-10, atol=0)


@each_divergence
@given(pqt=logits(-40.0, 40.0))
def test_in_float32_the_root_is_right_entry_by_entry_however_close_to_1_p_is(divergence, pqt):
    p, _, t = (a.astype(np.float32) for a in pqt)
    found = divergence.root(p, t)
    for i, z in enumerate(p[:, None]):
        root = matrix(divergence.root, z).astype(float)
        # However much larger the terms are that cancel for the likeliest class.
        error = np.abs(found[i] - root @ t[i])
        assert (error <= 1e-5 * np.abs(root) @ np.abs(t[i]) + 1e-36).all()
        fisher = matrix(divergence.fisher, z.astype(float))
        # Rounding of logits up to 80 apart; below the normal numbers p has only a few digits.
        np.testing.assert_allclose(root @ root.T, fisher, rtol=1e-4, atol=1e-36)


def matrix(product, z):
    """The matrix (C, C) of a linear map t ↦ product(z, t) for one example's logits z (1, C)."""
    axes = np.eye(z.shape[1], dtype=z.dtype)
    return np.concatenate([product(z, e[None]) for e in axes]).T


@each_divergence
@given(pqt=logits())
def test_never_negative_but_for_rounding(divergence, pqt):
    p, q, _ = pqt
    assert (divergence(p, q) > -1e-15 * (1 + np.abs(p).max() + np.abs(q).max())).all()


@each_divergence
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(pqt=logits(-1.0, 1.0))
def test_finite_and_of_one_dtype_for_saturated_distributions(divergence, dtype, pqt):
    p, q, t = ((LARGEST[divergence] * a).astype(dtype) for a in pqt)
    labels = {
        categorical: np.zeros(len(p), int),
        bernoulli: np.ones(p.shape, int),
    }.get(divergence, t)
    results = [
        divergence(p, q),
        divergence.fisher(p, t),
        divergence.root(p, t),
        divergence.nll(p, labels),
        grad(lambda q: ops.sum(divergence(p, q)))(q),
        grad(lambda q: ops.sum(divergence.nll(q, labels)))(q),
    ]
    if hasattr(divergence, "entropy"):
        results += [divergence.entropy(p), grad(lambda q: ops.sum(divergence.entropy(q)))(q)]
    for result in results:
        assert result.dtype == dtype
        assert np.isfinite(result).all()


@each_divergence
@pytest.mark.parametrize("name", ["__call__", "fisher", "root", "entropy"])
def test_examples_may_have_several_axes(divergence, name):
    """Outputs lie along the last axis, whatever is before it."""
    if not hasattr(divergence, name):
        return
    p, q = np.random.default_rng(0).standard_normal((2, 2, 3, 5))
    outputs = (p,) if name == "entropy" else (p, q)
    flat = getattr(divergence, name)(*(each.reshape(6, 5) for each in outputs))
    found = getattr(divergence, name)(*outputs)
    np.testing.assert_array_equal(found, flat.reshape(2, 3, *flat.shape[1:]))


@each_divergence
def test_targets_may_have_several_axes(divergence):
    p = np.random.default_rng(0).standard_normal((2, 3, 5))
    targets = {
        categorical: np.arange(6).reshape(2, 3) % 5,
        bernoulli: (p < 0).astype(int),
    }.get(divergence, p + 1)
    flat = divergence.nll(p.reshape(6, 5), targets.reshape(6, *targets.shape[2:]))
    np.testing.assert_array_equal(divergence.nll(p, targets), flat.reshape(2, 3))


def test_a_gaussian_has_variance_1_unless_told():
    p, q = np.random.default_rng(0).standard_normal((2, 3, 2))
    np.testing.assert_array_equal(gaussian()(p, q), gaussian(1.0)(p, q))


@pytest.mark.parametrize(
    ("divergence", "labels", "outputs", "message"),
    [
        (categorical, [0, 2, 1], 2, r"labels must lie in \[0, 2\), got 0 to 2$"),
        (categorical, [0, -1, 1], 2, r"labels must lie in \[0, 2\), got -1 to 1$"),
        (categorical, [0, 1], 2, r"labels must be 3 integers, .* got int64 of shape \(2,\)$"),
        (categorical, [0.0, 1.0, 1.0], 2, r"got float64 of shape \(3,\)$"),
        (bernoulli, [0, 2, 1], 1, r"labels must lie in \[0, 2\), got 0 to 2$"),
        (bernoulli, [0, 1, 1], 2, r"must have one output, the logit of label 1, got 2$"),
        (gaussian(), [0, 1, 1], 1, r"shape \(3,\) or \(3, 1\), got int64 of shape \(3,\)$"),
        (gaussian(), [0.0, np.inf, 1.0], 1, "labels must be finite, got NaN or infinity$"),
    ],
)
def test_labels_that_are_none_are_refused(divergence, labels, outputs, message):
    with pytest.raises(ValueError, match=message):
        divergence.check_labels(np.array(labels), 3, outputs)


@pytest.mark.parametrize("labels", [[0, 1, 0], [1, 1, 1]])
def test_labels_of_all_classes_are_taken(labels):
    categorical.check_labels(np.array(labels, np.uint8), 3, 2)
    bernoulli.check_labels(np.array(labels), 3, 1)
    gaussian().check_labels(np.array(labels, float), 3, 1)


@each_divergence
def test_on_every_device(divergence, device):
    p, q, t = np.random.default_rng(0).standard_normal((3, 4, 5))
    on = device.asarray
    for here, there in [
        (divergence(p, q), divergence(on(p), on(q))),
        (divergence.fisher(p, t), divergence.fisher(on(p), on(t))),
        (divergence.root(p, t), divergence.root(on(p), on(t))),
    ]:
        np.testing.assert_allclose(device.to_host(there), here, rtol=1e-12, atol=1e-15)
