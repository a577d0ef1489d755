"""The derivative checker catches what is wrong: rules off by 0.1 %, in each mode and order."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import minivat
from minivat import ops
from minivat.autodiff import Primitive, elementwise, transforms
from minivat.autodiff.families import broadcast_to, sum_to
from minivat.testing import DerivativeError, check_derivatives
from tests.ops.primitives import TABLE

X = np.array([[0.3, -1.2, 0.7], [1.9, 0.4, -0.6]])


def scaled(rules, factor):
    """The same rules, their results multiplied."""

    def scale(derivative):
        if derivative is None:
            return None
        if isinstance(derivative, tuple):
            return tuple(map(scale, derivative))
        return ops.multiply(derivative, factor)

    def of_argument(i):
        rule = rules(i)
        return rule and (lambda *args, **attrs: scale(rule(*args, **attrs)))

    return of_argument


def primitives_of(f, args):
    """The primitives that a call records, and whether its derivative is large enough to see."""
    active = [i for i, a in enumerate(args) if a.dtype.kind == "f"]
    found = {}

    def recorded(xs):
        full = list(args)
        for i, x in zip(active, xs, strict=True):
            full[i] = x
        y = f(*full)
        leaves = y if isinstance(y, tuple) else (y,)
        for _, primitive in transforms._trace(list(leaves), leaves[0].level):
            found[primitive.name] = primitive
        return leaves

    xs = tuple(args[i] for i in active)
    y, _, vjp = minivat.linearize(recorded, xs)
    gradient = vjp(tuple(np.cos(np.arange(leaf.size)).reshape(leaf.shape) for leaf in y))
    return list(found.values()), min(np.abs(g).max(initial=0.0) for g in gradient) > 0.01


@pytest.mark.parametrize("entry", TABLE, ids=[f"{i}-{e.name}" for i, e in enumerate(TABLE)])
@pytest.mark.parametrize("rules", ["vjp", "jvp"])
def test_every_rule_sabotaged_is_caught(entry, rules, monkeypatch):
    if entry.name == "stop_gradient":
        return  # it has no rule

    @settings(max_examples=3)
    @given(data=st.data())
    def check(data):
        call = data.draw(entry.calls)
        primitives, visible = primitives_of(call.f, call.args)
        assume(visible)
        for primitive in primitives:
            with monkeypatch.context() as patch:
                patch.setattr(primitive, rules, scaled(getattr(primitive, rules), 1.001))
                # All cotangents at once would stand in for the rules that are sabotaged.
                patch.setattr(primitive, "together", None)
                with pytest.raises(DerivativeError):
                    check_derivatives(call.f, *call.args, order=1)

    check()


@given(data=st.data())
def test_all_cotangents_at_once_sabotaged_are_caught(data):
    call = data.draw(next(entry.calls for entry in TABLE if entry.name == "batch_norm"))
    primitives, visible = primitives_of(call.f, call.args)
    assume(visible)
    (primitive,) = (primitive for primitive in primitives if primitive.together)
    sabotaged = scaled(lambda i: primitive.together, 1.001)(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(primitive, "together", sabotaged)
        with pytest.raises(DerivativeError):
            check_derivatives(call.f, *call.args, order=1)


@pytest.mark.parametrize(
    ("primitive", "rules", "f"),
    [
        (sum_to, "vjp", lambda x: ops.sum(x * x[0])),
        (sum_to, "jvp", lambda x: x * x[0]),
        (broadcast_to, "vjp", lambda x: ops.sum(x, axis=0)),
        (broadcast_to, "jvp", lambda x: ops.sum(x, axis=0)),
        (ops.multiply, "vjp", ops.softmax),
        (ops.multiply, "jvp", ops.softmax),
    ],
)
def test_primitives_inside_rules_are_caught_at_order_2(primitive, rules, f, monkeypatch):
    check_derivatives(f, X, order=2)
    monkeypatch.setattr(primitive, rules, scaled(getattr(primitive, rules), 1.001))
    with pytest.raises(DerivativeError, match="order 2"):
        check_derivatives(f, X, order=2)


def sine(*rules):
    return Primitive(np.sin, *rules, name="sine")


def right(g, y, x):
    return ops.multiply(g, ops.cos(x))


def constant_slope(g, y, x):
    return ops.multiply(g, np.cos(ops.stop_gradient(x)))


def constant_cotangent(g, y, x):
    return ops.multiply(ops.stop_gradient(g), ops.cos(x))


def wrong(g, y, x):
    return ops.multiply(g, 1.001 * ops.cos(x))


def not_finite(g, y, x):
    return ops.multiply(g, np.nan * ops.cos(x))


@pytest.mark.parametrize("reference", ["differences", "complex step"])
@pytest.mark.parametrize(
    ("vjp", "jvp", "said"),
    [
        (wrong, right, r"argument 0, reverse mode, order 1: expected .*, got .*1\.0e-03"),
        (right, wrong, r"argument 0, forward mode, order 1: expected .*, got .*1\.0e-03"),
        (not_finite, right, "reverse mode, order 1: expected .*, got nan"),
        (right, not_finite, "forward mode, order 1: expected .*, got nan"),
        (constant_slope, right, "argument 0, .* over reverse mode, order 2"),
        (right, constant_slope, "argument 0, .* over forward mode, order 2"),
        (constant_cotangent, right, "the cotangent of output 0, .* over reverse mode, order 2"),
        (right, constant_cotangent, "the tangent of argument 0, .* over forward mode, order 2"),
    ],
)
def test_wrong_rules_are_named(vjp, jvp, said, reference):
    with pytest.raises(DerivativeError, match=said) as caught:
        check_derivatives(sine([vjp], [jvp]), X, reference=reference)
    assert "\n" not in str(caught.value)


def test_a_wrong_rule_beyond_what_was_asked_for_passes():
    check_derivatives(sine([wrong], [right]), X, modes=["forward"], order=1)
    check_derivatives(sine([right], [wrong]), X, modes=["reverse"], order=1)
    check_derivatives(sine([constant_slope], [right]), X, order=1)


def test_the_adjoint_identity_finds_what_differences_cannot():
    """A relative error of 1e-9 is below the noise of differences."""
    slightly = lambda g, y, x: ops.multiply(g, (1 + 1e-9) * ops.cos(x))  # noqa: E731
    with pytest.raises(DerivativeError, match="argument 0, adjoint identity, order 1"):
        check_derivatives(sine([slightly], [right]), X)


def test_the_argument_is_named():
    product = elementwise(
        np.multiply,
        lambda g, y, a, b: ops.multiply(g, b),
        lambda g, y, a, b: ops.multiply(g, 0.999 * a),
        name="product",
    )
    check_derivatives(lambda a: product(a, X), X)
    with pytest.raises(DerivativeError, match=r"^argument 1,"):
        check_derivatives(product, X, X)
    # The first argument is then a constant, and keeps its number.
    with pytest.raises(DerivativeError, match=r"^argument 1,"):
        check_derivatives(product, np.arange(3), X)


def test_a_derivative_of_the_wrong_shape_is_named():
    # Broadcasting that a rule forgot to undo.
    product = Primitive(
        np.multiply,
        [lambda g, y, a, b: ops.multiply(g, b), lambda g, y, a, b: ops.multiply(g, a)],
        [lambda t, y, a, b: ops.multiply(t, b), lambda t, y, a, b: ops.multiply(a, t)],
        name="product",
    )
    check_derivatives(product, X, X)
    with pytest.raises(DerivativeError, match=r"reverse.*shape \(3,\), got .* shape \(2, 3\)"):
        check_derivatives(product, X, X[0])


def test_one_wrong_element_among_many_is_caught():
    x = np.linspace(-2, 2, 1000)
    slope = np.ones(1000)
    slope[123] = 1.001
    with pytest.raises(DerivativeError):
        check_derivatives(sine([lambda g, y, x: right(g, y, x) * slope], [right]), x)


def test_float32_rules_off_by_a_thousandth_are_caught():
    x = X.astype(np.float32)
    check_derivatives(sine([right], [right]), x)
    for rules in ([wrong], [right]), ([right], [wrong]):
        with pytest.raises(DerivativeError):
            check_derivatives(sine(*rules), x)


def test_own_primitives_of_several_outputs_and_arguments():
    check_derivatives(lambda a, b: (a * b, ops.sum(ops.sin(a)), 2.0 * b), X, X[0])
    check_derivatives(lambda a: [a, {"square": a * a}], X, order=3)


def test_a_constant_function_passes():
    check_derivatives(lambda x: ops.stop_gradient(x) * 0.0, X)
    check_derivatives(lambda x: np.ones(3), X)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e6])
def test_large_arguments(shift):
    check_derivatives(lambda x: x * x, X + shift)


@pytest.mark.parametrize(
    "options",
    [
        {"order": 0},
        {"modes": ["sideways"]},
        {"modes": []},
        {"reference": "complex"},
    ],
)
def test_bad_options(options):
    with pytest.raises(ValueError, match="order must be at least 1, modes among") as caught:
        check_derivatives(ops.sin, X, **options)
    assert "\n" not in str(caught.value)


def test_nothing_to_differentiate():
    with pytest.raises(ValueError, match="no argument is an array of float32 or float64"):
        check_derivatives(ops.sin, np.arange(3), 2.0)


def test_a_value_of_another_dtype_is_refused():
    with pytest.raises(DerivativeError, match="expected the arguments' float32, got float64"):
        check_derivatives(lambda x: x * np.float64(2.0), np.ones(3, np.float32))
