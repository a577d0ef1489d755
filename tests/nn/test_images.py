"""Conv-Small and Conv-Large, and the layers for images that they are made of."""

import functools
import re
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivat import curvature, nn, ops, training, vat
from minivat.backend import Device
from minivat.nn.layers import Context
from minivat.objective import Regularization
from minivat.vat import PowerIteration

SIZE = (12, 13, 3)
MAKERS = [nn.conv_small, nn.conv_large]
each_net = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
each_dataset = pytest.mark.parametrize("dataset", ["cifar10", "svhn"])

# Convolutions, height and width of their kernels, inputs and outputs: the paper's Table 7.
CHANNELS = {
    (nn.conv_small, "cifar10"): [96, 96, 96, 192, 192, 192, 192, 192, 192],
    (nn.conv_small, "svhn"): [64, 64, 64, 128, 128, 128, 128, 128, 128],
    (nn.conv_large, "cifar10"): [128, 128, 128, 256, 256, 256, 512, 256, 128],
    (nn.conv_large, "svhn"): [128, 128, 128, 256, 256, 256, 512, 256, 128],
}


@each_net
@each_dataset
def test_the_papers_networks(make, dataset):
    params, state = make(dataset).init(np.random.default_rng(0))
    expected, inputs = {}, 3
    for i, outputs in enumerate(CHANNELS[make, dataset], start=1):
        kernel = 3 if i < 8 else 1
        expected[f"conv{i}.weight"] = (kernel, kernel, inputs, outputs)
        expected[f"norm{i}.gamma"] = expected[f"norm{i}.beta"] = (outputs,)
        inputs = outputs
    expected |= {"dense10.weight": (inputs, 10), "dense10.bias": (10,)}
    if dataset == "svhn":
        expected |= {"norm10.gamma": (10,), "norm10.beta": (10,)}
    assert {name: array.shape for name, array in params.items()} == expected
    norms = 10 if dataset == "svhn" else 9
    assert list(state) == [
        f"norm{i}.running_{s}" for i in range(1, norms + 1) for s in ("mean", "var")
    ]
    assert {a.dtype for a in (*params.values(), *state.values())} == {np.dtype(np.float32)}
    count = sum(array.size for array in params.values())
    millions = float(re.search(r"([\d.]+) million parameters", make.__doc__)[1])
    if dataset == "cifar10":
        assert round(count / 1e6, 1) == millions


@each_net
def test_initial_values_are_hes(make):
    params, state = make().init(np.random.default_rng(0), np.float64)
    for name, array in params.items():
        if name.endswith("weight"):
            # Five standard errors of the moments of a normal distribution.
            w = array * np.sqrt(array[..., 0].size / 2)
            assert abs(w.mean()) < 5 / np.sqrt(w.size), name
            assert abs(w.var() - 1) < 5 * np.sqrt(2 / w.size), name
        else:
            np.testing.assert_array_equal(array, 1.0 if name.endswith("gamma") else 0.0)
    for name, array in state.items():
        np.testing.assert_array_equal(array, 1.0 if name.endswith("var") else 0.0)


