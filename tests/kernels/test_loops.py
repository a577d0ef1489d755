"""Compiled loops give what NumPy's functions give, to the bit."""

import importlib.util
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivat import ops
from minivat.autodiff import linearize
from minivat.kernels import batch_norm, batch_norm_rows, chunks, loops, pooling_loops
from minivat.ops import pooling
from minivat.optim import Adam

needs_numba = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="Numba is not installed"
)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def without_numba(compute):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "_compiled", lambda loop: None)
        return compute()


def same(compute, expected):
    for got, other in zip(compute, expected, strict=True):
        assert got.dtype == other.dtype
        np.testing.assert_array_equal(got, other)


def batch(dtype, rows=37, units=70, seed=0):
    rng = np.random.default_rng(seed)
    x, g, t = (3 * rng.standard_normal((3, rows, units)) + 1).astype(dtype)
    gamma, beta, g_mean, g_var = rng.standard_normal((4, units)).astype(dtype)
    return x, g, t, gamma, beta, g_mean, g_var


def every_result(x, g, t, gamma, beta, g_mean, g_var, slope, kernels=batch_norm_rows):
    outputs = kernels.forward(x, gamma, beta, 1e-3, slope)
    rest = x, gamma, beta, outputs, 1e-3, slope
    return [
        *outputs,
        *kernels.pullback(g, g_mean, g_var, *rest),
        *kernels.pullback(g, None, None, *rest),
        *kernels.pushforward(t, *rest),
    ]


@needs_numba
@dtypes
@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (37, 70), (3000, 20)])
def test_batch_norm_compiled(dtype, slope, shape):
    arrays = batch(dtype, *shape)
    assert loops.compiled(loops.normalize, *arrays)
    compiled = every_result(*arrays, slope)
    same(compiled, without_numba(lambda: every_result(*arrays, slope)))


@needs_numba
@dtypes
@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(1, 2), (5, 3), (7, 4, 3, 70)])
@pytest.mark.parametrize("chunk", [1, 1 << 18])
def test_batch_norm_of_images_compiled(dtype, slope, shape, chunk, monkeypatch):
    monkeypatch.setattr("minivat.parallel.ROW_CHUNK", chunk)
    x, g, t, *vectors = batch(dtype, int(np.prod(shape[:-1])), shape[-1])
    arrays = [array.reshape(shape) for array in (x, g, t)]
    assert loops.compiled(chunks.combine_loop, *arrays, *vectors)
    compiled = every_result(*arrays, *vectors, slope, batch_norm)
    same(compiled, without_numba(lambda: every_result(*arrays, *vectors, slope, batch_norm)))


@needs_numba
@pytest.mark.parametrize("kernels", [batch_norm_rows, batch_norm])
def test_batch_norm_of_arrays_in_any_order(kernels):
    x, g, t, *vectors = batch(np.float32)
    turned = [np.asfortranarray(array) for array in (x, g, t)]
    expected = every_result(x, g, t, *vectors, 0.1, kernels)
    same(every_result(*turned, *vectors, 0.1, kernels), expected)


@needs_numba
def test_images_that_are_no_number_stay_it():
    x, _, _, gamma, beta, *_ = batch(np.float32)
    x[3, 5], x[:, 6] = np.nan, 0
    for slope in (0.0, 0.1):
        compute = lambda slope=slope: batch_norm.forward(x, gamma, beta, 1e-3, slope)  # noqa: E731
        z = compute()[0]
        assert np.isnan(z[:, 5]).all() and not np.isnan(np.delete(z, 5, axis=1)).any()
        same(compute(), without_numba(compute))


@pytest.mark.parametrize("numba", [pytest.param(True, marks=needs_numba), False])
@dtypes
@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
def test_batch_norm_rounds_as_the_operations_it_consists_of(numba, dtype, slope):
    x, g, t, gamma, beta, *_ = batch(dtype)

    def everything(f):
        y, _, vjp = linearize(f, (x, gamma, beta))
        along_x = linearize(lambda x: f((x, gamma, beta)), x)
        return y, *vjp(g), along_x[1](t), along_x[2](g)

    def composite(arguments):
        x, gamma, beta = arguments
        u = ops.normalize(x, 0, 1e-3)[0] * gamma + beta
        return u if slope == 1 else ops.leaky_relu(u, slope) if slope else ops.relu(u)

    def compute():
        return everything(lambda arguments: ops.batch_norm(*arguments, 1e-3, slope)[0])

    same(compute() if numba else without_numba(compute), everything(composite))


POOLS = {  # window, stride, padding
    "halves": ((2, 2), (2, 2), ((0, 0), (0, 0))),
    "overlapping": ((3, 2), (1, 1), ((1, 1), (0, 1))),
    "apart": ((1, 2), (2, 3), ((0, 0), (1, 0))),
}
TWO_BYTES = {"with numbers of two bytes": ((17, 16), (1, 1), ((11, 0), (9, 0)))}  # of winners


@needs_numba
@dtypes
@pytest.mark.parametrize("options", [*POOLS.values(), *TWO_BYTES.values()], ids=POOLS | TWO_BYTES)
def test_max_pooling_compiled(dtype, options):
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 3, (3, 6, 7, 20)).astype(dtype)  # with ties
    x[0, 2, 3, 1], x[1, 0, 0, 2] = np.nan, np.inf
    t = rng.standard_normal(x.shape).astype(dtype)
    assert loops.compiled(pooling_loops.put, x)

    def everything():
        y, winners = pooling._max_pool_values(x, *options)
        g = np.cos(np.arange(y.size, dtype=dtype)).reshape(y.shape)  # whose sums are rounded
        put = pooling._put_values(g, winners, x.shape, *options)
        return y, winners, pooling._pick_values(t, winners, *options), put

    same(everything(), without_numba(everything))


def test_a_relu_has_no_negative_zeros():
    x, _, _, gamma, beta, *_ = batch(np.float32)
    z = batch_norm_rows.forward(x, gamma, beta, 1e-3, 0.0)[0]
    assert (z == 0).any() and not np.signbit(z).any()


def test_what_is_no_number_stays_it():
    x, _, _, gamma, beta, *_ = batch(np.float32)
    x[3, 5] = np.nan
    z = batch_norm_rows.forward(x, gamma, beta, 1e-3, 0.0)[0]
    assert np.isnan(z[:, 5]).all() and not np.isnan(np.delete(z, 5, axis=1)).any()


@needs_numba
@dtypes
@given(seed=st.integers(0, 99), beta1=st.sampled_from([None, 0.5]))
def test_adam_compiled(dtype, seed, beta1):
    def train():
        rng = np.random.default_rng(seed)
        adam, theta = Adam(), rng.standard_normal(1000).astype(dtype)
        moments = adam.init(theta)
        for step in range(1, 4):
            g = rng.standard_normal((50, 20)).astype(dtype)
            adam.update(theta, [g[:7], g[7:]], moments, step, 0.1, beta1)
        return theta, *moments.values()

    assert loops.compiled(loops.adam, np.ones(3, dtype))
    same(train(), without_numba(train))


def test_arrays_that_are_not_numpys_or_of_two_dtypes_are_left_alone():
    class Other(np.ndarray):
        pass

    x = np.ones(3, np.float32)
    assert loops.compiled(loops.adam, x.view(Other)) is None
    assert loops.compiled(loops.adam, x, x.astype(np.float64)) is None
    assert loops.compiled(loops.adam, x.astype(np.float16)) is None


def test_without_numba_there_is_no_loop(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    assert loops._compiled.__wrapped__(loops.adam) is None
