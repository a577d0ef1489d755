"""Every operation: values, derivatives of orders 1 and 2 in both modes, dtypes, on every device."""

import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minivat
from minivat import Tensor, ops
from minivat.autodiff import Primitive, transforms
from minivat.divergence import categorical
from minivat.testing import check_derivatives
from tests.ops.primitives import TABLE

# How far a value may be from NumPy's or SciPy's, relative to the largest of them.
VALUE_TOLERANCE = {"float32": 2e-6, "float64": 1e-14}

every_entry = pytest.mark.parametrize(
    "entry", TABLE, ids=[f"{i}-{entry.name}" for i, entry in enumerate(TABLE)]
)
both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def on(device, args, dtype="float64"):
    return tuple(device.asarray(a, dtype if a.dtype.kind == "f" else None) for a in args)


def as_tuple(y):
    return y if isinstance(y, tuple) else (y,)


def differentiated(f, args):
    """f as a function of the tuple of its floating-point arguments, and those."""
    active = [i for i, a in enumerate(args) if a.dtype.kind == "f"]

    def of_active(xs):
        full = list(args)
        for i, x in zip(active, xs, strict=True):
            full[i] = x
        return f(*full)

    return of_active, tuple(args[i] for i in active)


def test_the_table_covers_every_operation():
    public = {
        name
        for name, value in vars(ops).items()
        if not name.startswith("_") and not isinstance(value, (types.ModuleType, type))
    }
    assert public == set(ops.__all__)
    assert public == {entry.name for entry in TABLE}


@every_entry
@both_dtypes
@given(data=st.data())
def test_values_are_numpys(entry, dtype, data, device):
    call = data.draw(entry.calls)
    args = on(device, call.args, dtype)
    got = as_tuple(call.f(*args))
    expected = as_tuple(call.reference(*call.args))
    assert len(got) == len(expected)
    for g, e in zip(got, expected, strict=True):
        assert not isinstance(g, Tensor)
        assert (g.shape, g.dtype) == (np.shape(e), np.dtype(dtype))
        scale = 1.0 + np.max(np.abs(e), initial=0.0)
        error = np.max(np.abs(device.to_host(g) - e), initial=0.0)
        assert error <= VALUE_TOLERANCE[dtype] * scale * max(1, max(a.size for a in call.args))


@every_entry
@given(data=st.data())
def test_derivatives(entry, data, device):
    call = data.draw(entry.calls)
    check_derivatives(call.f, *on(device, call.args), order=2)


@every_entry
@given(data=st.data())
def test_float32_derivatives(entry, data):
    call = data.draw(entry.calls)
    args = [a.astype(np.float32) if a.dtype.kind == "f" else a for a in call.args]
    check_derivatives(call.f, *args, order=2)


@pytest.mark.parametrize(
    "entry", [e for e in TABLE if e.analytic], ids=[e.name for e in TABLE if e.analytic]
)
@given(data=st.data())
def test_derivatives_by_the_complex_step(entry, data):
    call = data.draw(entry.calls)
    check_derivatives(call.f, *call.args, order=2, reference="complex step")


@pytest.fixture
def no_cast(monkeypatch):
    """The engine casts a derivative of the wrong dtype; here it may not have one."""

    def cast(x, dtype):
        raise AssertionError(f"a derivative of dtype {x.dtype} where {dtype} belongs")

    monkeypatch.setattr(transforms, "cast", cast)


@pytest.mark.usefixtures("no_cast")
@every_entry
@both_dtypes
def test_dtypes_and_shapes_are_kept(entry, dtype, device):
    @given(data=st.data())
    def check(data):
        call = data.draw(entry.calls)
        f, xs = differentiated(call.f, on(device, call.args, dtype))

        def reverse(both):
            return minivat.vjp(f, both[0])[1](both[1])

        y, jvp, vjp = minivat.linearize(f, xs)
        leaves = as_tuple(y)
        ones = tuple(np.ones_like(leaf) for leaf in leaves)
        g = ones if isinstance(y, tuple) else ones[0]
        second, jvp2, vjp2 = minivat.linearize(reverse, (xs, g))
        for derivative, like in (
            (y, leaves),
            (jvp(xs), leaves),
            (vjp(g), xs),
            (second, xs),
            (jvp2((xs, g)), xs),
            (vjp2(xs)[0], xs),
        ):
            for d, x in zip(as_tuple(derivative), like, strict=True):
                assert (d.shape, d.dtype) == (x.shape, np.dtype(dtype))

    check()


@every_entry
@given(data=st.data())
def test_nothing_given_is_changed(entry, data):
    call = data.draw(entry.calls)
    f, xs = differentiated(call.f, call.args)
    y, jvp, vjp = minivat.linearize(f, xs)
    g = tuple(np.ones_like(leaf) for leaf in as_tuple(y))
    for array in (*call.args, *as_tuple(y), *g):
        if isinstance(array, np.ndarray):
            array.flags.writeable = False  # from here on an assignment in place raises
    copies = [np.array(a) for a in call.args]
    call.f(*call.args)
    jvp(xs)
    vjp(g if isinstance(y, tuple) else g[0])
    minivat.linearize(f, xs)[2](g if isinstance(y, tuple) else g[0])
    for a, copy in zip(call.args, copies, strict=True):
        np.testing.assert_array_equal(a, copy)


@every_entry
@given(data=st.data())
def test_a_tensor_has_the_value_that_an_array_has(entry, data):
    call = data.draw(entry.calls)
    f, xs = differentiated(call.f, call.args)
    seen = []

    def recorded(xs):
        y = f(xs)
        seen.extend(as_tuple(y))
        return y

    y, _, _ = minivat.linearize(recorded, xs)
    assert all(isinstance(t, Tensor) for t in seen)
    for t, a, b in zip(seen, as_tuple(y), as_tuple(f(xs)), strict=True):
        assert (t.shape, t.ndim, t.size, t.dtype) == (a.shape, a.ndim, a.size, a.dtype)
        np.testing.assert_array_equal(a, b)


def test_every_operation_says_what_it_does():
    docs = [getattr(ops, name).__doc__ for name in ops.__all__]
    assert all(docs)
    assert Primitive.__doc__ not in docs
    assert "subgradient is 0" in ops.relu.__doc__


OF_FLOATS = {
    **{
        name: getattr(ops, name)
        for name in (
            "exp expm1 log log1p sqrt sin cos tanh sigmoid softplus softmax log_softmax logsumexp "
            "norm mean"
        ).split()
    },
    "cross_entropy": lambda x: ops.cross_entropy(x, np.asarray([0, 2], like=x)),
    "kl": lambda x: ops.kl(x, x[::-1]),
    "kl of two dtypes": lambda x: ops.kl(x, x[::-1].astype(np.float64)),
    "normalize": lambda x: ops.normalize(x, 1, 1e-3)[0],
    "divide": lambda x: ops.divide(x, x[:, :1]),
    "entropy": categorical.entropy,
}


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("name", OF_FLOATS)
def test_integers_are_taken_as_float64(name, dtype, device):
    """Also those of a byte, of which NumPy's functions are float16 and differences wrap round."""
    f, host = OF_FLOATS[name], np.array([[1, 5, 3], [120, 7, 2]]).astype(dtype)
    got = f(device.asarray(host))
    assert got.dtype == np.float64
    expected = f(host.astype(np.float64))
    np.testing.assert_allclose(device.to_host(got), expected, rtol=1e-13, atol=1e-15)
