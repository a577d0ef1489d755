"""linearize, grad, jvp, vjp, hvp: their definitions, any nesting of them, and trees of arrays."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minivat
from minivat import Tensor, ops
from minivat.autodiff import Primitive
from minivat.testing import check_derivatives
from tests.allocation import allocating_less_than

rng = np.random.default_rng(0)
A = rng.standard_normal((4, 4))
X = rng.standard_normal(4)
V = rng.standard_normal(4)
W = rng.standard_normal(4)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def curved(x):
    """A scalar function whose derivatives of all orders differ from 0."""
    return ops.logsumexp(ops.tanh(A @ x) * x) + ops.sum(ops.sin(x) * x[::-1])


# Definitions


def test_grad_of_a_square():
    np.testing.assert_array_equal(minivat.grad(lambda x: ops.sum(x * x))(X), 2 * X)


def test_linearize_gives_the_linear_map_both_ways():
    y, jvp, vjp = minivat.linearize(lambda x: A @ x, X)
    close(y, A @ X)
    close(jvp(V), A @ V)
    close(vjp(V), A.T @ V)
    close(jvp(2 * V), 2 * jvp(V))  # as often as one likes


def test_value_and_grad_and_auxiliary_results():
    f = lambda x: (ops.sum(x**3), {"norm": ops.norm(x), "label": "kept", "x": [x]})  # noqa: E731
    (value, aux), gradient = minivat.value_and_grad(f, has_aux=True)(X)
    close(value, np.sum(X**3))
    close(gradient, 3 * X**2)
    close(aux["norm"], np.linalg.norm(X))
    assert aux["label"] == "kept"
    assert isinstance(aux["x"][0], np.ndarray)
    gradient, aux = minivat.grad(f, has_aux=True)(X)
    close(gradient, 3 * X**2)
    value, gradient = minivat.value_and_grad(lambda x, k, *, c=1: ops.sum(k * x))(X, 3.0)
    close(gradient, 3 + 0 * X)


def test_a_python_float():
    assert minivat.grad(lambda x: x**3)(2.0) == 12.0


def test_results_are_arrays_and_tensors_stay_inside():
    y, jvp, vjp = minivat.linearize(curved, X)
    for array in (y, jvp(V), vjp(1.0 + 0 * y), minivat.hvp(curved, X, V)):
        assert not isinstance(array, Tensor)
    inside = []
    minivat.grad(lambda x: inside.append(minivat.grad(curved)(x)) or curved(x))(X)
    assert isinstance(inside[0], Tensor)


def test_what_does_not_depend_on_the_input_has_derivative_zero():
    for f in (lambda x: np.ones(3), lambda x: ops.sum(W), lambda x: ops.stop_gradient(x) * 2.0):
        y, jvp, vjp = minivat.linearize(f, X)
        np.testing.assert_array_equal(jvp(V), np.zeros_like(y))
        np.testing.assert_array_equal(vjp(np.ones_like(y)), np.zeros(4))
    unused = minivat.grad(lambda p: ops.sum(p["a"]))({"a": X, "b": np.float32([1, 2])})
    np.testing.assert_array_equal(unused["b"], np.zeros(2, np.float32))
    assert unused["b"].dtype == np.float32


def test_the_identity():
    y, jvp, vjp = minivat.linearize(lambda x: x, X)
    for array, expected in ((y, X), (jvp(V), V), (vjp(V), V)):
        np.testing.assert_array_equal(array, expected)


def test_values_used_more_than_once_add_up():
    def f(x):
        y = x * x
        return ops.sum(y * y + y + y)

    close(minivat.grad(f)(X), 4 * X**3 + 4 * X)
    close(minivat.jvp(f, X, V)[1], (4 * X**3 + 4 * X) @ V)


def test_stop_gradient():
    close(minivat.grad(lambda x: ops.sum(ops.stop_gradient(x) * x))(X), X)
    # It stops the derivative of every transform around it.
    outer = minivat.grad(lambda x: ops.sum(minivat.grad(lambda y: ops.sum(y * x))(x)))
    close(outer(X), np.ones(4))
    stopped = minivat.grad(
        lambda x: ops.sum(minivat.grad(lambda y: ops.sum(y * ops.stop_gradient(x)))(x))
    )
    close(stopped(X), np.zeros(4))


def test_ten_thousand_operations_in_a_row():
    """No recursion over the depth of the graph."""

    def f(x):
        for _ in range(10_000):
            x = x + 1e-4 * x
        return x

    y, jvp, vjp = minivat.linearize(f, np.array(1.0))
    expected = 1.0001**10_000
    np.testing.assert_allclose([y, jvp(np.array(1.0)), vjp(np.array(1.0))], expected, rtol=1e-11)


@pytest.mark.parametrize("product", ["jvp", "vjp"])
def test_a_product_gives_back_what_it_needs_no_more(product):
    """Of a deep function's tangents and cotangents a few are there at once, not one a layer."""
    x = np.linspace(-1, 1, 10_000)

    def f(x):
        for _ in range(50):
            x = x + 0.1 * ops.sin(x)
        return x

    y, *products = minivat.linearize(f, x)
    apply = products[product == "vjp"]
    with allocating_less_than(8 * x.nbytes):
        apply(np.ones_like(y))


