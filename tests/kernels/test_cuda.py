"""The CUDA source, compiled for the CPU with threads in the place of CUDA's, is the loops."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minivat import nn, ops, optim, value_and_grad, vat
from minivat.kernels import batch_norm, batch_norm_rows, cuda, cuda_images, loops
from minivat.nn import layers
from minivat.ops import pooling
from minivat.optim import Adam, AdamStep
from tests import strict_device as strict
from tests.kernels.test_loops import POOLS, batch, every_result, without_numba
from tests.test_training import SIZES
from tests.test_training import trainer as small_trainer

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
using std::exp;
using std::fabs;
using std::log;
using std::min;
using std::sqrt;
struct Index { int x, y; };
static thread_local Index threadIdx, blockIdx;
static std::unique_ptr<std::barrier<>> meeting;
static void launched(int across, int down, int columns, int rows, auto kernel) {
    meeting = std::make_unique<std::barrier<>>(columns * rows);
    for (int block = 0; block < across * down; block++) {
        std::vector<std::thread> threads;
        for (int i = 0; i < columns * rows; i++)
            threads.emplace_back([=] {
                threadIdx = {i % columns, i / columns};
                blockIdx = {block % across, block / across};
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

    def compiled(self, source):
        path = self.folder / f"{abs(hash(source))}.cpp"
        if not path.exists():
            path.write_text(MACHINE + source)
            flags = "-std=c++20 -O1 -shared -fPIC -pthread -Wall -Werror -Wno-unused-function"
            command = ["g++", *flags.split(), path.name, "-o", f"{path.name}.so"]
            subprocess.run(command, cwd=self.folder, check=True)
        return ctypes.CDLL(f"{path}.so")

    def RawKernel(self, source, name):
        launches = ""
        for each, parameters in re.findall(r"__global__ void (\w+)\((.*?)\)", source, re.DOTALL):
            names = ", ".join(re.findall(r"(\w+)(?:,|\s*$)", parameters))
            sizes = "across_", "down_", "columns_", "rows_"
            launches += f"""
        extern "C" void launch_{each}({", ".join(f"int {n}" for n in sizes)}, {parameters}) {{
            launched({", ".join(sizes)}, [=] {{ {each}({names}); }});
        }}"""
        function = self.compiled(source + launches)[f"launch_{name}"]

        def launch(blocks, threads, arguments):
            sizes = *(*blocks, 1)[:2], *(*threads, 1)[:2]
            function(*sizes, *map(argument, arguments))

        return launch

    def ElementwiseKernel(self, inputs, outputs, operation, name):
        """Inputs with one element, or none of their own, are the same for all."""
        inputs, outputs = (
            [text.split()[1] for text in part.split(",")] for part in (inputs, outputs)
        )

        def launch(*arguments):
            like = arguments[-1]
            whole = [isinstance(x, np.ndarray) and x.size == like.size for x in arguments]
            arguments = [
                x if all_of_it else like.dtype.type(np.ravel(x)[0])
                for x, all_of_it in zip(arguments, whole, strict=True)
            ]
            parameters, inner = [], []
            for x, all_of_it in zip((*inputs, *outputs), whole, strict=True):
                parameters.append(f"T *{x}_" if all_of_it else f"T {x}")
                inner.append(f"T &{x} = {x}_[i];" if all_of_it else "")
            kind = {"f": "float", "d": "double"}[like.dtype.char]
            source = f"""
            typedef {kind} T;
            extern "C" void launch({", ".join(parameters)}, long count) {{
                for (long i = 0; i < count; i++) {{ {"".join(inner)} {operation} }}
            }}"""
            library = self.compiled(source)
            library.launch(*map(argument, arguments), ctypes.c_long(like.size))

        return launch


def argument(value):
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return ctypes.c_void_p(value.ctypes.data)
    kinds = {
        **{np.float32: ctypes.c_float, np.float64: ctypes.c_double},
        **{int: ctypes.c_int, np.int64: ctypes.c_longlong},
    }
    return kinds[type(value)](value)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "COLUMNS", 4)
        patch.setattr(cuda, "ROWS", 8)
        patch.setattr(cuda, "THREADS", 4)
        yield cuda.CudaLoops(Compiled(tmp_path_factory.mktemp("cuda")))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "THREADS", 4)
        yield cuda.CudaRows(Compiled(tmp_path_factory.mktemp("cuda")))


FUNCTIONS = {
    "unit": vat.unit,
    "softmax": lambda x: ops.softmax(x),
    "log_softmax": lambda x: ops.log_softmax(x),
}


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (5, 11), (2, 3, 5)])
def test_functions_of_rows(name, dtype, shape, rows):
    if len(shape) == 3 and name != "unit":
        pytest.skip("of two axes alone")
    x = (100 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    got = rows.compiled(name, x)(x)
    expected = FUNCTIONS[name](x)
    tolerance = 30 * np.finfo(dtype).eps
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, strict=True)


SPECIAL = {
    "zeros": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    "tiny": [1e-40, -2e-40, 0.0, 0.0, 0.0, 0.0],
    "huge": [3e38, -2e38, 1e38, 0.0, 0.0, 0.0],
    "no number": [1.0, 2.0, 3.0, 4.0, np.nan, 5.0],
    "infinite": [0.0, 1.0, -np.inf, 2.0, 3.0, -np.inf],
}


@needs_compiler
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("case", SPECIAL)
def test_functions_of_special_rows(name, case, rows):
    x = np.array([SPECIAL[case], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]], np.float32)
    with np.errstate(all="ignore"):
        expected = FUNCTIONS[name](x)
    np.testing.assert_allclose(rows.compiled(name, x)(x), expected, rtol=1e-5, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_an_example_without_a_class_is_no_number(name, rows):
    """Which NumPy's arrays refuse; to know it here would mean to wait. Others are not concerned."""
    x = np.array([[-np.inf] * 6, [0.0, -np.inf, 2.0, 3.0, 4.0, 5.0]], np.float32)
    got = rows.compiled(name, x)(x)
    assert np.isnan(got[0]).all()
    np.testing.assert_allclose(got[1:], FUNCTIONS[name](x[1:]), rtol=1e-6)


