"""Adam (Kingma and Ba, arXiv 1412.6980) and learning-rate schedules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import numpy as np

from .backend import compiled
from .kernels import loops
from .parallel import in_chunks
from .typing import RawArray, RawArrays


class AdamStep(NamedTuple):
    """The numbers of one update: floats, or arrays of one number on the device.

    gradient_scale: of g, where β₁ is not the optimizer's own.
    """

    beta1: float
    epsilon: float
    rate: float
    gradient_scale: float | None


@dataclass(frozen=True)
class Adam:
    """Adam over one flat buffer.

    The moments are `init(flat)`; `update` changes them and the parameters in place, in one compiled
    loop where Numba is installed, else in chunks that stay in the processor's cache. The learning
    rate and beta1 may change from update to update.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def init(self, flat: RawArray) -> RawArrays:
        """Both moments, zero. They are kept divided by 1 − β, which saves two passes over them."""
        return {"first_moment": np.zeros_like(flat), "second_moment": np.zeros_like(flat)}

    def update(
        self,
        flat: RawArray,
        gradient: RawArray | Sequence[RawArray],
        moments: RawArrays,
        step: int,
        learning_rate: float,
        beta1: float | None = None,
    ) -> None:
        """One update of the parameters `flat` along `gradient`, in place; algorithm 1.

        gradient: an array like `flat`, or arrays of any shapes that it consists of, in this order.
        step: 1 for the first update; the bias correction needs it.
        beta1: for this update; None: self.beta1.
        """
        self.apply(flat, gradient, moments, self.at(step, learning_rate, beta1))

    def at(self, step: int, learning_rate: float, beta1: float | None = None) -> AdamStep:
        """The numbers of an update, as in `update`."""
        default, beta2 = self.beta1, self.beta2
        scale = None if beta1 is None else (1 - beta1) / (1 - default)
        beta1 = default if beta1 is None else beta1
        # α (m / c₁) / (√(v / c₂) + ε), with all constants taken out of the arrays.
        correction1, correction2 = 1 - beta1**step, sqrt((1 - beta2**step) / (1 - beta2))
        rate = learning_rate * (1 - default) / correction1 * correction2
        return AdamStep(beta1, self.epsilon * correction2, rate, scale)

    def apply(
        self,
        flat: RawArray,
        gradient: RawArray | Sequence[RawArray],
        moments: RawArrays,
        numbers: AdamStep,
    ) -> None:
        """As `update`, with its numbers."""
        beta2, (beta1, epsilon, rate, scale) = self.beta2, numbers

        def update_chunk(
            theta: RawArray, g: RawArray, m: RawArray, v: RawArray, scratch: RawArray
        ) -> None:
            m *= beta1
            m += g if scale is None else g * scale  # m ← β₁ m + (1 − β₁) g
            v *= beta2
            np.square(g, out=scratch)
            v += scratch  # v ← β₂ v + (1 − β₂) g²
            np.sqrt(v, out=scratch)
            scratch += epsilon
            np.divide(m, scratch, out=scratch)
            scratch *= rate
            theta -= scratch  # θ ← θ − α m̂ / (√v̂ + ε)

        first, second = moments["first_moment"], moments["second_moment"]
        parts = gradient if isinstance(gradient, Sequence) else [gradient]
        share, number = 1.0 if scale is None else scale, flat.dtype.type
        # Where a CUDA graph replays the update they are arrays of one number, on the device.
        constants = [
            number(c) if isinstance(c, float) else c for c in (beta1, share, beta2, epsilon, rate)
        ]
        stop = 0
        for g in map(np.ravel, parts):
            start, stop = stop, stop + g.size
            arrays = flat[start:stop], g, first[start:stop], second[start:stop]
            if loop := compiled(loops.adam, *arrays):
                loop(*arrays, *constants)
            else:
                in_chunks(update_chunk, *arrays)


def exponential_decay(
    initial: float, rate: float = 0.9, every: int = 600
) -> Callable[[int], float]:
    """initial · rate^⌊update / every⌋, the update counted from 0 (MNIST in the authors' code)."""
    if every < 1:
        raise ValueError(f"every must be 1 or more, got {every}")
    return lambda update: initial * rate ** (update // every)


def constant_then_linear(initial: float, decay_start: int, end: int) -> Callable[[int], float]:
    """`initial` up to update `decay_start`, then linearly to 0 at `end` (SVHN and CIFAR-10)."""
    if not 0 <= decay_start < end:
        raise ValueError(f"decay_start must lie in [0, end), got {decay_start} and end {end}")

    def schedule(update: int) -> float:
        return initial * min(1.0, max(0.0, (end - update) / (end - decay_start)))

    return schedule
