"""The CUDA source, compiled for the CPU with threads in the place of CUDA's, is the loops."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minivat import optim
from minivat.kernels import batch_norm_rows, cuda, loops
from minivat.optim import Adam, AdamStep
from tests.kernels.test_loops import batch, every_result, without_numba

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")

MACHINE = """
#include <algorithm>
#include <barrier>
#include <cmath>
#include <memory>
#include <thread>
#include <vector>
#define __device__
#define __global__
#define __shared__ static
#define __syncthreads() meeting->arrive_and_wait()
using std::min;
using std::sqrt;
struct Index { int x, y; };
static thread_local Index threadIdx, blockIdx;
static std::unique_ptr<std::barrier<>> meeting;
static void launched(int blocks, int columns, int rows, auto kernel) {
    meeting = std::make_unique<std::barrier<>>(columns * rows);
    for (int block = 0; block < blocks; block++) {
        std::vector<std::thread> threads;
        for (int i = 0; i < columns * rows; i++)
            threads.emplace_back([=] {
                threadIdx = {i % columns, i / columns};
                blockIdx = {block, 0};
                kernel();
            });
        for (auto &thread : threads) thread.join();
    }
}
"""


class Compiled:
    """CuPy's two kinds of kernel, for NumPy's arrays."""

    def __init__(self, folder: Path):
        self.folder = folder

    def compiled(self, name, source):
        path = self.folder / f"{name}{abs(hash(source))}.cpp"
        if not path.exists():
            path.write_text(MACHINE + source)
            flags = "-std=c++20 -O1 -shared -fPIC -pthread -Wall -Werror -Wno-unused-function"
            command = ["g++", *flags.split(), path.name, "-o", f"{path.name}.so"]
            subprocess.run(command, cwd=self.folder, check=True)
        return ctypes.CDLL(f"{path}.so")

    def RawKernel(self, source, name):
        parameters = re.search(rf"void {name}\((.*?)\)", source, re.DOTALL)[1]
        names = ", ".join(re.findall(r"(\w+)(?:,|\s*$)", parameters))
        source += f"""
        extern "C" void launch(int blocks, int columns, int rows_, {parameters}) {{
            launched(blocks, columns, rows_, [=] {{ {name}({names}); }});
        }}"""
        library = self.compiled(name, source)

        def launch(blocks, threads, arguments):
            library.launch(*blocks, *threads, *map(argument, arguments))

        return launch

    def ElementwiseKernel(self, inputs, outputs, operation, name):
        """Of arrays in `outputs`, and of one array and scalars in `inputs`."""
        array, *scalars = (text.split()[1] for text in inputs.split(","))
        results = [text.split()[1] for text in outputs.split(",")]
        pointers = ", ".join(f"T *{name}_" for name in (array, *results))
        numbers = ", ".join(f"T {name}" for name in scalars)
        source = f"""
        extern "C" void launch({pointers}, {numbers}, long count) {{
            for (long i = 0; i < count; i++) {{
                T {array} = {array}_[i];
                {"".join(f"T &{name} = {name}_[i];" for name in results)}
                {operation}
            }}
        }}"""

        def launch(first, *rest):
            scalar, others = rest[: len(scalars)], rest[len(scalars) :]
            kind = {"f": "float", "d": "double"}[first.dtype.char]
            scalar = [first.dtype.type(np.ravel(number)[0]) for number in scalar]
            library = self.compiled(name, f"typedef {kind} T;\n{source}")
            library.launch(*map(argument, (first, *others, *scalar)), ctypes.c_long(first.size))

        return launch


def argument(value):
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return ctypes.c_void_p(value.ctypes.data)
    kinds = {np.float32: ctypes.c_float, np.float64: ctypes.c_double, int: ctypes.c_int}
    return kinds[type(value)](value)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "COLUMNS", 4)
        patch.setattr(cuda, "ROWS", 8)
        yield cuda.CudaLoops(Compiled(tmp_path_factory.mktemp("cuda")))


def by(kernels, monkeypatch):
    for module in (batch_norm_rows, optim):
        monkeypatch.setattr(module, "compiled", lambda loop, x, *_: kernels.compiled(loop, x))


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (8, 4), (37, 70)])
def test_batch_norm(dtype, slope, shape, kernels, monkeypatch):
    arrays = batch(dtype, *shape)
    expected = without_numba(lambda: every_result(*arrays, slope))
    by(kernels, monkeypatch)
    for got, other in zip(every_result(*arrays, slope), expected, strict=True):
        assert (got.shape, got.dtype) == (other.shape, dtype)
        scale = np.abs(other).max()
        np.testing.assert_allclose(got, other, rtol=0, atol=50 * np.finfo(dtype).eps * (scale + 1))


@needs_compiler
def test_a_relu_keeps_what_is_no_number_and_has_no_negative_zeros(kernels, monkeypatch):
    x, _, _, gamma, beta, *_ = batch(np.float32)
    x[3, 5] = np.nan
    by(kernels, monkeypatch)
    z = batch_norm_rows.forward(x, gamma, beta, 1e-3, 0.0)[0]
    assert np.isnan(z[:, 5]).all() and not np.isnan(np.delete(z, 5, axis=1)).any()
    assert (z == 0).any() and not np.signbit(z[z == 0]).any()


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beta1", [None, 0.5])
@pytest.mark.parametrize("on_device", [False, True])
def test_adam(dtype, beta1, on_device, kernels, monkeypatch):
    """on_device: the numbers are arrays, as where an update is replayed."""

    def train(on_device):
        rng = np.random.default_rng(0)
        adam, theta = Adam(), rng.standard_normal(1000).astype(dtype)
        moments = adam.init(theta)
        for step in range(1, 4):
            g = rng.standard_normal((50, 20)).astype(dtype)
            numbers = adam.at(step, 0.1, beta1)
            if on_device:
                numbers = AdamStep(*(n if n is None else np.full(1, n, dtype) for n in numbers))
            adam.apply(theta, [g[:7], g[7:]], moments, numbers)
        return theta, *moments.values()

    expected = without_numba(lambda: train(False))
    by(kernels, monkeypatch)
    for got, other in zip(train(on_device), expected, strict=True):
        np.testing.assert_allclose(got, other, rtol=20 * np.finfo(dtype).eps)


def test_other_dtypes_are_left_alone():
    fake = SimpleNamespace(RawKernel=lambda *a: None, ElementwiseKernel=lambda *a: None)
    kernels = cuda.CudaLoops(fake)
    assert kernels.compiled(loops.adam, np.ones(3, np.float16)) is None
    assert kernels.compiled(loops.normalize, np.ones((3, 3), complex)) is None
