"""Reference counting alone frees the graph: no cycles, with the garbage collector off."""

import gc
import weakref

import numpy as np
import pytest

import minivat
from minivat import Tensor, ops

X = np.random.default_rng(0).standard_normal((8, 5))


def network(x):
    h = ops.normalize(ops.relu(x @ X.T), 0, 1e-5)[0]
    return ops.sum(ops.kl(h @ X, ops.stop_gradient(h @ X) * 0.9)) + ops.logsumexp(h[::2])


def tensors() -> int:
    return sum(type(o) is Tensor for o in gc.get_objects())


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    "use",
    [
        lambda: minivat.value_and_grad(network)(X),
        lambda: minivat.hvp(network, X, X),
        lambda: minivat.grad(lambda x: ops.sum(minivat.grad(network)(x) * X))(X),
        lambda: minivat.linearize(network, X)[1](X),
        lambda: minivat.linearize(network, X)[2](np.array(1.0)),
        lambda: minivat.linearize(network, X, frozen=True)[1](X),
        lambda: minivat.value_and_grad(lambda p: (network(p["x"]), p["x"]), has_aux=True)({"x": X}),
    ],
)
def test_nothing_of_the_graph_is_left(use):
    before = tensors()
    kept = use()
    assert tensors() == before
    del kept
    assert gc.collect() == 0 or tensors() == before


@pytest.mark.usefixtures("no_collector")
def test_a_failure_leaves_nothing():
    before = tensors()
    with pytest.raises(ValueError, match="scalar"):
        minivat.grad(lambda x: ops.relu(x) * 2.0)(X)
    assert tensors() == before


@pytest.mark.usefixtures("no_collector")
def test_the_linear_maps_hold_the_graph_and_let_it_go():
    before = tensors()
    y, jvp, vjp = minivat.linearize(network, X)
    assert tensors() > before
    jvp(X), vjp(np.ones_like(y))
    held = tensors()
    jvp(X), vjp(np.ones_like(y))
    assert tensors() == held  # products leave nothing behind
    del jvp
    assert tensors() == held
    del vjp
    assert tensors() == before


@pytest.mark.usefixtures("no_collector")
def test_intermediate_arrays_are_freed_with_the_graph():
    seen = []

    def f(x):
        h = ops.exp(x)
        seen.append(weakref.ref(h.value))
        return ops.sum(h * h)

    y, _, vjp = minivat.linearize(f, X)
    assert seen[0]() is not None
    del vjp, _
    assert seen[0]() is None
    assert y == f_value(X)


def f_value(x):
    return np.sum(np.exp(x) * np.exp(x))


@pytest.mark.usefixtures("no_collector")
def test_what_no_product_needs_is_not_kept():
    """An intermediate that does not lead to the output goes at once."""
    seen = []

    def f(x):
        seen.append(weakref.ref(ops.exp(x).value))
        return ops.sum(x)

    kept = minivat.linearize(f, X)
    assert seen[0]() is None
    del kept
