"""Layers and networks."""

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
from .network import Network, mlp, pack, unpack

__all__ = [
    "BatchNorm",
    "Context",
    "Dense",
    "Dropout",
    "GaussianNoise",
    "Layer",
    "LeakyReLU",
    "Network",
    "ReLU",
    "Tanh",
    "mlp",
    "pack",
    "unpack",
]
