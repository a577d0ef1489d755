"""The CPU's kernels equal the plain ones, which the tests of the operations check."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivat import parallel
from minivat.kernels import batch_norm, blas, plain, winograd
from tests.kernels.test_loops import needs_numba, without_numba

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
@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_numba), False])
@given(data=st.data())
def test_winograd_equals_plain(dtype, tolerance, tiles, threads, kernel, stride, compiled, data):
    convolution = data.draw(convolutions(st.just(kernel), st.just(stride)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "_threads", lambda: threads)
        patch.setattr(winograd, "CHANNELS", 1)
        patch.setattr(winograd, "BLOCK", 4 * tiles)
        patch.setattr(winograd, "RANGE", np.inf)  # also where a window has nothing but padding
        compute = lambda: every_result(blas, *convolution, dtype)  # noqa: E731
        got = compute() if compiled else without_numba(compute)
    for g, e in zip(got, every_result(plain, *convolution, dtype), strict=True):
        assert (g.shape, g.dtype) == (e.shape, np.dtype(dtype))
        np.testing.assert_allclose(g, e, rtol=0, atol=tolerance * (1 + np.abs(e).max(initial=0)))


def test_a_block_has_few_tiles_where_their_factors_are_not_copied_and_many_where_they_are():
    tiles = winograd.tiles_of_a_block
    assert tiles(24, 24, 16) == 256 and tiles(24, 48, 16) == 128 == tiles(48, 24, 16)
    assert tiles(192, 192, 16) == 27 and tiles(192, 192, 32) == winograd.MANY
    assert tiles(256, 512, 16) == winograd.MANY


@pytest.mark.parametrize(("high", "rows"), [(2, [2]), (3, [3]), (4, [2, 2]), (7, [3, 3, 1])])
def test_the_rows_of_an_image_s_tiles_are_in_blocks_of_one_size(high, rows):
    channels = winograd.BLOCK // 7  # seven tiles are a block, three rows of two
    x = np.zeros((2, 4 * high, 8, 1))
    tiles = winograd._Tiles(x, ((1, 1), (1, 1)), (4 * high, 8, channels), x.dtype, 1)
    assert tiles.images == 1
    blocks = list(tiles(slice(1, 2)))
    assert [images for images, _ in blocks] == [1] * len(rows)
    assert [b.stop - b.start for _, b in blocks] == rows and blocks[-1][1].stop == high
    assert [tiles.expanded(b).shape for b in blocks] == [(6, 6, 2 * count, 1) for count in rows]


def test_threads_have_tiles_of_their_own(monkeypatch):
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((64, 16, 16, 32)), rng.standard_normal((3, 3, 32, 32))
    monkeypatch.setattr(winograd, "BLOCK", 1)
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


BAD = {"inf": np.inf, "-inf": -np.inf, "nan": np.nan}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kernel", ["forward", "input_gradient"])
def test_what_is_not_finite_reaches_the_windows_that_hold_it(kernel, bad):
    """And not the other outputs of Winograd's tiles; infinities are no NaN."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((3, 9, 10, 32)), rng.standard_normal((3, 3, 32, 32))
    x[1, 5, 4, 7] = BAD[bad]
    others = ((x.shape,) if kernel == "input_gradient" else ()) + ((1, 1), ((1, 1), (1, 1)))
    arguments = x.astype(np.float32), weight.astype(np.float32), *others
    got = getattr(blas, kernel)(*arguments)
    reached = np.zeros(got.shape, bool)
    reached[1, 4:7, 3:6] = True
    np.testing.assert_array_equal(~np.isfinite(got), reached)
    np.testing.assert_array_equal(np.isnan(got), reached & (bad == "nan"))
    expected = getattr(plain, kernel)(*arguments)
    np.testing.assert_allclose(got[~reached], expected[~reached], rtol=0, atol=2e-4)
    np.testing.assert_array_equal(got[reached], expected[reached])


@pytest.mark.parametrize("of_x", [True, False])
def test_what_is_not_finite_in_a_weights_gradient(of_x):
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 3, 9, 10, 32)).astype(np.float32)
    (x if of_x else g)[1, 5, 4, 7] = np.inf
    got = blas.weight_gradient(x, g, (3, 3), (1, 1), ((1, 1), (1, 1)))
    reached = np.zeros(got.shape, bool)
    reached[(*np.s_[:, :, 7],) if of_x else np.s_[..., 7]] = True
    assert not np.isnan(got).any()
    np.testing.assert_array_equal(np.isinf(got), reached)


@given(seed=st.integers(0, 2**32 - 1), decades=st.floats(0, 9), share=st.sampled_from([0.02, 0.5]))
def test_windows_of_small_pixels_beside_large_ones(seed, decades, share):
    """The error of an output is a small part of what its own window gives, not its neighbours."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, 9, 10, 32))
    x[0] *= np.where(rng.random((9, 10, 1)) < share, 10.0**decades, 1.0)
    weight = rng.standard_normal((3, 3, 32, 32))
    border = ((1, 1), (1, 1))
    exact = every_result(plain, x, weight, (1, 1), border, "float64")
    got = every_result(blas, x, weight, (1, 1), border, "float32")
    # Of each output: the sizes of what it adds up.
    sizes = every_result(plain, np.abs(x), np.abs(weight), (1, 1), border, "float64")
    assert (np.abs(got[0] - exact[0]) <= 1e-4 * sizes[0]).all()
    g = np.abs(np.cos(np.arange(exact[0].size)).reshape(exact[0].shape))
    size = plain.weight_gradient(np.abs(x), g, (3, 3), (1, 1), border)
    assert (np.abs(got[2] - exact[2]) <= 1e-4 * size).all()


def test_pixels_a_billion_times_larger_three_pixels_away():
    """The bug report's case: 9 · 1e-3 / 9 · 32 is 0.032, and was 0.0095."""
    x = np.full((1, 12, 12, 32), 1e-3, np.float32)
    x[0, 5, 5] = 1e6
    y = blas.forward(x, np.full((3, 3, 32, 32), 1 / 9, np.float32), (1, 1), ((0, 0), (0, 0)))
    near = np.zeros((10, 10), bool)
    near[3:6, 3:6] = True
    np.testing.assert_allclose(y[0][~near], 0.032, rtol=1e-6)


def test_images_of_an_ordinary_range_are_winograds(monkeypatch):
    def slow(*arguments):
        raise AssertionError("the other algorithm, at two or three times the time")

    monkeypatch.setattr(blas, "_unfold", slow)
    monkeypatch.setattr(blas, "_correlate", slow)
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((4, 9, 10, 32)), rng.standard_normal((3, 3, 32, 32))
    # From one side of an image to the other by more than RANGE, but within no tile; an empty one.
    x[0] *= 4.0 ** -np.arange(10)[:, None]
    x[1] = 0
    for border in (((1, 1), (1, 1)), ((0, 0), (0, 0)), ((2, 2), (2, 2)), ((1, -2), (0, -1))):
        every_result(blas, x, weight, (1, 1), border, "float32")


def test_where_winograd_suits():
    floats = np.dtype("float32")
    assert winograd.suits((3, 3), (1, 1), 16, 192, floats)
    assert winograd.suits((3, 3), (1, 1), 192, 16, floats)
    assert not winograd.suits((3, 3), (1, 1), 15, 96, floats)
    assert not winograd.suits((3, 3), (1, 1), 96, 15, floats)
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
