"""The stand-in for CUDA refuses what a GPU would, and its tables say what CuPy says."""

import copy
import inspect
import operator
import pickle

import numpy as np
import pytest

from tests.strict_device import (
    AT,
    FUNCTIONS,
    METHODS,
    PROPERTIES,
    REDUCE,
    UFUNCS,
    RecordingDevice,
    StrictArray,
    StrictError,
    strict_device,
)

try:
    import cupy
except ImportError:
    cupy = None

HOST = np.arange(6.0).reshape(2, 3)
X = strict_device().asarray(HOST)
ROWS = strict_device().asarray(np.array([0, 1]))


def fresh():
    return strict_device().asarray(HOST)


REFUSED = {
    # Host arrays, in any operation and position.
    "host on the right": lambda: X + HOST,
    "host on the left": lambda: HOST + X,
    "host of no dimensions": lambda: np.multiply(X, np.array(2.0)),
    "host in a comparison": lambda: X > HOST,
    "host in place": lambda: operator.iadd(fresh(), HOST),
    "device into host": lambda: operator.iadd(HOST.copy(), X),
    "host as output": lambda: np.exp(X, out=HOST.copy()),
    "host operand, device output": lambda: np.exp(HOST, out=fresh()),
    "host in matmul": lambda: X @ HOST.T,
    "host on the left of matmul": lambda: HOST.T @ X,
    "host in where": lambda: np.where(X > 0, X, HOST),
    "host condition": lambda: np.where(HOST > 0, X, 0.0),
    "scalar condition": lambda: np.where(True, X, 0.0),
    "host in a list": lambda: np.concatenate([X, HOST]),
    "host in a tuple": lambda: np.stack((HOST, X)),
    "host in einsum": lambda: np.einsum("ij,ij->i", X, HOST),
    "host to dot": lambda: np.dot(HOST.T, X),
    "host as keyword": lambda: np.clip(X, a_min=HOST, a_max=None),
    "host indices": lambda: X[np.array([0, 1])],
    "host indices in a tuple": lambda: X[:, np.array([0, 1])],
    "list of indices": lambda: X[[0, 1]],
    "host indices to take": lambda: np.take(X, np.array([0, 1])),
    "host indices to take_along_axis": lambda: np.take_along_axis(X, np.array([[0], [1]]), 1),
    "device indices of a host array": lambda: HOST[ROWS],
    "host value assigned": lambda: fresh().__setitem__(0, HOST[0]),
    "device value assigned to host": lambda: HOST.copy().__setitem__(0, X[0]),
    "host to add.at": lambda: np.add.at(fresh(), ROWS, HOST),
    "host indices to add.at": lambda: np.add.at(fresh(), np.array([0, 1]), X),
    "list as an operand": lambda: X * [1.0, 2.0, 3.0],
    # Hidden copies to the host.
    "asarray": lambda: np.asarray(X),
    "array": lambda: np.array(X),
    "array of a list": lambda: np.array([X[0, 0], X[0, 1]]),
    "buffer": lambda: memoryview(X),
    "float": lambda: float(X[0, 0]),
    "int": lambda: int(X[0, 0]),
    "complex": lambda: complex(X[0, 0]),
    "bool": lambda: bool(X[0, 0]),
    "if": lambda: 1 if X[0, 0] > 0 else 0,
    "index": lambda: [1, 2, 3][ROWS[0]],
    "range": lambda: range(ROWS[0]),
    "iteration": lambda: list(X),
    "unpacking": lambda: (lambda a, b: None)(*X),
    "in": lambda: 1.0 in X,
    "item": lambda: X[0, 0].item(),
    "tolist": lambda: X.tolist(),
    "numpy scalar": lambda: np.float64(X[0, 0]),
    "math": lambda: __import__("math").sqrt(X[0, 0]),
    "pickle": lambda: pickle.dumps(X),
    "a mask as index": lambda: X[X > 2],
    "a mask as index among others": lambda: X[ROWS > 0, 1],
    "an array through a mask": lambda: fresh().__setitem__(X > 2, X[0]),
    "where with one argument": lambda: np.where(X > 2),
    "nonzero": lambda: np.nonzero(X),
    "unique": lambda: np.unique(X),
    "array_equal": lambda: np.testing.assert_array_equal(X, X),
    # What CuPy does not offer.
    "where= of a ufunc": lambda: np.add(X, X, where=X > 0),
    "where= of a reduction": lambda: np.sum(X, where=X > 0),
    "initial= of a reduction": lambda: np.max(X, initial=0.0),
    "reduce of maximum": lambda: np.maximum.reduce(X),
    "reduce with initial=": lambda: np.add.reduce(X, initial=0.0),
    "at of multiply": lambda: np.multiply.at(fresh(), ROWS, 2.0),
    "reduceat": lambda: np.maximum.reduceat(X, [0, 1]),
    "two outputs": lambda: np.modf(X),
    "spacing": lambda: np.spacing(X),
    "vecdot": lambda: np.vecdot(X, X),
    "out= of einsum": lambda: np.einsum("ij->i", X, out=fresh()[:, 0]),
    "mode= of take": lambda: np.take(X, ROWS, mode="clip"),
    "order of argsort": lambda: np.argsort(X, stable=True),
    "a method that is not there": lambda: X.setflags(write=False),
    "repeated indices assigned": lambda: fresh().__setitem__(ROWS * 0, X),
    "an object array": lambda: strict_device().asarray(["text"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    # A scalar, a list or a missing method fails by Python's own rules.
    with pytest.raises((StrictError, TypeError, AttributeError)):
        REFUSED[name]()


ACCEPTED = {
    "python scalars": (lambda x: 2 * x + 1.5 - True, lambda x: 2 * x + 0.5),
    "numpy scalars": (lambda x: np.float64(2) * x, lambda x: 2 * x),
    "comparison": (lambda x: (x > 2) * 1.0, lambda x: (x > 2) * 1.0),
    "out": (lambda x: np.exp(x, out=np.empty_like(x)), np.exp),
    "in place": (lambda x: operator.iadd(x * 1, x), lambda x: 2 * x),
    "matmul": (lambda x: x @ x.T, lambda x: x @ x.T),
    "where": (lambda x: np.where(x > 2, x, 0.0), lambda x: np.where(x > 2, x, 0.0)),
    "reductions": (
        lambda x: np.sum(x, axis=0) + x.mean(axis=0, keepdims=True),
        lambda x: np.sum(x, axis=0) + x.mean(axis=0, keepdims=True),
    ),
    "add.reduce": (lambda x: np.add.reduce(x, axis=1), lambda x: x.sum(axis=1)),
    "views": (lambda x: x[::-1, None, 1:].T, lambda x: x[::-1, None, 1:].T),
    "device indices": (lambda x: x[x[0].astype(int) * 0], lambda x: x[[0, 0, 0]]),
    "mask of a scalar assigned": (
        lambda x: (y := x.copy(), y.__setitem__(x > 2, 0.0))[0],
        lambda x: np.where(x > 2, 0.0, x),
    ),
    "created like": (lambda x: np.arange(3, like=x) + x, lambda x: np.arange(3) + x),
    "asarray like": (
        lambda x: np.asarray([1.0, 2, 3], like=x) + x,
        lambda x: x + np.array([1, 2, 3]),
    ),
    "zeros like": (lambda x: np.zeros_like(x, shape=(2,)), lambda x: np.zeros(2)),
    "concatenate": (lambda x: np.concatenate([x, x]), lambda x: np.concatenate([x, x])),
    "einsum": (lambda x: np.einsum("ij,ij->i", x, x), lambda x: np.sum(x * x, 1)),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name):
    strict, host = ACCEPTED[name]
    y = strict(X)
    assert isinstance(y, StrictArray)
    np.testing.assert_array_equal(y.get(), host(HOST))


def test_reductions_are_arrays_of_no_dimensions():
    for y in (X.sum(), np.max(X), X[0, 0], X[0, 0] + 1, np.add(X[0, 0], X[0, 0])):
        assert isinstance(y, StrictArray)
        assert y.shape == ()


def test_writing_into_a_view_writes_into_the_array():
    x = fresh()
    x[0] += 10.0
    x.reshape(-1)[-1] = -1.0
    np.testing.assert_array_equal(x.get(), [[10, 11, 12], [3, 4, -1]])


def test_an_operand_without_ufuncs_is_given_the_operator():
    class Other:
        __array_ufunc__ = None

        def __radd__(self, other):
            return "other's"

    assert X + Other() == "other's"


def test_copies():
    for twin in (copy.copy(X), copy.deepcopy(X), X.copy()):
        twin[0] = 0.0
        assert isinstance(twin, StrictArray)
    np.testing.assert_array_equal(X.get(), HOST)


def test_the_device():
    device = strict_device()
    assert device.to_host(device.asarray(HOST, "float32")).dtype == np.float32
    assert device.asarray(X) is X
    device.to_host(X)[0] = 5.0
    np.testing.assert_array_equal(X.get(), HOST)
    a = device.random(1, "noise", 2).normal((3,), "float32")
    b = device.random(1, "noise", 2).normal((3,), "float32")
    assert isinstance(a, StrictArray)
    np.testing.assert_array_equal(a.get(), b.get())
    device.synchronize()


if cupy is not None:  # the tables, against CuPy itself; no GPU is needed for that

    def names_of(parameters):
        return [
            f"*{p.name}" if p.kind is p.VAR_POSITIONAL else p.name
            for p in parameters
            if p.kind is not p.VAR_KEYWORD and p.name != "self"
        ]

    def test_ufuncs_are_cupys():
        for name in UFUNCS:
            assert type(getattr(cupy, name)).__name__ in ("ufunc", "_GUFunc"), name
            assert isinstance(getattr(np, name), np.ufunc), name
        for name in REDUCE | AT:
            assert name in UFUNCS

    # Signatures that cannot be read from CuPy: compiled, or `**kwargs`; read from its source.
    UNREADABLE = {"einsum", "pad"}

    @pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - UNREADABLE))
    def test_functions_are_cupys(name):
        function = operator.attrgetter(name)(cupy)
        assert function is not operator.attrgetter(name)(np)
        try:
            parameters = inspect.signature(function).parameters.values()
            theirs = names_of(parameters)
        except ValueError:
            theirs = documented(function)
        ours = [p for p in FUNCTIONS[name] if p != "*"]
        assert set(ours) <= set(theirs)
        positional = FUNCTIONS[name][: (FUNCTIONS[name] + ["*"]).index("*")]
        assert positional == theirs[: len(positional)]

    def documented(function):
        """Compiled functions carry their signature in the first line of the documentation."""
        line = function.__doc__.strip().splitlines()[0]
        inside = line[line.index("(") + 1 : line.rindex(")")]
        words = [part.split("=")[0].split()[-1] for part in inside.split(",")]
        return [word for word in words if word != "self"]

    @pytest.mark.parametrize("name", sorted(METHODS))
    def test_methods_are_cupys(name):
        try:
            theirs = names_of(inspect.signature(getattr(cupy.ndarray, name)).parameters.values())
        except ValueError:
            theirs = documented(getattr(cupy.ndarray, name))
        ours = [p for p in METHODS[name] if p != "*"]
        assert set(ours) <= set(theirs)

    def test_properties_are_cupys():
        for name in (*PROPERTIES, "T", "data", "flags", "get", "__len__"):
            assert hasattr(cupy.ndarray, name)


def test_a_recording_must_not_join_many_arrays():
    """CuPy copies the addresses of more than eight from the host; a graph would read others."""
    device = RecordingDevice()
    device.capture(lambda: np.concatenate([X] * 8))
    for join in (np.concatenate, np.stack):
        with pytest.raises(StrictError, match="addresses"):
            device.capture(lambda join=join: join([X] * 9))
