"""The same computations in PyTorch and JAX: baselines for the time, references for the result."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from types import ModuleType

BATCH_NORM_EPSILON = 1e-6


def installed(modules: Mapping[str, str]) -> dict[str, str]:
    """Those of the modules, by any name, whose library is; of the others a line is printed."""
    found = {}
    for name, module in modules.items():
        library = module.partition("_")[0]
        if importlib.util.find_spec(library) is None:
            print(f"{library} is not installed (pip install {library}): left out")
        else:
            found[name] = module
    return found


def load(name: str) -> ModuleType:
    """The module of that name."""
    return importlib.import_module(f"{__name__}.{name}")
