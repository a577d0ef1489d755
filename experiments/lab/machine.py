"""Where a run happens: the machine, the libraries, the commit."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import minivat
from minivat import backend

THREADS = tuple(f"{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL"))  # BLAS reads these


def environment(device: backend.Device) -> dict[str, Any]:
    """Everything about this machine and this code that may change the last bits of a result."""
    return {
        "device": device.description,
        **_revision(),
        "versions": {
            "minivat": minivat.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("numpy", "scipy")},
            **({"cupy": _version("cupy-cuda12x", "cupy-cuda13x")} if device.name == "cuda" else {}),
        },
        "platform": platform.platform(),
        **_blas(),
    }


def cuda_devices() -> list[str]:
    """The CUDA devices that a process started here may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name]
    return (_output("nvidia-smi", "--query-gpu=index", "--format=csv,noheader") or "").split()


def benchmarked() -> str:
    """The CPU, its threads and the libraries of a benchmark, in one line."""
    found = environment(backend.Device())
    kernels = " and ".join(pool["architecture"] for pool in found["blas"] or ()) or "unknown"
    line = (
        f"{found['device']}, {os.environ.get('OPENBLAS_NUM_THREADS', 'all')} threads; "
        f"NumPy {found['versions']['numpy']} with OpenBLAS for {kernels}"
    )
    peers = {"PyTorch": _version("torch"), "JAX": _version("jax")}
    return ", ".join([line, *(f"{name} {found}" for name, found in peers.items() if found)])


def _revision() -> dict[str, Any]:
    """The commit of this code and whether it has been changed since; None where that is unknown."""
    top = _git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != Path(__file__).resolve().parents[2]:
        return {"commit": None, "uncommitted_changes": None}
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": _git("rev-parse", "HEAD"), "uncommitted_changes": changes != ""}


def _git(*arguments: str) -> str | None:
    return _output("git", "-C", str(Path(__file__).parent), *arguments)


def _output(*command: str) -> str | None:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return None


def _version(*names: str) -> str | None:
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def _blas() -> dict[str, Any]:
    """The BLAS libraries and their threads, or what was asked of them where none can tell."""
    try:
        import threadpoolctl
    except ImportError:
        return {"blas": None, "threads": {name: os.environ.get(name) for name in THREADS}}
    keys = ("internal_api", "version", "architecture", "num_threads")
    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    return {"blas": sorted(({key: pool.get(key) for key in keys} for pool in pools), key=str)}


def peak_memory_mib() -> float:
    """The most memory that this process has occupied, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
