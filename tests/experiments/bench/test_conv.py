"""The benchmark of Conv-Small: what it prints without PyTorch, and that it refuses a wrong one."""

import json

import pytest

from experiments.bench import conv, harness
from experiments.lab import runs
from minivat import nn

WIDTH = 0.03
NETWORK = {"model": "conv-small", "dataset": "cifar10", "width": WIDTH}
UPDATES = ("supervised", "vat")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Few small images."""
    monkeypatch.setattr(conv, "IMAGE_SHAPE", (12, 12, 3))
    monkeypatch.setattr(conv, "IMAGES", 40)
    monkeypatch.setattr(conv, "UPDATES", {"supervised": (4, None), "vat": (4, 6)})


@pytest.mark.usefixtures("_no_peers")
def test_without_pytorch_minivat_is_alone_and_pytorch_said_to_be_missing(capsys, calls):
    assert conv.main(["--rounds", "2", "--width", str(WIDTH), "--json"]) == 0
    assert calls[0] == ("times", 2, {**NETWORK, "modules": {"minivat": "minivat"}, "rounds": 2})
    assert calls[1:] == [
        ("memory", 2, {**NETWORK, "update": update, "name": "minivat", "module": "minivat"})
        for update in UPDATES
    ]
    *lines, last = capsys.readouterr().out.splitlines()
    assert "torch is not installed (pip install torch): left out" in lines
    for part in ("convolutions", "batch norm and leaky ReLU", "pooling", "Adam"):
        assert sum(line.startswith(part) for line in lines) == 2
    result = json.loads(last)
    assert list(result) == [
        f"{update}_{name}"
        for name in ("minivat_ms", "peak_memory_minivat_mib")
        for update in UPDATES
    ]
    assert all(value > 0 for value in result.values())


def test_the_memory_of_both_libraries_is_put_side_by_side(monkeypatch, capsys, calls):
    peaks = {"minivat": (150.0, 140.0), "torch": (300.0, 250.0)}
    monkeypatch.setattr(conv, "times", lambda **keywords: {"vat_ratio_to_torch": 1.1})
    monkeypatch.setattr(conv, "memory", lambda **keywords: peaks[keywords["name"]])
    monkeypatch.setattr(conv.peers, "installed", lambda modules: modules)
    assert conv.main(["--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines[-2].split() == ["minivat", "150.0", "140.0", "0.50"]
    result = json.loads(last)
    assert result["vat_ratio_to_torch"] == 1.1
    for update in UPDATES:
        assert result[f"{update}_peak_memory_minivat_mib"] == 150.0
        assert result[f"{update}_peak_memory_torch_mib"] == 300.0
        assert result[f"{update}_peak_memory_ratio_to_torch"] == 0.5


def test_equal_gradients_pass_and_a_wrong_one_ends_the_benchmark(wrong_peer):
    network = nn.conv_small("cifar10", WIDTH, image_shape=(12, 12, 3))
    for sizes in conv.UPDATES.values():
        tasks = conv.tasks(conv.MODULES, network, sizes, "float64")
        wrong_peer("norm3.beta", 1.0)
        assert harness.check("equal", tasks, 1e-5) == 0.0
        wrong_peer("norm3.beta", 1.001)
        assert harness.check("not equal", tasks, 1e-2) == pytest.approx(1e-3)
        with pytest.raises(runs.RunFailed, match="the losses or gradients differ by more than"):
            harness.check("not equal", tasks, 1e-4)


def test_a_wrong_gradient_ends_the_benchmark_before_anything_is_timed(wrong_peer, monkeypatch):
    monkeypatch.setattr(harness, "compare_times", None)
    wrong_peer("norm3.beta", 1.001)
    with pytest.raises(runs.RunFailed):
        conv.times(conv.MODULES, 1, **NETWORK)


def test_with_pytorch_both_updates_are_checked_and_timed():
    pytest.importorskip("torch")
    result = conv.times(conv.MODULES, 1, "conv-large", "svhn", WIDTH)
    for update, dtype, _, tolerance in conv.CHECKS:
        assert 0 < result[f"{update}_max_relative_gradient_difference_{dtype}"] < tolerance
    ratio = result["vat_minivat_ms"] / result["vat_torch_ms"]
    assert result["vat_ratio_to_torch"] == pytest.approx(ratio)
