"""Work shared out to threads and pieces gives what the whole gives."""

import os
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minivat
from minivat import ops, parallel
from minivat.kernels import blas, winograd


@pytest.fixture(params=[1, 2, 3])
def threads(request, monkeypatch):
    monkeypatch.setattr(parallel, "_threads", lambda: request.param)
    return request.param


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_parts_cover_everything_once_in_order(threads, count):
    parts = parallel.in_parallel(lambda start, stop: list(range(start, stop)), count)
    assert [i for part in parts for i in part] == list(range(count))
    assert len(parts) == max(1, min(threads, count))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("bad", [0, 9])
def test_what_a_thread_raises_is_raised(bad):
    def work(start, stop):
        if start <= bad < stop:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        parallel.in_parallel(work, 10)


def test_without_threadpoolctl_the_caller_does_the_work(monkeypatch):
    def missing():
        raise ImportError

    monkeypatch.setattr(parallel, "_blas", missing)
    assert parallel.in_parallel(lambda start, stop: (start, stop), 5) == [(0, 5)]


def test_a_call_inside_another_has_one_part(threads):
    def work(start, stop):
        return [parallel.in_parallel(lambda a, b: (a, b), 6)]

    assert parallel.in_parallel(work, 10) == [[[(0, 6)]]] * threads


def test_blas_has_its_threads_back():
    limits = pytest.importorskip("threadpoolctl").threadpool_limits
    with limits(2, user_api="blas"):
        before = parallel._threads()
        inside = parallel.in_parallel(lambda start, stop: parallel._threads(), 2)
        assert inside == [1] * before
        assert parallel._threads() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(monkeypatch):
    monkeypatch.setattr(parallel, "_threads", lambda: 2)
    assert parallel.in_parallel(lambda start, stop: start, 2) == [0, 1]
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(parallel.in_parallel(lambda start, stop: start, 2) != [0, 1])
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@given(rows=st.integers(0, 9))
def test_rows_in_pieces(piece, rows):
    x = np.random.default_rng(rows).standard_normal((rows, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "PIECE", piece)
        np.testing.assert_array_equal(parallel.map_rows(lambda a, b: a * b, x, x), x * x)
        both = parallel.map_rows(lambda a: (-a, a[:, :1] > 0), x)
    np.testing.assert_array_equal(both[0], -x)
    np.testing.assert_array_equal(both[1], x[:, :1] > 0)
    bounds = parallel.in_pieces(lambda start, stop: (start, stop), x, piece)
    assert [i for start, stop in bounds for i in range(start, stop)] == list(range(rows))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("channels", [1, 32])
@pytest.mark.parametrize(
    "f",
    [
        ops.leaky_relu,
        ops.max_pool2d,
        ops.avg_pool2d,
        lambda x: ops.batch_norm(x, x[0, 0, 0], x[1, 1, 1], 1e-3)[0],
        lambda x: ops.conv2d(x, ops.reshape(x[:2, :3, :3, :1], (3, 3, 2, 1))),
    ],
)
def test_operations_in_pieces_equal_the_whole(f, channels):
    x = np.random.default_rng(0).standard_normal((7, 6, 4, 2))

    def loss(x):
        return ops.sum(ops.sin(f(x)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "_threads", lambda: 1)
        whole = minivat.value_and_grad(loss)(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "PIECE", 8)
        patch.setattr(blas, "PIXELS", 30)
        patch.setattr(winograd, "CHANNELS", channels)
        pieces = minivat.value_and_grad(loss)(x)
    for a, b in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(a).max())
