"""The picture of perturbations: which images, which networks, and its answers to mistakes."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from experiments import figures
from experiments.images import Cifar10Semisup, SvhnSemisup
from experiments.lab import plotting, runs, scene
from experiments.lab.results import Run
from experiments.mnist import MnistSemisup, MnistSup
from minivat import backend, data, ops, vat
from tests import commands
from tests.mnist_files import write_mnist

pytestmark = pytest.mark.usefixtures("_away_from_here")
CPU = backend.select_device("cpu")

# Perturbations -----------------------------------------------------------------------------------

rng = np.random.default_rng(0)
W = rng.standard_normal((16, 10)).astype(np.float32)


def network(x):
    return ops.tanh(x @ W) * 3.0


def colour_network(x):
    return ops.tanh(ops.reshape(x, (x.shape[0], 12)) @ W[:12]) * 3.0


def test_a_perturbation_has_the_size_and_the_worse_sign():
    x = rng.random((5, 16)).astype(np.float32)
    r = scene.perturbation(network, x, 2.5)
    np.testing.assert_allclose(np.linalg.norm(r, axis=1), 2.5, rtol=1e-5)
    logits = network(x)
    assert (vat.lds(network, x, r, logits) >= vat.lds(network, x, -r, logits)).all()


def test_images_that_all_networks_classify_rightly():
    x = W.T[np.arange(400) % 10] * 0.1 + 0.01 * rng.random((400, 16)).astype(np.float32)
    labels = network(x).argmax(axis=1)
    labels[:200] = (labels[:200] + 1) % 10
    indices = figures.right_for_all([network, network], x, labels)
    assert [labels[i] for i in indices] == list(range(10))
    assert min(indices) >= 200
    with pytest.raises(runs.RunError, match="no image is classified rightly"):
        figures.right_for_all([network], x[:200], labels[:200])


@pytest.fixture
def saved(monkeypatch):
    """The figures that are written."""
    seen = []
    save = plotting.save

    def keep(figure, path, **options):
        seen.append(figure)
        save(figure, path, **options)

    monkeypatch.setattr(plotting, "save", keep)
    return seen


def test_the_scale_of_r_stands_beside_it(tmp_path, saved):
    x = rng.random((3, 16)).astype(np.float32)
    seen = scene.Scene(x[[2, 0]], np.arange(2), (4, 4), lambda x: x)
    path = tmp_path / "picture.png"
    figures.draw({"a": network, "b": network}, seen, 2.0, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    (figure,) = saved
    assert len(figure.axes) == 5 * 2 + 2  # images, and a scale for each network
    largest = np.abs(scene.perturbation(network, x[[2, 0]], 2.0)).max()
    labels = [label.get_text() for label in figure.axes[-1].get_yticklabels()]
    assert labels == [f"-{largest:.2g}", "0", f"{largest:.2g}"]
    rows = [axes.get_ylabel() for axes in figure.axes[:-2:2]]
    assert rows == ["x", "a\n\nr", "x + r", "b\n\nr", "x + r"]
    assert figure.get_suptitle().startswith("Virtual adversarial perturbations, ‖r‖₂ = 2:")
    for i, axes in enumerate(figure.axes[4:6]):
        after = network(x[[2, 0]] + scene.perturbation(network, x[[2, 0]], 2.0))[i]
        changed = after.argmax() != network(x[[2, 0]])[i].argmax()
        assert axes.get_title().startswith(f"{after.argmax()} (")
        assert axes.title.get_color() == ("tab:red" if changed else "black")


def test_nothing_of_a_picture_overlaps(tmp_path, saved):
    x = rng.random((10, 784)).astype(np.float32)
    weights = rng.standard_normal((784, 10)).astype(np.float32)

    def wide(x):
        return ops.tanh(x @ weights) * 3.0

    seen = scene.Scene(x, np.arange(10), (28, 28), lambda x: x)
    path = tmp_path / "picture.png"
    figures.draw({"without VAT": wide, "with VAT": wide}, seen, 2.0, path)
    (figure,) = saved
    figure.set_dpi(130)  # as it was written
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    for i, box in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        for other in boxes[:i]:
            across = min(box.x1, other.x1) - max(box.x0, other.x0)
            along = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert across <= 0 or along <= 1


def test_perturbations_of_whitened_images_in_colour_are_shown_in_pixels_too(tmp_path, saved):
    x = rng.random((3, 2, 2, 3)).astype(np.float32)
    shown = []

    def pixels(x):
        shown.append(x)
        return x / 3

    x = x[[2, 0]]
    seen = scene.Scene(x, np.arange(2), (2, 2, 3), pixels, "abcdefghij", whitened=True)
    path = tmp_path / "picture.png"
    figures.draw({"a": colour_network}, seen, 2.0, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    clean, perturbed = shown
    np.testing.assert_array_equal(clean, x)
    r = (perturbed - clean).reshape(2, -1)
    np.testing.assert_allclose(np.linalg.norm(r, axis=1), 2, rtol=1e-5)
    largest = np.abs(r).max()
    (figure,) = saved
    assert {axes.get_title()[0] for axes in figure.axes[-2:]} <= set("abcdefghij")
    rows = [axes.get_ylabel() for axes in figure.axes[::2]]
    assert rows[0::3] == ["x", "x + r"]
    assert rows[1:3] == [f"a\n\nr, whitened\n±{largest:.2g}", f"r, pixels\n±{largest / 3:.2g}"]
    norm = np.linalg.norm(x.reshape(2, -1), axis=1).mean()
    assert f"of the whitened image, whose own is {norm:.0f} on average" in figure.get_suptitle()
    plain = scene.Scene(x, np.arange(3), (2, 2, 3), pixels)
    assert "of the image, pixels ± 0.5, whose own" in figures.caption(plain, 2.0)


def test_the_newest_runs_with_and_without_vat(make_run, refused):
    make_run("runs/a/old", MnistSup(method="mle", seed=1))
    make_run("runs/a/mle", MnistSup(method="mle", seed=2))
    make_run("runs/a/vat", MnistSup(method="vat-finite-difference", seed=3))
    # Newer, but not VAT, on other images, or of another task.
    make_run("runs/a/rpt", MnistSup(method="rpt"))
    make_run("runs/a/digits", MnistSup(dataset="digits"))
    make_run("runs/a/few", MnistSemisup(method="mle"))
    make_run("runs/a/elsewhere", MnistSup(method="mle"), checksums=[("a.bin", "2")])
    found = figures.to_compare(None, None)
    assert {name: run.folder.name for name, run in found.items()} == {
        "without VAT": "mle",
        "with VAT": "vat",
    }
    make_run("runs/b/alone", SvhnSemisup(method="vat-entmin"))
    found = figures.to_compare(None, None)
    assert {name: run.folder.name for name, run in found.items()} == {"with VAT": "alone"}


def test_runs_without_vat_are_not_enough(make_run, refused):
    make_run("runs/a/mle", MnistSup(method="mle"))
    make_run("runs/a/digits", MnistSup(dataset="digits"))
    message = refused("picture")
    assert "no run with VAT on MNIST, CIFAR-10 or SVHN to draw" in message
    assert "make mnist-sup UPDATES=600" in message
    assert "WITH= (--with)" in message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--without mle", "--without needs --with"),
        ("--with digits", "the run with VAT is one on digits"),
        ("--with vat --without digits", "the run without VAT is one on digits"),
        ("--with vat --without cifar10", "the two runs have different test images"),
        ("--with cifar10 --without held-out", "the two runs have different test images"),
        ("--with nowhere", "nowhere/config.json"),
        ("--with vat --epsilon 0", "--epsilon"),
    ],
)
def test_pictures_of_what_runs_are_refused(refused, make_run, monkeypatch, arguments, named):
    monkeypatch.setattr(data, "load", lambda *_: pytest.fail("data were loaded"))
    make_run("mle", MnistSup(method="mle"))
    make_run("vat", MnistSup())
    make_run("digits", MnistSup(dataset="digits"))
    make_run("cifar10", Cifar10Semisup())
    make_run("held-out", Cifar10Semisup(holdout=100))
    assert named in refused("picture", *arguments.split())


def test_a_run_that_has_no_checkpoint(refused, make_run, tmp_path):
    write_mnist(tmp_path / "data")
    make_run("vat", MnistSup())
    (tmp_path / "vat" / "checkpoint.npz").unlink()
    message = refused("picture", "--with", "vat", "--data-dir", "data", "--out", "p.png")
    assert "vat holds no run" in message and "checkpoint.npz" in message
    assert "--overwrite" not in message


@pytest.mark.parametrize("out", ["a folder", "file/picture.png", "/dev/null/picture.png"])
def test_where_nothing_can_be_written_is_said_before_anything_is_computed(
    call, capsys, make_run, monkeypatch, out
):
    monkeypatch.setattr(data, "load", lambda *_: pytest.fail("data were loaded"))
    make_run("run", MnistSup())
    Path("a folder").mkdir()
    Path("file").write_bytes(b"")
    assert call("picture", "--with", "run", "--out", out) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: cannot write ") and err.count("\n") == 1


def test_the_test_images_are_those_of_the_runs(refused, make_run, tmp_path):
    write_mnist(tmp_path / "data")
    dataset = data.load("mnist", tmp_path / "data")
    changed = min(dataset.checksums)
    run = make_run("run", MnistSup(), checksums={**dataset.checksums, changed: "0"}.items())
    np.testing.assert_array_equal(scene.scene(run, dataset, None).x, dataset.test_images)
    with pytest.raises(runs.RunError, match=f"on another {changed} than the one found"):
        run.network(dataset, CPU)


# The picture of real runs ------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """`trained(method)`: a run of two updates on a small MNIST, as its folder."""
    write_mnist(tmp_path / "data" / "mnist")
    monkeypatch.setenv("MINIVAT_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(figures, "right_for_all", lambda *_: [3, 5])
    brief = "--data mnist --batch-size 30 --updates 2 --evaluate-every 1 --device cpu --quiet"

    def trained(method):
        folder = Path("runs", "mnist_sup", method)
        assert commands.call("mnist-sup", "--method", method, *brief.split(), "--out", folder) == 0
        return folder

    return trained


def test_without_arguments_the_newest_runs_are_drawn(call, trained, saved, capsys):
    vat, mle = trained("vat-exact"), trained("mle")
    capsys.readouterr()
    saved.clear()
    assert call("picture") == 0
    assert capsys.readouterr().out == "drawn: runs/picture.png\n"
    (figure,) = saved
    rows = [axes.get_ylabel().partition("\n")[0] for axes in figure.axes[:10:2]]
    assert rows == ["x", "without VAT", "x + r", "with VAT", "x + r"]
    written = runs.read_json(Path("runs/picture.json"))
    assert written["with VAT"]["settings"] == Run(vat).config["settings"]
    assert written["without VAT"]["settings"] == Run(mle).config["settings"]
    assert written["with VAT"]["updates"] == 2 and written["test_images"] == [3, 5]
    assert written["epsilon"] == 2.0 and written["environment"]["device"].startswith("cpu")


def test_the_command_is_kept_with_the_picture(call, trained):
    folder = str(trained("vat-exact"))
    typed = ["--without", folder, "--with", folder, "--epsilon", "0.5", "--out", "a picture.png"]
    assert call("picture", *typed) == 0
    assert Path("a picture.png").read_bytes().startswith(b"\x89PNG")
    written = runs.read_json(Path("a picture.json"))
    assert written["command"] == shlex.join(["python", "-m", "experiments", "picture", *typed])
    assert written["epsilon"] == 0.5
    assert written["without VAT"]["settings"]["updates"] == 2


def test_the_size_is_one_at_which_the_networks_differ(call, make_run, monkeypatch):
    """On images not that which VAT trains with: at 10 all predictions change, in any network."""
    assert figures.SIZES == {"mnist": 2.0, "cifar10": 1.0, "svhn": 1.0}
    sizes = []
    digits = data.load("digits")
    monkeypatch.setattr(data, "load", lambda *_: digits)
    monkeypatch.setattr(data, "whiten", lambda dataset: dataset)
    seen = scene.Scene(np.empty((0, 64)), None, (8, 8), None)
    monkeypatch.setattr(figures, "scene", lambda *_: seen)
    monkeypatch.setattr(Run, "checkpoint", lambda run: runs.Checkpoint(1, {}, [], None, 0.0, {}))
    monkeypatch.setattr(Run, "network", lambda *_: None)
    monkeypatch.setattr(figures, "right_for_all", lambda *_: [])
    monkeypatch.setattr(figures, "draw", lambda *arguments: sizes.append(arguments[2]))
    specs = (MnistSup(), Cifar10Semisup(), SvhnSemisup())
    for i, spec in enumerate(specs):
        make_run(str(i), spec)
        assert call("picture", "--with", i, "--out", "p.png") == 0
        assert call("picture", "--with", i, "--out", "p.png", "--epsilon", "7") == 0
    assert sizes == [2.0, 7.0, 1.0, 7.0, 1.0, 7.0]


def test_a_run_whose_arrays_do_not_fit_is_refused_in_one_line(refused, trained, capsys):
    folder = trained("vat-exact")
    path = folder / "checkpoint.npz"
    checkpoint = runs.read_checkpoint(path)
    checkpoint.arrays["params"] = checkpoint.arrays["params"][:-1]
    runs.write_checkpoint(path, checkpoint)
    capsys.readouterr()
    assert "does not fit: array params was" in refused(
        "picture", "--with", folder, "--out", "p.png"
    )
    path.write_bytes(b"damaged")
    assert "is damaged or no checkpoint" in refused("picture", "--with", folder, "--out", "p.png")
