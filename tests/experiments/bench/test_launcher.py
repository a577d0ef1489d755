"""Processes that find their threads settled, and the three commands that start them."""

import os
import subprocess
import sys

import pytest

from experiments.bench import conv, launcher, mlp, spectrum
from experiments.lab import machine, runs
from minivat import backend
from tests.commands import call, refused


@pytest.mark.parametrize("threads", [1, 2])
def test_openblas_starts_as_many_threads_as_asked_for(threads):
    pytest.importorskip("threadpoolctl")
    if hasattr(os, "sched_getaffinity"):
        threads = min(threads, len(os.sched_getaffinity(0)))
    pools = launcher.measured(machine.environment, threads, device=backend.Device())["blas"]
    assert pools
    assert {pool["num_threads"] for pool in pools} == {threads}


def test_the_launcher_loads_no_numpy_which_would_start_threads():
    code = "import sys, experiments.bench.launcher; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_measurement_killed_from_outside_is_said_in_one_line():
    with pytest.raises(runs.RunFailed, match=r"^a measurement's process was killed from outside$"):
        launcher.measured(os._exit, 1, status=9)


def test_threads_are_settled_by_processors_and_environment(monkeypatch):
    bound = []
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 1, 2}, raising=False)
    monkeypatch.setattr(
        os, "sched_setaffinity", lambda pid, cpus: bound.append(cpus), raising=False
    )
    launcher.settle_threads(2)
    assert {os.environ[name] for name in machine.THREADS} == {"2"}
    launcher.settle_threads(8)
    assert {os.environ[name] for name in machine.THREADS} == {"3"}
    assert os.environ["JAX_PLATFORMS"] == "cpu"
    assert bound == [[1, 2], [1, 2, 3]]


def test_a_measurement_that_fails_ends_the_command_with_its_one_line(capfd, tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"no images")
    assert call(spectrum.main, "--data-dir", tmp_path) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "lacks train-labels-idx1-ubyte.gz, " in error


@pytest.mark.parametrize(
    ("bench", "arguments"),
    [
        (mlp, ["--threads", "0"]),
        (mlp, ["--rounds", "many"]),
        (mlp, ["--jsn"]),
        (conv, ["--width", "0"]),
        (conv, ["--dataset", "mnist"]),
        (spectrum, ["--updates", "0"]),
    ],
)
def test_mistakes_take_one_line(bench, arguments, capsys):
    assert arguments[0] in refused(bench.main, capsys, *arguments)