def test_a_gradient_that_is_not_asked_for_is_not_computed():
    def forbidden(g, y, x, w):
        raise AssertionError("the gradient of the weights was computed")

    product = Primitive(
        lambda x, w: x * w,
        [lambda g, y, x, w: g * w, forbidden],
        [lambda t, y, x, w: t * w, forbidden],
        name="product",
    )
    close(minivat.grad(lambda x: ops.sum(product(x, W)))(X), W)
    # Neither where the weights are being differentiated by a transform around it.
    inner = lambda w: minivat.grad(lambda x: ops.sum(product(x, w)))(X)  # noqa: E731
    close(minivat.linearize(inner, W)[0], W)
    close(minivat.jvp(inner, W, V)[1], V)


# Nesting


def test_perturbations_are_not_confused():
    """d/dx (x · d/dy (x + y)) = 1; Siskind and Pearlmutter's example, in all mixes of modes."""
    one = np.array(1.0)
    ways = [
        lambda f, x: minivat.grad(f)(x),
        lambda f, x: minivat.jvp(f, x, one)[1],
    ]
    for outer in ways:
        for inner in ways:
            x = np.array(3.0)
            assert outer(lambda x: x * inner(lambda y: x + y, one), x) == 1.0  # noqa: B023
            assert outer(lambda x: x * inner(lambda y: x * y, one), x) == 6.0  # noqa: B023
            assert outer(lambda x: inner(lambda y: x * y * y, x), x) == 12.0  # noqa: B023
            assert outer(lambda x: inner(lambda y: ops.stop_gradient(y) * x, x), x) == 0.0  # noqa: B023


def test_derivatives_of_every_order():
    f, x = ops.sin, np.array(0.7)
    for expected in (np.cos(x), -np.sin(x), -np.cos(x), np.sin(x), np.cos(x)):
        f = minivat.grad(f)
        close(f(x), expected)


def test_hessian_vector_products_by_every_route():
    grad = minivat.grad(curved)
    hessian = np.stack([minivat.hvp(curved, X, e) for e in np.eye(4)])
    close(hessian, hessian.T)
    h = 1e-5
    differences = (grad(X + h * V) - grad(X - h * V)) / (2 * h)
    np.testing.assert_allclose(hessian @ V, differences, rtol=1e-7)
    routes = [
        minivat.hvp(curved, X, V),
        minivat.jvp(grad, X, V)[1],
        minivat.vjp(grad, X)[1](V),
        minivat.grad(lambda x: minivat.jvp(curved, x, V)[1])(X),
        minivat.grad(lambda x: ops.sum(grad(x) * V))(X),
        minivat.linearize(lambda x: minivat.linearize(curved, x)[2](np.array(1.0)), X)[1](V),
    ]
    for route in routes:
        close(route, hessian @ V)
    close(minivat.jvp(lambda x: minivat.jvp(curved, x, V)[1], X, W)[1], W @ hessian @ V)


