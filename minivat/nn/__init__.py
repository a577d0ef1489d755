"""Layers and networks."""

from .images import conv_large, conv_small
from .layers import (
    AvgPool2d,
    BatchNorm,
    Context,
    Conv2d,
    Dense,
    Dropout,
    Function,
    GaussianNoise,
    GlobalAveragePool,
    Layer,
    LeakyReLU,
    MaxPool2d,
    ReLU,
    Tanh,
)
from .network import Network, mlp, pack, unpack

__all__ = [
    "AvgPool2d",
    "BatchNorm",
    "Context",
    "Conv2d",
    "Dense",
    "Dropout",
    "Function",
    "GaussianNoise",
    "GlobalAveragePool",
    "Layer",
    "LeakyReLU",
    "MaxPool2d",
    "Network",
    "ReLU",
    "Tanh",
    "conv_large",
    "conv_small",
    "mlp",
    "pack",
    "unpack",
]
