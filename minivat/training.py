"""Training: the batches, one update, and evaluation."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from . import vat
from .autodiff import stop_gradient, value_and_grad
from .backend import Device, RandomStream, host_generator, keep_freed_memory
from .divergence import Categorical, categorical
from .nn import Network, pack, unpack
from .objective import Regularization
from .optim import Adam, AdamStep
from .parallel import in_parallel
from .replay import Replay
from .targets import Batch, Targets
from .typing import Array, Arrays, Divergence, RawArray, RawArrays

Augment: TypeAlias = Callable[[RawArray, RandomStream], RawArray]

EVALUATED = 50  # images at once: a large convolutional network's activations fit in memory
EVALUATED_ROWS = 1000  # vectors: their products are faster


class Batches:
    """Every update's examples: consecutive slices of an endless sequence of permutations.

    `batches(update)` gives `size` of the indices of `count` examples, on the device. Every epoch is
    a fresh permutation; if the size does not divide the count, a batch may begin in one epoch and
    end in the next. It depends on (seed, purpose, update) alone.
    Raises ValueError, naming the option `name`, unless the size is from 2 to the count.
    """

    def __init__(self, device: Device, seed: int, purpose: str, count: int, size: int, name: str):
        if not 1 < size <= count:
            raise ValueError(f"{name} must lie in [2, {count}], got {size}")
        self.count = count
        self.size = size
        self._device, self._seed, self._purpose = device, seed, purpose
        self._order = -1, np.empty(0, int)  # of the last epoch asked for

    def __call__(self, update: int) -> RawArray:
        epoch, start = divmod(update * self.size, self.count)
        indices = self._epoch(epoch)[start : start + self.size]
        missing = self.size - len(indices)
        return np.concatenate([indices, self._epoch(epoch + 1)[:missing]]) if missing else indices

    def parts(self, update: int) -> list[slice]:
        """The parts of a batch that are of one epoch each, in which no example is twice."""
        left = self.count - update * self.size % self.count
        parts = [slice(0, min(left, self.size)), slice(left, self.size)]
        return parts if left < self.size else parts[:1]

    def _epoch(self, epoch: int) -> RawArray:
        if self._order[0] != epoch:
            order = host_generator(self._seed, self._purpose, epoch).permutation(self.count)
            self._order = epoch, self._device.asarray(order)
        return self._order[1]


class Source:
    """A set of images, in batches, one per update, as all passes of the update see them.

    prefix: "unlabelled " or nothing; the names of its random streams and options begin with it.
    """

    def __init__(
        self,
        network: Network,
        device: Device,
        images: RawArray,
        batch_size: int,
        augment: Augment | None,
        seed: int,
        prefix: str = "",
    ):
        self.network = network
        self.device = device
        self.images = device.asarray(images)
        self.augment = augment
        self.seed = seed
        self.prefix = prefix
        option = f"{prefix}batch_size".replace(" ", "_")
        self.batches = Batches(device, seed, f"{prefix}batches", len(images), batch_size, option)

    def __call__(
        self, update: int | RawArray, indices: RawArray, which: str = ""
    ) -> tuple[RawArray, Arrays]:
        """For an update: the images of these indices, augmented, and masks and noise.

        which: of several views of the same images, with a space at its end.
        """
        x = self.images[indices]
        if self.augment is not None:
            x = self.augment(x, self._random(f"{which}augmentation", update))
        noise = self.network.draw_noise(self._random(f"{which}noise", update), len(x), x.dtype)
        return x, noise

    def _random(self, purpose: str, update: int | RawArray) -> RandomStream:
        return self.device.random(self.seed, self.prefix + purpose, update)


class Trainer:
    """Training of a network, each update on a labelled batch, or on it and an unlabelled one.

    images: (N, ...) float32 or float64, each of the shape that the network takes; labels: what the
        divergence's `nll` takes, (N,) integers for the categorical one. On the host; they are moved
        to the device once, and on the CPU they are used without a copy.
    unlabelled: images (M, ...) without labels, the paper's 𝒟_l ∪ 𝒟_ul if it holds the labelled
        ones, too. R (rpt, vat) and the conditional entropy are then means over batches of
        `unlabelled_batch_size` of these (default: batch_size), with noise of their own. None: they
        see the labelled batch and share its clean pass.
    augment: (images, stream) ↦ new images of the same shape, at every update, each batch with a
        `RandomStream` of its own; all passes of an update see the same. None: no augmentation.
    divergence: the distribution of the outputs and the distance between two of them.
    targets: a method of `minivat.targets`, whose term on the unlabelled batches is added. It needs
        these, and the categorical divergence.
    learning_rate: a schedule, update ↦ rate. beta1: one for the optimizer's β₁; None: its own.
    seed: of the initial weights, the order of the batches, the random directions, augmentation,
        masks and noise. Each update draws its own from (seed, purpose, update), so no generator's
        state has to be kept.
    capture: on a GPU, replay the update as a CUDA graph (`replay`), unless there are targets. A
        network, or an `augment`, that copies to the host or waits for the GPU needs False.

    `arrays` holds everything that training changes, on the device and changed in place: a copy of
    them is a checkpoint, and writing into them restores one. On the CPU the process keeps the
    memory that arrays give back (`backend.keep_freed_memory`). `params` and `state` are the trained
    network's parameters and running statistics; `predictor`, the same two, are what is evaluated:
    others with a mean teacher alone. Raises ValueError for data and options that do not fit.
    """

    def __init__(
        self,
        network: Network,
        device: Device,
        images: RawArray,
        labels: RawArray,
        *,
        unlabelled: RawArray | None = None,
        regularization: Regularization,
        learning_rate: Callable[[int], float],
        seed: int,
        batch_size: int = 100,
        unlabelled_batch_size: int | None = None,
        augment: Augment | None = None,
        beta1: Callable[[int], float] | None = None,
        divergence: Divergence = categorical,
        targets: Targets | None = None,
        optimizer: Adam = Adam(),  # noqa: B008  frozen, without state
        capture: bool = True,
    ):
        if images.dtype not in (np.float32, np.float64):
            raise ValueError(f"images must be float32 or float64, got {images.dtype}")
        divergence.check_labels(labels, len(images), network.outputs)
        if labels.dtype.kind == "f":
            labels = labels.astype(images.dtype, copy=False)
        if regularization.entropy_weight:
            regularization.with_entropy(divergence)
        _check_unlabelled(images, unlabelled, unlabelled_batch_size, targets, divergence)
        if device.name == "cpu":
            keep_freed_memory()
        self.network = network
        self.device = device
        self.regularization = regularization
        self.learning_rate = learning_rate
        self.beta1 = beta1
        self.seed = seed
        self.divergence = divergence
        self.targets = targets
        self.optimizer = optimizer
        self.labels = device.asarray(labels)
        self.labelled = Source(network, device, images, batch_size, augment, seed)
        self.unlabelled = None
        if unlabelled is not None:
            size = batch_size if unlabelled_batch_size is None else unlabelled_batch_size
            self.unlabelled = Source(
                network, device, unlabelled, size, augment, seed, prefix="unlabelled "
            )

        params, state = network.init(host_generator(seed, "init"), images.dtype)
        flat, _ = pack(params)
        flat = device.asarray(flat)
        self.params = unpack(flat, params)
        self.state = {name: device.asarray(array) for name, array in state.items()}
        self.arrays = {"params": flat, **optimizer.init(flat), **self.state}
        self.predictor = self.params, self.state
        if targets is not None and self.unlabelled is not None:
            of_network = {"params": flat, **self.state}
            examples = len(self.unlabelled.images)
            self.arrays |= targets.init(of_network, examples, network.outputs)
            self.predictor = targets.predictor(self.params, self.state, self.arrays)
        self._replay = None
        if capture and device.captures and targets is None:
            self._replay = Replay(device, self._given, self._apply, images.dtype)

    def step(self, update: int) -> RawArrays:
        """One update, counted from 0: the objective's terms before it, as 0-d arrays."""
        if self._replay is not None:
            return self._replay(update)
        return self._apply(update, *self._given(update))

    def _given(self, update: int) -> tuple[Any, ...]:
        """What tells an update from the others: its batches, and the optimizer's numbers."""
        two = self.regularization.uses_unlabelled or self.targets is not None
        others = self.unlabelled if two else None
        beta1 = None if self.beta1 is None else self.beta1(update)
        return (
            self.labelled.batches(update),
            None if others is None else others.batches(update),
            *self.optimizer.at(update + 1, self.learning_rate(update), beta1),
        )

    def _apply(
        self, update: int | RawArray, indices: RawArray, others: RawArray | None, *numbers: Any
    ) -> RawArrays:
        """The update, by operations on the device alone, none of which depends on a value of it."""
        x, noise = self.labelled(update, indices)
        labels = self.labels[indices]
        # The inputs of the terms without labels: a second batch, or the same one.
        second, second_noise, two = x, noise, False
        if self.unlabelled is not None and others is not None:
            (second, second_noise), two = self.unlabelled(update, others), True
        stream = self.device.random(self.seed, "directions", update)
        half = self.regularization.half_iteration
        shape = (len(second), self.network.outputs) if half else second.shape
        count = self.regularization.random_directions
        directions = [stream.normal(shape, second.dtype) for _ in range(count)]
        states: list[Arrays] = []
        seen: list[tuple[RawArray, Batch]] = []

        def objective(params: Arrays) -> tuple[Array, dict[str, Array]]:
            def model(x: Array) -> Array:
                logits, state = self.network(params, x, self.state, noise=noise)
                states.append(state)
                return logits

            def unlabelled_model(x: Array, params: Arrays = params) -> Array:
                return self.network(params, x, self.state, noise=second_noise)[0]

            return self.regularization.objective(
                model,
                x,
                labels,
                directions,
                unlabelled=(unlabelled_model, second) if two else None,
                constant=partial(unlabelled_model, params=self.params),
                consistency=self._consistency(others, params, update, seen),
                divergence=self.divergence,
            )

        (_, terms), gradient = value_and_grad(objective, has_aux=True)(self.params)
        parts = list(gradient.values())
        self.optimizer.apply(self.arrays["params"], parts, self.arrays, AdamStep(*numbers))
        # The first pass is the labelled one; the regularizer's passes leave no statistics.
        for name, array in states[0].items():
            self.state[name][...] = array
        if self.targets is not None:
            self.targets.remember(*seen[0], self.arrays, operator.index(update))
        return {name: stop_gradient(term) for name, term in terms.items()}

    def _consistency(
        self,
        rows: RawArray | None,
        params: Arrays,
        update: int | RawArray,
        seen: list[tuple[RawArray, Batch]],
    ) -> tuple[float, Callable[[Array], Array]] | None:
        """What the targets add to the objective; what it is given is appended to `seen`."""
        targets, source = self.targets, self.unlabelled
        if targets is None or source is None or rows is None:
            return None
        number = operator.index(update)  # on the host: with targets nothing is recorded

        def another_pass(params: Arrays) -> Array:
            x, noise = source(update, rows, "other ")
            return self.network(params, x, self.state, noise=noise)[0]

        batch = Batch(rows, source.batches.parts(number), params, another_pass)

        def distance(logits: Array) -> Array:
            seen.append((stop_gradient(logits), batch))
            return targets.loss(logits, batch, self.arrays)

        return targets.weight(number), distance

    def error(self, images: RawArray, labels: RawArray) -> float:
        """Percentage of wrong predictions, with the running statistics; for classes only.

        Raises ValueError unless labels are integers (N,).
        """
        if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
            raise ValueError(
                f"labels must be {len(images)} integers, the classes, "
                f"got {labels.dtype} of shape {labels.shape}"
            )

        def wrong(chunk: slice) -> int:
            logits = self.device.to_host(self._evaluate(self.device.asarray(images[chunk])))
            # A single logit is that of label 1.
            predicted = logits.argmax(axis=1) if logits.shape[1] > 1 else logits[:, 0] > 0
            return int(np.sum(predicted != labels[chunk]))

        return 100.0 * sum(self._chunk_by_chunk(wrong, images)) / len(images)

    def r_vadv(self, images: RawArray, epsilon: float = 2.0) -> float:
        """R_vadv on these images with the running statistics: exact direction, K = 1; figure 2.

        The same for all methods and at any time, since the random directions are always the same.
        """
        d = self.device.random(0, "r_vadv").normal(images.shape, images.dtype)

        def total(chunk: slice) -> Array:
            x = self.device.asarray(images[chunk])
            mean, _ = vat.regularizer(
                self._evaluate, x, [d[chunk]], epsilon, divergence=self.divergence
            )
            return mean * len(x)

        whole: Any = sum(self._chunk_by_chunk(total, images), start=0.0)
        return float(self.device.to_host(whole)) / len(images)

    def _chunk_by_chunk(self, work: Callable[[slice], Any], images: RawArray) -> list[Any]:
        """[work(chunk), ...], for images that are evaluated together.

        Each of the CPU's threads takes a chunk of its own through the whole network: 0.9 of the
        time of sharing every product of vectors, 0.7 of sharing every operation on images.
        """
        size = EVALUATED_ROWS if images.ndim == 2 else EVALUATED
        chunks = [slice(start, start + size) for start in range(0, len(images), size)]

        def some(first: int, last: int) -> list[Any]:
            return [work(chunk) for chunk in chunks[first:last]]

        if self.device.name != "cpu":
            return some(0, len(chunks))
        return [each for part in in_parallel(some, len(chunks)) for each in part]

    def _evaluate(self, x: Array) -> Array:
        params, state = self.predictor
        return self.network(params, x, state, statistics="running")[0]

    def reestimate_statistics(self) -> None:
        """Set the running statistics to their mean over batches of all images.

        Of the unlabelled images, if there are any. As the authors' MNIST code does at the end of
        training: each batch is normalized by its own statistics, without noise and augmentation,
        and the k-th keeps (k − 1)/k of the average so far. The convolutional nets' dropout is left
        out as well, which is our choice: evaluation has none either. The batches are random, since
        images may be sorted by class, and a little larger if the size does not divide their number.
        """
        source = self.labelled if self.unlabelled is None else self.unlabelled
        params, running = self.predictor
        images, size = source.images, source.batches.size
        order = host_generator(self.seed, "statistics").permutation(len(images))
        for k, batch in enumerate(np.array_split(order, len(images) // size)):
            x = images[self.device.asarray(batch)]
            _, state = self.network(params, x, running, decay=k / (k + 1))
            for name, array in state.items():
                running[name][...] = array


def _check_unlabelled(
    images: RawArray,
    unlabelled: RawArray | None,
    batch_size: int | None,
    targets: Targets | None,
    divergence: Divergence,
) -> None:
    """ValueError unless the unlabelled images, and what is for them alone, fit."""
    if unlabelled is None and batch_size is not None:
        raise ValueError(
            f"unlabelled_batch_size must be None without unlabelled images, got {batch_size}"
        )
    if unlabelled is not None and (
        unlabelled.shape[1:] != images.shape[1:] or unlabelled.dtype != images.dtype
    ):
        raise ValueError(
            f"unlabelled must be like images, {images.dtype} of shape {images.shape} except "
            f"for their number, got {unlabelled.dtype} of shape {unlabelled.shape}"
        )
    if targets is not None and unlabelled is None:
        raise ValueError(f"targets must be None without unlabelled images, got {targets}")
    if targets is not None and not isinstance(divergence, Categorical):
        raise ValueError(
            f"targets must be None unless the divergence is categorical, got {targets}"
        )
