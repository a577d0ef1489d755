"""`experiments.picture`: which images, which perturbations, and its answers to mistakes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from experiments import picture
from minivat import data, ops, runs, vat
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
    seen = picture.scene([config, config], tmp_path / "data")
    np.testing.assert_array_equal(seen.x, dataset.test_images)

    changed = min(dataset.checksums)
    other = write_run(tmp_path / "other", {**dataset.checksums, changed: "0"})
    with pytest.raises(runs.RunError, match=f"on another {changed} than the one found"):
        picture.scene([config, other], tmp_path / "data")
    with pytest.raises(runs.RunError, match="the two runs have different test images"):
        picture.scene([config, {**config, "settings": {"holdout": 9}}], tmp_path / "data")


def test_another_machines_whitening_does_not_matter():
    checksums = {"data_batch_1.bin": "1"}
    theirs = {"data": {"name": "cifar10", "checksums": {**checksums, "zca.matrix": "2"}}}
    picture.check_files(theirs, SimpleNamespace(checksums=checksums))
