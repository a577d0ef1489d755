"""The CPU's kernels equal the plain ones, which the tests of the operations check."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivat import parallel
from minivat.kernels import batch_norm, blas, plain, winograd

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


# Of the larger windows the input's gradient is made of convolutions of this form.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-13)])
@pytest.mark.parametrize("tiles", [1, 5, 64])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), (1, 1)), ((6, 5), (2, 2))])
@given(data=st.data())
def test_winograd_equals_plain(dtype, tolerance, tiles, threads, kernel, stride, data):
    convolution = data.draw(convolutions(st.just(kernel), st.just(stride)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "_threads", lambda: threads)
        patch.setattr(winograd, "CHANNELS", 1)
        patch.setattr(winograd, "TILES", tiles)
        got = every_result(blas, *convolution, dtype)
    for g, e in zip(got, every_result(plain, *convolution, dtype), strict=True):
        assert (g.shape, g.dtype) == (e.shape, np.dtype(dtype))
        np.testing.assert_allclose(g, e, rtol=0, atol=tolerance * (1 + np.abs(e).max(initial=0)))


def test_threads_have_tiles_of_their_own(monkeypatch):
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((64, 16, 16, 32)), rng.standard_normal((3, 3, 32, 32))
    monkeypatch.setattr(winograd, "TILES", 1)
    arguments = (x, weight, (1, 1), ((1, 1), (1, 1)), "float64")
    monkeypatch.setattr(parallel, "_threads", lambda: 1)
    alone = every_result(blas, *arguments)
    monkeypatch.setattr(parallel, "_threads", lambda: 4)
    for a, b in zip(alone, every_result(blas, *arguments), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(a).max())


@pytest.mark.parametrize("channels", [3, 40])
@pytest.mark.parametrize(
    "dtypes", [("float32", "float64"), ("float64", "float32"), ("uint8", "float64")]
)
def test_results_have_the_wider_type_and_its_rounding(dtypes, channels):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2, 6, 7, channels)).astype(dtypes[0])
    weight = rng.standard_normal((3, 3, channels, channels)).astype(dtypes[1])
    g = rng.standard_normal(x.shape).astype(dtypes[1])
    for name, factor, *shape in (("forward", weight), ("weight_gradient", g, (3, 3))):
        others = (*shape, (1, 1), ((1, 1), (1, 1)))
        got = getattr(blas, name)(x, factor, *others)
        expected = getattr(plain, name)(x.astype(float), factor.astype(float), *others)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("channels", [3, 40])
@pytest.mark.parametrize(
    ("padding", "cut_off"),
    [
        (((0, -1), (1, 1)), np.s_[:, -1:]),
        (((-2, 1), (1, 1)), np.s_[:, :2]),
        (((1, 1), (0, -1)), np.s_[:, :, -1:]),
        (((1, 1), (-2, 1)), np.s_[:, :, :2]),
    ],
)
def test_pixels_that_are_cut_off_are_not_read(channels, padding, cut_off):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8, 8, channels))
    weight = rng.standard_normal((3, 3, channels, channels))
    expected = blas.forward(x, weight, (1, 1), padding)
    x[cut_off] = np.nan
    np.testing.assert_array_equal(blas.forward(x, weight, (1, 1), padding), expected)


def test_winograd_rounds_little_more_than_the_definition():
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 16, 16, 96)), rng.standard_normal((3, 3, 96, 64))
    exact, results = (
        every_result(kernels, x, weight, (1, 1), ((1, 1), (1, 1)), dtype)
        for kernels, dtype in ((plain, "float64"), (blas, "float32"))
    )
    for result, reference in zip(results, exact, strict=True):
        error = np.sqrt(np.mean(np.square(result - reference)) / np.mean(np.square(reference)))
        assert error < 1.2e-6  # with the points 0, ±1 and ±2 it would be 2.1e-6


def test_where_winograd_suits():
    floats = np.dtype("float32")
    assert winograd.suits((3, 3), (1, 1), 32, 192, floats)
    assert winograd.suits((3, 3), (1, 1), 192, 32, floats)
    assert not winograd.suits((3, 3), (1, 1), 31, 96, floats)
    assert not winograd.suits((3, 3), (1, 1), 96, 31, floats)
    assert not winograd.suits((3, 3), (2, 1), 96, 96, floats)
    assert not winograd.suits((3, 1), (1, 1), 96, 96, floats)
    assert not winograd.suits((3, 3), (1, 1), 96, 96, np.dtype(int))


@pytest.mark.parametrize("shape", [(7, 2), (7, 3, 2), (7, 2, 2, 2)])
@pytest.mark.parametrize("slope", [0.1, 1.0])
def test_batch_norm_in_chunks_equals_the_whole(shape, slope):
    rng = np.random.default_rng(0)
    # Rows of growing means: chunks that agree about nothing.
    x, g, t = rng.standard_normal((3, *shape)) + np.arange(7.0).reshape(7, *[1] * (len(shape) - 1))
    gamma, beta, g_mean, g_var = rng.uniform(0.5, 2.0, (4, 2))

    def results(rows):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parallel, "ROW_CHUNK", rows * x[0].size)
            assert len(parallel.in_row_chunks(lambda start, stop: None, x)) == 7 // rows
            outputs = batch_norm.forward(x, gamma, beta, 1e-3, slope)
            back = batch_norm.pullback(g, g_mean, g_var, x, gamma, beta, outputs, 1e-3, slope)
            forth = batch_norm.pushforward(t, x, gamma, beta, outputs, 1e-3, slope)
        return [*outputs, *back, *forth]

    whole = results(7)
    axes = tuple(range(len(shape) - 1))
    np.testing.assert_allclose(whole[1], x.mean(axis=axes), rtol=1e-14)
    np.testing.assert_allclose(whole[2], x.var(axis=axes), rtol=1e-13)
    for rows in (1, 2, 3):  # of 7: two chunks of 3 and 4 rows, three of 2, 2 and 3
        for part, expected in zip(results(rows), whole, strict=True):
            np.testing.assert_allclose(part, expected, rtol=1e-11, atol=1e-12)