def test_mixed_derivatives_through_closures():
    def f(x, w):
        return ops.sum(ops.tanh(w * x) * x)

    def slope(w):
        return ops.sum(minivat.grad(f)(X, w) * V)

    def slope_in_the_other_order(x):
        return minivat.grad(lambda w: ops.sum(minivat.grad(f)(x, w) * V))(W)

    # ∂²f/∂w∂x is diagonal here.
    t = np.tanh(W * X)
    s = 1 - t**2
    mixed = 2 * X * s - 2 * W * X**2 * t * s
    close(minivat.grad(slope)(W), mixed * V)
    close(minivat.jvp(slope, W, V)[1], np.sum(mixed * V * V))
    close(slope_in_the_other_order(X), mixed * V)
    check_derivatives(slope_in_the_other_order, X, order=1)


def test_differentiating_through_the_argument_of_the_derivative():
    """d/dx g(x, u(x)) where g is itself a gradient at a point that depends on x."""
    f = lambda x: ops.sum(minivat.hvp(curved, ops.sin(x), ops.cos(x)))  # noqa: E731
    check_derivatives(f, X, order=2)


def test_tensors_as_tangents_and_cotangents():
    check_derivatives(lambda x, t: minivat.jvp(curved, x, t)[1], X, V, order=2)
    check_derivatives(lambda x, g: minivat.vjp(lambda x: A @ ops.tanh(x), x)[1](g), X, V, order=2)
    check_derivatives(lambda t: minivat.linearize(curved, X)[1](t), V, order=2)


def test_frozen_maps_are_constants():
    """Products with them are arrays even inside a transform, as θ̂ is in eq. (8)."""
    inside = []

    def f(w):
        y, jvp, vjp = minivat.linearize(lambda x: ops.tanh(w * x), X, frozen=True)
        inside.extend([y, jvp(V), vjp(V)])
        return ops.sum(y * vjp(V))

    gradient = minivat.vjp(f, W)[1]
    assert [isinstance(v, Tensor) for v in inside] == [True, False, False]
    _, jvp, vjp = minivat.linearize(lambda x: ops.tanh(W * x), X)
    close(inside[1], jvp(V))
    close(inside[2], vjp(V))
    # y still depends on w; the product is a constant factor.
    close(gradient(np.array(1.0)), (1 - np.tanh(W * X) ** 2) * X * inside[2])


def test_frozen_maps_of_functions_with_several_outputs():
    def f(w):
        norm = lambda x: ops.normalize(x * w, 0, 1e-3)[0]  # noqa: E731
        _, jvp, vjp = minivat.linearize(norm, X, frozen=True)
        assert not isinstance(jvp(V), Tensor)
        return ops.sum(w * vjp(V))

    _, _, vjp = minivat.linearize(lambda x: ops.normalize(x * W, 0, 1e-3)[0], X)
    close(minivat.grad(f)(W), vjp(V))


# Trees of arrays


def test_dicts_of_arrays_nested_and_of_mixed_dtypes():
    params = {
        "dense": {"weight": X.astype(np.float32), "bias": np.array(0.5)},
        "rest": [W, (V,)],
    }

    def f(p):
        a = ops.sum(p["dense"]["weight"]) * p["dense"]["bias"]
        return a + ops.sum(p["rest"][0] * p["rest"][1][0])

    value, g = minivat.value_and_grad(f)(params)
    close(value, f(params))
    assert g["dense"]["weight"].dtype == np.float32
    np.testing.assert_array_equal(g["dense"]["weight"], np.full(4, 0.5, np.float32))
    np.testing.assert_allclose(g["dense"]["bias"], X.astype(np.float32).sum(), rtol=1e-6)
    close(g["rest"][0], V)
    close(g["rest"][1][0], W)
    assert list(g) == list(params)
    assert isinstance(g["rest"][1], tuple)
    tangent = minivat.jvp(f, params, g)[1]
    assert tangent.dtype == np.float64


