"""Layers: small frozen objects that hold no arrays.

`layer.init(generator, dtype)` draws its parameters and its state (running statistics); calling
`layer(params, x, state, context)` returns its output and the entries of the state that change.
Parameters and state are dicts of named arrays shared by all layers of a network; each layer reads
the entries that begin with its own name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from math import sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from .. import ops
from ..backend import RandomStream, compiled
from ..kernels import loops
from ..ops.windows import Padding, Pair, resolve_pair
from ..typing import Array, Arrays, RawArray, RawArrays

# Of a layer, with the entries of the state that this pass changes.
Output: TypeAlias = tuple[Array, Arrays]


@dataclass(frozen=True)
class Context:
    """What a forward pass needs to know in addition to parameters and state.

    statistics: "batch" normalizes with the mean and variance of this batch, and moves the running
        ones; "running" uses the running ones and leaves them alone.
    noise: dropout masks and Gaussian noise by layer, from `Network.draw_noise`. All passes of one
        update share them, or D[p(x), p(x + r)] would not vanish at r = 0. Empty: none (evaluation).
    decay: how much of the running statistics is kept; None: what the layer says.
    """

    statistics: str = "batch"
    noise: Arrays = field(default_factory=dict)
    decay: float | None = None


class Layer(ABC):
    """A layer without parameters, state or noise; the others override what they have."""

    def init(self, generator: np.random.Generator, dtype: DTypeLike) -> tuple[RawArrays, RawArrays]:
        """Fresh parameters and state, NumPy arrays of `dtype`."""
        return {}, {}

    def draw_noise(self, stream: RandomStream, batch_size: int, dtype: DTypeLike) -> RawArrays:
        """This update's mask or noise under the layer's name, if the layer has any."""
        return {}

    @abstractmethod
    def __call__(self, params: Arrays, x: Array, state: Arrays, context: Context) -> Output:
        """The output, and the entries of the state that this pass changes."""


class Function(Layer):
    """A layer that is a function of its input alone; `function` says which."""

    @abstractmethod
    def function(self, x: Array) -> Array:
        """The output."""

    def __call__(self, params: Arrays, x: Array, state: Arrays, context: Context) -> Output:
        return self.function(x), {}


@dataclass(frozen=True)
class Dense(Layer):
    """x W + b. W ~ N(0, gain / inputs), b = 0.

    gain: 1 in the authors' MNIST code; 2 is He initialisation.
    """

    name: str
    inputs: int
    outputs: int
    gain: float = 1.0

    def init(self, generator: np.random.Generator, dtype: DTypeLike) -> tuple[RawArrays, RawArrays]:
        weight = generator.standard_normal((self.inputs, self.outputs))
        return {
            f"{self.name}.weight": (weight / sqrt(self.inputs / self.gain)).astype(dtype),
            f"{self.name}.bias": np.zeros(self.outputs, dtype),
        }, {}

    def __call__(self, params: Arrays, x: Array, state: Arrays, context: Context) -> Output:
        if x.shape[1:] != (self.inputs,):
            raise ValueError(f"{self.name}: inputs must be (N, {self.inputs}), got {x.shape}")
        return x @ params[f"{self.name}.weight"] + params[f"{self.name}.bias"], {}


@dataclass(frozen=True)
class Conv2d(Layer):
    """The convolution of images (N, H, W, inputs) with kernels (h, w, inputs, outputs).

    kernel: the kernels' height and width, or both as one number. stride, padding: as `ops.conv2d`
        takes them. bias: whether each channel has one.
    W ~ N(0, 2 / (h w inputs)), b = 0 (He et al., arXiv 1502.01852, eq. 10). The authors' TensorFlow
    code has the same variance to 0.6 %, of a normal distribution cut off at two of its deviations.
    """

    name: str
    inputs: int
    outputs: int
    kernel: Pair = 3
    stride: Pair = 1
    padding: Padding = "same"
    bias: bool = False

    def init(self, generator: np.random.Generator, dtype: DTypeLike) -> tuple[RawArrays, RawArrays]:
        height, width = resolve_pair(self.name, "kernel", self.kernel)
        weight = generator.standard_normal((height, width, self.inputs, self.outputs))
        weight *= sqrt(2 / (height * width * self.inputs))
        params = {f"{self.name}.weight": weight.astype(dtype)}
        if self.bias:
            params[f"{self.name}.bias"] = np.zeros(self.outputs, dtype)
        return params, {}

    def __call__(self, params: Arrays, x: Array, state: Arrays, context: Context) -> Output:
        if len(x.shape) != 4 or x.shape[3] != self.inputs:
            raise ValueError(
                f"{self.name}: images must be (N, height, width, {self.inputs}), got {x.shape}"
            )
        y = ops.conv2d(x, params[f"{self.name}.weight"], self.stride, self.padding)
        return (y + params[f"{self.name}.bias"] if self.bias else y), {}


@dataclass(frozen=True)
class MaxPool2d(Function):
    """The largest element of each channel in every window; arguments as `ops.max_pool2d`'s."""

    window: Pair = 2
    stride: Pair | None = None
    padding: Padding = "valid"

    def function(self, x: Array) -> Array:
        return ops.max_pool2d(x, self.window, self.stride, self.padding)


@dataclass(frozen=True)
class AvgPool2d(Function):
    """The mean of each channel in every window; arguments as `ops.avg_pool2d`'s."""

    window: Pair = 2
    stride: Pair | None = None
    padding: Padding = "valid"

    def function(self, x: Array) -> Array:
        return ops.avg_pool2d(x, self.window, self.stride, self.padding)


