"""What the tests of the benches share."""

import importlib.util
import json

import pytest

from experiments.bench import harness, launcher


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(harness, "PAUSE", 0.0)


@pytest.fixture
def _no_peers(monkeypatch):
    """Neither PyTorch nor JAX is installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.fixture
def calls(monkeypatch):
    """Measurements in this process, and the calls that asked for them."""
    calls = []

    def measured(function, threads, **keywords):
        calls.append((function.__name__, threads, keywords))
        return json.loads(json.dumps(function(**json.loads(json.dumps(keywords)))))

    monkeypatch.setattr(launcher, "measured", measured)
    return calls
