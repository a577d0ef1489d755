"""The same computations in PyTorch and JAX: baselines for the time, references for the result."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType

TITLES = {"torch": "PyTorch", "jax": "JAX"}
BATCH_NORM_EPSILON = 1e-6


@dataclass(frozen=True)
class Settings:
    """What an update is computed with, by minivat and by its peers. K is 1."""

    epsilon: float
    learning_rate: float
    alpha: float = 1.0
    xi: float = 1e-6
    seed: int = 1


def load(name: str) -> ModuleType | None:
    """The module of that name; None, and a line saying so, where its library is not installed."""
    library = name.partition("_")[0]
    if importlib.util.find_spec(library) is None:
        print(f"{TITLES[library]} is not installed (pip install {library}): left out")
        return None
    return importlib.import_module(f"{__name__}.{name}")
