"""The benchmark of Conv-Small: what it prints without PyTorch, and that it refuses a wrong one."""

import json
import os
from functools import partial

import numpy as np
import pytest

from experiments import bench_conv, bench_conv_update, bench_update
from experiments.lab import runs
from minivat import nn

RESULT = {
    "supervised_ratio_to_torch": 1.0,
    "vat_ratio_to_torch": 1.1,
    "max_relative_gradient_difference": 1e-9,
}
WIDTH, SIZE = 0.03, (12, 12, 3)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Small images and batches, no pauses, and no PyTorch."""
    monkeypatch.setattr(bench_conv_update, "IMAGE_SHAPE", SIZE)
    monkeypatch.setattr(bench_conv_update, "IMAGES", 40)
    monkeypatch.setattr(bench_update, "PAUSE", 0.0)
    monkeypatch.setattr(bench_conv_update.importlib.util, "find_spec", lambda name: None)


def network():
    return nn.conv_small("cifar10", WIDTH, image_shape=SIZE)


def few(make):
    """The same with batches of a few images."""
    return partial(make, sizes=(4, 6))


def test_without_pytorch_its_numbers_are_null_and_said_to_be_missing(capsys, monkeypatch):
    monkeypatch.setattr(bench_conv_update, "make_trainer", few(bench_conv_update.make_trainer))
    result = bench_conv_update.print_times(network(), rounds=2)
    printed = capsys.readouterr().out
    assert "PyTorch is not installed (pip install torch): left out" in printed
    for part in ("convolutions", "batch norm and leaky ReLU", "pooling", "Adam"):
        assert part in printed
    assert set(RESULT) <= set(result)
    assert [result[name] for name in RESULT] == [None] * 3
    assert result["vat_minivat_ms"] > 0
    assert bench_conv_update.peak_memory(network(), "vat", "torch") is None
    assert bench_conv_update.peak_memory(network(), "vat", "minivat", updates=1) > 0


class Twin:
    """minivat's own loss and gradients, one of them times `factor`."""

    def __init__(self, params, factor=1.0, **settings):
        self.params, self.factor = params, factor

    def loss_and_gradients(self, labelled, unlabelled):
        x = labelled[0]
        images, labels = bench_conv_update.random_data(64, x.dtype)
        trainer = bench_conv_update.make_trainer(
            network(),
            "supervised" if unlabelled is None else "vat",
            images,
            labels,
            sizes=(len(x), 16),
        )
        terms = trainer.step(0)
        gradients = nn.unpack(trainer.arrays["first_moment"], self.params)
        gradients["norm3.beta"] = gradients["norm3.beta"] * self.factor
        return float(terms["nll"] + terms["regularizer"]), gradients


def test_equal_gradients_pass_and_a_wrong_one_ends_the_benchmark(monkeypatch, capsys):
    monkeypatch.setattr(bench_conv_update, "LABELLED", 8)
    monkeypatch.setattr(bench_conv_update, "UNLABELLED", 16)
    small = partial(bench_conv_update.difference, network=network(), sizes=(8, 16))
    for update in ("supervised", "vat"):
        assert small(Twin, update=update, dtype=np.float64) == (0.0, 0.0)
    wrong = partial(Twin, factor=1.001)
    loss, gradient = small(wrong, update="vat", dtype=np.float64)
    assert loss == 0.0
    assert gradient == pytest.approx(1e-3)
    with pytest.raises(
        runs.RunFailed, match=r"supervised update in float64: .* differ by 1\.0e-03"
    ):
        bench_conv_update.check(wrong, network())


def test_the_command_puts_all_measurements_into_one_object(monkeypatch, capsys):
    tasks = []

    def measured(task, environment):
        tasks.append(task)
        assert environment["OMP_NUM_THREADS"] == "1"
        return RESULT if task[0] == "time" else {"peak_mib": 150.0 if "minivat" in task else 300.0}

    monkeypatch.setattr(bench_conv, "measured", measured)
    monkeypatch.setattr(bench_conv, "limit_threads", lambda n: {"OMP_NUM_THREADS": str(n)})
    assert bench_conv.main(["--json", "--threads", "1", "--rounds", "3", "--width", "0.5"]) == 0
    assert tasks[0] == ["time", "cifar10", "0.5", "3"]
    assert tasks[1:] == [
        ["memory", "cifar10", "0.5", update, library]
        for update in ("supervised", "vat")
        for library in ("minivat", "torch")
    ]
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["peak_memory_ratio_to_torch"] == 0.5
    assert set(RESULT) < set(result)


def test_memory_without_pytorch(monkeypatch, capsys):
    peaks = {"minivat": 150.0, "torch": None}
    monkeypatch.setattr(
        bench_conv,
        "measured",
        lambda task, environment: RESULT if task[0] == "time" else {"peak_mib": peaks[task[-1]]},
    )
    monkeypatch.setattr(bench_conv, "limit_threads", lambda threads: {})
    assert bench_conv.main(["--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["peak_memory_ratio_to_torch"] is None


def test_a_measurement_that_fails_ends_the_command(monkeypatch, capfd):
    with pytest.raises(SystemExit) as stop:
        bench_conv.measured(["time", "cifar10", "1", "none"], dict(os.environ))
    assert stop.value.code == 2


def test_mistakes_take_one_line(capsys):
    for arguments in (["--threads", "0"], ["--width", "0"], ["--dataset", "mnist"], ["--jsn"]):
        with pytest.raises(SystemExit) as stop:
            bench_conv.main(arguments)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
