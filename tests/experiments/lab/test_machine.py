"""What is recorded of the machine, the libraries and the commit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minivat
from experiments.lab import machine
from minivat import backend


def test_environment_is_json_and_the_same_twice():
    device = backend.select_device("cpu")
    environment = machine.environment(device)
    assert json.loads(json.dumps(environment)) == environment == machine.environment(device)
    assert environment["device"] == device.description
    assert environment["versions"]["numpy"] == np.__version__
    assert environment["versions"]["minivat"] == minivat.__version__
    assert "cupy" not in environment["versions"]


def test_the_commit_is_that_of_this_code():
    here = ["git", "-C", str(Path(machine.__file__).parent)]
    try:
        asked = subprocess.run([*here, "rev-parse", "HEAD"], capture_output=True, text=True)
    except OSError:
        pytest.skip("no git")
    if asked.returncode:
        pytest.skip("not in a repository")
    environment = machine.environment(backend.select_device("cpu"))
    assert environment["commit"] == asked.stdout.strip()
    assert environment["uncommitted_changes"] in (True, False)


def test_environment_without_git_and_threadpoolctl(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment = machine.environment(backend.select_device("cpu"))
    assert environment["commit"] is None and environment["blas"] is None
    threads = environment["threads"]
    assert threads["OPENBLAS_NUM_THREADS"] == "3" and threads["OMP_NUM_THREADS"] is None


def test_a_benchmark_says_on_what_it_ran(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    line = machine.benchmarked()
    assert line.startswith(backend.select_device("cpu").description)
    assert ", 3 threads; " in line and f"NumPy {np.__version__} with OpenBLAS for " in line
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    assert "with OpenBLAS for unknown" in machine.benchmarked()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux's own figure")
def test_memory_is_in_mib():
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    kib = int(fields["VmHWM"].removesuffix("kB"))
    assert machine.peak_memory_mib() == pytest.approx(kib / 1024, rel=0.05)
