import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from minivat.data import DataError, load, mnist
from tests.mnist_files import encode, write_mnist

# The user's own files, where the tests are given them; read before the fixtures hide the variable.
MINIVAT_DATA = os.environ.get("MINIVAT_DATA")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "mnist"


def test_read_gives_the_files_contents(folder):
    files = write_mnist(folder, train=30, test=20)
    dataset = mnist.read(folder)
    assert dataset.name == "mnist"
    assert dataset.image_shape == (28, 28)
    assert dataset.train_images.shape == (30, 784)
    assert dataset.test_images.shape == (20, 784)
    for images, name in (
        (dataset.train_images, mnist.TRAIN_IMAGES),
        (dataset.test_images, mnist.TEST_IMAGES),
    ):
        assert images.dtype == np.float32
        assert images.min() == 0
        assert images.max() == 1
        expected = files[name].reshape(len(images), 784).astype(np.float64) / 255
        np.testing.assert_array_equal(images, expected.astype(np.float32))
    for labels, name in (
        (dataset.train_labels, mnist.TRAIN_LABELS),
        (dataset.test_labels, mnist.TEST_LABELS),
    ):
        assert labels.dtype == np.int64
        np.testing.assert_array_equal(labels, files[name])
    assert dataset.checksums == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in mnist.FILES
    }


def test_real_files_or_a_copy_of_their_form(tmp_path):
    """The real MNIST where MINIVAT_DATA is set, small files with its first labels otherwise."""
    place, first, counts = MINIVAT_DATA, [5, 0, 4, 1, 9, 2, 1, 3, 1, 4], (60_000, 10_000)
    if not place:
        place, counts = tmp_path, (10, 20)
        write_mnist(tmp_path / "mnist", *counts)
        labels = np.array(first, np.uint8)
        (tmp_path / "mnist" / mnist.TRAIN_LABELS).write_bytes(encode(labels))
    dataset = load("mnist", place)
    assert (len(dataset.train_images), len(dataset.test_images)) == counts
    assert dataset.train_labels[:10].tolist() == first
    if MINIVAT_DATA:
        assert dataset.checksums == mnist.FILES and dataset.original
        for file, sha256 in mnist.CONTENTS.items():
            content = gzip.decompress((Path(place) / "mnist" / file).read_bytes())
            assert hashlib.sha256(content).hexdigest() == sha256
        assert dataset.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
        assert np.bincount(dataset.train_labels)[0] == 5923
        assert 255 * dataset.train_images.mean(dtype=np.float64) == pytest.approx(33.318421, 1e-7)


REPACKED = {
    "gzip": lambda path: path.write_bytes(
        gzip.compress(gzip.decompress(path.read_bytes()), 1, mtime=7)
    ),
    "browser": lambda path: path.write_bytes(gzip.decompress(path.read_bytes())),
    "gunzip": lambda path: _unpack(path, path.stem),
    "dotted": lambda path: _unpack(path, path.stem.replace("-idx", ".idx")),
}


def _unpack(path, name):
    path.with_name(name).write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()


@pytest.fixture
def original(folder, monkeypatch):
    """Small files in the folder, as if they were the original ones."""
    write_mnist(folder)
    contents = {file: (folder / file).read_bytes() for file in mnist.FILES}
    sums = {file: hashlib.sha256(each).hexdigest() for file, each in contents.items()}
    unpacked = {
        file: hashlib.sha256(gzip.decompress(each)).hexdigest() for file, each in contents.items()
    }
    monkeypatch.setattr(mnist, "FILES", sums)
    monkeypatch.setattr(mnist, "CONTENTS", unpacked)
    return sums


@pytest.mark.parametrize("how", REPACKED)
def test_original_contents_are_known_in_any_container(how, folder, original):
    before = mnist.read(folder)
    for file in mnist.FILES:
        REPACKED[how](folder / file)
    dataset = load("mnist", folder)
    assert dataset.original and dataset.checksums == original
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(dataset, name), getattr(before, name))


@pytest.mark.parametrize("how", REPACKED)
def test_other_contents_are_not(how, folder, original):
    changed = np.ones(100, np.uint8)
    (folder / mnist.TEST_LABELS).write_bytes(encode(changed))
    for file in mnist.FILES:
        REPACKED[how](folder / file)
    dataset = mnist.read(folder)
    (path,) = folder.glob("t10k-labels*")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert dataset.checksums.pop(path.name) == sha256 and not dataset.original
    assert dataset.checksums.items() < original.items()


@pytest.mark.parametrize("mode", ["auto", "mnist"])
@pytest.mark.parametrize("name", mnist.FILES)
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-20], "truncated"),
        (lambda content: content + b"\n", "over-long"),
        (lambda content: b"<html>404</html>", "neither a gzip nor an idx file"),
        (lambda content: b"", "neither a gzip nor an idx file"),
        (lambda content: encode(np.zeros((2, 2), np.uint8)), "magic number must be 0x"),
    ],
)
def test_a_malformed_file_is_an_error_that_names_it(
    mode, name, damage, reason, folder, monkeypatch
):
    """In every mode, and wherever it lies: here below MINIVAT_DATA."""
    write_mnist(folder)
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    monkeypatch.setenv("MINIVAT_DATA", str(folder.parent))
    with pytest.raises(DataError) as caught:
        load(mode)
    assert str(caught.value).startswith(f"{path}: {reason}")
    assert len(str(caught.value).splitlines()) == 1


def test_a_malformed_file_in_the_cache_is_an_error(cache):
    write_mnist(cache / "mnist")
    path = cache / "mnist" / mnist.TEST_IMAGES
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{path}: truncated"):
        load("auto")


def test_labels_and_images_of_different_count_are_refused(folder):
    write_mnist(folder, train=30)
    (folder / mnist.TRAIN_LABELS).write_bytes(encode(np.zeros(29, np.uint8)))
    with pytest.raises(DataError) as caught:
        mnist.read(folder)
    assert str(caught.value) == (
        f"{folder / mnist.TRAIN_LABELS}: labels must be 30, as many as images in "
        f"{mnist.TRAIN_IMAGES}, got 29"
    )


@pytest.mark.parametrize("label", [10, 255])
def test_a_label_above_9_is_refused(label, folder):
    files = write_mnist(folder)
    labels = files[mnist.TEST_LABELS].copy()
    labels[7] = label
    (folder / mnist.TEST_LABELS).write_bytes(encode(labels))
    with pytest.raises(DataError) as caught:
        mnist.read(folder)
    assert str(caught.value) == (
        f"{folder / mnist.TEST_LABELS}: label 7 must lie in [0, 9], got {label}"
    )


def test_images_of_another_size_are_refused(folder):
    write_mnist(folder)
    (folder / mnist.TEST_IMAGES).write_bytes(encode(np.zeros((100, 32, 32), np.uint8)))
    with pytest.raises(DataError, match="item size must be 28 x 28, got 32 x 32"):
        mnist.read(folder)


def test_a_file_that_cannot_be_read_is_an_error(folder):
    write_mnist(folder)
    path: Path = folder / mnist.TRAIN_LABELS
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=f"{path}: cannot be read"):
        mnist.read(folder)
