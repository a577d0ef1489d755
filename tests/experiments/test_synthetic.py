"""The two-dimensional demonstration: its files, its errors, its boundary, mistakes."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from PIL import Image

from experiments import synthetic
from minivat.data.synthetic import two_circles, two_moons


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(synthetic, "FRAMES", 4)
    out = tmp_path / "new" / "synthetic"
    assert synthetic.main(["--seeds", "1", "2", "--updates", "20", "--out", str(out)]) == 0
    content = json.loads((out / "synthetic.json").read_text())
    assert {(run["set"], run["method"], run["seed"]) for run in content["runs"]} == {
        (name, method, seed)
        for name in synthetic.SETS
        for method in synthetic.METHODS
        for seed in (1, 2)
    }
    assert all(0 <= run["error"] <= 60 for run in content["runs"])
    assert content["settings"]["updates"] == 20
    assert content["environment"]["versions"]["numpy"] == np.__version__
    png = (out / "synthetic.png").read_bytes()
    assert png.startswith(b"\x89PNG") and struct.unpack(">I", png[16:20])[0] > 500
    with Image.open(out / "synthetic.gif") as animation:
        assert animation.n_frames == len(synthetic.frame_updates(20))
    shown = capsys.readouterr().out
    assert shown.startswith("points") and "VAT" in shown and str(out / "synthetic.gif") in shown


def method_of(name, *arguments):
    return synthetic.regularizations(name, synthetic.parser().parse_args(arguments))


def test_flags_and_seeds_reach_points_and_methods(tmp_path, capsys, monkeypatch):
    """Also that every seed has points of its own and every method is trained as itself."""
    made, trained = [], []

    def moons(seed, **options):
        made.append((seed, options["noise"], options["draw"]))
        return two_moons(seed, **options)

    def trainer(points, regularization, updates, seed):
        if points.name == "moons":
            trained.append((regularization, seed))
        return make_trainer(points, regularization, updates, seed)

    make_trainer = synthetic.make_trainer
    monkeypatch.setattr(synthetic, "FRAMES", 2)
    monkeypatch.setattr(synthetic, "EARLY", 1)
    monkeypatch.setitem(synthetic.SETS, "moons", moons)
    monkeypatch.setattr(synthetic, "make_trainer", trainer)
    flags = ["--seeds", "3", "4", "--updates", "30", "--noise", "0.5", "--draw", "plain"]
    flags += ["--epsilon", "0.3", "--alpha", "2", "--power-iterations", "2", "--samples", "3"]
    assert synthetic.main([*flags, "--out", str(tmp_path)]) == 0
    assert made == [(3, 0.5, "plain"), (4, 0.5, "plain")]
    each = [(r.method, r.epsilon, r.alpha, r.power_iterations, r.samples) for r, _ in trained]
    expected = [(method, 0.3, 2.0, 2, 3) for method in ("mle", "rpt", "vat")]
    assert each == [*expected, *expected, expected[2], *expected[:2]]
    assert [seed for _, seed in trained] == [3, 3, 3, 4, 4, 4, 3, 3, 3]
    content = json.loads((tmp_path / "synthetic.json").read_text())
    assert content["command"].endswith(f"--samples 3 --out {tmp_path}")
    assert any(run["early_error"] != run["error"] for run in content["runs"])


@pytest.mark.parametrize("make", [two_moons, two_circles])
def test_vat_moves_the_boundary_off_the_data(make):
    points = make(100, unlabelled=300)
    methods = method_of(points.name)
    [vat] = synthetic.stages(points, methods["vat"], 500, 100, [500])
    [mle] = synthetic.stages(points, methods["mle"], 500, 100, [500])
    assert vat.error <= 1 < mle.error
    assert vat.lds.mean() < mle.lds.mean()
    assert vat.lds.shape == vat.p.shape == (300,)
    np.testing.assert_array_equal(vat.error, 100 * np.mean((vat.p > 0.5) != points.hidden_y))


def test_looking_changes_nothing():
    points = two_moons(1, unlabelled=50)
    vat = method_of("moons")["vat"]
    *_, often = synthetic.stages(points, vat, 20, 1, [0, 5, 6, 20])
    [once] = synthetic.stages(points, vat, 20, 1, [20])
    np.testing.assert_array_equal(often.grid, once.grid)
    np.testing.assert_array_equal(often.p, once.p)


def test_frames_begin_and_end_with_training():
    for updates in (1, 7, 300):
        frames = synthetic.frame_updates(updates)
        assert frames[0] == 0 and frames[-1] == updates and frames == sorted(set(frames))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--updates", "0"], "must be an integer from 1, got '0'"),
        (["--noise", "-1"], "must be a finite number from 0, got '-1'"),
        (["--draw", "odd"], "invalid choice: 'odd'"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        synthetic.main(arguments)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--noise", "1e300"], "--noise 1e+300 is too large: the largest is 10"),
        (["--seeds", "1", "2", "1"], "--seeds 1 2 1: each only once"),
    ],
)
def test_what_cannot_be_drawn_or_counted_is_refused(tmp_path, capsys, arguments, message):
    assert synthetic.main([*arguments, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert synthetic.main(["--updates", "1", "--out", str(tmp_path / "file" / "x")]) == 1
    assert capsys.readouterr().err.startswith("error: cannot write in the folder")
