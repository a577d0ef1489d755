"""One VAT update of the supervised MNIST task in JAX: baseline and reference of ``bench``.

Written the way a good JAX user writes it: the whole update (batch, random direction, finite
differences, both gradients, Adam) is one jitted function whose state is donated. The exact
direction (``jax.linearize``) was tried and is slower here than the paper's finite differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.peers import BATCH_NORM_EPSILON, Settings

RUNNING_RATIO = 0.9
BETA1, BETA2, ADAM_EPSILON = 0.9, 0.999, 1e-8


class Peer:
    """The network, its objective and its training step, from minivat's parameters.

    ``params``: per layer, in order, weight (in, out), bias, scale and shift. They are copied;
    arrays of any one float dtype.
    """

    def __init__(self, params: Mapping[str, np.ndarray], settings: Settings):
        self.settings = settings
        self.objective = partial(
            objective, epsilon=settings.epsilon, alpha=settings.alpha, xi=settings.xi
        )
        self.names = list(params)
        arrays = [np.asarray(value) for value in params.values()]
        layers = [tuple(arrays[i : i + 4]) for i in range(0, len(arrays), 4)]
        zeros = jax.tree.map(np.zeros_like, layers)
        running = [(np.zeros_like(layer[-1]), np.ones_like(layer[-1])) for layer in layers]
        self.state = (layers, zeros, jax.tree.map(np.copy, zeros), running, 0)
        self.key = jax.random.key(settings.seed)
        self.update = jax.jit(
            partial(update, self.objective, learning_rate=settings.learning_rate), donate_argnums=0
        )

    def loss_and_gradients(
        self, x: np.ndarray, labels: np.ndarray, d: np.ndarray
    ) -> tuple[float, dict[str, np.ndarray]]:
        """The objective and its gradients, as NumPy arrays under the given names and shapes."""
        layers = self.state[0]
        with jax.enable_x64(x.dtype == np.float64):
            value_and_grad = jax.jit(jax.value_and_grad(self.objective, has_aux=True))
            (loss, _), gradients = value_and_grad(layers, x, labels, d)
        arrays = map(np.asarray, jax.tree.leaves(gradients))
        return float(loss), dict(zip(self.names, arrays, strict=True))

    def load(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Set the training set that ``step`` takes its batches from."""
        self.images, self.labels = jnp.asarray(images), jnp.asarray(labels)

    def step(self, rows: np.ndarray) -> jax.Array:
        """One Adam step on the given rows of the training set, computed to its end; the loss."""
        self.state, loss = self.update(self.state, self.images, self.labels, rows, self.key)
        return jax.block_until_ready((loss, self.state))[0]


def update(objective, state, images, labels, rows, key, *, learning_rate):
    """The next (parameters, first moments, second moments, running statistics, update number)."""
    params, first, second, running, t = state
    x = images[rows]
    d = jax.random.normal(jax.random.fold_in(key, t), x.shape)
    (loss, statistics), gradient = jax.value_and_grad(objective, has_aux=True)(
        params, x, labels[rows], d
    )
    t = t + 1
    first = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, first, gradient)
    second = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, second, gradient)
    rate, scale = learning_rate / (1 - BETA1**t), 1 / (1 - BETA2**t)
    params = jax.tree.map(
        lambda w, m, v: w - rate * m / (jnp.sqrt(scale * v) + ADAM_EPSILON), params, first, second
    )
    bessel = len(rows) / (len(rows) - 1)
    running = [
        (
            RUNNING_RATIO * old_mean + (1 - RUNNING_RATIO) * mean,
            RUNNING_RATIO * old_var + (1 - RUNNING_RATIO) * bessel * var,
        )
        for (old_mean, old_var), (mean, var) in zip(running, statistics, strict=True)
    ]
    return (params, first, second, running, t), loss


def objective(layers, x, labels, d, *, epsilon, alpha, xi):
    """NLL + alpha LDS at the perturbation found from the direction d; the clean statistics."""
    logits, statistics = network(layers, x)
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()

    clean = jax.lax.stop_gradient(jax.nn.log_softmax(logits))
    frozen = jax.lax.stop_gradient(layers)
    hd = jax.grad(lambda r: kl(clean, network(frozen, x + r)[0]))(xi * unit(d))
    r = epsilon * unit(hd)
    return nll + alpha * kl(clean, network(layers, x + r)[0]), statistics


def network(layers, x):
    """Logits of a batch under its own statistics, and these statistics layer by layer."""
    statistics = []
    for i, (weight, bias, scale, shift) in enumerate(layers):
        x = x @ weight + bias
        mean, var = x.mean(axis=0), x.var(axis=0)
        statistics.append((mean, var))
        x = (x - mean) * jax.lax.rsqrt(var + BATCH_NORM_EPSILON) * scale + shift
        if i < len(layers) - 1:
            x = jax.nn.relu(x)
    return x, statistics


def unit(d):
    """Rows of length one; the division by the largest entry keeps tiny rows from underflowing."""
    d = d / jnp.abs(d).max(axis=1, keepdims=True)
    return d / jnp.linalg.norm(d, axis=1, keepdims=True)


def kl(clean, logits):
    """Mean KL(p || q) of a batch from log p and the logits of q."""
    return (jnp.exp(clean) * (clean - jax.nn.log_softmax(logits))).sum(axis=1).mean()