def test_functions_of_rows_in_any_order_and_of_none(rows):
    x = np.random.default_rng(0).standard_normal((5, 7))
    turned = np.asfortranarray(x)
    np.testing.assert_array_equal(
        rows.compiled("unit", turned)(turned), rows.compiled("unit", x)(x)
    )
    assert rows.compiled("unit", np.ones((0, 3))) is None
    assert rows.compiled("unit", np.ones((3, 3), int)) is None


def by(kernels, monkeypatch):
    for module in (batch_norm_rows, layers, optim):
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


@needs_compiler
@pytest.mark.parametrize("two", [False, True])
def test_an_update_by_these_kernels_replayed(two, kernels, monkeypatch):
    def trained(capture=True):
        options = {"two": two, "network": nn.mlp(SIZES, noise=0.3), "capture": capture}
        trainer = small_trainer(strict.RecordingDevice(), method="vat", **options)
        for update in range(6):
            trainer.step(update)
        return trainer.arrays

    def of_strict(loop, *arrays):
        def launch(*arguments):
            of_host = [strict._unwrap("kernel", x) for x in arguments]
            for x in of_host:
                if strict.tape and isinstance(x, np.ndarray):
                    strict.tape.overwritten(x)
            strict._done(lambda: kernels.compiled(loop, of_host[0])(*of_host))

        return launch

    expected = trained()
    for module in (batch_norm_rows, layers, optim):
        monkeypatch.setattr(module, "compiled", of_strict)
    replayed, eager = trained(), trained(capture=False)
    for name, array in expected.items():
        np.testing.assert_array_equal(replayed[name].get(), eager[name].get())
        np.testing.assert_allclose(replayed[name].get(), array.get(), rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """By dtype's character; tiles and slabs so small that a few images have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "COLUMNS", 4)
        patch.setattr(cuda, "ROWS", 8)
        for name, value in {"SLABS": 5, "LEAST_SLAB": 8, "PIXELS": 16}.items():
            patch.setattr(cuda_images, name, value)
        compiled = Compiled(tmp_path_factory.mktemp("cuda"))
        yield {char: cuda_images.CudaImages(compiled, char) for char in cuda.KINDS}


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 4, 4), (3, 5, 7, 6)])
def test_batch_norm_of_images(dtype, slope, shape, images):
    x, g, t, gamma, beta, *_ = batch(dtype, int(np.prod(shape[:3])), shape[3])
    x, g, t = (array.reshape(shape) for array in (x, g, t))
    kernels = images[x.dtype.char]
    outputs = batch_norm.forward(x, gamma, beta, 1e-3, slope)
    expected = [
        *outputs,
        *batch_norm.pullback(g, None, None, x, gamma, beta, outputs, 1e-3, slope),
        *batch_norm.pushforward(t, x, gamma, beta, outputs, 1e-3, slope),
    ]
    got = [
        *kernels.forward(x, gamma, beta, 1e-3, slope),
        *kernels.pullback(np.asfortranarray(g), x, gamma, outputs, 1e-3, slope),
        *kernels.pushforward(t, np.asfortranarray(x), gamma, outputs, 1e-3, slope),
    ]
    for mine, other in zip(got, expected, strict=True):
        assert (mine.shape, mine.dtype) == (other.shape, dtype)
        scale = np.abs(other).max()
        np.testing.assert_allclose(mine, other, rtol=0, atol=50 * np.finfo(dtype).eps * (scale + 1))


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", POOLS.values(), ids=POOLS)
def test_max_pooling(dtype, options, images):
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 3, (3, 6, 7, 5)).astype(dtype)  # with ties
    x[0, 2, 3, 1] = np.nan
    kernels = images[x.dtype.char]
    y, winners = pooling._max_pool_values(x, *options)
    for mine, other in zip(kernels.largest(x, *options), (y, winners), strict=True):
        np.testing.assert_array_equal(mine, other, strict=True)
    picked = pooling._pick_values(x, winners, *options)
    np.testing.assert_array_equal(kernels.pick(x, winners, *options), picked, strict=True)
    g = rng.integers(-5, 5, y.shape).astype(dtype)
    put = pooling._put_values(g, winners, x.shape, *options)
    np.testing.assert_array_equal(kernels.put(g, winners, x.shape, *options), put, strict=True)
    assert kernels.largest(x[:0], *options)[0].shape == (0, *y.shape[1:])


@needs_compiler
def test_a_network_by_the_kernels_for_images(images, monkeypatch):
    """An update of Conv-Small with VAT is the same, up to rounding."""

    def of_images(*arrays):
        assert len({array.dtype for array in arrays}) == 1
        used.append(arrays[0].shape)
        return images[arrays[0].dtype.char]

    def gradient():
        rng = np.random.default_rng(0)
        network = nn.conv_small(width=0.02, image_shape=(12, 12, 3))
        params, state = network.init(rng, np.float64)
        x, d = rng.standard_normal((2, 3, 12, 12, 3))

        def loss(params):
            model = lambda x: network(params, x, state)[0]  # noqa: E731
            return vat.regularizer(model, x, [d], 1.0, vat.PowerIteration())[0]

        return value_and_grad(loss)(params)

    used = []
    value, expected = gradient()
    for module in (batch_norm, pooling):
        monkeypatch.setattr(module, "of_images", of_images)
    same, got = gradient()
    assert used
    np.testing.assert_allclose(same, value, rtol=1e-9)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-6, atol=1e-9 * np.abs(array).max())


def test_other_dtypes_are_left_alone():
    fake = SimpleNamespace(RawKernel=lambda *a: None, ElementwiseKernel=lambda *a: None)
    kernels = cuda.CudaLoops(fake)
    assert kernels.compiled(loops.adam, np.ones(3, np.float16)) is None
    assert kernels.compiled(loops.normalize, np.ones((3, 3), complex)) is None
