"""Convolution and pooling against SciPy and PyTorch, and what they need of memory."""

import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st

import minivat
from minivat import ops, parallel
from minivat.kernels import blas
from tests.allocation import allocating_less_than

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def normal(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("mode", ["valid", "same"])
@given(size=st.tuples(st.integers(3, 9), st.integers(3, 9)), kernel=st.sampled_from([1, 3]))
def test_conv2d_is_scipys_correlation(mode, size, kernel, device):
    x, weight = normal(2, *size, 3), normal(kernel, kernel, 3, 2)
    y = device.to_host(ops.conv2d(device.asarray(x), device.asarray(weight), padding=mode))
    for n in range(2):
        for o in range(2):
            expected = sum(
                scipy.signal.correlate2d(x[n, :, :, c], weight[:, :, c, o], mode) for c in range(3)
            )
            np.testing.assert_allclose(y[n, :, :, o], expected, atol=1e-12)


@both_dtypes
@pytest.mark.parametrize("stride", [1, (2, 3)])
@pytest.mark.parametrize("padding", [0, 1, (2, 0)])
def test_conv2d_and_its_gradients_are_pytorchs(dtype, stride, padding):
    torch = pytest.importorskip("torch")
    x, weight = normal(3, 8, 7, 4, dtype=dtype), normal(3, 2, 4, 5, dtype=dtype, seed=1)
    y, vjp = minivat.vjp(lambda both: ops.conv2d(*both, stride, padding), (x, weight))
    g = normal(*y.shape, dtype=dtype, seed=2)
    images, kernels = torch.from_numpy(x), torch.from_numpy(weight)
    images.requires_grad_(), kernels.requires_grad_()
    expected = torch.nn.functional.conv2d(
        images.permute(0, 3, 1, 2), kernels.permute(3, 2, 0, 1), None, stride, padding
    ).permute(0, 2, 3, 1)
    gradients = torch.autograd.grad(expected, [images, kernels], torch.from_numpy(g))
    tolerance = 2e-6 if dtype == np.float32 else 1e-14
    for a, b in zip((y, *vjp(g)), (expected.detach(), *gradients), strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=0, atol=tolerance * np.abs(a).max())


@pytest.mark.parametrize("window", [2, 3, (3, 2)])
@pytest.mark.parametrize("stride", [1, 2, (2, 3)])
@pytest.mark.parametrize("values", ["distinct", "tied"])
def test_max_pooling_and_its_gradient_are_pytorchs(window, stride, values):
    torch = pytest.importorskip("torch")
    x = normal(2, 7, 6, 3) if values == "distinct" else np.round(normal(2, 7, 6, 3))
    y, vjp = minivat.vjp(lambda x: ops.max_pool2d(x, window, stride, 1), x)
    g = normal(*y.shape, seed=1)
    images = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    expected = torch.nn.functional.max_pool2d(images, window, stride, 1)
    (gradient,) = torch.autograd.grad(expected, images, torch.from_numpy(g).permute(0, 3, 1, 2))
    np.testing.assert_array_equal(y, expected.detach().permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(vjp(g), gradient.permute(0, 2, 3, 1).numpy(), atol=1e-14)


def test_of_pixels_that_tie_the_first_has_the_derivative(device):
    x = device.asarray(np.ones((1, 2, 4, 1)))
    gradient = device.to_host(minivat.grad(lambda x: ops.sum(ops.max_pool2d(x)))(x))
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1, 0, 1, 0], [0, 0, 0, 0]])


def test_padding_neither_wins_nor_counts(device):
    x = device.asarray(-np.ones((1, 3, 3, 2)))
    for pool in (ops.max_pool2d, ops.avg_pool2d):
        y = device.to_host(pool(x, 3, 2, "same"))
        np.testing.assert_allclose(y, -np.ones((1, 2, 2, 2)), rtol=1e-15)


def test_same_puts_the_odd_pixel_last(device):
    x, weight = device.asarray(np.arange(4.0).reshape(1, 2, 2, 1)), np.ones((2, 2, 1, 1))
    y = device.to_host(ops.conv2d(x, device.asarray(weight)))
    np.testing.assert_array_equal(y[0, :, :, 0], [[6, 4], [5, 3]])


@pytest.mark.parametrize("shape", [(0, 5, 5, 2), (1, 5, 5, 2)])
def test_batches_of_none_and_one(shape, device):
    x, weight = device.asarray(normal(*shape)), device.asarray(normal(3, 3, 2, 4))
    y, vjp = minivat.vjp(lambda both: ops.max_pool2d(ops.conv2d(*both)), (x, weight))
    assert y.shape == (shape[0], 2, 2, 4)
    assert [d.shape for d in vjp(y)] == [shape, weight.shape]


def test_images_need_not_be_contiguous():
    x, weight = normal(2, 3, 6, 5), normal(3, 3, 3, 2)
    view = x.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(
        ops.conv2d(view, weight), ops.conv2d(np.ascontiguousarray(view), weight)
    )
    np.testing.assert_array_equal(ops.max_pool2d(view), ops.max_pool2d(view.copy()))


@pytest.mark.parametrize("name", ["forward", "input_gradient", "weight_gradient"])
def test_no_copy_of_all_windows(name, monkeypatch):
    """Next to the result, a fraction of the images; the numbers of all windows are 9 times them.

    For one thread: each has a block of its own.
    """
    monkeypatch.setattr(parallel, "_threads", lambda: 1)
    options = (1, 1), ((1, 1), (1, 1))
    x, weight = normal(64, 32, 32, 32, dtype=np.float32), normal(3, 3, 32, 32, dtype=np.float32)
    arguments = {
        "forward": (x, weight),
        "input_gradient": (x, weight, x.shape),
        "weight_gradient": (x, x, (3, 3)),
    }[name]
    kernel = getattr(blas, name)
    result = kernel(*arguments, *options)
    with allocating_less_than(result.nbytes + 0.5 * x.nbytes):
        kernel(*arguments, *options)
