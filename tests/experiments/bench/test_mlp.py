"""The benchmark of the MNIST network: what it prints, and that it refuses a wrong gradient."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.bench import harness, mlp, peers
from experiments.lab import runs
from minivat.autodiff import Primitive

KEYS = [
    "minivat_exact_ms",
    "minivat_finite_difference_ms",
    "torch_eager_ms",
    "jax_jit_ms",
    "ratio_to_torch_eager",
    "ratio_to_jax_jit",
    "max_relative_gradient_difference",
]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(mlp, "SIZES", (12, 20, 10))


@pytest.mark.usefixtures("_no_peers")
def test_without_peers_their_numbers_are_null_and_said_to_be_missing(capsys, calls):
    assert mlp.main(["--rounds", "2", "--threads", "1", "--json"]) == 0
    assert calls == [("times", 1, {"rounds": 2})]
    *lines, last = capsys.readouterr().out.splitlines()
    assert "PyTorch is not installed (pip install torch): left out" in lines
    assert "JAX is not installed (pip install jax): left out" in lines
    result = json.loads(last)
    assert list(result) == KEYS
    missing = {name for name, value in result.items() if value is None}
    assert missing == {"torch_eager_ms", "jax_jit_ms", "ratio_to_torch_eager", "ratio_to_jax_jit"}
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
    times = harness.interleaved(steps, rounds=3, warm_up=1)
    # A warm-up of each; then, in turn, an untimed update and a timed one.
    assert "".join(order) == "ab" + "aabb" + "bbaa" + "aabb"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_the_parts_add_up_to_the_whole_and_leave_the_engine_as_it_was():
    images, labels = mlp.random_data(500)
    call = Primitive.__call__
    parts = harness.time_by_kind(
        lambda **options: mlp.make_trainer(images, labels, "exact", **options),
        lambda name: "matrix products" if name == "matmul" else "other",
        rounds=2,
        warm_up=1,
    )
    assert {"matrix products", "other", "Adam", "random directions"} <= set(parts)
    assert all(ms > 0 for ms in parts.values())
    assert Primitive.__call__ is call


def twin(factor):
    """A peer with minivat's own loss and gradients, one of them times `factor`."""

    class Peer:
        def __init__(self, params, settings):
            pass

        def loss_and_gradients(self, x, labels, d):
            trainer = mlp.make_trainer(*mlp.random_data(1000, np.float64), "exact")
            loss, gradients = harness.first_update(trainer)
            gradients["norm1.gamma"] = gradients["norm1.gamma"] * factor
            return loss, gradients

    return SimpleNamespace(Peer=Peer)


def test_equal_gradients_pass_and_a_wrong_one_ends_the_benchmark():
    assert 0 < mlp.check({"torch_eager": twin(1.0)}) < mlp.TOLERANCE
    with pytest.raises(runs.RunFailed, match="the losses or gradients differ by more than"):
        mlp.check({"torch_eager": twin(1.001)})


def test_differences_are_relative_and_a_bias_is_measured_by_its_weight():
    ours = 2.0, {"dense1.weight": np.array([3.0, 4.0]), "dense1.bias": np.array([1e-9])}
    theirs = 2.2, {"dense1.weight": np.array([3.0, 4.5]), "dense1.bias": np.array([2.5])}
    assert harness.differences(ours, theirs, np.linalg.norm) == pytest.approx((0.1, 0.5))


@pytest.mark.usefixtures("_no_peers")
def test_memory_and_that_of_a_peer_which_is_not_installed(capsys, calls, monkeypatch):
    random_data = mlp.random_data
    monkeypatch.setattr(mlp, "random_data", lambda examples: random_data(200))
    assert mlp.main(["--memory", "--updates", "3"]) == 0
    assert [call[2]["library"] for call in calls] == ["minivat", "torch"]
    ours, missing = capsys.readouterr().out.splitlines()
    assert ours.startswith("minivat   peak memory ")
    assert " MiB after 3 updates, " in ours
    assert missing == "PyTorch is not installed (pip install torch): left out"


@pytest.mark.parametrize("name", mlp.PEERS)
def test_a_peer_has_the_same_gradient_and_its_own_step_learns(name, capsys):
    pytest.importorskip(mlp.PEERS[name])
    peer = peers.load(mlp.PEERS[name])
    assert 0 < mlp.check({name: peer}) < mlp.TOLERANCE
    images, labels = mlp.random_data(100)
    images += labels[:, None].astype(np.float32)
    trainer = mlp.make_trainer(images, labels, "exact")
    step = harness.peer_step(peer.Peer(trainer.params, mlp.SETTINGS), images, labels, 100)
    losses = [float(step()) for _ in range(100)]
    assert losses[-1] < 0.8 * losses[0]