@dataclass(frozen=True)
class GlobalAveragePool(Function):
    """The mean of each channel: (N, H, W, C) ↦ (N, C)."""

    def function(self, x: Array) -> Array:
        return ops.mean(x, axis=(1, 2))


@dataclass(frozen=True)
class BatchNorm(Layer):
    """φ(γ (x − mean) / √(var + epsilon) + β) for each unit (Ioffe and Szegedy, arXiv 1502.03167).

    A unit is one of the last axis: mean and var are those of all the others, for images (N, H, W,
    C) those of a channel over all positions. The biased variance of the batch normalizes; the
    unbiased one goes into the running variance, which keeps `decay` of its old value at every
    update.
    slope: of the leaky ReLU φ for negative arguments, in [0, 1]; 0: a ReLU; 1: without φ.
    """

    name: str
    units: int
    epsilon: float = 1e-6
    decay: float = 0.9
    slope: float = 1.0

    def init(self, generator: np.random.Generator, dtype: DTypeLike) -> tuple[RawArrays, RawArrays]:
        return {
            f"{self.name}.gamma": np.ones(self.units, dtype),
            f"{self.name}.beta": np.zeros(self.units, dtype),
        }, {
            f"{self.name}.running_mean": np.zeros(self.units, dtype),
            f"{self.name}.running_var": np.ones(self.units, dtype),
        }

    def __call__(self, params: Arrays, x: Array, state: Arrays, context: Context) -> Output:
        gamma, beta = params[f"{self.name}.gamma"], params[f"{self.name}.beta"]
        running_mean = state[f"{self.name}.running_mean"]
        running_var = state[f"{self.name}.running_var"]
        if context.statistics == "running":
            scale = gamma / ops.sqrt(running_var + self.epsilon)
            return self._activation(x * scale + (beta - running_mean * scale)), {}
        y, *moments = ops.batch_norm(x, gamma, beta, self.epsilon, self.slope)
        mean, var = map(ops.stop_gradient, moments)
        decay = self.decay if context.decay is None else context.decay
        size = x.size // self.units
        unbiased = size / max(size - 1, 1)
        return y, {
            f"{self.name}.running_mean": _averaged(running_mean, mean, decay, 1 - decay),
            f"{self.name}.running_var": _averaged(running_var, var, decay, (1 - decay) * unbiased),
        }

    def _activation(self, y: Array) -> Array:
        if self.slope == 0:
            return ops.relu(y)
        return y if self.slope == 1 else ops.leaky_relu(y, self.slope)


@dataclass(frozen=True)
class ReLU(Function):
    """max(x, 0)."""

    def function(self, x: Array) -> Array:
        return ops.relu(x)


@dataclass(frozen=True)
class LeakyReLU(Function):
    """x where it is positive, else slope·x."""

    slope: float = 0.1

    def function(self, x: Array) -> Array:
        return ops.leaky_relu(x, self.slope)


@dataclass(frozen=True)
class Tanh(Function):
    """tanh x."""

    def function(self, x: Array) -> Array:
        return ops.tanh(x)


@dataclass(frozen=True)
class Dropout(Layer):
    """Each unit is zero with probability `rate`, else divided by 1 − rate.

    units: how many an example has; their shape, (H, W, C), for images.
    """

    name: str
    units: int | tuple[int, ...]
    rate: float

    def draw_noise(self, stream: RandomStream, batch_size: int, dtype: DTypeLike) -> RawArrays:
        kept = stream.uniform(_batch_shape(batch_size, self.units), dtype) >= self.rate
        return {self.name: kept.astype(dtype) / (1 - self.rate)}

    def __call__(self, params: Arrays, x: Array, state: Arrays, context: Context) -> Output:
        mask = _drawn(self.name, x, context)
        return (x if mask is None else x * mask), {}


@dataclass(frozen=True)
class GaussianNoise(Layer):
    """x plus noise of standard deviation `std`; units as `Dropout`'s."""

    name: str
    units: int | tuple[int, ...]
    std: float

    def draw_noise(self, stream: RandomStream, batch_size: int, dtype: DTypeLike) -> RawArrays:
        return {self.name: stream.normal(_batch_shape(batch_size, self.units), dtype) * self.std}

    def __call__(self, params: Arrays, x: Array, state: Arrays, context: Context) -> Output:
        noise = _drawn(self.name, x, context)
        return (x if noise is None else x + noise), {}


def _averaged(old: Array, new: RawArray, decay: float, share: float) -> Array:
    """decay·old + share·new."""
    if type(old) is type(new) and (loop := compiled(loops.average, old, new)):
        out, number = np.empty_like(new), new.dtype.type
        loop(old, new, number(decay), number(share), out)
        return out
    return decay * old + share * new


def _batch_shape(batch_size: int, units: int | tuple[int, ...]) -> tuple[int, ...]:
    return (batch_size, units) if isinstance(units, int) else (batch_size, *units)


def _drawn(name: str, x: Array, context: Context) -> Array | None:
    """A layer's mask or noise, None where none was drawn; ValueError where it was for other x."""
    noise = context.noise.get(name)
    if noise is not None and noise.shape != x.shape:
        raise ValueError(f"{name}: noise was drawn for inputs {noise.shape}, got {x.shape}")
    return noise
