"""The benchmark of Conv-Small: what it prints without PyTorch, and that it refuses a wrong one."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.bench import conv, harness
from experiments.lab import runs

RESULT = {
    "supervised_ratio_to_torch": 1.0,
    "vat_ratio_to_torch": 1.1,
    "max_relative_gradient_difference": 1e-9,
}
WIDTH = 0.03


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Few small images."""
    monkeypatch.setattr(conv, "IMAGE_SHAPE", (12, 12, 3))
    monkeypatch.setattr(conv, "IMAGES", 40)


@pytest.mark.usefixtures("_no_peers")
def test_without_pytorch_its_numbers_are_null_and_said_to_be_missing(capsys, calls, monkeypatch):
    monkeypatch.setattr(conv, "make_trainer", partial(conv.make_trainer, sizes=(4, 6)))
    assert conv.main(["--rounds", "2", "--width", str(WIDTH), "--json"]) == 0
    network = {"dataset": "cifar10", "width": WIDTH}
    assert calls[0] == ("times", 2, {**network, "rounds": 2})
    assert calls[1:] == [
        ("memory", 2, {**network, "update": update, "library": library})
        for update in ("supervised", "vat")
        for library in ("minivat", "torch")
    ]
    *lines, last = capsys.readouterr().out.splitlines()
    assert "PyTorch is not installed (pip install torch): left out" in lines
    for part in ("convolutions", "batch norm and leaky ReLU", "pooling", "Adam"):
        assert any(line.startswith(part) for line in lines)
    result = json.loads(last)
    assert set(RESULT) <= set(result)
    assert [result[name] for name in RESULT] == [None] * 3
    assert result["vat_minivat_ms"] > 0
    for update, ratio in (("supervised", "peak"), ("vat", "vat_peak")):
        assert result["peak_memory_mib"][update]["minivat"] > 0
        assert result["peak_memory_mib"][update]["torch"] is None
        assert result[f"{ratio}_memory_ratio_to_torch"] is None


def test_the_command_puts_all_measurements_into_one_object(monkeypatch, capsys, calls):
    monkeypatch.setattr(conv, "times", lambda **keywords: RESULT)
    peaks = {"minivat": 150.0, "torch": 300.0}
    monkeypatch.setattr(conv, "memory", lambda **keywords: peaks[keywords["library"]])
    assert conv.main(["--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines[-1].split() == ["vat", "150", "300", "0.50"]
    result = json.loads(last)
    assert result["peak_memory_ratio_to_torch"] == 0.5
    assert result["vat_peak_memory_ratio_to_torch"] == 0.5
    assert result["peak_memory_mib"] == {"supervised": peaks, "vat": peaks}
    assert set(RESULT) < set(result)


def twin(factor=1.0):
    """A peer with minivat's own loss and gradients, one of them times `factor`."""

    class Peer:
        def __init__(self, params, settings):
            pass

        def loss_and_gradients(self, labelled, unlabelled):
            x = labelled[0]
            trainer = conv.make_trainer(
                conv.conv_small("cifar10", WIDTH),
                "supervised" if unlabelled is None else "vat",
                *conv.random_data(64, x.dtype),
                sizes=(len(x), 16),
            )
            loss, gradients = harness.first_update(trainer)
            gradients["norm3.beta"] = gradients["norm3.beta"] * factor
            return loss, gradients

    return SimpleNamespace(Peer=Peer)


def test_equal_gradients_pass_and_a_wrong_one_ends_the_benchmark():
    network = conv.conv_small("cifar10", WIDTH)
    difference = partial(conv.difference, network=network, sizes=(8, 16))
    for update in ("supervised", "vat"):
        assert difference(twin(), update=update, dtype=np.float64) == (0.0, 0.0)
    loss, gradient = difference(twin(1.001), update="vat", dtype=np.float64)
    assert loss == 0.0
    assert gradient == pytest.approx(1e-3)
    with pytest.raises(
        runs.RunFailed, match=r"supervised update in float64: .* differ by 1\.0e-03"
    ):
        conv.check(twin(1.001), network)


def test_with_pytorch_both_updates_are_checked_and_timed(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(conv, "IMAGES", 128)
    result = conv.times("svhn", WIDTH, rounds=1)
    assert 0 < result["max_relative_gradient_difference"] < conv.TOLERANCE
    assert 0 < result["max_relative_gradient_difference_float32"] < conv.FLOAT32_TOLERANCE
    ratio = result["vat_minivat_ms"] / result["vat_torch_ms"]
    assert result["vat_ratio_to_torch"] == pytest.approx(ratio)
