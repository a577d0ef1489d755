"""The benchmark: what it prints without the peers, and that it refuses a wrong gradient."""

import json
import os

import numpy as np
import pytest

from experiments import bench, bench_update
from experiments.lab import runs


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """A small network, no pauses, and no peers installed."""
    monkeypatch.setattr(bench_update, "SIZES", {"mnist": [784, 20, 10]})
    monkeypatch.setattr(bench_update, "PAUSE", 0.0)
    monkeypatch.setattr(bench_update.importlib.util, "find_spec", lambda name: None)


def test_without_peers_their_numbers_are_null_and_said_to_be_missing(capsys):
    bench_update.print_times(rounds=2, as_json=True)
    *lines, last = capsys.readouterr().out.splitlines()
    assert "PyTorch is not installed (pip install torch): left out" in lines
    assert "JAX is not installed (pip install jax): left out" in lines
    result = json.loads(last)
    assert list(result) == [
        "minivat_exact_ms",
        "minivat_finite_difference_ms",
        "torch_eager_ms",
        "jax_jit_ms",
        "ratio_to_torch_eager",
        "ratio_to_jax_jit",
        "max_relative_gradient_difference",
    ]
    missing = {name for name, value in result.items() if value is None}
    assert missing == {"torch_eager_ms", "jax_jit_ms", "ratio_to_torch_eager", "ratio_to_jax_jit"}
    assert result["minivat_exact_ms"] > 0
    assert 0 < result["max_relative_gradient_difference"] < bench_update.TOLERANCE


def test_the_parts_add_up_to_the_whole_and_leave_the_engine_as_it_was():
    images, labels = bench_update.random_data(500)
    call = bench_update.Primitive.__call__
    parts = bench_update.where_the_time_goes(
        lambda optimizer: bench_update.make_trainer(images, labels, "exact", optimizer),
        lambda name: "matrix products" if name == "matmul" else "other",
        rounds=2,
    )
    assert {"matrix products", "other", "Adam", "random directions"} <= set(parts)
    assert all(ms > 0 for ms in parts.values())
    assert bench_update.Primitive.__call__ is call


class WrongPeer:
    """Agrees on everything but one gradient."""

    def __init__(self, params, **settings):
        self.params = params

    def loss_and_gradients(self, x, labels, d):
        trainer = bench_update.make_trainer(*bench_update.random_data(1000, np.float64), "exact")
        terms = trainer.step(0)
        gradients = bench_update.nn.unpack(trainer.arrays["first_moment"] * 10, self.params)
        gradients["norm1.gamma"] = gradients["norm1.gamma"] * 1.001
        return float(terms["nll"] + terms["regularizer"]), gradients


def test_a_wrong_gradient_ends_the_benchmark():
    with pytest.raises(runs.RunFailed, match="the losses or gradients differ by more than"):
        bench_update.check({"torch_eager": WrongPeer})


def test_memory_of_a_peer_that_is_not_installed_is_said_to_be_missing(capsys, monkeypatch):
    monkeypatch.setattr(bench_update, "random_data", lambda examples: (np.zeros((1, 784)), None))
    bench_update.print_memory("torch", 1)
    assert capsys.readouterr().out == "PyTorch is not installed (pip install torch): left out\n"


def test_threads_are_settled_in_the_environment(monkeypatch):
    bound = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 1, 2}, raising=False)
    monkeypatch.setattr(
        os, "sched_setaffinity", lambda pid, cpus: bound.append(cpus), raising=False
    )
    assert bench.limit_threads(2)["OPENBLAS_NUM_THREADS"] == "2"
    assert bench.limit_threads(8)["OMP_NUM_THREADS"] == "3"
    assert bound == [[1, 2], [1, 2, 3]]


def test_mistakes_take_one_line(capsys):
    for arguments in (["--threads", "0"], ["--rounds", "many"], ["--jsn"]):
        with pytest.raises(SystemExit) as stop:
            bench.main(arguments)
        assert stop.value.code == 2
        assert capsys.readouterr().err.startswith("error: ")
