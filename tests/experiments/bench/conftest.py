"""What the tests of the benches share."""

import importlib.util
from types import SimpleNamespace

import pytest

from experiments.bench import harness, launcher, peers


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(harness, "PAUSE", 0.0)


@pytest.fixture
def _no_peers(monkeypatch):
    """Neither PyTorch nor JAX is installed."""
    find_spec = importlib.util.find_spec
    absent = ("torch", "jax")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else find_spec(name)
    )


@pytest.fixture
def calls(monkeypatch):
    """Measurements in this process, and the calls that asked for them."""
    calls = []

    def measured(function, threads, **keywords):
        calls.append((function.__name__, threads, keywords))
        return function(**keywords)

    monkeypatch.setattr(launcher, "measured", measured)
    return calls


@pytest.fixture
def wrong_peer(monkeypatch):
    """A function that puts, in the place of a peer, minivat itself, one array of its gradients
    multiplied."""

    def install(name, factor):
        class Peer:
            def __init__(self, params, task):
                self.task = task

            def loss_and_gradients(self, *batch):
                loss, gradients = harness.first_update_of(self.task.trainer())
                gradients[name] = gradients[name] * factor
                return loss, gradients

        monkeypatch.setattr(peers, "load", lambda module: SimpleNamespace(Peer=Peer))

    return install
