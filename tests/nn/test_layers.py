"""Layers: batch norm's two modes and its running statistics, dropout, noise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minivat import nn
from minivat.backend import host_generator
from minivat.nn.layers import Context
from tests import oracle


def norm(units, **options):
    layer = nn.BatchNorm("norm", units, **options)
    params, state = layer.init(np.random.default_rng(0), np.float64)
    return layer, params, state


def batches(least=2):
    """Arrays (N, D)."""
    shapes = st.tuples(st.integers(least, 7), st.integers(1, 4))
    return shapes.flatmap(lambda s: arrays(np.float64, s, elements=st.floats(-100, 100, width=32)))


@given(batches())
def test_batch_norm_normalizes_with_the_biased_variance_of_the_batch(x):
    layer, params, state = norm(x.shape[1])
    params = {"norm.gamma": np.arange(1.0, x.shape[1] + 1), "norm.beta": np.full(x.shape[1], 0.5)}
    y, _ = layer(params, x, state, Context())
    expected = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-6)
    expected = expected * params["norm.gamma"] + params["norm.beta"]
    # (x − mean) has an error of the size of x's rounding, which the division may blow up by 1000.
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-10)


@given(batches())
def test_running_statistics_keep_nine_tenths_and_take_the_unbiased_variance(x):
    layer, params, state = norm(x.shape[1])
    state = {"norm.running_mean": state["norm.running_mean"] + 3.0, **state}
    _, new = layer(params, x, state, Context())
    for name, batch in [("mean", x.mean(axis=0)), ("var", x.var(axis=0, ddof=1))]:
        expected = 0.9 * state[f"norm.running_{name}"] + 0.1 * batch
        np.testing.assert_allclose(new[f"norm.running_{name}"], expected, rtol=1e-12, atol=1e-12)


def test_the_state_given_is_never_changed():
    layer, params, state = norm(3)
    before = {name: array.copy() for name, array in state.items()}
    layer(params, np.random.default_rng(0).standard_normal((5, 3)), state, Context())
    for name, array in before.items():
        np.testing.assert_array_equal(state[name], array)


@given(batches(least=1))
def test_running_mode_uses_the_running_statistics_and_leaves_them_alone(x):
    layer, _, _ = norm(x.shape[1])
    generator = np.random.default_rng(x.shape[1])
    gamma, beta, mean, var = generator.uniform(0.5, 2.0, (4, x.shape[1]))
    params = {"norm.gamma": gamma, "norm.beta": beta}
    state = {"norm.running_mean": mean, "norm.running_var": var}
    y, new = layer(params, x, state, Context(statistics="running"))
    expected = gamma * (x - mean) / np.sqrt(var + 1e-6) + beta
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    assert new == {}


def test_a_batch_of_one_example_leaves_no_nan():
    layer, params, state = norm(3)
    y, new = layer(params, np.array([[1.0, -2.0, 3.0]]), state, Context())
    np.testing.assert_array_equal(y, np.zeros((1, 3)))
    np.testing.assert_allclose(new["norm.running_var"], 0.9)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_a_pass_may_set_its_own_share_of_the_running_statistics(decay):
    layer, params, state = norm(2)
    x = np.random.default_rng(0).standard_normal((6, 2))
    _, new = layer(params, x, state, Context(decay=decay))
    np.testing.assert_allclose(new["norm.running_mean"], (1 - decay) * x.mean(axis=0))
    expected = decay + (1 - decay) * x.var(axis=0, ddof=1)
    np.testing.assert_allclose(new["norm.running_var"], expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_batch_norm_keeps_the_dtype_on_every_device(device, dtype, statistics):
    layer = nn.BatchNorm("norm", 3)
    params, state = layer.init(np.random.default_rng(0), dtype)
    x = np.random.default_rng(1).standard_normal((4, 3)).astype(dtype)
    on_device = [
        {name: device.asarray(array) for name, array in d.items()} for d in (params, state)
    ]
    y, new = layer(params, x, state, Context(statistics))
    y2, new2 = layer(on_device[0], device.asarray(x), on_device[1], Context(statistics))
    for here, there in [(y, y2), *((new[name], new2[name]) for name in new)]:
        assert there.dtype == dtype
        tolerance = 10 * np.finfo(dtype).eps
        np.testing.assert_allclose(device.to_host(there), here, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dropout_zeroes_a_share_of_the_units_and_keeps_the_mean(device, rate, dtype):
    layer = nn.Dropout("dropout", 500, rate)
    mask = layer.draw_noise(device.random(1, "noise"), 400, dtype)["dropout"]
    mask = device.to_host(mask)
    assert mask.dtype == dtype
    assert mask.shape == (400, 500)
    np.testing.assert_allclose(np.unique(mask), [0.0, 1 / (1 - rate)], rtol=1e-6)
    # Five standard errors of the mean of 200,000 masks of variance rate / (1 − rate).
    assert abs(mask.mean(dtype=float) - 1) < 5 * np.sqrt(rate / (1 - rate) / mask.size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gaussian_noise_has_its_standard_deviation(device, dtype):
    layer = nn.GaussianNoise("noise", 500, 0.5)
    noise = device.to_host(layer.draw_noise(device.random(1, "noise"), 400, dtype)["noise"])
    assert noise.dtype == dtype
    assert abs(noise.mean(dtype=float)) < 5 * 0.5 / np.sqrt(noise.size)
    assert abs(noise.std(dtype=float) / 0.5 - 1) < 5 / np.sqrt(2 * noise.size)


def test_noise_is_drawn_once_and_shared_by_all_passes():
    network = nn.mlp([4, 6, 5, 3], noise=0.5, dropout=0.5)
    params, state = network.init(np.random.default_rng(0))
    x = np.random.default_rng(1).random((8, 4), dtype=np.float32)
    first, second = (network.draw_noise(_stream(update), batch_size=8) for update in (0, 1))
    assert list(first) == ["noise1", "dropout1", "noise2", "dropout2"]
    logits, again, other, none = (
        network(params, x, state, noise=noise)[0] for noise in (first, first, second, None)
    )
    np.testing.assert_array_equal(logits, again)
    assert not np.array_equal(logits, other)
    np.testing.assert_allclose(none, oracle.network(params, x), rtol=1e-4, atol=1e-5)
    assert not np.array_equal(logits, none)


def _stream(update):
    from minivat.backend import RandomStream

    return RandomStream(host_generator(1, "noise", update))


@pytest.mark.parametrize("slope", [0.0, 0.1, 0.3])
def test_activations(slope):
    x = np.array([-2.0, -0.0, 0.0, 3.0])
    layer = nn.LeakyReLU(slope) if slope else nn.ReLU()
    np.testing.assert_allclose(layer({}, x, {}, Context())[0], [-2.0 * slope, 0.0, 0.0, 3.0])


def test_a_kernel_may_be_any_integer():
    layer = nn.Conv2d("conv", 2, 4, kernel=np.int64(3))
    params, _ = layer.init(np.random.default_rng(0), np.float32)
    assert params["conv.weight"].shape == (3, 3, 2, 4)
