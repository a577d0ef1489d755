"""Operators between Tensors, arrays and scalars, on either side, on every device."""

import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minivat
from minivat import Tensor, ops
from minivat.autodiff import transforms
from minivat.ops import operators
from minivat.testing import check_derivatives

OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]
ONES = np.ones((2, 3))
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


def refusal(function, error, x=None):
    with pytest.raises(error) as refused:
        minivat.grad(lambda x: ops.sum(function(x)))(np.ones((2, 2)) if x is None else x)
    return str(refused.value)


@pytest.mark.parametrize(
    ("function", "name", "operation"),
    [
        (np.sin, "numpy.sin", "minivat.ops.sin"),
        (np.sum, "numpy.sum", "minivat.ops.sum"),
        (np.square, "numpy.square", "minivat.ops.power"),
        (np.ravel, "numpy.ravel", "minivat.ops.reshape"),
        (np.argmax, "numpy.argmax", "the operations of minivat.ops"),
        (np.zeros_like, "numpy.zeros_like", "the operations of minivat.ops"),
        (np.floor, "numpy.floor", "the operations of minivat.ops"),
        (lambda x: np.multiply.outer(x, x), "numpy.multiply.outer", "minivat.ops.multiply"),
        (np.linalg.norm, "numpy.linalg.norm", "minivat.ops.norm"),
        (lambda x: np.concatenate([x, np.ones((1, 2))]), "numpy.concatenate", "minivat.ops.concat"),
        (lambda x: np.dot(x, x), "numpy.dot", "minivat.ops.matmul"),
        (lambda x: np.where(x > 0, x, 0), "numpy.where", "minivat.ops.where"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_numpys_functions_refuse_a_tensor(function, name, operation):
    """In place of an array of objects, of which no derivative comes."""
    assert refusal(function, TypeError) == (
        f"{name} would hide a Tensor from differentiation; "
        f"use {operation}, or minivat.stop_gradient(x) for the value"
    )


@pytest.mark.parametrize("function", [np.asarray, lambda x: np.array([x, x]), float, int, complex])
def test_a_tensor_is_not_made_an_array_or_a_number(function):
    x = np.array(1.0)
    assert "would hide a Tensor from differentiation; use " in refusal(function, TypeError, x)


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("sum", "minivat.ops.sum"),
        ("flatten", "minivat.ops.reshape"),
        ("astype", "the operations of minivat.ops"),
        ("item", "the operations of minivat.ops"),
    ],
)
def test_numpys_methods_refuse_a_tensor(name, operation):
    assert refusal(lambda x: getattr(x, name)(), AttributeError) == (
        f"a Tensor has no attribute {name!r}; "
        f"use {operation}, or minivat.stop_gradient(x) for the value"
    )


def test_every_operation_is_named_in_place_of_numpys():
    """The names that the operations share with NumPy lead to them; renamed ones exist."""
    assert set(operators.RENAMED.values()) <= set(ops.__all__)
    for name in set(ops.__all__) & set(dir(np)):
        assert f"use minivat.ops.{name}," in refusal(operator.attrgetter(name), AttributeError)
    assert all(hasattr(np, name) or hasattr(np.ndarray, name) for name in operators.RENAMED)


@pytest.mark.parametrize("op", [operator.iadd, operator.isub, operator.imul, operator.itruediv])
def test_an_array_takes_no_tensor_in_place(op, device):
    def total(t):
        array = device.asarray(np.ones(2))
        return op(array, t)

    with pytest.raises(TypeError) as refused:
        minivat.grad(lambda t: ops.sum(total(t)))(device.asarray(np.ones(2)))
    if device.name == "cpu":
        assert str(refused.value) == (
            "an array cannot hold a Tensor: write x = x + t in place of x += t"
        )


@pytest.mark.parametrize(
    "compare", [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]
)
def test_comparisons_with_an_array_on_the_left_are_of_the_values(compare):
    array, x = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])
    seen = []
    minivat.linearize(lambda x: seen.extend([compare(array, x), compare(x, array)]) or x, x)
    assert [type(each) for each in seen] == [np.ndarray] * 2
    np.testing.assert_array_equal(seen, [compare(array, x), compare(x, array)])


def test_numpy_reads_the_shape_of_a_tensor():
    seen = []
    minivat.linearize(lambda x: seen.append((np.shape(x), np.ndim(x), np.size(x))) or x, ONES)
    assert seen == [((2, 3), 2, 6)]


def test_tensors_are_hashable():
    seen = set()
    minivat.linearize(lambda x: seen.add(x) or x * x, np.ones(2))
    assert len(seen) == 1
