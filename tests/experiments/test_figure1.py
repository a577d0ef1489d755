"""Figure 1: its files, its errors, its boundary, mistakes."""

from __future__ import annotations

import dataclasses
import json
import shlex
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.figure1 import draw, main, train
from experiments.figure1.train import Settings
from experiments.lab import plotting
from minivat.data.synthetic import two_moons


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(main, "FRAMES", 4)
    out = tmp_path / "new" / "synthetic"
    assert main.main(["--seeds", "1", "2", "--updates", "20", "--out", str(out)]) == 0
    content = json.loads((out / "synthetic.json").read_text())
    assert {(run["set"], run["method"], run["seed"]) for run in content["runs"]} == {
        (name, method, seed)
        for name in ("moons", "circles")
        for method in ("mle", "rpt", "vat")
        for seed in (1, 2)
    }
    assert all(0 <= run["error"] <= 60 for run in content["runs"])
    assert content["settings"]["updates"] == content["settings"]["early"] == 20
    assert content["settings"]["epsilon"] == {"moons": 0.15, "circles": 0.1}
    assert content["environment"]["versions"]["numpy"] == np.__version__
    png = (out / "synthetic.png").read_bytes()
    assert png.startswith(b"\x89PNG") and struct.unpack(">I", png[16:20])[0] > 500
    with Image.open(out / "synthetic.gif") as film:
        assert film.n_frames == len(main.frame_updates(20))
    printed = capsys.readouterr().out
    assert printed.startswith("points") and "VAT" in printed
    assert str(out / "synthetic.gif") in printed


def test_flags_and_seeds_reach_points_and_methods(tmp_path, monkeypatch):
    """Also that every seed has points of its own and every method is trained as itself."""
    made, trained = set(), []

    def moons(seed, **options):
        made.add((seed, options["labels"], options["noise"], options["draw"]))
        return two_moons(seed, **options)

    def make_trainer(settings, points, method, seed):
        trainer = original(settings, points, method, seed)
        if points.name == "moons":
            trained.append((trainer.regularization, seed))
            assert (points.x == two_moons(seed, noise=0.5, draw="plain").x).all()
        return trainer

    original = train.make_trainer
    monkeypatch.setattr(main, "FRAMES", 2)
    monkeypatch.setitem(train.SETS, "moons", moons)
    monkeypatch.setattr(train, "make_trainer", make_trainer)
    flags = ["--seeds", "3", "4", "--updates", "30", "--noise", "0.5", "--draw", "plain"]
    flags += ["--epsilon", "0.3", "--alpha", "2", "--power-iterations", "2", "--samples", "3"]
    flags += ["--out", str(tmp_path)]
    assert main.main(flags) == 0
    assert made == {(3, 8, 0.5, "plain"), (4, 8, 0.5, "plain")}
    each = [
        (r.method, r.epsilon, r.alpha, r.power_iteration.iterations, r.samples) for r, _ in trained
    ]
    expected = [(method, 0.3, 2.0, 2, 3) for method in ("mle", "rpt", "vat")]
    assert each == [*expected, *expected, expected[2], *expected[:2]]
    assert [seed for _, seed in trained] == [3, 3, 3, 4, 4, 4, 3, 3, 3]
    content = json.loads((tmp_path / "synthetic.json").read_text())
    assert content["command"] == f"python -m experiments synthetic {shlex.join(flags)}"


def test_the_error_is_measured_early_too():
    errors = train.errors(Settings(updates=30, early=1), [3])
    assert [(each["set"], each["method"]) for each in errors] == [
        (name, method) for name in train.SETS for method in train.METHODS
    ]
    assert any(each["early_error"] != each["error"] for each in errors)
    printed = main.table(errors, Settings(updates=30, early=1)).splitlines()
    assert "error (%) at 1 " in printed[0] and "at 30" in printed[0]
    assert printed[1].split()[2:4] == [
        f"{errors[0][name]:.2f}" for name in ("early_error", "error")
    ]


def test_the_published_errors_are_of_the_default_settings():
    results = Path(train.__file__).parents[1] / "results"
    content = json.loads((results / "synthetic" / "synthetic.json").read_text())
    assert content["settings"] == dataclasses.asdict(Settings())
    seeds = main.parser().parse_args([]).seeds
    assert [each["seed"] for each in content["runs"][:: len(train.METHODS)]] == [*seeds, *seeds]


@pytest.mark.parametrize("name", ["moons", "circles"])
def test_vat_moves_the_boundary_off_the_data(name):
    settings = Settings(unlabelled=300)
    vat, mle = (train.stages(settings, name, each, 100, [500])[500] for each in ("vat", "mle"))
    assert vat.error <= 1 < mle.error
    assert vat.lds.mean() < mle.lds.mean()
    assert vat.lds.shape == vat.p.shape == (300,)
    np.testing.assert_array_equal(vat.error, 100 * np.mean((vat.p > 0.5) != vat.points.hidden_y))


def test_evaluating_changes_nothing():
    settings = Settings(updates=20, unlabelled=100)
    by_update = train.stages(settings, "moons", "vat", 1, [0, 5, 6, 20])
    assert [(done, stage.update) for done, stage in by_update.items()] == [
        (done, done) for done in (0, 5, 6, 20)
    ]
    often = by_update[20]
    once = train.stages(settings, "moons", "vat", 1, [20])[20]
    assert (by_update[6].logits != by_update[5].logits).any()
    np.testing.assert_array_equal(often.logits, once.logits)
    np.testing.assert_array_equal(often.p, once.p)


def test_what_is_shown(monkeypatch):
    monkeypatch.setattr(main, "FRAMES", 3)
    settings = Settings(updates=20, unlabelled=100)
    pictured, filmed = main.shown(settings, "circles", 1)
    assert [(stage.method, stage.update) for stage in pictured] == [
        *(("vat", 10), ("vat", 20)),
        *(("mle", 20), ("rpt", 20)),
    ]
    assert [(stage.method, stage.update) for stage in filmed] == [
        ("vat", update) for update in main.frame_updates(20)
    ]
    assert pictured[1] is filmed[-1]


def test_a_boundary_has_its_method_s_colour(tmp_path):
    stage = train.stages(Settings(updates=20, unlabelled=100), "moons", "rpt", 1, [20])[20]
    draw.picture(tmp_path / "one.png", [[stage]])
    with Image.open(tmp_path / "one.png") as picture:
        found = np.asarray(picture.convert("RGB"), np.int64)

    def closest(method):
        colour = [int(plotting.colour(method)[i : i + 2], 16) for i in (1, 3, 5)]
        return np.abs(found - colour).max(axis=-1).min()

    assert closest("rpt") <= 8 < closest("vat-exact")


def test_frames_begin_and_end_with_training():
    for updates in (1, 7, 300):
        frames = main.frame_updates(updates)
        assert frames[0] == 0 and frames[-1] == updates and frames == sorted(set(frames))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--updates", "0"], "must be an integer from 1, got '0'"),
        (["--noise", "-1"], "must be a finite number from 0, got '-1'"),
        (["--draw", "odd"], "invalid choice: 'odd'"),
        (["--seeds", "1", "2", "1"], "one is given twice: 1 2 1"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main.main(arguments)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--noise", "1e300"], "--noise 1e+300 is too large: the largest is 10"),
    ],
)
def test_what_cannot_be_drawn_or_counted_is_refused(tmp_path, capsys, arguments, message):
    assert main.main([*arguments, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main.main(["--updates", "1", "--out", str(tmp_path / "file" / "x")]) == 1
    assert capsys.readouterr().err.startswith("error: cannot write in the folder")