def test_the_generator_determines_the_initial_values():
    first, again, other = (
        nn.conv_small(width=0.1).init(np.random.default_rng(seed))[0]["conv2.weight"]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@each_net
@each_dataset
def test_shapes_inside(make, dataset, monkeypatch):
    """Where the pools stand, and which convolution is not padded."""
    network = make(dataset, 0.02)
    params, state = network.init(np.random.default_rng(0))
    noise = network.draw_noise(Device().random(0, "noise"), 2)
    x, shapes = np.zeros((2, 32, 32, 3), np.float32), []
    for layer in network.layers:
        x, _ = layer(params, x, state, Context(noise=noise))
        shapes.append((type(layer).__name__, x.shape[1:-1]))
    conv, norm, pool, drop = "Conv2d", "BatchNorm", "MaxPool2d", "Dropout"
    block = lambda side: [(conv, (side, side)), (norm, (side, side))] * 3  # noqa: E731
    expected = [*block(32), (pool, (16, 16)), (drop, (16, 16))]
    expected += [*block(16), (pool, (8, 8)), (drop, (8, 8)), *block(6)]
    expected += [("GlobalAveragePool", ()), ("Dense", ())]
    assert shapes == expected + [("BatchNorm", ())] * (dataset == "svhn")
    assert x.shape == (2, network.outputs)
    norms = [layer for layer in network.layers if isinstance(layer, nn.BatchNorm)]
    assert {(layer.epsilon, layer.decay) for layer in norms} == {(1e-6, 0.99)}
    assert [layer.slope for layer in norms] == [0.1] * 9 + [1.0] * (dataset == "svhn")
    assert {layer.rate for layer in network.layers if isinstance(layer, nn.Dropout)} == {0.5}


@pytest.mark.parametrize(
    ("width", "channels"),
    [(0.25, [24, 48]), (0.5, [48, 96]), (2, [192, 384]), (1e-3, [1, 1]), (1.01, [97, 194])],
)
def test_width_scales_every_number_of_channels(width, channels):
    layers = [layer for layer in nn.conv_small(width=width).layers if isinstance(layer, nn.Conv2d)]
    assert [layer.outputs for layer in layers] == channels[:1] * 3 + channels[1:] * 6
    assert [layer.inputs for layer in layers] == [3] + channels[:1] * 3 + channels[1:] * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "cifar100"}, "dataset must be one of .* got 'cifar100'"),
        ({"width": 0}, r"width must lie in \(0, 100\], got 0"),
        ({"width": float("nan")}, r"width must lie in \(0, 100\], got nan"),
        ({"width": 1e17}, "width must lie .* got 1e[+]17"),
        ({"image_shape": (12.5, 12, 3)}, "image_shape must be three integers"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"image_shape": (11, 32, 3)}, r"image_shape must be .* got \(11, 32, 3\)"),
        ({"image_shape": (32, 32)}, r"image_shape must be .* got \(32, 32\)"),
    ],
)
@each_net
def test_the_networks_refuse(make, options, message):
    with pytest.raises(ValueError, match=message) as error:
        make(**options)
    assert "\n" not in str(error.value)


def test_images_of_another_kind_are_refused():
    network = nn.conv_small(width=0.02)
    params, state = network.init(np.random.default_rng(0))
    noise = network.draw_noise(Device().random(0, "noise"), 2)
    for shape, message in [
        ((2, 3072), r"conv1: images must be \(N, height, width, 3\), got \(2, 3072\)"),
        ((2, 3, 32, 32), r"conv1: images must be .* got \(2, 3, 32, 32\)"),
        ((2, 28, 28, 3), r"dropout1: noise was drawn for inputs \(2, 16, 16, 2\), got \(2, 14, 14"),
        ((3, 32, 32, 3), r"dropout1: noise was drawn for inputs \(2, "),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            network(params, np.zeros(shape, np.float32), state, noise=noise)
        assert "\n" not in str(error.value)


# Layers


@pytest.mark.parametrize("slope", [1.0, 0.1])
@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("statistics", ["batch", "running"])
@given(seed=st.integers(0, 99), shape=st.tuples(*[st.integers(1, 4)] * 3))
def test_batch_norm_is_over_channels(slope, axes, statistics, seed, shape):
    """Of rows and of images, each of which has an operation of its own."""
    generator = np.random.default_rng(seed)
    layer = nn.BatchNorm("norm", 3, decay=0.75, slope=slope)
    shape = shape[:axes]
    x = generator.standard_normal((*shape, 3))
    gamma, beta, mean = generator.standard_normal((3, 3))
    var = generator.uniform(0.5, 2.0, 3)
    params = {"norm.gamma": gamma, "norm.beta": beta}
    state = {"norm.running_mean": mean, "norm.running_var": var}
    y, new = layer(params, x, state, Context(statistics))
    pixels = x.reshape(-1, 3)
    if statistics == "batch":
        m, v, n = pixels.mean(axis=0), pixels.var(axis=0), len(pixels)
        unbiased = v * n / max(n - 1, 1)
        np.testing.assert_allclose(new["norm.running_mean"], 0.75 * mean + 0.25 * m, atol=1e-12)
        np.testing.assert_allclose(new["norm.running_var"], 0.75 * var + 0.25 * unbiased)
    else:
        m, v = mean, var
        assert new == {}
    expected = gamma * (x - m) / np.sqrt(v + 1e-6) + beta
    expected = np.where(expected > 0, expected, slope * expected)
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-9)


