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

from experiments.bench.harness import Result, Task
from experiments.bench.peers import BATCH_NORM_EPSILON

RUNNING_RATIO = 0.9
BETA1, BETA2, ADAM_EPSILON = 0.9, 0.999, 1e-8


class Peer:
    """The network, its objective and its training step, from a copy of minivat's parameters."""

    def __init__(self, params: Mapping[str, np.ndarray], task: Task):
        params = {name: np.array(array) for name, array in params.items()}
        shifts = {name: array for name, array in params.items() if name.endswith("beta")}
        running = jax.tree.map(lambda a: (np.zeros_like(a), np.ones_like(a)), shifts)
        first, second = (jax.tree.map(np.zeros_like, params) for _ in range(2))
        self.state = (params, first, second, running, 0)
        self.data = jnp.asarray(task.images), jnp.asarray(task.labels), jax.random.key(task.seed)
        self.objective = partial(objective, task.regularization)
        self.update = jax.jit(partial(update, task), donate_argnums=0)

    def loss_and_gradients(self, *batch: np.ndarray) -> Result:
        """The objective and its gradients, under minivat's names."""
        with jax.enable_x64(batch[0].dtype == np.float64):
            value_and_grad = jax.jit(jax.value_and_grad(self.objective, has_aux=True))
            (loss, _), gradients = value_and_grad(self.state[0], *batch)
        return float(loss), jax.tree.map(np.asarray, gradients)

    def step(self, rows: np.ndarray) -> jax.Array:
        """One Adam step on the given rows of the images, computed to its end; the loss."""
        self.state, loss = self.update(self.state, *self.data, rows)
        return jax.block_until_ready((loss, self.state))[0]


def update(task, state, images, labels, key, rows):
    """The next (parameters, first moments, second moments, running statistics, update number)."""
    params, first, second, running, t = state
    x = images[rows]
    d = jax.random.normal(jax.random.fold_in(key, t), x.shape)
    value_and_grad = jax.value_and_grad(partial(objective, task.regularization), has_aux=True)
    (loss, statistics), gradient = value_and_grad(params, x, labels[rows], d)
    t = t + 1
    first = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, first, gradient)
    second = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, second, gradient)
    rate, scale = task.learning_rate / (1 - BETA1**t), 1 / (1 - BETA2**t)
    params = jax.tree.map(
        lambda w, m, v: w - rate * m / (jnp.sqrt(scale * v) + ADAM_EPSILON), params, first, second
    )
    bessel = len(rows) / (len(rows) - 1)
    statistics = {name: (mean, bessel * var) for name, (mean, var) in statistics.items()}
    running = jax.tree.map(
        lambda old, new: RUNNING_RATIO * old + (1 - RUNNING_RATIO) * new, running, statistics
    )
    return (params, first, second, running, t), loss


def objective(regularization, params, x, labels, d):
    """NLL + alpha LDS at the perturbation found from the direction d; the clean statistics."""
    logits, statistics = network(params, x)
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()

    clean = jax.lax.stop_gradient(jax.nn.log_softmax(logits))
    frozen = jax.lax.stop_gradient(params)
    xi = regularization.power_iteration.xi
    hd = jax.grad(lambda r: kl(clean, network(frozen, x + r)[0]))(xi * unit(d))
    r = regularization.epsilon * unit(hd)
    return nll + regularization.alpha * kl(clean, network(params, x + r)[0]), statistics


def network(params, x):
    """Logits of a batch under its own statistics, and these statistics by the norm's shift."""
    statistics = {}
    last = len(params) // 4
    for i in range(1, last + 1):
        x = x @ params[f"dense{i}.weight"] + params[f"dense{i}.bias"]
        mean, var = x.mean(axis=0), x.var(axis=0)
        statistics[f"norm{i}.beta"] = mean, var
        x = (x - mean) * jax.lax.rsqrt(var + BATCH_NORM_EPSILON)
        x = x * params[f"norm{i}.gamma"] + params[f"norm{i}.beta"]
        if i < last:
            x = jax.nn.relu(x)
    return x, statistics


def unit(d):
    """Rows of length one; the division by the largest entry keeps tiny rows from underflowing."""
    d = d / jnp.abs(d).max(axis=1, keepdims=True)
    return d / jnp.linalg.norm(d, axis=1, keepdims=True)


def kl(clean, logits):
    """Mean KL(p || q) of a batch from log p and the logits of q."""
    return (jnp.exp(clean) * (clean - jax.nn.log_softmax(logits))).sum(axis=1).mean()
