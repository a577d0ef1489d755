"""Fused primitives are equal to plain twins, in value and in derivatives of orders 1 and 2."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

import minivat
from minivat import ops


def softmax(x, axis=-1):
    e = ops.exp(x - ops.stop_gradient(ops.max(x, axis, keepdims=True)))
    return e / ops.sum(e, axis, keepdims=True)


def log_softmax(x, axis=-1):
    return x - logsumexp(x, axis, keepdims=True)


def logsumexp(x, axis, keepdims):
    return ops.log(ops.sum(ops.exp(x), axis, keepdims))


def cross_entropy(z, labels):
    one_hot = np.eye(z.shape[-1])[labels]
    return -ops.sum(one_hot * log_softmax(z), -1)


def kl(p_logits, q_logits):
    log_p, log_q = log_softmax(p_logits), log_softmax(q_logits)
    return ops.sum(ops.exp(log_p) * (log_p - log_q), -1)


def norm(x, axis, keepdims):
    return ops.sqrt(ops.sum(x * x, axis, keepdims))


def normalize(x, axis, epsilon):
    mean = ops.mean(x, axis, keepdims=True)
    centred = x - mean
    var = ops.mean(centred * centred, axis, keepdims=True)
    return centred / ops.sqrt(var + epsilon), mean, var


def batch_norm(x, gamma, beta, epsilon, slope):
    y, mean, var = normalize(x, tuple(range(len(x.shape) - 1)), epsilon)
    y = y * gamma + beta
    y = y * np.where(ops.stop_gradient(y) > 0, 1.0, slope)
    return y, ops.reshape(mean, gamma.shape), ops.reshape(var, gamma.shape)


def sigmoid(x):
    return 1.0 / (1.0 + ops.exp(-x))


def softplus(x):
    return ops.log(1.0 + ops.exp(x))


LABELS = np.array([[0, 2, 1], [2, 2, 0]])

TWINS = {
    "softmax": (lambda x: ops.softmax(x, axis=1), lambda x: softmax(x, axis=1)),
    "log_softmax": (lambda x: ops.log_softmax(x, axis=0), lambda x: log_softmax(x, axis=0)),
    "logsumexp": (
        lambda x: ops.logsumexp(x, axis=(0, 2), keepdims=False),
        lambda x: logsumexp(x, axis=(0, 2), keepdims=False),
    ),
    "cross_entropy": (
        lambda x: ops.cross_entropy(x[:2, :3], LABELS),
        lambda x: cross_entropy(x[:2, :3], LABELS),
    ),
    "kl": (lambda x: ops.kl(x, x * x), lambda x: kl(x, x * x)),
    "norm": (
        lambda x: ops.norm(x, axis=-1, keepdims=True),
        lambda x: norm(x, axis=-1, keepdims=True),
    ),
    "normalize": (lambda x: ops.normalize(x, 0, 1e-3), lambda x: normalize(x, 0, 1e-3)),
    "normalize over all but the last": (
        lambda x: ops.normalize(x, (0, 1), 1e-3),
        lambda x: normalize(x, (0, 1), 1e-3),
    ),
    # Only one of the outputs takes part: the cotangents of the others are absent, not zero.
    "normalize, y": (lambda x: ops.normalize(x, 0, 1e-3)[0], lambda x: normalize(x, 0, 1e-3)[0]),
    "normalize, mean": (
        lambda x: ops.normalize(x, 0, 1e-3)[1],
        lambda x: normalize(x, 0, 1e-3)[1],
    ),
    "normalize, var": (lambda x: ops.normalize(x, 0, 1e-3)[2], lambda x: normalize(x, 0, 1e-3)[2]),
    "batch_norm": (
        lambda x: ops.batch_norm(x, x[0, 0], x[1, 1], 1e-3, 0.3),
        lambda x: batch_norm(x, x[0, 0], x[1, 1], 1e-3, 0.3),
    ),
    **{
        f"batch_norm, {name}": (
            lambda x, i=i: ops.batch_norm(x, x[0, 0], x[1, 1], 1e-3, 0.3)[i],
            lambda x, i=i: batch_norm(x, x[0, 0], x[1, 1], 1e-3, 0.3)[i],
        )
        for i, name in enumerate(("y", "mean", "var"))
    },
    "sigmoid": (ops.sigmoid, sigmoid),
    "softplus": (ops.softplus, softplus),
}


@pytest.mark.parametrize("name", TWINS)
@given(shape=array_shapes(min_dims=3, max_dims=3, min_side=3, max_side=5), seed=st.integers(0, 99))
def test_fused_equals_composite(name, shape, seed):
    rng = np.random.default_rng(seed)
    x, t = rng.standard_normal(shape), rng.standard_normal(shape)

    def everything(f):
        def scalar(x):
            y = f(x)
            y = y if isinstance(y, tuple) else (y,)
            # Weights that differ, so that no part cancels; a square, so that cotangents depend
            # on x as they do inside a network.
            return sum(
                ops.sum(ops.sin(part) * np.cos(np.arange(part.size)).reshape(part.shape))
                for part in y
            )

        y, tangent = minivat.jvp(f, x, t)
        gradient, push, pull = minivat.linearize(minivat.grad(scalar), x)
        third = minivat.grad(lambda x: ops.sum(minivat.hvp(scalar, x, t) * t))(x)
        y, tangent = (v if isinstance(v, tuple) else (v,) for v in (y, tangent))
        return *y, *tangent, gradient, push(t), pull(t), third

    fused, composite = TWINS[name]
    for got, expected in zip(everything(fused), everything(composite), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())
