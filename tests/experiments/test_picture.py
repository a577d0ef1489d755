"""`experiments.picture`: which images, which perturbations, and its answers to mistakes."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import (
    cifar10_semisup,
    cifar10_sup,
    common,
    mnist_semisup,
    mnist_sup,
    picture,
    svhn_semisup,
)
from experiments.lab import runs
from minivat import backend, data, ops, vat
from minivat.data import whitening
from tests import cifar_files
from tests.commands import call, refused
from tests.mnist_files import write_mnist

rng = np.random.default_rng(0)
W = rng.standard_normal((16, 10)).astype(np.float32)


def network(x):
    return ops.tanh(x @ W) * 3.0


def test_a_perturbation_has_the_size_and_the_worse_sign():
    x = rng.random((5, 16)).astype(np.float32)
    r = picture.perturbation(network, x, 2.5)
    np.testing.assert_allclose(np.linalg.norm(r, axis=1), 2.5, rtol=1e-5)
    logits = network(x)
    assert (vat.lds(network, x, r, logits) >= vat.lds(network, x, -r, logits)).all()


def test_images_that_all_networks_classify_rightly():
    x = W.T[np.arange(400) % 10] * 0.1 + 0.01 * rng.random((400, 16)).astype(np.float32)
    labels = network(x).argmax(axis=1)
    labels[:200] = (labels[:200] + 1) % 10
    indices = picture.chosen([network, network], x, labels)
    assert [labels[i] for i in indices] == list(range(10))
    assert min(indices) >= 200
    with pytest.raises(runs.RunError, match="no image is classified rightly"):
        picture.chosen([network], x[:200], labels[:200])


def test_the_picture_is_drawn(tmp_path):
    x = rng.random((3, 16)).astype(np.float32)
    seen = picture.Scene(x, np.arange(3), (4, 4), lambda x: x)
    path = tmp_path / "picture.png"
    picture.draw({"a": network, "b": network}, seen, [2, 0], 2.0, "0123456789", path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_perturbations_of_whitened_images_in_colour_are_shown_in_pixels_too(tmp_path):
    x = rng.random((3, 2, 2, 3)).astype(np.float32)
    shown = []

    def pixels(x):
        shown.append(x)
        return x / 3

    def colour_network(x):
        return ops.tanh(ops.reshape(x, (x.shape[0], 12)) @ W[:12]) * 3.0

    seen = picture.Scene(x, np.arange(3), (2, 2, 3), pixels, whitened=True)
    path = tmp_path / "picture.png"
    picture.draw({"a": colour_network}, seen, [2, 0], 2.0, "abcdefghij", path)
    assert path.read_bytes().startswith(b"\x89PNG")
    clean, perturbed = shown
    np.testing.assert_array_equal(clean, x[[2, 0]])
    r = (perturbed - clean).reshape(2, -1)
    np.testing.assert_allclose(np.linalg.norm(r, axis=1), 2, rtol=1e-5)
    assert "of the whitened image" in picture.caption(seen, x, 2.0)


def test_a_run_that_is_not_there(tmp_path, capsys):
    write_mnist(tmp_path / "data")
    arguments = ["--without", str(tmp_path / "a"), "--with", str(tmp_path / "b")]
    assert picture.main([*arguments, "--data-dir", str(tmp_path / "data")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "checkpoint.npz" in err and err.count("\n") == 1
    assert f"{tmp_path / 'a'} holds no run" in err and "--overwrite" not in err


def write_run(folder, checksums=()):
    """A checkpoint without arrays of a run on MNIST."""
    folder.mkdir()
    config = {"data": {"name": "mnist", "checksums": dict(checksums)}, "settings": {}}
    checkpoint = runs.Checkpoint(1, {}, [], np.zeros(0), 1.0, config)
    runs.write_checkpoint(folder / "checkpoint.npz", checkpoint)
    return config


@pytest.mark.parametrize("out", ["a folder", "file/picture.png", "/dev/null/picture.png"])
def test_where_nothing_can_be_written_is_said_before_anything_is_computed(
    tmp_path, capsys, monkeypatch, out
):
    monkeypatch.setattr(picture, "network_of", lambda *_: pytest.fail("a network was read"))
    write_run(tmp_path / "run")
    (tmp_path / "a folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    assert picture.main(["--with", str(tmp_path / "run"), "--out", str(tmp_path / out)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: cannot write ") and err.count("\n") == 1


def test_the_test_images_are_those_of_the_runs(tmp_path):
    write_mnist(tmp_path / "data")
    dataset = data.load("mnist", tmp_path / "data")
    config = write_run(tmp_path / "run", dataset.checksums)
    seen = picture.scene(picture.dataset_of([config, config], tmp_path / "data"))
    np.testing.assert_array_equal(seen.x, dataset.test_images)

    changed = min(dataset.checksums)
    other = write_run(tmp_path / "other", {**dataset.checksums, changed: "0"})
    with pytest.raises(runs.RunError, match=f"on another {changed} than the one found"):
        picture.dataset_of([config, other], tmp_path / "data")
    with pytest.raises(runs.RunError, match="the two runs have different test images"):
        picture.dataset_of([config, {**config, "settings": {"holdout": 9}}], tmp_path / "data")


def test_another_machines_whitening_does_not_matter():
    checksums = {"data_batch_1.bin": "1"}
    theirs = {"data": {"name": "cifar10", "checksums": {**checksums, "zca.matrix": "2"}}}
    picture.check_files(theirs, SimpleNamespace(checksums=checksums))


# Networks of real runs

CPU = backend.select_device("cpu")


@pytest.fixture
def _small_data(tmp_path, monkeypatch):
    """Small files of all three data sets, and a whitening that takes no time."""
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "data" / "mnist")
    cifar_files.accept_small_files(monkeypatch)
    cifar_files.write_cifar10(tmp_path / "data" / "cifar10")
    cifar_files.write_svhn(tmp_path / "data" / "svhn")
    monkeypatch.setenv("MINIVAT_DATA", str(tmp_path / "data"))
    zca = whitening.ZCA(np.full(3072, 0.1, np.float32), 5 * np.eye(3072, dtype=np.float32))
    monkeypatch.setattr(whitening, "cached_zca", lambda images, *_: zca)
    monkeypatch.setitem(mnist_semisup.ASIDE, "mnist", 20)
    monkeypatch.setattr("experiments.plots.curves", lambda *_: None)


def train(module, arguments):
    """The result of a run in the folder `run`, and its checkpoint."""
    brief = "--updates 2 --device cpu --quiet --out run"
    assert call(module.main, *arguments.split(), *brief.split()) == 0
    return runs.read_json(Path("run", "result.json")), picture.checkpoint_in("run")


ON_MNIST = "--data mnist --batch-size 30"
SEMISUP = f"{ON_MNIST} --labels 50 --unlabelled-batch-size 60"
IN_COLOUR = "--width 0.05 --batch-size 8"


@pytest.mark.usefixtures("_small_data")
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (mnist_sup, f"{ON_MNIST} --validation 40 --seed 2"),
        (mnist_semisup, f"{SEMISUP} --method mle --output-norm no"),
        (mnist_semisup, f"{SEMISUP} --shared-noise no"),
        (mnist_semisup, f"{SEMISUP} --preset iclr2016 --data-seed 3 --validation 40"),
        (cifar10_sup, f"{IN_COLOUR} --method mle"),
        (cifar10_semisup, f"{IN_COLOUR} --method mle --labels 40 --holdout 20"),
        (cifar10_semisup, f"{IN_COLOUR} --labels 20 --unlabelled-batch-size 12 --validation 30"),
        (svhn_semisup, f"{IN_COLOUR} --method mle --labels 23"),
    ],
)
def test_a_network_is_the_one_that_the_runs_result_was_measured_with(module, arguments):
    """Of every experiment, with its statistics estimated once more, and over the same images."""
    result, checkpoint = train(module, arguments)
    settings = result["settings"]
    dataset = picture.dataset_of([checkpoint.config], None)
    if dataset.name == "cifar10":
        dataset = data.whiten(dataset)
    trainer = picture.restored(checkpoint, dataset, CPU)
    seed = settings.get("data_seed", settings["seed"])
    _, _, held, _ = common.hold_out(dataset, settings["validation"], seed)
    r_vadv = trainer.r_vadv(held[0], common.R_VADV_EPSILON)
    assert r_vadv == pytest.approx(result["r_vadv_after_bn_reestimation"], rel=1e-5)
    before = common.trained_network(trainer.network, checkpoint.arrays, CPU, np.float32)
    after = picture.network_of(checkpoint, dataset, CPU)
    x = held[0][:30]
    assert np.abs(after(x) - before(x)).max() > 0.01  # the checkpoint's statistics are others
    np.testing.assert_array_equal(
        after(x), trainer.network(trainer.params, x, trainer.state, statistics="running")[0]
    )


@pytest.mark.usefixtures("_small_data")
def test_the_command_is_kept_beside_the_picture(tmp_path, monkeypatch):
    train(mnist_semisup, f"{SEMISUP} --method mle --output-norm no")
    monkeypatch.setattr(picture, "chosen", lambda *_: [3, 5])
    typed = ["--without", "run", "--with", "run", "--out", "a picture.png"]
    assert picture.main(typed) == 0
    assert Path("a picture.png").read_bytes().startswith(b"\x89PNG")
    written = runs.read_json(Path("a picture.json"))
    assert written["command"] == shlex.join(["python", "-m", "experiments.picture", *typed])
    assert written["with VAT"]["settings"]["output_norm"] == "no"


@pytest.mark.usefixtures("_small_data")
def test_a_run_that_does_not_fit_is_refused_in_one_line(capsys):
    _, checkpoint = train(mnist_semisup, f"{SEMISUP} --output-norm no")
    capsys.readouterr()
    settings = checkpoint.config["settings"]

    def refusal(settings):
        checkpoint.config["settings"] = settings
        runs.write_checkpoint(Path("run", "checkpoint.npz"), checkpoint)
        return refused(picture.main, capsys, "--with", "run")

    assert "does not fit its settings" in refusal({**settings, "output_norm": "yes"})
    del settings["output_norm"]
    assert "lack 'output_norm'" in refusal(settings)
