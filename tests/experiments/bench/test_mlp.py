"""The benchmark of the MNIST network: what it prints, and that it refuses a wrong gradient."""

import json

import numpy as np
import pytest

import minivat
from experiments.bench import harness, mlp
from experiments.lab import runs
from minivat.autodiff import Primitive


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(mlp, "SIZES", (12, 20, 10))
    monkeypatch.setattr(mlp, "LARGER_BATCHES", (120,))


@pytest.mark.usefixtures("_no_peers")
def test_without_peers_minivat_is_alone_and_they_are_said_to_be_missing(capsys, calls):
    assert mlp.main(["--rounds", "2", "--threads", "1", "--json"]) == 0
    names = ["minivat_exact", "minivat_finite_difference"]
    assert calls == [("times", 1, {"modules": dict.fromkeys(names, "minivat"), "rounds": 2})]
    *lines, last = capsys.readouterr().out.splitlines()
    assert "torch is not installed (pip install torch): left out" in lines
    assert "jax is not installed (pip install jax): left out" in lines
    result = json.loads(last)
    assert list(result) == [
        *(f"{batch}{name}_ms" for batch in ("", "batch_120_") for name in names),
        "max_relative_gradient_difference",
    ]
    assert result["minivat_exact_ms"] > 0
    assert 0 < result["max_relative_gradient_difference"] < mlp.TOLERANCE


def test_with_a_peer_its_time_is_put_beside(capsys, calls):
    pytest.importorskip("torch")
    assert mlp.main(["--rounds", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    ratio = result["minivat_exact_ms"] / result["torch_eager_ms"]
    assert result["ratio_to_torch_eager"] == pytest.approx(ratio)


def test_every_round_begins_with_another_and_times_each_once():
    order = []
    steps = {name: lambda name=name: order.append(name) for name in "ab"}
    times = harness.interleaved(steps, rounds=3)
    # A warm-up of each; then, in turn, an untimed update and a timed one.
    assert "".join(order) == "ab" + "aabb" + "bbaa" + "aabb"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_the_parts_add_up_to_the_whole_and_leave_the_engine_as_it_was():
    call = Primitive.__call__
    step = harness.make_step(mlp.tasks({"minivat_exact": "minivat"}, 500)["minivat_exact"])
    parts = harness.time_parts(step, mlp.KINDS, rounds=2)
    names = {"matrix products", "batch norm and elementwise", "Adam", "random directions"}
    assert names <= set(parts)
    assert all(ms > 0 for ms in parts.values())
    assert Primitive.__call__ is call


def test_equal_gradients_pass_and_a_wrong_one_ends_the_benchmark(wrong_peer):
    tasks = mlp.tasks({"minivat_exact": "minivat", "torch_eager": "torch"}, 500, np.float64)
    wrong_peer("norm1.gamma", 1.0)
    assert 0 < harness.check("equal", tasks, mlp.TOLERANCE) < mlp.TOLERANCE
    wrong_peer("norm1.gamma", 1.001)
    with pytest.raises(runs.RunFailed, match="the losses or gradients differ by more than"):
        harness.check("not equal", tasks, mlp.TOLERANCE)


def test_differences_are_relative_and_a_bias_is_measured_by_its_weight():
    ours = 2.0, {"dense1.weight": np.array([3.0, 4.0]), "dense1.bias": np.array([1e-9])}
    theirs = 2.2, {"dense1.weight": np.array([3.0, 4.5]), "dense1.bias": np.array([2.5])}
    assert harness.differences(ours, theirs) == pytest.approx((0.1, 0.5))


@pytest.mark.usefixtures("_no_peers")
def test_memory_without_a_peer(capsys, calls, monkeypatch):
    random_data = harness.random_data
    monkeypatch.setattr(harness, "random_data", lambda _, *rest: random_data(200, *rest))
    assert mlp.main(["--memory", "--updates", "3", "--json"]) == 0
    assert [(call[0], call[2]["name"]) for call in calls] == [("memory", "minivat_exact")]
    *lines, last = capsys.readouterr().out.splitlines()
    assert "torch is not installed (pip install torch): left out" in lines
    name, _, peak, before = lines[-1].split()
    assert name == "minivat"
    assert float(peak) >= float(before) > 0
    assert json.loads(last) == {"peak_memory_minivat_exact_mib": float(peak)}


@pytest.mark.parametrize("name", ["torch_eager", "jax_jit"])
def test_a_peer_has_the_same_gradient_and_its_own_step_learns(name):
    module = mlp.MODULES[name]
    pytest.importorskip(module)
    modules = {"minivat_exact": "minivat", name: module}
    tasks = mlp.tasks(modules, 1000, np.float64)
    assert 0 < harness.check("a peer", tasks, mlp.TOLERANCE) < mlp.TOLERANCE
    task = mlp.tasks(modules, 100)[name]
    task.images[...] += task.labels[:, None]
    step = harness.make_step(task)
    losses = [float(step()) for _ in range(100)]
    assert losses[-1] < 0.8 * losses[0]


def test_what_is_computed_while_it_is_recorded_counts_as_its_kind():
    x, w = np.ones((2, 3)), np.ones((3, 2))
    parts = harness.time_parts(lambda: minivat.linearize(lambda x: x @ w, x), mlp.KINDS, rounds=1)
    assert parts["matrix products"] > 0