def test_keys_count_and_not_their_order():
    f = lambda p: ops.sum(p["a"] * p["a"] + 3.0 * p["b"])  # noqa: E731
    p, t = {"a": X, "b": W}, {"b": W, "a": V}
    close(minivat.jvp(f, p, t)[1], np.sum(2 * X * V + 3 * W))
    close(minivat.hvp(f, p, t)["a"], 2 * V)
    vjp = minivat.vjp(lambda x: {"a": x, "b": 2.0 * x}, X)[1]
    close(vjp({"b": W, "a": V}), V + 2 * W)


class Layer(NamedTuple):
    weight: Any
    bias: Any


class Checked(Layer):
    """Whose constructor takes other arguments than a tuple's."""

    def __new__(cls, both):
        return super().__new__(cls, *both)


@dataclass
class Parameters:
    weight: Any
    bias: Any


@pytest.mark.parametrize("params", [Layer(X, W), Checked((X, W))], ids=["plain", "checked"])
def test_named_tuples_are_trees(params):
    def f(p):
        return ops.sum(p.weight * p.weight * p.bias)

    g = minivat.grad(f)(params)
    assert type(g) is type(params)
    close(g.weight, 2 * X * W)
    close(g.bias, X**2)
    close(minivat.hvp(f, params, (V, 0 * W)).bias, 2 * X * V)
    y, jvp, vjp = minivat.linearize(lambda p: Layer(p.weight * 2.0, {"a": p}), params)
    assert type(y) is Layer and type(y.bias["a"]) is type(params)
    close(jvp(Layer(V, V)).weight, 2 * V)
    close(vjp(Layer(V, {"a": (V, W)})).weight, 3 * V)
    _, aux = minivat.grad(lambda x: (ops.sum(x), Layer(x, [x])), has_aux=True)(X)
    assert type(aux) is Layer and aux.bias[0] is X


def test_a_dataclass_is_refused_in_a_line():
    params = Parameters(X, W)
    f = lambda p: ops.sum(p.weight * p.bias)  # noqa: E731
    for route in (
        minivat.grad(f),
        lambda p: minivat.linearize(f, p),
        lambda p: minivat.jvp(f, p, p),
    ):
        with pytest.raises(TypeError, match=r"got the dataclass Parameters; vars\(x\)") as error:
            route(params)
        assert "\n" not in str(error.value)
    g = minivat.grad(lambda p: f(Parameters(**p)))(vars(params))
    close(g["weight"], W)


@pytest.mark.parametrize(
    ("result", "given"),
    [(Parameters(X, W), "dataclass Parameters"), (None, "NoneType"), ("y", "str")],
)
def test_what_is_no_array_is_refused_as_a_result(result, given):
    with pytest.raises(TypeError, match=f"must return an array, .* got .*{given}"):
        minivat.linearize(lambda x: [x, result], X)


def test_functions_that_return_trees():
    f = lambda x: {"a": x * 2.0, "b": [ops.sum(x), np.ones(2)]}  # noqa: E731
    y, jvp, vjp = minivat.linearize(f, X)
    np.testing.assert_array_equal(jvp(V)["a"], 2 * V)
    np.testing.assert_array_equal(jvp(V)["b"][1], np.zeros(2))
    close(vjp({"a": W, "b": [np.array(3.0), np.ones(2)]}), 2 * W + 3)
    np.testing.assert_array_equal(y["b"][1], np.ones(2))


def test_float32_throughout(device):
    """The first and second derivative of a small network; not one float64 on the way."""
    w = device.asarray(A, "float32")
    x = device.asarray(X[:, None] * np.ones(3), "float32")
    labels = device.asarray(np.array([0, 1, 3, 2]))

    def f(p):
        h = ops.normalize(ops.relu(p["x"].T @ p["w"]), 0, 2e-5)[0]
        logits = ops.leaky_relu(h @ p["w"] + 0.5, 0.1) * 2
        return ops.mean(ops.cross_entropy(logits.T[:, :3] @ p["w"][:3], labels)) / 3 + 1

    f({"w": w, "x": x})
    p = {"w": w, "x": x}
    value, g = minivat.value_and_grad(f)(p)
    second = minivat.hvp(f, p, g)
    for array in (value, g["w"], g["x"], second["w"], second["x"]):
        assert array.dtype == np.float32


