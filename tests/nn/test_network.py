"""Networks: the paper's initialisation, the forward pass, one flat buffer for all parameters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivat import nn
from minivat.backend import Device
from tests import oracle

PAPER = [784, 1200, 600, 300, 150, 10]


def small(generator, sizes, **options):
    """A network whose parameters and running statistics are all away from their first values."""
    network = nn.mlp(sizes, **options)
    params, state = network.init(generator, np.float64)
    params = {n: a + 0.3 * generator.standard_normal(a.shape) for n, a in params.items()}
    state = {n: a + 0.3 * generator.random(a.shape) for n, a in state.items()}
    return network, params, state


networks = st.tuples(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 6), min_size=2, max_size=5),
    st.integers(2, 6),
    st.booleans(),
    st.booleans(),
)


@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@given(drawn=networks)
def test_forward_pass(statistics, activation, drawn):
    seed, sizes, batch, batch_norm, output_norm = drawn
    generator = np.random.default_rng(seed)
    options = {"batch_norm": batch_norm, "output_norm": output_norm}
    network, params, state = small(generator, sizes, activation=activation, **options)
    assert (f"norm{len(sizes) - 1}.gamma" in params) == (batch_norm and output_norm)
    x = generator.standard_normal((batch, sizes[0]))
    expected = oracle.network(
        params,
        x,
        state if statistics == "running" else None,
        slope=0.1 if activation == "leaky_relu" else 0.0,
    )
    logits, new = network(params, x, state, statistics=statistics)
    np.testing.assert_allclose(logits, expected, rtol=1e-10, atol=1e-10)
    assert list(new) == list(state)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh"])
def test_noise_is_added_before_the_activation_or_after_it(activation):
    generator = np.random.default_rng(0)
    sizes, x = [3, 5, 4, 2], generator.standard_normal((6, 3))
    phi = {
        "relu": lambda u: np.maximum(u, 0),
        "leaky_relu": lambda u: np.where(u > 0, u, 0.1 * u),
        "tanh": np.tanh,
    }[activation]
    options = {"activation": activation, "noise": 0.5, "batch_norm": False}
    nets = {place: nn.mlp(sizes, noise_place=place, **options) for place in ("before", "after")}
    assert nn.mlp(sizes, **options) == nets["before"] != nets["after"]
    params, state = nets["before"].init(generator, np.float64)
    noise = nets["before"].draw_noise(Device().random(0, "noise"), 6, np.float64)
    for place, network in nets.items():
        assert network.init(np.random.default_rng(1))[0].keys() == params.keys()
        expected = x
        for i in (1, 2, 3):
            u = expected @ params[f"dense{i}.weight"] + params[f"dense{i}.bias"]
            if i == 3:
                expected = u  # the logits have neither noise nor activation
            elif place == "before":
                expected = phi(u + noise[f"noise{i}"])
            else:
                expected = phi(u) + noise[f"noise{i}"]
        np.testing.assert_allclose(network(params, x, state, noise=noise)[0], expected, rtol=1e-12)


@pytest.mark.parametrize("place", ["before", "after"])
def test_noise_comes_after_batch_norm_and_before_dropout(place):
    network = nn.mlp([3, 5, 2], noise=0.5, noise_place=place, dropout=0.5)
    kinds = [type(layer).__name__ for layer in network.layers]
    # Without noise between them batch norm and the ReLU are one layer.
    hidden = ["GaussianNoise", "ReLU"] if place == "before" else ["GaussianNoise"]
    assert kinds == ["Dense", "BatchNorm", *hidden, "Dropout", "Dense", "BatchNorm"]
    assert network.layers[1].slope == (1 if place == "before" else 0)


def test_running_mode_returns_the_state_as_it_is():
    network, params, state = small(np.random.default_rng(0), [3, 4, 2])
    _, new = network(params, np.ones((2, 3)), state, statistics="running")
    for name, array in state.items():
        np.testing.assert_array_equal(new[name], array)


def test_the_papers_network():
    network = nn.mlp(PAPER)
    params, state = network.init(np.random.default_rng(0))
    layers = range(1, 6)
    assert list(params) == [
        f"{name}"
        for i in layers
        for name in (f"dense{i}.weight", f"dense{i}.bias", f"norm{i}.gamma", f"norm{i}.beta")
    ]
    assert list(state) == [f"norm{i}.running_{s}" for i in layers for s in ("mean", "var")]
    assert sum(array.size for array in params.values()) == 1_894_080
    assert {a.dtype for a in (*params.values(), *state.values())} == {np.dtype(np.float32)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_initial_values(dtype):
    params, state = nn.mlp(PAPER).init(np.random.default_rng(0), dtype)
    for name, array in params.items():
        assert array.dtype == dtype
        if name.endswith("weight"):
            # Five standard errors: standard normal once multiplied by the root of the inputs.
            w = array.astype(float) * np.sqrt(len(array))
            assert abs(w.mean()) < 5 / np.sqrt(w.size)
            assert abs(w.var() - 1) < 5 * np.sqrt(2 / w.size)
            assert abs((w**4).mean() - 3) < 5 * np.sqrt(96 / w.size)
        else:
            np.testing.assert_array_equal(array, 1.0 if name.endswith("gamma") else 0.0)
    for name, array in state.items():
        np.testing.assert_array_equal(array, 1.0 if name.endswith("var") else 0.0)


def test_the_generator_determines_the_initial_values():
    first, again, other = (
        nn.mlp([5, 4, 3]).init(np.random.default_rng(seed))[0]["dense1.weight"]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ([5], {}, "sizes must be"),
        ([5, 0, 2], {}, "sizes must be"),
        ([5, 2], {"activation": "gelu"}, "activation must be one of .* got 'gelu'"),
        ([5, 2], {"noise": -0.1}, "noise must be"),
        ([5, 2], {"noise_place": "inside"}, "noise_place must be .* got 'inside'"),
        ([5, 2], {"dropout": 1.0}, "dropout"),
        ([5, 2], {"dropout": -0.5}, "dropout"),
    ],
)
def test_mlp_refuses(sizes, options, message):
    with pytest.raises(ValueError, match=message) as error:
        nn.mlp(sizes, **options)
    assert "\n" not in str(error.value)


def test_the_forward_pass_refuses():
    network = nn.mlp([3, 4, 2])
    params, state = network.init(np.random.default_rng(0))
    x = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="statistics must be 'batch' or 'running', got 'moving'"):
        network(params, x, state, statistics="moving")
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        network(params, np.ones((2, 4), np.float32), state)


def test_packed_parameters_are_views_into_one_buffer(device):
    params, _ = nn.mlp([3, 4, 2]).init(np.random.default_rng(0))
    on_device = {name: device.asarray(array) for name, array in params.items()}
    flat, views = nn.pack(on_device)
    assert flat.shape == (sum(a.size for a in params.values()),)
    assert list(views) == list(params)
    for name, array in params.items():
        assert views[name].shape == array.shape
        assert views[name].dtype == array.dtype
        np.testing.assert_array_equal(device.to_host(views[name]), array)
    flat[...] = 7.0
    for view in views.values():
        np.testing.assert_array_equal(device.to_host(view), 7.0)
    views["norm2.beta"][...] = 8.0
    np.testing.assert_array_equal(device.to_host(flat)[-2:], 8.0)
    np.testing.assert_array_equal(device.to_host(flat)[:-2], 7.0)


def test_packing_copies():
    params, _ = nn.mlp([3, 4, 2]).init(np.random.default_rng(0))
    flat, _ = nn.pack(params)
    flat[...] = 7.0
    assert not (params["dense1.weight"] == 7.0).any()
