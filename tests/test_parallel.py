"""Work shared out to threads and chunks gives what the whole gives."""

import os
import signal
import subprocess
import sys
import time
from queue import SimpleQueue
from threading import Thread
from types import SimpleNamespace

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


class Blas:
    """What the module asks of threadpoolctl, of a BLAS with two threads."""

    def __init__(self):
        self.num_threads = 2
        self.lib_controllers = [self]

    def limit(self, limits):
        before, self.num_threads = self.num_threads, limits
        return SimpleNamespace(restore_original_limits=lambda: setattr(self, "num_threads", before))


@pytest.fixture
def blas_of_two(monkeypatch):
    two = Blas()
    monkeypatch.setattr(parallel, "_blas", lambda: two)
    return two


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


def test_without_threadpoolctl_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    monkeypatch.setattr(parallel, "_blas", parallel._blas.__wrapped__)  # not the one it has kept
    with pytest.raises(ImportError, match=r"^minivat needs .*: pip install threadpoolctl$"):
        parallel.in_parallel(lambda start, stop: None, 5)


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


def test_what_the_first_part_raises_is_raised_when_all_have_ended(monkeypatch):
    monkeypatch.setattr(parallel, "_threads", lambda: 3)
    ended = []

    def work(start, stop):
        if start == 0:
            raise ZeroDivisionError
        time.sleep(0.05)
        ended.append(start)

    with pytest.raises(ZeroDivisionError):
        parallel.in_parallel(work, 3)
    assert sorted(ended) == [1, 2]


@pytest.mark.usefixtures("threads")
def test_work_sees_what_numpy_is_told_about_errors():
    def work(start, stop):
        return np.float32(3e38) * np.float32(stop + 9)

    with np.errstate(over="ignore"):
        assert set(parallel.in_parallel(work, 3)) == {np.inf}
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        parallel.in_parallel(work, 3)


class Interruption:
    """Traces this thread and raises KeyboardInterrupt at the n-th instruction of a call."""

    def __init__(self, n):
        self.left = n

    def __call__(self, frame, event, argument):
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self

    def reaches(self, call):
        """Whether the call has so many instructions."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            call()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False


def test_an_interrupt_at_any_point_breaks_nothing(blas_of_two):
    def call():
        return parallel.in_parallel(lambda start, stop: start, 2)

    def interrupted(n):
        reached = Interruption(n).reaches(call)
        answer = SimpleQueue()
        parallel._requests().put(([], answer))  # behind what the interrupted call has asked for
        answer.get(timeout=10)
        assert not parallel._turn.locked()
        assert blas_of_two.num_threads == 2
        results = []
        another = Thread(target=lambda: results.append(call()), daemon=True)
        another.start()
        another.join(10)
        assert results == [[0, 1]]
        return reached

    assert call() == [0, 1]
    assert next(n for n in range(1, 10_000) if not interrupted(n)) > 100


def test_an_interrupted_program_ends():
    code = """if True:
        import _thread, threading, time
        from minivat import parallel
        parallel._threads = lambda: 2
        def work(start, stop):
            time.sleep(0.5)
            print(start)
        threading.Timer(0.1, _thread.interrupt_main).start()
        parallel.in_parallel(work, 2)
    """
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stderr.endswith("KeyboardInterrupt\n")
    # Two threads may print at once: "01" and two ends of lines.
    assert sorted("".join(ended.stdout.split())) == ["0", "1"]


def test_a_program_that_is_ending_has_one_thread():
    code = """if True:
        import atexit
        from minivat import parallel
        parallel._threads = lambda: 2
        work = lambda start, stop: (start, stop)
        atexit.register(lambda: print(parallel.in_parallel(work, 2)))
        print(parallel.in_parallel(work, 2))
    """
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.stderr, ended.stdout) == ("", "[(0, 1), (1, 2)]\n[(0, 2)]\n")


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
# Python's warning, and JAX's where another test has imported it.
warns = pytest.mark.filterwarnings(
    "ignore:This process.*fork:DeprecationWarning", "ignore:os.fork:RuntimeWarning"
)


@forks
@warns
def test_a_forked_process_has_threads_of_its_own(monkeypatch):
    monkeypatch.setattr(parallel, "_threads", lambda: 2)
    assert parallel.in_parallel(lambda start, stop: start, 2) == [0, 1]
    assert in_a_fork(lambda: parallel.in_parallel(lambda start, stop: start, 2) == [0, 1])


@forks
@warns
def test_a_process_forked_during_a_call_has_the_threads(blas_of_two):
    def unlimited():
        two = blas_of_two.num_threads == 2
        return two and parallel.in_parallel(lambda start, stop: start, 2) == [0, 1]

    def work(start, stop):
        return start or (blas_of_two.num_threads, in_a_fork(unlimited))

    assert parallel.in_parallel(work, 2) == [(1, True), 1]


def in_a_fork(check):
    """Whether the check holds in a child process, in 20 seconds."""
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            os._exit(not check())
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@given(rows=st.integers(0, 9))
def test_rows_in_chunks(chunk, rows):
    x = np.random.default_rng(rows).standard_normal((rows, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "ROW_CHUNK", chunk)
        np.testing.assert_array_equal(parallel.map_rows(lambda a, b: a * b, x, x), x * x)
        both = parallel.map_rows(lambda a: (-a, a[:, :1] > 0), x)
        bounds = parallel.in_row_chunks(lambda start, stop: (start, stop), x)
    np.testing.assert_array_equal(both[0], -x)
    np.testing.assert_array_equal(both[1], x[:, :1] > 0)
    assert [i for start, stop in bounds for i in range(start, stop)] == list(range(rows))
    assert len(bounds) == max(1, min(x.size // chunk, rows))


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
def test_operations_in_chunks_equal_the_whole(f, channels):
    x = np.random.default_rng(0).standard_normal((7, 6, 4, 2))

    def loss(x):
        return ops.sum(ops.sin(f(x)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "_threads", lambda: 1)
        whole = minivat.value_and_grad(loss)(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "ROW_CHUNK", 24)  # of 7 images: chunks that differ
        patch.setattr(blas, "PIXELS", 30)
        patch.setattr(winograd, "CHANNELS", channels)
        chunks = minivat.value_and_grad(loss)(x)
    for a, b in zip(whole, chunks, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(a).max())