# Random programs


UNARY = [ops.sin, ops.tanh, ops.sigmoid, ops.softplus, lambda x: x**2, lambda x: ops.exp(-x * x)]
UNARY += [
    lambda x: ops.softmax(x, axis=0),
    lambda x: ops.log_softmax(x, axis=1),
    lambda x: ops.normalize(x, 0, 0.1)[0],
    lambda x: ops.logsumexp(x, axis=1, keepdims=True) - x,
    lambda x: x / (1.0 + ops.sum(x * x, axis=0)),
    lambda x: ops.broadcast_to(ops.mean(x, axis=0), x.shape) * x,
    lambda x: ops.concat([x[1:], x[:1]]),
    lambda x: x @ ops.transpose(x) @ x / 9.0,
]
BINARY = [ops.add, ops.subtract, ops.multiply, lambda a, b: a / (2.0 + ops.tanh(b))]
BINARY += [lambda a, b: ops.broadcast_to(ops.reshape(ops.kl(a, b), (3, 1)), a.shape)]
steps = st.lists(
    st.tuples(st.integers(0, len(UNARY) + len(BINARY) - 1), st.integers(0, 9), st.integers(0, 9)),
    min_size=1,
    max_size=6,
)


@given(steps=steps, seed=st.integers(0, 1000))
def test_random_programs(steps, seed):
    """Operations drawn at random, each on results drawn at random, to the second order."""

    def f(*inputs):
        results = list(inputs)
        for number, i, j in steps:
            a, b = results[i % len(results)], results[j % len(results)]
            results.append(
                UNARY[number](a) if number < len(UNARY) else BINARY[number - len(UNARY)](a, b)
            )
        return results[-1]

    r = np.random.default_rng(seed)
    check_derivatives(f, r.standard_normal((3, 2)), r.standard_normal((3, 2)), tolerance=1e-6)


# Errors


@pytest.mark.parametrize(
    ("f", "error", "match"),
    [
        (lambda: minivat.grad(ops.sum)(np.arange(3)), TypeError, "floating point.*int64"),
        (lambda: minivat.grad(ops.sum)({"a": "text"}), TypeError, "floating point.*str"),
        (lambda: minivat.grad(ops.sum)([None]), TypeError, "floating point.*NoneType"),
        (lambda: minivat.grad(ops.sin)(X), ValueError, r"must return a scalar, got .*\(4,\)"),
        (lambda: minivat.jvp(ops.sin, X, X[:2]), ValueError, r"tangent.*\(4,\).*\(2,\)"),
        (lambda: minivat.vjp(ops.sin, X)[1](X[:2]), ValueError, r"cotangent.*\(4,\).*\(2,\)"),
        (lambda: minivat.hvp(ops.sum, X, {"a": X, "b": X}), ValueError, "tangent"),
        (lambda: minivat.jvp(lambda p: ops.sum(p["a"]), {"a": X}, {"b": X}), ValueError, "tangent"),
        (lambda: minivat.linearize(ops.sin, X)[1](3), ValueError, r"tangent.*\(4,\).*\(\)"),
        (lambda: minivat.grad(lambda x: ops.sum(ops.where(x, 1.0, 2.0)))(X), TypeError, "where: "),
        (lambda: minivat.grad(lambda x: None)(X), ValueError, "must return a scalar, got None"),
    ],
)
def test_mistakes_are_named(f, error, match):
    with pytest.raises(error, match=match) as caught:
        f()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "given"),
    [
        ((X,), "1"),
        ((X, X, X), "3"),
        (X[:2], "ndarray"),
        ({"a": X, "b": X}, "dict"),
    ],
)
def test_a_tangent_of_a_pair_is_a_pair(wrong, given):
    _, jvp, _ = minivat.linearize(lambda pair: pair[0] * pair[1], (X, V))
    np.testing.assert_array_equal(jvp([V, X]), V * V + X * X)  # any sequence
    with pytest.raises(ValueError, match=f"the tangent must be a sequence of 2, got {given}$"):
        jvp(wrong)


