"""The CPU's kernels equal the plain ones, which the tests of the operations check."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivat.kernels import blas, plain, winograd

up_to_four = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def convolutions(draw, kernels=up_to_four, strides=up_to_four):
    """Images, weights, stride and padding into which at least one window fits."""
    kernel = draw(kernels)
    stride = draw(strides)
    size = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    sides = st.integers(0, 5)
    padding = tuple(
        (before := draw(sides), draw(st.integers(max(0, k - n - before), 5)))
        for k, n in zip(kernel, size, strict=True)
    )
    channels, outputs = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    x = rng.standard_normal((draw(st.integers(0, 7)), *size, channels))
    weight = rng.standard_normal((*kernel, channels, outputs))
    return x, weight, stride, padding


def every_result(kernels, x, weight, stride, padding, dtype):
    x, weight = x.astype(dtype), weight.astype(dtype)
    y = kernels.forward(x, weight, stride, padding)
    g = np.cos(np.arange(y.size, dtype=dtype)).reshape(y.shape)
    return (
        y,
        kernels.input_gradient(g, weight, x.shape, stride, padding),
        kernels.weight_gradient(x, g, weight.shape[:2], stride, padding),
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-13)])
@pytest.mark.parametrize("pixels", [1, 60])
@pytest.mark.parametrize("depth", [1, 64])
@given(convolution=convolutions())
def test_blas_equals_plain(dtype, tolerance, pixels, depth, convolution):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blas, "PIXELS", pixels)
        patch.setattr(blas, "DEPTH", depth)
        got = every_result(blas, *convolution, dtype)
    for g, e in zip(got, every_result(plain, *convolution, dtype), strict=True):
        assert (g.shape, g.dtype) == (e.shape, np.dtype(dtype))
        np.testing.assert_allclose(g, e, rtol=0, atol=tolerance * (1 + np.abs(e).max(initial=0)))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-13)])
@pytest.mark.parametrize("tiles", [1, 10, 512])
@given(convolution=convolutions(st.just((3, 3)), st.just((1, 1))))
def test_winograd_equals_plain(dtype, tolerance, tiles, convolution):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "CHANNELS", 1)
        patch.setattr(winograd, "TILES", tiles)
        got = every_result(blas, *convolution, dtype)
    for g, e in zip(got, every_result(plain, *convolution, dtype), strict=True):
        assert (g.shape, g.dtype) == (e.shape, np.dtype(dtype))
        np.testing.assert_allclose(g, e, rtol=0, atol=tolerance * (1 + np.abs(e).max(initial=0)))


def test_winograd_rounds_little_more_than_the_definition():
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 16, 16, 96)), rng.standard_normal((3, 3, 96, 64))
    exact, results = (
        every_result(kernels, x, weight, (1, 1), ((1, 1), (1, 1)), dtype)
        for kernels, dtype in ((plain, "float64"), (blas, "float32"))
    )
    for result, reference in zip(results, exact, strict=True):
        error = np.sqrt(np.mean(np.square(result - reference)) / np.mean(np.square(reference)))
        assert error < 1e-6


def test_where_winograd_suits():
    assert winograd.suits((3, 3), (1, 1), 96, 192)
    assert not winograd.suits((3, 3), (1, 1), 3, 96)
    assert not winograd.suits((3, 3), (2, 1), 96, 96)
    assert not winograd.suits((3, 1), (1, 1), 96, 96)
