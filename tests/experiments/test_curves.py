"""`experiments.curves`: several runs in one figure, and its answers to mistakes."""

from __future__ import annotations

import json

import pytest

from experiments import curves, plots
from tests.commands import call, refused

pytestmark = pytest.mark.usefixtures("_away_from_here")


@pytest.fixture
def make_run(tmp_path):
    def make_run(
        name,
        dataset="cifar10",
        metrics="update,error,r_vadv\n5,40.5,0.1\n",
        checksums=(("a.bin", "1"),),
        **settings,
    ):
        (tmp_path / name).mkdir()
        config = {
            "settings": {"seed": 1, **settings},
            "data": {"name": dataset, "checksums": dict(checksums)},
            "environments": [{"from_update": 0, "commit": "1234567"}],
        }
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

    written = json.loads((tmp_path / "new" / "curves.json").read_text())
    typed = "'labels alone=mle' vat --out new/curves.png"
    assert written["command"] == f"python -m experiments.curves {typed}"
    config = json.loads((tmp_path / "mle" / "config.json").read_text())
    assert written["runs"] == {"labels alone": config, "vat": config}
    assert written["environment"]["device"].startswith("cpu")


def test_runs_are_compared_by_the_images_they_are_measured_on(capsys, make_run):
    make_run("first", validation=100)
    for name, options, named in (
        ("seed", {"seed": 2}, "100 validation images of seed 1 and cifar10, 100 validation"),
        ("data-seed", {"data_seed": 2}, "validation images of seed 2"),
        ("holdout", {"holdout": 50}, "of seed 1, others than the 50 held-out training images"),
        ("file", {"checksums": [("a.bin", "2")]}, "seed 1 and the same of other files (SHA-256)"),
    ):
        make_run(name, **{"validation": 100, **options})
        assert named in refused(curves.main, capsys, "first", name)

    # What else differs is no difference: these weights, and the last bits of a whitening.
    whitened = [("a.bin", "1"), ("zca.matrix", "2")]
    make_run("weights", validation=100, data_seed=1, seed=2, checksums=whitened)
    assert call(curves.main, "first", "weights") == 0
    for name, seed in (("test-1", 1), ("test-2", 2)):
        make_run(name, seed=seed)
    assert call(curves.main, "test-1", "test-2") == 0


@pytest.mark.parametrize("settings", [[], 3, None, {"validation": 3}, {"holdout": "x"}])
def test_a_config_that_is_not_that_of_a_run(tmp_path, capsys, make_run, settings):
    make_run("a")
    path = tmp_path / "a" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "settings": settings}))
    assert "a/config.json is not that of a run" in refused(curves.main, capsys, "a")


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