@pytest.mark.parametrize(("wrong", "given"), [({"b": X}, r"\['b'\]"), (X, "ndarray")])
def test_a_tangent_of_a_dict_has_its_keys(wrong, given):
    _, jvp, _ = minivat.linearize(lambda named: named["a"] * 2.0, {"a": X})
    with pytest.raises(ValueError, match=rf"must be a dict with the keys \['a'\], got {given}$"):
        jvp(wrong)


# What a caller gets is the caller's


def test_derivatives_share_no_memory():
    x = X.copy()
    g = minivat.grad(lambda p: ops.sum((p["a"] + p["b"]) ** 2.0))({"a": x, "b": X})
    before = g["b"].copy()
    g["a"] *= 0
    assert (g["b"] == before).all()
    minivat.grad(ops.sum)(x)[...] = 0  # not a read-only view
    t = V.copy()
    minivat.jvp(lambda x: x + 1.0, x, t)[1][...] = 0
    minivat.vjp(lambda x: x + 1.0, x)[1](t)[...] = 0
    assert (t == V).all()


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (lambda x: x == 0.0, [5, 2, 4]),
        (lambda x: x != 0.0, [0, 5, 5]),
        (lambda x: x > 1.0, [0, 2, 5]),
        (lambda x: x >= 1.0, [0, 5, 5]),
        (lambda x: x < 1.0, [5, 2, 4]),
        (lambda x: x <= np.array([0.0, 1.0, 0.0]), [5, 5, 4]),
    ],
)
def test_comparisons_compare_values(condition, expected):
    def f(x):
        return ops.sum(ops.where(condition(x), 5.0 * x, x * x))

    value, g = minivat.value_and_grad(f)(np.array([0.0, 1.0, 2.0]))
    assert value == f(np.array([0.0, 1.0, 2.0]))
    assert g.tolist() == expected


def test_a_weight_of_several_products_costs_one_product_for_its_gradient(monkeypatch):
    """That of the stacked factors; a vector among them takes one of its own."""
    counted = []

    def matmul(a, b):
        counted.append((a.shape, b.shape))
        return np.matmul(a, b)

    monkeypatch.setattr(ops.matmul, "fun", matmul)
    for factors, products in [([A, A.T, A + A], 1), ([A], 1), ([A, V], 2)]:
        _, _, vjp = minivat.linearize(lambda w: [a @ w for a in factors], A)  # noqa: B023
        cotangents = [np.cos(a @ A) for a in factors]
        counted.clear()
        found = vjp(cotangents)
        assert len(counted) == products
        expected = sum(
            np.outer(a, g) if a.ndim == 1 else a.T @ g
            for a, g in zip(factors, cotangents, strict=True)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_a_joint_rule_is_not_asked_where_there_are_attributes():
    scaled = Primitive(
        lambda a, b, scale: scale * a * b,
        [lambda g, y, a, b, scale: g * b * scale, lambda g, y, a, b, scale: g * a * scale],
        [lambda t, y, a, b, scale: t * b * scale, lambda t, y, a, b, scale: a * t * scale],
        name="scaled",
        joint={1: lambda uses: 1 / 0},
    )
    g = minivat.grad(lambda b: ops.sum(scaled(X, b, scale=2.0) + scaled(V, b, scale=3.0)))(W)
    close(g, 2.0 * X + 3.0 * V)


def test_several_uses_of_a_weight_add_up():
    """Two- and one-dimensional products, through the joint rule and beside it."""
    B = rng.standard_normal((4, 3))

    def f(w):
        return ops.sum(ops.sin(A @ w)) + ops.sum(ops.cos(A.T @ w)) + ops.sum(V @ w) + ops.sum(w * w)

    check_derivatives(f, B)
    check_derivatives(
        lambda w: ops.sum(ops.sin(A @ w)) + ops.sum((V @ w) ** 2.0) + X @ w @ w.T @ X, B
    )
