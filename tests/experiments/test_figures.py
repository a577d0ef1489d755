"""Figures of runs: which runs and images they show, and their answers to mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.images import Cifar10Semisup
from experiments.lab import plotting
from experiments.mnist import MnistSemisup, MnistSup
from minivat import backend

pytestmark = pytest.mark.usefixtures("_away_from_here")
ROW = {"update": 5.0, "error": 40.5, "r_vadv": 0.1}
METRICS = "update,error,r_vadv\n5,40.5,0.1\n"
CPU = backend.select_device("cpu")


@pytest.fixture
def drawn(monkeypatch):
    """What the figures of learning curves were drawn of: (runs by name, title, label)."""
    seen = []
    draw = plotting.curves

    def curves(path, *args):
        seen.append(args)
        draw(path, *args)

    monkeypatch.setattr(plotting, "curves", curves)
    return seen


# Learning curves ---------------------------------------------------------------------------------


def test_the_figure_has_every_run_by_its_name(call, tmp_path, capsys, make_run, drawn):
    make_run("mle", Cifar10Semisup(method="mle", holdout=10_000))
    make_run("vat", Cifar10Semisup(holdout=10_000, seed=2))
    assert call("curves", "labels alone=mle", "vat", "--out", "new/curves.png") == 0
    assert capsys.readouterr().out == "drawn: new/curves.png\n"
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert drawn == [
        (
            {
                "labels alone, seed 1": plotting.Curve("mle", [ROW]),
                "vat, seed 2": plotting.Curve("vat-finite-difference", [ROW]),
            },
            "cifar10",
            "error on 10,000 held-out training images (%)",
        )
    ]

    written = json.loads((tmp_path / "new" / "curves.json").read_text())
    typed = "'labels alone=mle' vat --out new/curves.png"
    assert written["command"] == f"python -m experiments curves {typed}"
    mle, vat = (json.loads((tmp_path / run / "config.json").read_text()) for run in ("mle", "vat"))
    assert written["runs"] == {"labels alone": mle, "vat": vat}
    assert written["environment"]["device"].startswith("cpu")


def test_a_title_can_be_given(call, make_run, drawn):
    make_run("a", MnistSup())
    assert call("curves", "a", "--title", "one & only") == 0
    ((_, title, label),) = drawn
    assert title == "one & only" and label == "error on test images (%)"
    assert Path("runs/curves.png").exists()


def test_names_and_title_are_no_mathematics(call, make_run):
    make_run("a", MnistSup())
    make_run("x=1/b", MnistSup(method="mle"))
    assert call("curves", "a $x_{$=a", "./x=1/b", "--title", r"$\foo$") == 0


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("a/config.png", "the name of a run's own"),
        ("a/result.png", "the name of a run's own"),
        ("fig.json", "must name a PNG file"),
    ],
)
def test_no_figure_takes_the_place_of_a_runs_file(refused, make_run, out, message):
    make_run("a", MnistSup())
    before = Path("a/config.json").read_bytes()
    assert message in refused("curves", "a", "--out", out)
    assert Path("a/config.json").read_bytes() == before and not Path(out).exists()


def test_without_runs_the_newest_of_each_method_are_drawn(call, make_run, drawn):
    make_run("runs/a/old-vat", MnistSup(seed=7))
    make_run("runs/a/mle", MnistSup(method="mle", seed=2))
    make_run("runs/b/few-labels", MnistSemisup(method="rpt"))
    make_run("runs/b/validated", MnistSup(method="at-l2", validation=100))
    make_run("runs/b/elsewhere", MnistSup(method="at-l2"), checksums=[("a.bin", "2")])
    make_run("runs/b/digits", MnistSup(method="rpt", dataset="digits"))
    make_run("runs/a/vat", MnistSup(seed=8))
    assert call("curves") == 0
    ((by_name, title, _),) = drawn
    assert list(by_name) == ["VAT, exact, seed 8", "MLE, seed 2"] and title == "mnist"


def test_without_runs_those_of_one_task_are_drawn(call, make_run, drawn):
    make_run("runs/a/many", MnistSemisup(method="rpt", labels=1000))
    make_run("runs/a/few", MnistSemisup(method="mle", labels=100))
    make_run("runs/a/vat", MnistSemisup(labels=100))
    make_run("runs/a/unfinished", MnistSemisup(labels=1000), metrics="update,error,r_vadv\n")
    assert call("curves") == 0
    ((by_name, *_),) = drawn
    assert list(by_name) == ["VAT, finite differences, seed 1", "MLE, seed 1"]


@pytest.mark.parametrize(
    ("name", "command"), [("curves", "make mnist-sup"), ("picture", "make mnist-sup UPDATES=600")]
)
def test_without_any_run_it_is_said_how_to_make_one(refused, name, command):
    expected = f"there is none in runs/; make one first, for example with: {command}"
    assert expected in refused(name)
    assert not Path("runs").exists()


def test_runs_are_compared_by_the_images_they_are_measured_on(call, refused, make_run):
    usual = MnistSemisup(validation=100)
    make_run("first", usual)
    for name, spec, checksums, named in (
        ("seed", usual.replace(seed=2), "1", "100 validation images of seed 1 and mnist, 100 val"),
        ("data-seed", usual.replace(data_seed=2), "1", "validation images of seed 2"),
        ("file", usual, "2", "seed 1 and the same of other files (SHA-256)"),
        ("test", usual.replace(validation=0), "1", "of seed 1 and mnist, test images"),
        ("digits", usual.replace(dataset="digits"), "1", "digits, 100 validation images of seed 1"),
    ):
        make_run(name, spec, checksums=[("a.bin", checksums)])
        assert named in refused("curves", "first", name)

    # What else differs is no difference: these weights, and the last bits of a whitening.
    whitened = [("a.bin", "1"), ("zca.matrix", "2")]
    make_run("weights", usual.replace(data_seed=1, seed=2), checksums=whitened)
    assert call("curves", "first", "weights") == 0
    for name, seed in (("test-1", 1), ("test-2", 2)):
        make_run(name, MnistSemisup(seed=seed))
    assert call("curves", "test-1", "test-2") == 0


def test_images_held_out_twice_are_named(refused, make_run):
    spec = Cifar10Semisup(validation=100)
    make_run("first", spec)
    make_run("both", spec.replace(holdout=50))
    expected = "of seed 1, others than the 50 held-out training images"
    assert expected in refused("curves", "first", "both")


@pytest.mark.parametrize("settings", [[], 3, None, {"validation": 3}, {"holdout": "x"}])
def test_a_config_that_is_not_that_of_a_run(tmp_path, refused, make_run, settings):
    make_run("a", Cifar10Semisup())
    path = tmp_path / "a" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "settings": settings}))
    for name, flags in (("curves", ["a"]), ("picture", ["--with", "a"])):
        message = refused(name, *flags)
        assert "a/config.json" in message
        assert "is not that of a run" in message or "of no experiment" in message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("nowhere", "nowhere/config.json"),
        ("empty", "empty/metrics.csv holds no row"),
        ("torn", "torn/metrics.csv cannot be read"),
        ("endless", "endless/metrics.csv cannot be read"),
        ("a b", "measured on different images: cifar10, 100 held-out training images and"),
        ("a c", "100 validation images"),
        ("a a", "two of the runs have the same name"),
        ("x=a x=b", "two of the runs have the same name"),
    ],
)
def test_mistakes_are_answered_in_one_line(refused, make_run, arguments, named):
    make_run("a", Cifar10Semisup())
    make_run("b", Cifar10Semisup(holdout=100))
    make_run("c", Cifar10Semisup(validation=100))
    make_run("empty", Cifar10Semisup(), metrics="update,error,r_vadv\n")
    make_run("torn", Cifar10Semisup(), metrics="update,error,r_vadv\n5,x,0\n")
    make_run("endless", Cifar10Semisup(), metrics="update,error,r_vadv\n" + "5" * 200_000)
    assert named in refused("curves", *arguments.split())
