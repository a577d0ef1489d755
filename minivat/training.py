"""One update of training, and evaluation. Folders, logs and the loop are in runs.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import ops, vat
from .autodiff import stop_gradient, value_and_grad
from .backend import Device, host_generator
from .nn import Network, pack, unpack
from .optim import Adam

Array = Any

METHODS = ("mle", "rpt", "at-l2", "at-linf", "vat")


@dataclass(frozen=True)
class Regularization:
    """What is added to the negative log-likelihood, and how strongly.

    method: "mle" nothing; "rpt" R⁽⁰⁾ (random perturbations); "at-l2", "at-linf" adversarial
        training; "vat" R_vadv.
    epsilon: size of the perturbation (L2 norm; L∞ for at-linf), in the units of x.
    alpha: weight of the term, eq. 8. samples: perturbations averaged in an update (rpt, vat).
    power_iterations, direction, xi: see `vat.virtual_adversarial_perturbation`.
    Raises ValueError for values outside these.
    """

    method: str = "vat"
    epsilon: float = 2.1
    alpha: float = 1.0
    power_iterations: int = 1
    direction: str = "exact"
    xi: float = 1e-6
    samples: int = 1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {self.method!r}")
        if self.direction not in vat.DIRECTIONS:
            raise ValueError(f"direction must be one of {vat.DIRECTIONS}, got {self.direction!r}")
        for name in ("epsilon", "alpha", "xi"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("power_iterations", "samples"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} must be an integer from 1, got {getattr(self, name)}")

    def objective(
        self, network: vat.Network, x: Array, labels: Array, directions: list[Array]
    ) -> tuple[Array, dict[str, Array]]:
        """NLL + alpha · R (eq. 8) on one batch, both means over it; and the two terms.

        directions: standard normal arrays of x's shape, `samples` of them (rpt and vat).
        """
        match self.method:
            case "mle":
                logits, term = network(x), None
            case "at-l2" | "at-linf":
                norm = self.method.removeprefix("at-")
                r, logits = vat.adversarial_perturbation(
                    network, x, labels, self.epsilon, norm=norm
                )
                term = ops.mean(ops.cross_entropy(network(x + r), labels))
            case "rpt" | "vat":
                term, logits = vat.regularizer(
                    network,
                    x,
                    directions,
                    self.epsilon,
                    power_iterations=0 if self.method == "rpt" else self.power_iterations,
                    direction=self.direction,
                    xi=self.xi,
                )
        nll = ops.mean(ops.cross_entropy(logits, labels))
        if term is None:
            return nll, {"nll": nll, "regularizer": np.zeros_like(stop_gradient(nll))}
        return nll + self.alpha * term, {"nll": nll, "regularizer": term}


class SupervisedTrainer:
    """Supervised training of a network on one batch an update, likelihood and regularizer alike.

    images: (N, D) float32, labels: (N,) integers, on the host; they are moved to the device once,
    and on the CPU, where nothing has to move, they are used as they are.
    learning_rate: a schedule, update ↦ rate. seed: of the initial weights, the order of the
    batches, the random directions, masks and noise; each update draws its own from
    (seed, purpose, update), so the update's number is all there is to a generator's state.

    `arrays` holds everything that training changes, on the device and changed in place: copying
    them is a checkpoint, writing into them restores one.
    """

    def __init__(
        self,
        network: Network,
        device: Device,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        regularization: Regularization,
        learning_rate: Callable[[int], float],
        seed: int,
        batch_size: int = 100,
        optimizer: Adam = Adam(),  # noqa: B008  frozen, without state
    ):
        if images.dtype not in (np.float32, np.float64):
            raise ValueError(f"images must be float32 or float64, got {images.dtype}")
        if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
            raise ValueError(
                f"labels must be {len(images)} integers, one for each image, "
                f"got {labels.dtype} of shape {labels.shape}"
            )
        classes = network.outputs
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"labels must lie in [0, {classes}), got {labels.min()} to {labels.max()}"
            )
        if not 1 < batch_size <= len(images):
            raise ValueError(f"batch_size must lie in [2, {len(images)}], got {batch_size}")
        self.network = network
        self.device = device
        self.regularization = regularization
        self.learning_rate = learning_rate
        self.seed = seed
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.images = device.asarray(images)
        self.labels = device.asarray(labels)
        self._order: tuple[int, Array] = (-1, None)

        params, state = network.init(host_generator(seed, "init"), images.dtype)
        flat, _ = pack(params)
        flat = device.asarray(flat)
        self.params = unpack(flat, params)
        self.state = {name: device.asarray(array) for name, array in state.items()}
        self.arrays = {"params": flat, **optimizer.init(flat), **self.state}
        self._gradient = np.empty_like(flat)

    def batch(self, update: int) -> Array:
        """Indices of the update's examples: every epoch is a fresh permutation, without a rest."""
        per_epoch = len(self.images) // self.batch_size
        epoch, position = divmod(update, per_epoch)
        if self._order[0] != epoch:
            order = host_generator(self.seed, "batches", epoch).permutation(len(self.images))
            self._order = (epoch, self.device.asarray(order))
        start = position * self.batch_size
        return self._order[1][start : start + self.batch_size]

    def step(self, update: int) -> dict[str, Array]:
        """One update, counted from 0: the objective's terms before it, as 0-d arrays."""
        indices = self.batch(update)
        x, labels = self.images[indices], self.labels[indices]
        noise = self.network.draw_noise(
            self.device.random(self.seed, "noise", update), self.batch_size, x.dtype
        )
        directions = self._directions(update, x)
        states = []

        def objective(params: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
            def network(x: Array) -> Array:
                logits, state = self.network(params, x, self.state, noise=noise)
                states.append(state)
                return logits

            return self.regularization.objective(network, x, labels, directions)

        (_, terms), gradient = value_and_grad(objective, has_aux=True)(self.params)
        np.concatenate([np.ravel(g) for g in gradient.values()], out=self._gradient)
        self.optimizer.update(
            self.arrays["params"],
            self._gradient,
            self.arrays,
            update + 1,
            self.learning_rate(update),
        )
        # The first pass is the labelled one; the regularizer's passes leave no statistics.
        for name, array in states[0].items():
            self.state[name][...] = array
        return {name: stop_gradient(term) for name, term in terms.items()}

    def _directions(self, update: int, x: Array) -> list[Array]:
        if self.regularization.method not in ("rpt", "vat"):
            return []
        stream = self.device.random(self.seed, "directions", update)
        return [stream.normal(x.shape, x.dtype) for _ in range(self.regularization.samples)]

    def error(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Share of wrong predictions with the running statistics, in percent."""
        wrong = 0
        for start in range(0, len(images), 1000):
            part = slice(start, start + 1000)
            logits = self._evaluate(self.device.asarray(images[part]))
            wrong += int(np.sum(self.device.to_host(logits).argmax(axis=1) != labels[part]))
        return 100.0 * wrong / len(images)

    def r_vadv(self, images: np.ndarray, epsilon: float = 2.0) -> float:
        """R_vadv on these images with the running statistics: exact direction, K = 1; figure 2.

        The same for all methods and at any time, since the random directions are always the same.
        """
        x = self.device.asarray(images)
        d = self.device.random(0, "r_vadv").normal(x.shape, x.dtype)
        value, _ = vat.regularizer(self._evaluate, x, [d], epsilon)
        return float(self.device.to_host(value))

    def _evaluate(self, x: Array) -> Array:
        return self.network(self.params, x, self.state, statistics="running")[0]

    def reestimate_statistics(self) -> None:
        """Set the running statistics to their mean over all batches of the training set.

        As the authors' MNIST code does at the end of training: each batch is normalized by its own
        statistics, and the k-th keeps (k − 1)/k of the average so far. Images that do not fill a
        last batch are left out.
        """
        batches = len(self.images) // self.batch_size
        for k in range(batches):
            x = self.images[k * self.batch_size : (k + 1) * self.batch_size]
            _, state = self.network(self.params, x, self.state, decay=k / (k + 1))
            for name, array in state.items():
                self.state[name][...] = array
