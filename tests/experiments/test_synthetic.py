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


@pytest.mark.parametrize("make", [two_moons, two_circles])
def test_vat_moves_the_boundary_off_the_data(make):
    points = make(100, unlabelled=300)
    [vat] = synthetic.stages(points, "vat", 500, 100, [500])
    [mle] = synthetic.stages(points, "mle", 500, 100, [500])
    assert vat.error <= 1 < mle.error
    assert vat.lds.mean() < mle.lds.mean()
    assert vat.lds.shape == vat.p.shape == (300,)
    np.testing.assert_array_equal(vat.error, 100 * np.mean((vat.p > 0.5) != points.hidden_y))


def test_looking_changes_nothing():
    points = two_moons(1, unlabelled=50)
    *_, often = synthetic.stages(points, "vat", 20, 1, [0, 5, 6, 20])
    [once] = synthetic.stages(points, "vat", 20, 1, [20])
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


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert synthetic.main(["--updates", "1", "--out", str(tmp_path / "file" / "x")]) == 1
    assert capsys.readouterr().err.startswith("error: cannot write in the folder")
