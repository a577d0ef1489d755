"""Networks: layers in a row, and the paper's multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import DTypeLike

from ..backend import RandomStream
from ..typing import Array, Arrays, RawArray, RawArrays, is_integer
from .layers import (
    BatchNorm,
    Context,
    Dense,
    Dropout,
    GaussianNoise,
    Layer,
    LeakyReLU,
    ReLU,
    Tanh,
)


@dataclass(frozen=True)
class Network:
    """Layers applied one after another; the output is logits, softmax belongs to the divergence."""

    layers: tuple[Layer, ...]

    @property
    def outputs(self) -> int:
        """How many logits the network has for each example."""
        return next(layer.outputs for layer in reversed(self.layers) if isinstance(layer, Dense))

    def init(
        self, generator: np.random.Generator, dtype: DTypeLike = np.float32
    ) -> tuple[RawArrays, RawArrays]:
        """Fresh (params, state): dicts of NumPy arrays of `dtype`."""
        params: RawArrays = {}
        state: RawArrays = {}
        for layer in self.layers:
            new_params, new_state = layer.init(generator, dtype)
            params.update(new_params)
            state.update(new_state)
        return params, state

    def draw_noise(
        self, stream: RandomStream, batch_size: int, dtype: DTypeLike = np.float32
    ) -> RawArrays:
        """Dropout masks and Gaussian noise of one update, to be shared by all its passes."""
        noise: RawArrays = {}
        for layer in self.layers:
            noise.update(layer.draw_noise(stream, batch_size, dtype))
        return noise

    def __call__(
        self,
        params: Arrays,
        x: Array,
        state: Arrays,
        *,
        statistics: str = "batch",
        noise: Arrays | None = None,
        decay: float | None = None,
    ) -> tuple[Array, Arrays]:
        """Logits (N, C) for inputs (N, D), or images (N, H, W, channels), and the state after this.

        statistics: "batch" normalizes with this batch's statistics and returns a state with
            updated running ones; "running" uses the running ones and returns the state as it is.
            To leave a pass out of the running statistics, drop the new state: of an update's
            passes, only the labelled one's is kept.
        noise: from `draw_noise`; None: no dropout and no noise.
        decay: share of the running statistics that is kept; None: the layers' own.
        Raises ValueError for other statistics or inputs of the wrong shape.
        """
        if statistics not in ("batch", "running"):
            raise ValueError(f"statistics must be 'batch' or 'running', got {statistics!r}")
        context = Context(statistics, noise or {}, decay)
        changed: dict[str, Array] = {}
        for layer in self.layers:
            x, new = layer(params, x, state, context)
            changed.update(new)
        return x, {**state, **changed}


_ACTIVATIONS: dict[str, Callable[[], Layer]] = {
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "tanh": Tanh,
}
_SLOPES = {"relu": 0.0, "leaky_relu": LeakyReLU.slope}


def mlp(
    sizes: Sequence[int],
    *,
    activation: str = "relu",
    noise: float = 0.0,
    noise_place: str = "before",
    dropout: float = 0.0,
    batch_norm: bool = True,
    output_norm: bool = True,
) -> Network:
    """The paper's multilayer perceptron: dense → batch norm → activation, the last without it.

    sizes: units of every layer, inputs first, classes last; the paper's MNIST network is
        `mlp([784, 1200, 600, 300, 150, 10])`, batch norm on the output as well.
    noise: standard deviation of Gaussian noise on every hidden layer.
    noise_place: "before" or "after" the activation it is added.
    dropout: rate of dropout after every hidden activation.
    batch_norm: False leaves batch norm out; output_norm: False leaves it out on the output alone.
    Raises ValueError for fewer than two sizes or sizes that are not positive, an unknown
    activation or place, negative noise or a dropout rate outside [0, 1).
    """
    _check_mlp(sizes, activation, noise, noise_place, dropout)
    # Batch norm and the activation behind it are one operation, if nothing comes between.
    slope = _SLOPES.get(activation, 1.0) if not noise or noise_place == "after" else 1.0
    layers: list[Layer] = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        layers.append(Dense(f"dense{i}", inputs, outputs))
        if i == len(sizes) - 1:
            if batch_norm and output_norm:
                layers.append(BatchNorm(f"norm{i}", outputs))
            break
        if batch_norm:
            layers.append(BatchNorm(f"norm{i}", outputs, slope=slope))
        hidden = [_ACTIVATIONS[activation]()] if not batch_norm or slope == 1 else []
        if noise:
            place = 0 if noise_place == "before" else 1
            hidden.insert(place, GaussianNoise(f"noise{i}", outputs, noise))
        layers += hidden
        if dropout:
            layers.append(Dropout(f"dropout{i}", outputs, dropout))
    return Network(tuple(layers))


def _check_mlp(
    sizes: Sequence[int], activation: str, noise: float, noise_place: str, dropout: float
) -> None:
    if len(sizes) < 2 or not all(is_integer(n) and n > 0 for n in sizes):
        raise ValueError(
            f"sizes must be positive integers, inputs and outputs at least, got {list(sizes)}"
        )
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {list(_ACTIVATIONS)}, got {activation!r}")
    if noise_place not in ("before", "after"):
        raise ValueError(f"noise_place must be 'before' or 'after', got {noise_place!r}")
    if not 0 <= noise < np.inf or not 0 <= dropout < 1:
        raise ValueError(f"noise must be >= 0 and dropout in [0, 1), got {noise} and {dropout}")


def pack(params: RawArrays) -> tuple[RawArray, RawArrays]:
    """All arrays end to end in one flat buffer, and the dict of named views into it."""
    flat = np.concatenate([np.ravel(array) for array in params.values()])
    return flat, unpack(flat, params)


def unpack(flat: RawArray, like: Arrays) -> RawArrays:
    """Views into a flat buffer with the names and shapes of `like`."""
    views: RawArrays = {}
    start = 0
    for name, array in like.items():
        views[name] = flat[start : start + array.size].reshape(array.shape)
        start += array.size
    return views
