"""The CPU's kernels equal the plain ones, which the tests of the operations check."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivat.kernels import blas, plain


@st.composite
def convolutions(draw):
    """Images, weights, stride and padding into which at least one window fits."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
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
@pytest.mark.parametrize("pixels", [1, 60, 1024])
@pytest.mark.parametrize("depth", [1, 8, 64])
@given(convolution=convolutions())
def test_blas_equals_plain(dtype, tolerance, pixels, depth, convolution):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blas, "PIXELS", pixels)
        patch.setattr(blas, "DEPTH", depth)
        got = every_result(blas, *convolution, dtype)
    for g, e in zip(got, every_result(plain, *convolution, dtype), strict=True):
        assert (g.shape, g.dtype) == (e.shape, np.dtype(dtype))
        np.testing.assert_allclose(g, e, rtol=0, atol=tolerance * (1 + np.abs(e).max(initial=0)))
