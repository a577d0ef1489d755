"""The benchmark of what people run: what it times, and that it refuses a wrong gradient."""

import json

import numpy as np
import pytest

from experiments.bench import harness, mlp, updates
from experiments.lab import runs


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(mlp, "SIZES", (12, 20, 10))
    monkeypatch.setattr(updates, "EVALUATED", 120)
    monkeypatch.setattr(updates, "ITERATIONS", 3)
    monkeypatch.setattr(updates, "OPERATIONS", 5)


@pytest.mark.usefixtures("_no_peers")
def test_without_pytorch_minivat_is_alone(capsys, calls):
    assert updates.main(["--rounds", "2", "--threads", "1", "--json"]) == 0
    assert calls == [("times", 1, {"modules": {"minivat": "minivat"}, "rounds": 2})]
    *lines, last = capsys.readouterr().out.splitlines()
    assert "torch is not installed (pip install torch): left out" in lines
    result = json.loads(last)
    assert len(result) == len(updates.UPDATES) + 3
    assert all(ms > 0 for ms in result.values())
    assert {"mle_minivat_ms", "vat__64___256_minivat_ms", "5_operations__recorded_minivat_ms"} <= (
        result.keys()
    )


def test_with_pytorch_each_time_is_put_beside(capsys, calls):
    pytest.importorskip("torch")
    assert updates.main(["--rounds", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    ratios = [name for name in result if name.endswith("ratio_to_torch")]
    assert len(ratios) == len(updates.UPDATES) + 3
    for name in ratios:
        prefix = name.removesuffix("ratio_to_torch")
        expected = result[f"{prefix}minivat_ms"] / result[f"{prefix}torch_ms"]
        assert result[name] == pytest.approx(expected)


@pytest.mark.parametrize("name", updates.UPDATES)
def test_pytorchs_updates_are_the_same(name):
    pytest.importorskip("torch")
    tasks = updates.tasks(updates.MODULES, updates.UPDATES[name], 300, np.float64)
    assert harness.check(name, tasks, updates.TOLERANCE) < updates.TOLERANCE


@pytest.mark.usefixtures("calls")
def test_a_wrong_gradient_ends_it(wrong_peer, monkeypatch):
    monkeypatch.setattr(updates.peers, "installed", lambda modules: modules)
    wrong_peer("norm1.gamma", 1.01)
    with pytest.raises(runs.RunFailed, match="the losses or gradients differ by more than"):
        updates.times(updates.MODULES, rounds=1)
