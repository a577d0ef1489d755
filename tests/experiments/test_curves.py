"""`experiments.curves`: several runs in one figure, and its answers to mistakes."""

from __future__ import annotations

import json

import pytest

from experiments import curves, plots
from tests.commands import call, refused

pytestmark = pytest.mark.usefixtures("_away_from_here")


@pytest.fixture
def make_run(tmp_path):
    def make_run(name, dataset="cifar10", metrics="update,error,r_vadv\n5,40.5,0.1\n", **settings):
        (tmp_path / name).mkdir()
        config = {"settings": settings, "data": {"name": dataset}}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        (tmp_path / name / "metrics.csv").write_text(metrics)

    return make_run


def test_the_figure_has_every_run_by_its_name(tmp_path, capsys, make_run, monkeypatch):
    drawn = []
    draw = plots.curves
    monkeypatch.setattr(plots, "curves", lambda *args: (drawn.append(args), draw(*args)))
    for name in ("mle", "vat"):
        make_run(name, holdout=10_000)
    assert call(curves.main, "labels alone=mle", "vat", "--out", "new/curves.png") == 0
    assert capsys.readouterr().out == "drawn: new/curves.png\n"
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")
    ((_, courses, title, label),) = drawn
    row = {"update": 5.0, "error": 40.5, "r_vadv": 0.1}
    assert courses == {"labels alone": [row], "vat": [row]}
    assert title == "cifar10" and label == "error on 10,000 held-out training images (%)"


def test_mistakes_are_answered_in_one_line(tmp_path, capsys, make_run):
    make_run("a")
    make_run("b", holdout=100)
    make_run("c", validation=100)
    make_run("empty", metrics="update,error,r_vadv\n")
    make_run("torn", metrics="update,error,r_vadv\n5,x,0\n")
    make_run("endless", metrics="update,error,r_vadv\n" + "5" * 200_000)
    for arguments, named in (
        (["nowhere"], "nowhere/config.json"),
        (["empty"], "empty/metrics.csv holds no row"),
        (["torn"], "torn/metrics.csv cannot be read"),
        (["endless"], "endless/metrics.csv cannot be read"),
        (["a", "b"], "measured on different images: cifar10, 100 held-out training images and"),
        (["a", "c"], "100 validation images"),
        (["a", "a"], "two of the runs have the same name"),
        ([], "[NAME=]RUN"),
    ):
        assert named in refused(curves.main, capsys, *arguments)
