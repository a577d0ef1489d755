"""Test images as networks see them and as people do, and what a network is most sensitive to."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.lab.results import Run
from minivat import backend, data, vat

CLASSES = "airplane car bird cat deer dog frog horse ship truck".split()  # of CIFAR-10
FEW = 1000  # test images to choose from


def holdout(run: Run) -> int:
    """How many training images are the test set; 0 where it is the official one."""
    return getattr(run.spec, "holdout", None) or 0


@dataclass(frozen=True)
class Scene:
    """Test images, as the networks see them and as people do.

    x, labels   what the networks see
    shape       of a picture, (height, width) in grey or (height, width, 3)
    pixels      the networks' images ↦ pictures in [0, 1]
    classes     their names
    whitened    whether the networks see whitened images
    """

    x: np.ndarray
    labels: np.ndarray
    shape: tuple[int, ...]
    pixels: Callable[[np.ndarray], np.ndarray]
    classes: Sequence[str] = "0123456789"
    whitened: bool = False


def scene(run: Run, dataset: data.Dataset, data_dir: str | None, images: int = FEW) -> Scene:
    """The first test images, so many. dataset: as the run's network sees it."""
    seen = dataset.test_images[:images], dataset.test_labels[:images], dataset.image_shape
    if dataset.name == "cifar10":
        raw = data.load(dataset.name, data_dir, holdout(run))
        zca = data.whitening.cached_zca(raw.train_images)
        return Scene(*seen, lambda x: zca.revert(x) + 0.5, CLASSES, whitened=True)
    return Scene(*seen, lambda x: x + 0.5 if dataset.name == "svhn" else x)


def perturbation(network: vat.Model, x: np.ndarray, epsilon: float) -> np.ndarray:
    """r_vadv after four exact power iterations, with the sign that moves the output more."""
    d = backend.host_generator(1, "picture").standard_normal(x.shape, dtype=x.dtype)
    r, logits = vat.virtual_adversarial_perturbation(network, x, d, epsilon, vat.PowerIteration(4))
    plus, minus = (vat.lds(network, x, sign * r, logits) for sign in (1, -1))
    worse = np.where(plus >= minus, 1, -1).astype(x.dtype)
    return r * worse.reshape(-1, *[1] * (x.ndim - 1))


def encoded(pictures: np.ndarray) -> dict[str, Any]:
    """Pictures in [0, 1], for JSON: their shape, and a byte for each number."""
    content = np.round(255 * np.clip(pictures, 0, 1)).astype(np.uint8)
    return {"shape": content.shape, "base64": base64.b64encode(content.tobytes()).decode()}


def decoded(content: dict[str, Any]) -> np.ndarray:
    """The pictures that `encoded` made this of, to the byte."""
    flat = np.frombuffer(base64.b64decode(content["base64"]), np.uint8)
    return flat.reshape(content["shape"])
