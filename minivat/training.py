"""One update of training, and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from . import ops, vat
from .autodiff import stop_gradient, value_and_grad
from .backend import Device, RandomStream, host_generator
from .divergence import categorical
from .nn import Network, pack, unpack
from .optim import Adam

Array = Any

METHODS = ("mle", "rpt", "at-l2", "at-linf", "vat")
EVALUATED = 100  # images at once: a large convolutional network's activations fit in memory


@dataclass(frozen=True)
class Regularization:
    """What is added to the negative log-likelihood, and how strongly.

    method: "mle" nothing; "rpt" R⁽⁰⁾ (random perturbations); "at-l2", "at-linf" adversarial
        training; "vat" R_vadv.
    epsilon: size of the perturbation (L2 norm; L∞ for at-linf), in the units of x.
    alpha: weight of the term, eq. 8. samples: perturbations averaged in an update (rpt, vat).
    power_iterations, direction, xi: see `vat.virtual_adversarial_perturbation`.
    entropy_weight: weight of the conditional entropy, eq. 18, whatever the method; the paper's
        VAT+EntMin has 1. 0: without it.
    Raises ValueError for values outside these.
    """

    method: str = "vat"
    epsilon: float = 2.1
    alpha: float = 1.0
    power_iterations: float = 1
    direction: str = "exact"
    xi: float = 1e-6
    samples: int = 1
    entropy_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {self.method!r}")
        if self.direction not in vat.DIRECTIONS:
            raise ValueError(f"direction must be one of {vat.DIRECTIONS}, got {self.direction!r}")
        for name in ("epsilon", "alpha", "xi"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        k = self.power_iterations
        if k != 0.5 and not (_is_integer(k) and k >= 0):
            raise ValueError(f"power_iterations must be 0.5 or 0, 1, 2, ..., got {k}")
        if k == 0.5 and self.direction != "exact":
            raise ValueError(
                f"direction must be 'exact' with power_iterations 0.5, got {self.direction!r}"
            )
        if not _is_integer(self.samples) or self.samples < 1:
            raise ValueError(f"samples must be an integer from 1, got {self.samples}")
        if not 0 <= self.entropy_weight < np.inf:
            raise ValueError(f"entropy_weight must be 0 or more, got {self.entropy_weight}")

    @property
    def directions(self) -> int:
        """How many random directions an update needs."""
        return self.samples if self.method in ("rpt", "vat") else 0

    @property
    def half_iteration(self) -> bool:
        """Whether the random directions have the logits' shape (`vat.half_product`)."""
        return self.method == "vat" and self.power_iterations == 0.5

    @property
    def unlabelled(self) -> bool:
        """Whether any term is one that needs no labels."""
        return self.method in ("rpt", "vat") or self.entropy_weight > 0

    def objective(
        self,
        network: vat.Network,
        x: Array,
        labels: Array,
        directions: list[Array],
        *,
        unlabelled: tuple[vat.Network, Array] | None = None,
        divergence: vat.Divergence = categorical,
    ) -> tuple[Array, dict[str, Array]]:
        """NLL + alpha · R (eq. 8) + entropy_weight · H(Y|X) (eq. 18), and each of the terms.

        All are means over a batch: the NLL and adversarial training, which need labels, over
        (x, labels), the others over the inputs in `unlabelled`, with the network that sees them
        (its noise is another). None: over x as well, and all terms share one clean pass.
        directions: standard normal arrays of those inputs' shape (of the logits' shape for half
            an iteration), as many as `self.directions`.
        """
        if unlabelled is None:
            term, logits = self._regularizer(network, x, labels, directions, divergence)
            clean = logits
        elif self.method in ("at-l2", "at-linf"):
            term, logits = self._regularizer(network, x, labels, directions, divergence)
            other_network, other_x = unlabelled
            clean = other_network(other_x)
        else:
            logits = network(x)
            term, clean = self._regularizer(*unlabelled, None, directions, divergence)
        nll = ops.mean(divergence.nll(logits, labels))
        total, terms = nll, {"nll": nll, "regularizer": np.zeros_like(stop_gradient(nll))}
        if term is not None:
            terms["regularizer"] = term
            total = total + self.alpha * term
        if self.entropy_weight:
            terms["entropy"] = vat.conditional_entropy(clean, divergence)
            total = total + self.entropy_weight * terms["entropy"]
        return total, terms

    def _regularizer(
        self,
        network: vat.Network,
        x: Array,
        labels: Array | None,
        directions: list[Array],
        divergence: vat.Divergence,
    ) -> tuple[Array | None, Array]:
        """R, None for mle, and the logits of the clean pass."""
        match self.method:
            case "mle":
                return None, network(x)
            case "at-l2" | "at-linf":
                norm = self.method.removeprefix("at-")
                r, logits = vat.adversarial_perturbation(
                    network, x, labels, self.epsilon, norm=norm, divergence=divergence
                )
                return ops.mean(divergence.nll(network(x + r), labels)), logits
            case "rpt" | "vat":
                return vat.regularizer(
                    network,
                    x,
                    directions,
                    self.epsilon,
                    power_iterations=0 if self.method == "rpt" else self.power_iterations,
                    direction=self.direction,
                    xi=self.xi,
                    divergence=divergence,
                )


