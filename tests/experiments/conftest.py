"""What the tests of the command lines share."""

from __future__ import annotations

import functools
import json
import os

import pytest

from experiments.lab import loop, plotting, results, runs, sweep
from minivat import data
from tests import commands


@pytest.fixture(autouse=True)
def _no_line_of_progress(monkeypatch):
    """On a slow machine a run would say now and then how far it is."""
    monkeypatch.setattr(loop, "LINE_EVERY_SECONDS", 3600.0)


@pytest.fixture
def _away_from_here(tmp_path, monkeypatch):
    """An empty working folder, and the device that the arguments name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINIVAT_DEVICE", raising=False)


@pytest.fixture
def call(_away_from_here):
    """`call(name, *flags)`: the exit code of `python -m experiments name flags`."""
    return commands.call


@pytest.fixture
def refused(_away_from_here, capsys):
    """`refused(name, *flags)`: the one line that a mistake is answered with."""
    return lambda name, *flags: commands.refused(name, capsys, *flags)


@pytest.fixture
def given(_away_from_here, monkeypatch):
    """`given(name, *flags)`: what the trainer of a run is given."""
    return functools.partial(commands.given, monkeypatch)


@pytest.fixture
def call_interrupted(_away_from_here, monkeypatch):
    """`call` with a Ctrl-C as the tenth update begins."""
    return functools.partial(commands.call_interrupted, monkeypatch)


@pytest.fixture
def _no_data(monkeypatch):
    """Whoever loads data fails."""
    monkeypatch.setattr(data, "load", lambda *arguments: pytest.fail("data was loaded"))


@pytest.fixture
def _in_this_process(monkeypatch, figures):
    """Runs of a sweep one after another in this process, with no start and no figure of each."""

    def run_all(jobs, folder, at_once):
        for label, job in jobs.items():
            out = ["--out", folder / label, "--resume", "--quiet"]
            assert commands.call(*job, *out) == 0
        return {label: runs.read_json(folder / label / "result.json") for label in jobs}

    monkeypatch.setattr(sweep, "run_all", run_all)


@pytest.fixture
def make_run(tmp_path):
    """`make_run(folder, spec)`: a run that was never made, newer than those before."""
    made = []

    def make_run(
        folder,
        spec,
        metrics="update,error,r_vadv\n5,40.5,0.1\n",
        checksums=(("a.bin", "1"),),
    ):
        path = tmp_path / folder
        path.mkdir(parents=True)
        spec = spec.resolved()
        config = {
            "settings": spec.settings(),
            "data": {"name": spec.dataset, "checksums": dict(checksums)},
            "environments": [{"from_update": 0, "commit": "1234567"}],
        }
        (path / "config.json").write_text(json.dumps(config))
        (path / "metrics.csv").write_text(metrics)
        (path / "checkpoint.npz").write_bytes(b"")
        made.append(path)
        os.utime(path / "metrics.csv", (len(made), len(made)))
        return results.Run(path)

    return make_run


@pytest.fixture
def figures(monkeypatch):
    """The titles of the figures, which are not drawn: that takes longer than a small run."""
    titles = []

    def curves(path, by_name, title, error_label):
        assert all(plotting.colour(curve.method) and curve.rows for curve in by_name.values())
        titles.append(title)

    monkeypatch.setattr(plotting, "curves", curves)
    return titles
