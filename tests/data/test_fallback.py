import sys

import numpy as np
import pytest

from minivat.data import DataError, digits, load, mnist


@pytest.fixture
def mirrors(monkeypatch):
    """Two mirrors at a port that answers nobody."""
    monkeypatch.setattr(mnist, "MIRRORS", ("http://127.0.0.1:9/a/", "http://127.0.0.1:9/b/"))


@pytest.mark.usefixtures("mirrors")
def test_auto_says_in_two_lines_that_it_goes_on_with_the_digits(cache, capsys, monkeypatch):
    monkeypatch.setenv("MINIVAT_DATA", "/no/such/folder")
    assert load("auto").name == "digits"
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        f"MNIST is neither in MINIVAT_DATA (/no/such/folder) nor in {cache / 'mnist'}, and cannot"
        " be downloaded (127.0.0.1:9: no connection; 127.0.0.1:9: no connection).",
        "Going on with the 8x8 digits; to use MNIST, put train-images-idx3-ubyte.gz,"
        " train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz"
        " into a folder and name it in --data-dir or MINIVAT_DATA.",
    ]


@pytest.mark.usefixtures("mirrors")
def test_mnist_is_an_error_instead(capsys):
    with pytest.raises(DataError) as caught:
        load("mnist")
    (message,) = str(caught.value).splitlines()
    assert message.startswith("MNIST is neither in MINIVAT_DATA (not set) nor in")
    assert message.endswith("into a folder and name it in --data-dir or MINIVAT_DATA")
    assert capsys.readouterr().err == ""


def test_the_digits_are_real_scaled_and_split_without_overlap():
    from sklearn.datasets import load_digits

    dataset = load("digits")
    pixels, labels = load_digits(return_X_y=True)
    images = np.concatenate([dataset.train_images, dataset.test_images])
    assert dataset.image_shape == (8, 8)
    assert dataset.train_images.shape == (1300, 64)
    assert dataset.test_images.shape == (497, 64)
    assert images.dtype == np.float32
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == np.int64
    both = np.column_stack([np.concatenate([dataset.train_labels, dataset.test_labels]), images])
    original = np.column_stack([labels, pixels / 16])
    np.testing.assert_array_equal(sorted(both.tolist()), sorted(original.tolist()))


def test_the_digits_are_the_same_every_time():
    first, second = digits.load(), digits.load()
    assert first.checksums == second.checksums
    np.testing.assert_array_equal(first.test_images, second.test_images)
    assert first.checksums["test_labels"].startswith("bbd89b3259851a98")


def test_the_digits_have_no_folder(tmp_path):
    with pytest.raises(DataError, match=f"data_dir must be None for digits, .* got {tmp_path}"):
        load("digits", tmp_path)


def test_without_scikit_learn_the_digits_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        load("digits")


def test_an_unknown_name_is_refused():
    with pytest.raises(DataError, match=r"name must be one of auto, .* got 'cifar'"):
        load("cifar")