class Batches:
    """Every update's examples: slices, one after the other, of an endless row of permutations.

    `batches(update)` gives `size` of the indices of `count` examples, on the device. Every epoch is
    a fresh permutation; where the size does not divide the count, a batch may begin in one epoch
    and end in the next. It depends on (seed, purpose, update) alone.
    Raises ValueError, naming the option `name`, unless the size is from 2 to the count.
    """

    def __init__(self, device: Device, seed: int, purpose: str, count: int, size: int, name: str):
        if not 1 < size <= count:
            raise ValueError(f"{name} must lie in [2, {count}], got {size}")
        self.count = count
        self.size = size
        self._permutation = lambda epoch: device.asarray(
            host_generator(seed, purpose, epoch).permutation(count)
        )
        self._order: tuple[int, Array] = (-1, None)

    def __call__(self, update: int) -> Array:
        epoch, start = divmod(update * self.size, self.count)
        indices = self._epoch(epoch)[start : start + self.size]
        missing = self.size - len(indices)
        return np.concatenate([indices, self._epoch(epoch + 1)[:missing]]) if missing else indices

    def _epoch(self, epoch: int) -> Array:
        if self._order[0] != epoch:
            self._order = (epoch, self._permutation(epoch))
        return self._order[1]


class Trainer:
    """Training of a network on a batch of labelled examples an update, or on that and another.

    images: (N, ...) float32 or float64, each of the shape that the network takes; labels: what the
        divergence's `nll` takes, (N,) integers for the categorical one. On the host; they are moved
        to the device once, and on the CPU, where nothing has to move, they are used as they are.
    unlabelled: images (M, ...) without labels, the paper's 𝒟_l ∪ 𝒟_ul where it holds the labelled
        ones too. R (rpt, vat) and the conditional entropy are then means over batches of
        `unlabelled_batch_size` of these (default: batch_size), with noise of their own. None: they
        see the labelled batch and share its clean pass.
    augment: (images, stream) ↦ images, new ones of the same shape at every update, for each batch
        with a `RandomStream` of its own; all passes of an update see the same. None: as they are.
    divergence: the distribution of the outputs and the distance between two of them.
    learning_rate: a schedule, update ↦ rate. beta1: one for the optimizer's β₁; None: its own.
    seed: of the initial weights, the order of the batches, the random directions, augmentation,
        masks and noise; each update draws its own from (seed, purpose, update), so the update's
        number is all there is to a generator's state.

    `arrays` holds everything that training changes, on the device and changed in place: copying
    them is a checkpoint, writing into them restores one. Raises ValueError for data and options
    that do not fit.
    """

    def __init__(
        self,
        network: Network,
        device: Device,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        unlabelled: np.ndarray | None = None,
        regularization: Regularization,
        learning_rate: Callable[[int], float],
        seed: int,
        batch_size: int = 100,
        unlabelled_batch_size: int | None = None,
        augment: Callable[[Array, RandomStream], Array] | None = None,
        beta1: Callable[[int], float] | None = None,
        divergence: vat.Divergence = categorical,
        optimizer: Adam = Adam(),  # noqa: B008  frozen, without state
    ):
        if images.dtype not in (np.float32, np.float64):
            raise ValueError(f"images must be float32 or float64, got {images.dtype}")
        divergence.check_labels(labels, len(images), network.outputs)
        if labels.dtype.kind == "f":
            labels = labels.astype(images.dtype, copy=False)
        if regularization.entropy_weight and not hasattr(divergence, "entropy"):
            raise ValueError(
                "entropy_weight must be 0 for outputs whose entropy is constant, "
                f"got {regularization.entropy_weight}"
            )
        if unlabelled is None and unlabelled_batch_size is not None:
            raise ValueError(
                "unlabelled_batch_size must be None where there are no unlabelled images, "
                f"got {unlabelled_batch_size}"
            )
        self.network = network
        self.device = device
        self.regularization = regularization
        self.augment = augment
        self.learning_rate = learning_rate
        self.beta1 = beta1
        self.seed = seed
        self.divergence = divergence
        self.optimizer = optimizer
        self.images = device.asarray(images)
        self.labels = device.asarray(labels)
        self.batches = Batches(device, seed, "batches", len(images), batch_size, "batch_size")
        self.unlabelled = self.unlabelled_batches = None
        if unlabelled is not None:
            if unlabelled.shape[1:] != images.shape[1:] or unlabelled.dtype != images.dtype:
                raise ValueError(
                    f"unlabelled must be like images, {images.dtype} of shape {images.shape} but "
                    f"for their number, got {unlabelled.dtype} of shape {unlabelled.shape}"
                )
            self.unlabelled = device.asarray(unlabelled)
            self.unlabelled_batches = Batches(
                device,
                seed,
                "unlabelled batches",
                len(unlabelled),
                batch_size if unlabelled_batch_size is None else unlabelled_batch_size,
                "unlabelled_batch_size",
            )

        params, state = network.init(host_generator(seed, "init"), images.dtype)
        flat, _ = pack(params)
        flat = device.asarray(flat)
        self.params = unpack(flat, params)
        self.state = {name: device.asarray(array) for name, array in state.items()}
        self.arrays = {"params": flat, **optimizer.init(flat), **self.state}
        self._gradient = np.empty_like(flat)

    def step(self, update: int) -> dict[str, Array]:
        """One update, counted from 0: the objective's terms before it, as 0-d arrays."""
        indices = self.batches(update)
        x, labels = self.images[indices], self.labels[indices]
        x = self._augmented("augmentation", update, x)
        noise = self._noise("noise", update, x)
        # The inputs of the terms without labels: a second batch, or the same one.
        second, second_noise = x, None
        two = self.unlabelled is not None and self.regularization.unlabelled
        if two:
            second = self.unlabelled[self.unlabelled_batches(update)]
            second = self._augmented("unlabelled augmentation", update, second)
            second_noise = self._noise("unlabelled noise", update, second)
        stream = self.device.random(self.seed, "directions", update)
        half = self.regularization.half_iteration
        shape = (len(second), self.network.outputs) if half else second.shape
        directions = [
            stream.normal(shape, second.dtype) for _ in range(self.regularization.directions)
        ]
        states = []

        def objective(params: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
            def network(x: Array) -> Array:
                logits, state = self.network(params, x, self.state, noise=noise)
                states.append(state)
                return logits

            def unlabelled_network(x: Array) -> Array:
                return self.network(params, x, self.state, noise=second_noise)[0]

            return self.regularization.objective(
                network,
                x,
                labels,
                directions,
                unlabelled=(unlabelled_network, second) if two else None,
                divergence=self.divergence,
            )

        (_, terms), gradient = value_and_grad(objective, has_aux=True)(self.params)
        np.concatenate([np.ravel(g) for g in gradient.values()], out=self._gradient)
        self.optimizer.update(
            self.arrays["params"],
            self._gradient,
            self.arrays,
            update + 1,
            self.learning_rate(update),
            None if self.beta1 is None else self.beta1(update),
        )
        # The first pass is the labelled one; the regularizer's passes leave no statistics.
        for name, array in states[0].items():
            self.state[name][...] = array
        return {name: stop_gradient(term) for name, term in terms.items()}

    def _augmented(self, purpose: str, update: int, x: Array) -> Array:
        """A batch as all passes of an update see it."""
        if self.augment is None:
            return x
        return self.augment(x, self.device.random(self.seed, purpose, update))

    def _noise(self, purpose: str, update: int, x: Array) -> dict[str, Array]:
        """Masks and noise that all passes of these inputs share in an update."""
        stream = self.device.random(self.seed, purpose, update)
        return self.network.draw_noise(stream, len(x), x.dtype)

    def error(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Share of wrong predictions with the running statistics, in percent; for classes only."""
        wrong = 0
        for part in _parts(images):
            logits = self.device.to_host(self._evaluate(self.device.asarray(images[part])))
            # A single logit is that of label 1.
            predicted = logits.argmax(axis=1) if logits.shape[1] > 1 else logits[:, 0] > 0
            wrong += int(np.sum(predicted != labels[part]))
        return 100.0 * wrong / len(images)

    def r_vadv(self, images: np.ndarray, epsilon: float = 2.0) -> float:
        """R_vadv on these images with the running statistics: exact direction, K = 1; figure 2.

        The same for all methods and at any time, since the random directions are always the same.
        """
        d = self.device.random(0, "r_vadv").normal(images.shape, images.dtype)
        total = 0.0
        for part in _parts(images):
            x = self.device.asarray(images[part])
            value, _ = vat.regularizer(
                self._evaluate, x, [d[part]], epsilon, divergence=self.divergence
            )
            total = total + value * len(x)
        return float(self.device.to_host(total)) / len(images)

    def _evaluate(self, x: Array) -> Array:
        return self.network(self.params, x, self.state, statistics="running")[0]

    def reestimate_statistics(self) -> None:
        """Set the running statistics to their mean over batches of all images.

        The unlabelled ones, where there are any. As the authors' MNIST code does at the end of
        training: each batch is normalized by its own statistics, without noise and augmentation,
        and the k-th keeps (k − 1)/k of the average so far. That the convolutional nets' dropout is
        left out as well is our choice: evaluation has none either. The batches are random, for
        images may come sorted by class, and a little larger where the size does not divide their
        number.
        """
        images, size = self.images, self.batches.size
        if self.unlabelled is not None:
            images, size = self.unlabelled, self.unlabelled_batches.size
        order = host_generator(self.seed, "statistics").permutation(len(images))
        for k, batch in enumerate(np.array_split(order, len(images) // size)):
            x = images[self.device.asarray(batch)]
            _, state = self.network(self.params, x, self.state, decay=k / (k + 1))
            for name, array in state.items():
                self.state[name][...] = array


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _parts(images: np.ndarray) -> list[slice]:
    """Which images are evaluated together."""
    return [slice(start, start + EVALUATED) for start in range(0, len(images), EVALUATED)]