def test_convolution_with_bias_stride_and_a_kernel_of_two_sizes():
    layer = nn.Conv2d("conv", 2, 5, kernel=(3, 1), stride=(2, 1), padding="valid", bias=True)
    params, state = layer.init(np.random.default_rng(0), np.float64)
    assert params["conv.weight"].shape == (3, 1, 2, 5)
    assert state == {}
    np.testing.assert_array_equal(params["conv.bias"], np.zeros(5))
    params["conv.bias"] = np.arange(5.0)
    x = np.random.default_rng(1).standard_normal((4, 7, 6, 2))
    y, _ = layer(params, x, {}, Context())
    assert y.shape == (4, 3, 6, 5)
    expected = np.einsum("nhc,hco->no", x[:, 2:5, 4], params["conv.weight"][:, 0]) + np.arange(5.0)
    np.testing.assert_allclose(y[:, 1, 4], expected)


def test_pools():
    x = np.random.default_rng(0).standard_normal((2, 6, 4, 3))
    windows = x.reshape(2, 3, 2, 2, 2, 3)
    for layer, reduce in [(nn.MaxPool2d(), np.max), (nn.AvgPool2d(), np.mean)]:
        np.testing.assert_allclose(layer({}, x, {}, Context())[0], reduce(windows, axis=(2, 4)))
    np.testing.assert_allclose(nn.GlobalAveragePool()({}, x, {}, Context())[0], x.mean(axis=(1, 2)))
    assert nn.MaxPool2d(3, stride=1)({}, x, {}, Context())[0].shape == (2, 4, 2, 3)


@pytest.mark.parametrize("kind", [nn.Dropout, nn.GaussianNoise])
def test_noise_of_images(kind, device):
    layer = kind("noise", (4, 5, 6), 0.5)
    noise = layer.draw_noise(device.random(1, "noise"), 3, np.float32)
    assert noise["noise"].shape == (3, 4, 5, 6)
    x = device.asarray(np.ones((3, 4, 5, 6), np.float32))
    y, _ = layer({}, x, {}, Context(noise=noise))
    expected = noise["noise"] if kind is nn.Dropout else noise["noise"] + 1.0
    np.testing.assert_array_equal(device.to_host(y), device.to_host(expected))


# The whole of training


def the_cpus_numbers(device, *stream):
    drawn = Device().random(*stream)
    return SimpleNamespace(
        normal=lambda *args: device.asarray(drawn.normal(*args)),
        uniform=lambda *args: device.asarray(drawn.uniform(*args)),
    )


def make_trainer(device, dtype=np.float64, *, method="vat", width=0.06, dropout=0.5, **options):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, 24)
    images = generator.uniform(-0.5, 0.5, (24, *SIZE)) + labels[:, None, None, None] / 5
    settings = {k: options.pop(k) for k in ("iterations", "direction") if k in options}
    capture = options.pop("capture", True)
    options = {"epsilon": 1.0, "entropy_weight": 0.5, "method": method, **options}
    return training.Trainer(
        nn.conv_small("svhn", width, dropout=dropout, image_shape=SIZE),
        device,
        images.astype(dtype),
        labels,
        unlabelled=images.astype(dtype),
        regularization=Regularization(**options, power_iteration=PowerIteration(**settings)),
        learning_rate=lambda update: 0.01,
        seed=1,
        batch_size=6,
        unlabelled_batch_size=10,
        capture=capture,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"direction": "finite-difference"},
        {"iterations": 0.5},
        {"method": "rpt"},
        {"method": "at-linf"},
    ],
    ids=str,
)
def test_an_update_on_every_device_is_the_cpus(device, options, monkeypatch):
    here = make_trainer(Device(), **options)
    there = make_trainer(device, capture=False, **options)
    if device.name == "cuda":  # whose random numbers are others
        monkeypatch.setattr(device, "random", functools.partial(the_cpus_numbers, device))
    for update in range(2):
        terms, others = here.step(update), there.step(update)
        for name, term in terms.items():
            assert float(device.to_host(others[name])) == pytest.approx(float(term), rel=1e-6)
    here.reestimate_statistics(), there.reestimate_statistics()
    for name, array in here.arrays.items():
        other = device.to_host(there.arrays[name])
        assert np.abs(other - array).max() <= 1e-6 * np.abs(array).max(), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_training_learns_and_keeps_the_dtype(dtype):
    options = {"method": "mle", "entropy_weight": 0.0, "width": 0.12, "dropout": 0.0}
    trainer = make_trainer(Device(), dtype, **options)
    for update in range(60):
        trainer.step(update)
    trainer.reestimate_statistics()
    assert trainer.error(trainer.labelled.images, trainer.labels) < 60  # chance: 90
    assert {array.dtype for array in trainer.arrays.values()} == {np.dtype(dtype)}
    assert trainer.r_vadv(trainer.labelled.images) >= 0


