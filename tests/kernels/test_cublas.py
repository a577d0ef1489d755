"""Products by cuBLAS, with a stand-in for its library that reads memory as cuBLAS does."""

import ctypes

import numpy as np
import pytest

from minivat import backend, ops
from minivat.autodiff import value_and_grad
from minivat.kernels import cublas
from tests.strict_device import StrictArray, strict_device

device = strict_device()


class FakeCublas:
    """cuBLAS's functions; a matrix is what lies at its address, column by column."""

    def __init__(self):
        self.log = []
        self.status = 0

    def cublasCreate_v2(self, handle):
        handle._obj.value = 77
        self.log.append("create")
        return 0

    def cublasSetStream_v2(self, handle, stream):
        assert handle.value == 77
        self.log.append(("stream", stream.value))
        return 0

    def cublasSetWorkspace_v2(self, handle, address, size):
        self.log.append(("workspace", size.value))
        return 0

    def cublasGemmEx(self, handle, op_a, op_b, m, n, k, alpha, *rest):
        a, kind_a, lda, b, kind_b, ldb, beta, c, kind_c, ldc, compute, algorithm = rest
        assert handle.value == 77
        assert (alpha._obj.value, beta._obj.value) == (1, 0)
        assert kind_a.value == kind_b.value == kind_c.value
        assert algorithm.value == -1
        kind = {0: np.float32, 1: np.float64}[kind_a.value]
        scalar = {0: ctypes.c_float, 1: ctypes.c_double}[kind_a.value]
        assert type(alpha._obj) is type(beta._obj) is scalar
        m, n, k = m.value, n.value, k.value

        def matrix(address, rows, columns, stride):
            size = stride.value * columns * np.dtype(kind).itemsize
            memory = (ctypes.c_char * size).from_address(address.value)
            return np.frombuffer(memory, kind).reshape(columns, stride.value)[:, :rows].T

        def factor(address, op, rows, columns, stride):
            if op.value == 0:
                return matrix(address, rows, columns, stride)
            assert op.value == 1
            return matrix(address, columns, rows, stride).T

        matrix(c, m, n, ldc)[...] = factor(a, op_a, m, k, lda) @ factor(b, op_b, k, n, ldb)
        self.log.append(("product", compute.value))
        return self.status


@pytest.fixture
def library():
    return FakeCublas()


@pytest.fixture
def products(library):
    return cublas.CublasProducts(library, lambda: 5, lambda: False)


def on_device(array, order):
    """The array in C's or Fortran's order, or every second number of a wider one."""
    if order == "strided":
        wide = device.asarray(np.repeat(array, 2, axis=1))
        return wide[:, ::2]
    return StrictArray(np.array(array, order=order))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order_b", ["C", "F", "strided"])
@pytest.mark.parametrize("order_a", ["C", "F", "strided"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 1), (7, 1, 2)])
def test_products_of_all_layouts(dtype, order_a, order_b, shape, products):
    m, k, n = shape
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    product = products(on_device(a, order_a), on_device(b, order_b))
    assert product.flags.c_contiguous
    np.testing.assert_allclose(product.get(), a @ b, rtol=1e-4, strict=True)


def test_nothing_to_multiply(products, library):
    product = products(on_device(np.ones((3, 0)), "C"), on_device(np.ones((0, 2)), "C"))
    np.testing.assert_array_equal(product.get(), np.zeros((3, 2)))
    assert library.log == []


def test_shapes_that_do_not_fit(products):
    with pytest.raises(ValueError, match=r"matmul: shapes \(3, 2\) and \(3, 2\) do not fit"):
        products(on_device(np.ones((3, 2)), "C"), on_device(np.ones((3, 2)), "C"))


def test_a_stream_is_set_once_and_the_workspace_after_it(library):
    stream, tf32 = [5], [False]
    products = cublas.CublasProducts(library, lambda: stream[0], lambda: tf32[0])
    x = on_device(np.ones((2, 2), np.float32), "C")
    products(x, x)
    tf32[0] = True
    products(x, x)
    stream[0] = 6
    products(x, x)
    workspace = ("workspace", cublas.WORKSPACE)
    assert library.log == [
        *("create", ("stream", 5), workspace),
        *(("product", cublas.COMPUTE_FLOAT32), ("product", cublas.COMPUTE_TF32)),
        *(("stream", 6), workspace, ("product", cublas.COMPUTE_TF32)),
    ]


def test_what_fails_is_said(products, library):
    library.status = 13
    x = on_device(np.ones((2, 2)), "C")
    with pytest.raises(RuntimeError, match="cuBLAS: cublasGemmEx failed with status 13"):
        products(x, x)


def test_the_operation_uses_it_for_a_gpus_matrices_alone(products, library, monkeypatch):
    monkeypatch.setattr(StrictArray, "__cuda_array_interface__", None, raising=False)
    monkeypatch.setattr(backend, "_cuda_products", lambda: products)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 4)), rng.standard_normal((4, 5))

    def f(ab):
        product = ops.matmul(*ab)
        return ops.sum(product * product)

    value, gradient = value_and_grad(f)((device.asarray(a), device.asarray(b)))
    assert [entry[0] for entry in library.log if entry[0] == "product"] == ["product"] * 3
    expected, expected_gradient = value_and_grad(f)((a, b))
    np.testing.assert_allclose(value.get(), expected)
    for got, other in zip(gradient, expected_gradient, strict=True):
        np.testing.assert_allclose(got.get(), other)
    library.log.clear()
    ops.matmul(device.asarray(a[0]), device.asarray(b))
    ops.matmul(device.asarray(np.ones((2, 3, 4))), device.asarray(b))
    ops.matmul(device.asarray(a.astype(np.float16)), device.asarray(b.astype(np.float16)))
    assert library.log == []


def test_what_is_assumed_of_cupys_packages():
    pathfinder = pytest.importorskip("cuda.pathfinder")
    assert callable(pathfinder.load_nvidia_dynamic_lib)
    assert "abs_path" in pathfinder.LoadedDL.__annotations__
