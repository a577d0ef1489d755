"""Operators between Tensors, arrays and scalars, on either side, on every device."""

import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minivat
from minivat import Tensor, ops
from minivat.autodiff import transforms
from minivat.testing import check_derivatives

OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]
SCALARS = [2.5, 3, -1.0, 0.5, 2, 1, 0, np.float32(1.5)]

every_operator = pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.__name__)
both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def positive(shape, seed):
    return np.random.default_rng(seed).uniform(0.5, 2.0, shape)


@every_operator
@pytest.mark.parametrize("scalar", SCALARS, ids=repr)
@pytest.mark.parametrize("side", ["left", "right"])
@both_dtypes
def test_with_a_scalar(op, scalar, side, dtype, device, monkeypatch):
    def cast(x, dtype):
        raise AssertionError(f"a derivative of dtype {x.dtype} where {dtype} belongs")

    def f(x):
        return op(scalar, x) if side == "left" else op(x, scalar)

    if op is operator.pow and side == "left" and scalar <= 0:
        return  # a negative base has no real powers
    if op is operator.truediv and side == "right" and scalar == 0:
        return
    x = device.asarray(positive((3, 2), 0), dtype)
    expected = f(x)
    assert expected.dtype == np.dtype(dtype)
    with monkeypatch.context() as patch:
        patch.setattr(transforms, "cast", cast)
        y, jvp, vjp = minivat.linearize(f, x)
        hvp = minivat.hvp(lambda x: ops.sum(f(x)), x, x)
    for array in (y, jvp(x), vjp(x), hvp):
        assert array.dtype == np.dtype(dtype)
    # CuPy's operator ** rounds otherwise than its function power.
    tolerance = np.finfo(dtype).eps if device.name == "cuda" else 0
    np.testing.assert_allclose(device.to_host(y), device.to_host(expected), rtol=tolerance)
    if dtype == "float64":
        check_derivatives(f, x)


@every_operator
@both_dtypes
def test_array_and_tensor(op, dtype, device, monkeypatch):
    """`array * tensor` is a Tensor, whichever kind of array is on the left."""
    a = device.asarray(positive((3, 2), 1), dtype)
    b = device.asarray(positive((2,), 2), dtype)
    kinds = []

    def seen(y):
        kinds.append(type(y))
        return y

    for f in (lambda x: seen(op(x, b)), lambda x: seen(op(b, x)), lambda x: seen(op(x, x))):
        y = minivat.linearize(f, a)[0]
        assert kinds.pop() is Tensor
        np.testing.assert_array_equal(device.to_host(y), device.to_host(f(a)))
        if dtype == "float64":
            check_derivatives(f, a)


@every_operator
def test_zero_dimensional_operands(op, device):
    """A loss is an array of no dimensions; NumPy's scalars stand for such arrays on the host."""
    a, b = device.asarray(positive((), 3)), device.asarray(positive((3,), 4))
    check_derivatives(op, a, b)
    check_derivatives(op, b, a)
    check_derivatives(op, a, a)
    check_derivatives(lambda x: op(ops.sum(x), ops.mean(x)), b)


@pytest.mark.parametrize("scalar", [np.float64(2.0), np.float32(2.0), np.int64(2)], ids=repr)
@every_operator
def test_numpy_scalars_on_the_left(op, scalar):
    x = positive((3,), 5)
    y, _, _ = minivat.linearize(lambda x: op(scalar, x), x)
    np.testing.assert_array_equal(y, op(scalar, x))


def test_matmul_operator(device):
    a = device.asarray(positive((3, 2), 6))
    b = device.asarray(positive((2, 4), 7))
    check_derivatives(lambda a: a @ b, a)
    check_derivatives(lambda b: a @ b, b)
    check_derivatives(operator.matmul, a, b)


def test_unary_operators_and_attributes(device):
    x = device.asarray(positive((3, 2), 8))
    check_derivatives(lambda x: -x, x)
    check_derivatives(lambda x: abs(-x), x)
    check_derivatives(lambda x: x.T @ x, x)
    check_derivatives(lambda x: x[1:, None] * x[0], x)


@given(st.slices(4), st.integers(-3, 2))
def test_indexing(rows, column):
    x = positive((4, 3), 9)
    y, _, _ = minivat.linearize(lambda x: x[rows, column], x)
    np.testing.assert_array_equal(y, x[rows, column])
    check_derivatives(lambda x: x[rows, column], x)


def test_indexing_with_a_mask():
    x = np.array([[1.0, -2.0], [3.0, -4.0]])
    check_derivatives(lambda x: x[np.array([[True, False], [True, True]])], x)
    check_derivatives(lambda x: x[np.array([False, True])], x)


def test_a_tensor_has_no_truth_value():
    with pytest.raises(TypeError, match="truth value of a Tensor"):
        minivat.grad(lambda x: x if x else -x)(np.array(1.0))


def test_iteration_over_a_tensor_ends():
    x = np.arange(3.0)
    rows = []
    minivat.linearize(lambda x: rows.extend(x) or x, x)
    assert [float(row.value) for row in rows] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "function",
    [np.argmax, np.ravel, np.zeros_like, lambda x: np.concatenate([x, x]), lambda x: np.dot(x, x)],
)
def test_numpys_functions_refuse_a_tensor(function):
    """Instead of an array of objects, of which no derivative comes."""
    with pytest.raises(TypeError, match=r"use those of minivat\.ops, or stop_gradient"):
        minivat.grad(lambda x: ops.sum(function(x)))(np.ones((2, 2)))


def test_tensors_are_hashable():
    seen = set()
    minivat.linearize(lambda x: seen.add(x) or x * x, np.ones(2))
    assert len(seen) == 1
