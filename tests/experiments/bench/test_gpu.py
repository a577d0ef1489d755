"""The benchmark of a GPU, on a stand-in for one, and without any."""

import json

import numpy as np
import pytest

from experiments.bench import gpu, mlp
from minivat import backend, nn
from tests.strict_device import RecordingDevice


@pytest.fixture
def stand_in(monkeypatch):
    device = RecordingDevice()
    monkeypatch.setattr(backend, "select_device", lambda name="auto", tf32=False: device)
    monkeypatch.setattr(mlp, "SIZES", (12, 20, 10))


@pytest.mark.usefixtures("_no_peers", "stand_in")
def test_without_pytorch_minivat_is_alone(capsys):
    assert gpu.main(["--updates", "5", "--rounds", "2", "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert "torch is not installed (pip install torch): left out" in lines
    result = json.loads(last)
    updates = ("supervised", "vat", "vat__64___256")
    ways = ("graph", "eager")
    assert list(result) == [f"{update}_minivat_{way}_ms" for update in updates for way in ways]
    assert all(ms > 0 for ms in result.values())


@pytest.mark.usefixtures("stand_in")
def test_a_time_is_that_of_one_update(monkeypatch):
    clock = iter(np.arange(100.0))
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: next(clock))
    done = []
    runs = {name: lambda name=name: done.append(name) for name in "ab"}
    assert gpu.timed(runs, rounds=2, updates=500) == {"a": [2.0, 2.0], "b": [2.0, 2.0]}
    assert done == list("ababab")


def test_the_convolutional_tasks():
    task = gpu.convolutional()["Conv-Small, VAT, 32 + 128"]("torch_conv", tf32=True)
    assert (task.batch_size, task.unlabelled_batch_size, task.device) == (32, 128, "cuda")
    assert task.tf32 and isinstance(task.network, nn.Network)


def test_without_a_gpu_a_line_says_so(capsys, monkeypatch):
    def missing(name, tf32=False):
        raise backend.DeviceError("device cuda: CuPy is not installed")

    monkeypatch.setattr(backend, "select_device", missing)
    assert gpu.main([]) != 0
    assert capsys.readouterr().err == "error: device cuda: CuPy is not installed\n"
