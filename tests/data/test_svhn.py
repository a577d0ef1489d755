import hashlib

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from minivat.data import DataError, load, svhn
from tests import cifar_files
from tests.cifar_files import COUNTS, write_svhn

TRAIN = svhn.TRAIN_FILE
X = np.zeros((32, 32, 3, 60), np.uint8)
Y = np.ones((60, 1), np.uint8)
X_MUST, Y_MUST = "variable X must be uint8 (32, 32, 3, 60), ", "variable y must be uint8 (60, 1), "


@pytest.fixture(autouse=True)
def small(monkeypatch):
    cifar_files.accept_small_files(monkeypatch)


@pytest.fixture
def folder(tmp_path):
    write_svhn(tmp_path / "svhn")
    return tmp_path / "svhn"


def refused(path):
    """The reason for which the file `path` is refused, in one line that begins with its name."""
    with pytest.raises(DataError) as caught:
        svhn.read(path.parent)
    (message,) = str(caught.value).splitlines()
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_load_gives_the_files_contents(folder):
    drawn = write_svhn(folder)
    dataset = load("svhn", folder.parent)
    assert (dataset.name, dataset.test_name) == ("svhn", "test images")
    assert dataset.image_shape == (32, 32, 3)
    for images, labels, name in (
        (dataset.train_images, dataset.train_labels, svhn.TRAIN_FILE),
        (dataset.test_images, dataset.test_labels, svhn.TEST_FILE),
    ):
        pixels, digits = drawn[name]
        assert images.dtype == np.float32 and images.flags.c_contiguous
        np.testing.assert_array_equal(images, ((pixels - 127.5) / 255).astype(np.float32))
        assert labels.dtype == np.int64
        assert np.bincount(labels).tolist() == [COUNTS[name] // 10] * 10
        np.testing.assert_array_equal(labels, digits)
    assert dataset.checksums == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in svhn.FILES
    }
    assert not dataset.original


def test_the_original_files_are_known_by_their_checksums(folder, monkeypatch):
    monkeypatch.setattr(svhn, "FILES", svhn.read(folder).checksums)
    assert svhn.read(folder).original


@pytest.mark.parametrize("name", svhn.FILES)
def test_a_missing_file_is_named(name, folder):
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"^{folder}: lacks {name}$"):
        load("svhn", folder)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"y": Y}, "lacks the variable X"),
        ({"X": X, "Y": Y}, "lacks the variable y"),
        ({"X": X[..., 1:], "y": Y}, X_MUST + "got uint8 (32, 32, 3, 59)"),
        ({"X": X[:28], "y": Y}, X_MUST + "got uint8 (28, 32, 3, 60)"),
        ({"X": X.T, "y": Y}, X_MUST + "got uint8 (60, 3, 32, 32)"),
        ({"X": X / 255, "y": Y}, X_MUST + "got double (32, 32, 3, 60)"),
        ({"X": {"X": X}, "y": Y}, X_MUST + "got struct (1, 1)"),
        ({"X": X, "y": Y[1:]}, Y_MUST + "got uint8 (59, 1)"),
        ({"X": X, "y": Y.T}, Y_MUST + "got uint8 (1, 60)"),
        ({"X": X, "y": Y.astype(float)}, Y_MUST + "got double (60, 1)"),
        ({"X": X, "y": "one"}, Y_MUST + "got char (1, 3)"),
        ({"X": X, "y": Y - 1}, "label 0 must lie in [1, 10], got 0"),
        (
            {"X": X, "y": Y * np.eye(60, dtype=np.uint8)[:, 7:8] * 10 + Y},
            "label 7 must lie in [1, 10], got 11",
        ),
    ],
)
@pytest.mark.parametrize("compressed", [True, False])
def test_wrong_variables_are_refused(variables, reason, compressed, folder):
    scipy.io.savemat(folder / TRAIN, variables, do_compression=compressed)
    assert refused(folder / TRAIN).startswith(reason)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x89HDF\r\n\x1a\n" + bytes(1000)])
@pytest.mark.parametrize("name", svhn.FILES)
def test_what_is_no_matlab_file_is_refused(content, name, folder):
    (folder / name).write_bytes(content)
    assert refused(folder / name).startswith("truncated, damaged or not a MATLAB file")


@given(st.data())
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("svhn")
    write_svhn(folder)
    path = folder / TRAIN
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1), "length")])
    assert refused(path).startswith(("truncated, damaged or not", "lacks the variable"))


def test_a_file_that_cannot_be_read_is_an_error(folder):
    (folder / TRAIN).unlink()
    (folder / TRAIN).mkdir()
    assert refused(folder / TRAIN) == "cannot be read (Is a directory)"


def test_where_it_cannot_be_had_the_files_are_asked_for():
    with pytest.raises(DataError) as caught:
        load("svhn")
    (message,) = str(caught.value).splitlines()
    assert message.startswith("SVHN is neither in MINIVAT_DATA (not set) nor in ")
    assert "; put train_32x32.mat, test_32x32.mat into a folder and name it in" in message