def test_only_the_labelled_pass_moves_the_running_statistics():
    vat_trainer, mle_trainer = make_trainer(Device()), make_trainer(Device(), method="mle")
    vat_trainer.step(0), mle_trainer.step(0)
    for name, array in vat_trainer.state.items():
        np.testing.assert_array_equal(mle_trainer.state[name], array)


# Curvature


def case(seed, statistics="running", batch=3, dropout=0.0):
    """A tiny Conv-Small with parameters away from their first values, and images.

    Without dropout, whose masks differ from example to example, each has an H of its own.
    """
    generator = np.random.default_rng(seed)
    model = nn.conv_small("svhn", 0.05, dropout=dropout, image_shape=(12, 12, 1))
    params, state = model.init(generator, np.float64)
    params = {n: a + 0.1 * generator.standard_normal(a.shape) for n, a in params.items()}
    state = {n: a + 0.3 * generator.random(a.shape) for n, a in state.items()}
    noise = model.draw_noise(Device().random(seed, "noise"), batch, np.float64)
    x = generator.standard_normal((batch, 12, 12, 1))
    return lambda x: model(params, x, state, statistics=statistics, noise=noise)[0], x


@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_routes_to_the_product_agree(statistics, seed):
    network, x = case(seed, statistics, batch=5, dropout=0.5)
    d = vat.unit(np.random.default_rng(0).standard_normal(x.shape))
    routes = {
        route: curvature.hessian(network, x, route=route, xi=1e-7)(d) for route in curvature.ROUTES
    }
    exact = routes.pop("fisher")
    assert np.abs(exact).max() > 0
    for route, other in routes.items():
        tolerance = 1e-4 if route == "finite-difference" else 1e-9
        assert np.abs(other - exact).max() <= tolerance * np.abs(exact).max(), route


@pytest.mark.parametrize("seed", [0, 1])
def test_the_spectrum_is_that_of_the_dense_hessian(seed):
    network, x = case(seed, batch=2)
    found = curvature.spectrum(network, x, eigenvectors=2)
    assert found.eigenvectors.shape == (2, 2, 12, 12, 1)
    for i in range(2):
        one = x[i : i + 1]
        product = curvature.hessian(network, one)
        dense = curvature.dense(product, one)
        values, vectors = np.linalg.eigh(dense)
        scale = values[-1]
        np.testing.assert_allclose(found.eigenvalues[i], values[::-1][:10], atol=1e-9 * scale)
        assert curvature.alignment(
            found.eigenvectors[i, :1], vectors[:, -1].reshape(1, 12, 12, 1)
        ) == pytest.approx(1, abs=1e-8)
        by_arpack, _ = curvature.eigsh(curvature.linear_operator(product, one), 3)
        np.testing.assert_allclose(by_arpack, values[::-1][:3], atol=1e-8 * scale)


def test_no_perturbation_on_the_ball_has_a_larger_divergence_than_the_maximiser():
    network, x = case(0)
    d = np.random.default_rng(1).standard_normal(x.shape)
    found = curvature.true_maximiser(network, x, 0.5, steps=8)
    r, logits = vat.virtual_adversarial_perturbation(network, x, d, 0.5)
    assert found.r.shape == x.shape
    assert (np.linalg.norm(found.r.reshape(3, -1), axis=1) <= 0.5 * (1 + 1e-9)).all()
    assert (found.divergence >= vat.lds(network, x, r, logits) * (1 - 1e-9)).all()


def test_batch_statistics_are_refused_by_the_spectrum():
    network, x = case(0, "batch", batch=4)
    with pytest.raises(ValueError, match="depend on the other examples"):
        curvature.spectrum(network, x)


@pytest.mark.parametrize("slope", [-0.1, 1.5])
def test_batch_norm_refuses_a_slope(slope):
    with pytest.raises(ValueError, match=rf"slope must lie in \[0, 1\], got {slope}"):
        ops.batch_norm(np.ones((2, 4)), np.ones(4), np.ones(4), 1e-6, slope)
