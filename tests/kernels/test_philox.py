"""Random numbers by counter: the published vectors, the CUDA source compiled, moments."""

import ctypes
import re
import shutil
import subprocess
import types

import numpy as np
import pytest

from minivat.backend import CounterStream
from minivat.kernels import philox
from tests.strict_device import strict_device

# Random123's known answers: counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def words(text):
    return tuple(int(word, 16) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_known_answers(counter, key, result):
    assert philox.philox(words(counter), words(key)) == words(result)
    arrays = tuple(np.array([word, 0], np.uint64) for word in words(counter))
    assert tuple(int(word[0]) for word in philox.philox(arrays, words(key))) == words(result)


DRAWS = [(draw, dtype) for draw in ("normal", "uniform") for dtype in (np.float32, np.float64)]
KEY, STEP, DRAW = 0xA4093822299F31D0, 70_000, 2


def drawn(draw, dtype, count=1000, step=STEP):
    out = np.full(count, np.nan, dtype)
    getattr(philox, draw)(KEY, step, DRAW, out)
    return out


@pytest.mark.parametrize(("draw", "dtype"), DRAWS)
def test_the_source_for_gpus_draws_the_same(draw, dtype, tmp_path):
    compiler = shutil.which("g++") or shutil.which("c++")
    if not compiler:
        pytest.skip("no C++ compiler")
    number = {np.float32: "float", np.float64: "double"}[dtype]
    (tmp_path / "philox.cpp").write_text(
        f"""
        #include <cmath>
        #define __device__
        {philox.SOURCE}
        typedef {number} T;
        extern "C" void fill(unsigned long long key, unsigned long long step, unsigned int draw,
                             T *numbers, long count) {{
            for (long i = 0; i < count; i++) {{
                T &out = numbers[i];
                {philox.OPERATION % draw}
            }}
        }}"""
    )
    command = [compiler, "-O1", "-shared", "-fPIC", "-Wall", "-Werror", "philox.cpp", "-o", "a.so"]
    subprocess.run(command, cwd=tmp_path, check=True)
    fill = ctypes.CDLL(str(tmp_path / "a.so")).fill
    out = np.full(1000, np.nan, dtype)
    pointer = ctypes.c_void_p(out.ctypes.data)
    fill(ctypes.c_uint64(KEY), ctypes.c_uint64(STEP), ctypes.c_uint32(DRAW), pointer, 1000)
    tolerance = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(out, drawn(draw, dtype), rtol=tolerance, atol=tolerance)


def test_the_source_has_the_constants_of_the_definition():
    constants = {int(text, 16) for text in re.findall("0x([0-9A-F]+)", philox.SOURCE)}
    assert constants == {*philox.MULTIPLIERS, *philox.INCREMENTS}
    assert f"i < {philox.ROUNDS};" in philox.SOURCE


@pytest.mark.parametrize(("draw", "dtype"), DRAWS)
def test_the_step_may_be_an_array_on_the_device(draw, dtype):
    step = strict_device().asarray(np.array([STEP], np.uint64))
    for given in (STEP, step):
        stream = CounterStream(
            philox, lambda *a: strict_device().asarray(np.empty(*a)), 1, "a", given
        )
        first, second = (getattr(stream, draw)((3, 5), dtype).get() for _ in range(2))
        assert (first.dtype, first.shape) == (dtype, (3, 5))
        assert not np.any(first == second)
        if given is STEP:
            of_host = first, second
    np.testing.assert_array_equal(of_host, (first, second))


@pytest.mark.parametrize(("draw", "dtype"), DRAWS)
def test_the_distribution(draw, dtype):
    from scipy import stats

    of_one_step = drawn(draw, dtype, 200_000)
    of_many_steps = np.array([drawn(draw, dtype, 2, step)[1] for step in range(5000)])
    distribution = stats.norm if draw == "normal" else stats.uniform
    for numbers in (of_one_step, of_many_steps):
        assert np.isfinite(numbers).all()
        assert stats.kstest(numbers, distribution.cdf).pvalue > 0.001
        assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 4 / len(numbers) ** 0.5


def test_the_largest_and_the_smallest(monkeypatch):
    """All bits set, and none: nothing is infinite, and 1 is not reached."""
    for bits in (0, 2**32 - 1):
        monkeypatch.setattr(philox, "philox", lambda *_, b=bits: (np.full(3, b, np.uint64),) * 4)
        for draw, dtype in DRAWS:
            numbers = drawn(draw, dtype, 3)
            assert np.isfinite(numbers).all()
            if draw == "uniform":
                assert 0 <= numbers.min() <= numbers.max() < 1


def test_cupys_kernels_are_given_their_own_types():
    """CuPy converts no argument: uint64 key and step, uint32 draw."""
    made, called = [], []

    def kernel(*signature, **options):
        made.append((signature, options))
        return lambda *arguments: called.append(arguments)

    kernels = philox.CudaKernels(types.SimpleNamespace(ElementwiseKernel=kernel))
    kernels.normal(2**64 - 1, 7, 1, "out")
    step = np.array([7], np.uint64)
    kernels.uniform(2**64 - 1, step, 1, "out")
    assert [type(x) for x in called[0]] == [np.uint64, np.uint64, np.uint32, str]
    assert called[1][1] is step
    for (inputs, outputs, operation, name), options in made:
        assert [word.split()[0] for word in inputs.split(", ")] == ["uint64", "uint64", "uint32"]
        assert outputs == "T out"
        assert name.removeprefix("minivat_") + "(w, &number)" in operation
        assert options == {"preamble": philox.SOURCE}
