import gzip
import hashlib
import lzma
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivat.data import DataError, cifar10, hold_out, load
from minivat.data.dataset import centred
from tests import cifar_files
from tests.allocation import allocating_less_than
from tests.cifar_files import BATCHES, RECORDS, archive, encode, write_cifar10

MINIVAT_DATA = os.environ.get("MINIVAT_DATA")
REAL = Path(MINIVAT_DATA or "", "cifar10", "data_batch_1.bin.xz")

FORMS = ["bin", "xz", "tar"]
SIZE = RECORDS * 3073
LENGTH = f"length must be {SIZE} bytes (20 records of 3073), "


@pytest.fixture(autouse=True)
def small(monkeypatch):
    cifar_files.accept_small_files(monkeypatch)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cifar10"


def refused(folder, holdout=0):
    """The one line with which the folder is refused."""
    with pytest.raises(DataError) as caught:
        cifar10.read(folder, holdout)
    (message,) = str(caught.value).splitlines()
    return message


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_files_contents(form, folder):
    drawn = write_cifar10(folder, form)
    dataset = load("cifar10", folder.parent)
    assert (dataset.name, dataset.test_name) == ("cifar10", "test images")
    assert dataset.image_shape == (32, 32, 3)
    for images, labels, names in (
        (dataset.train_images, dataset.train_labels, BATCHES[:5]),
        (dataset.test_images, dataset.test_labels, BATCHES[5:]),
    ):
        pixels = np.concatenate([drawn[name][0] for name in names])
        assert images.dtype == np.float32 and images.flags.c_contiguous
        np.testing.assert_array_equal(images, ((pixels - 127.5) / 255).astype(np.float32))
        assert labels.dtype == np.int64
        np.testing.assert_array_equal(labels, np.concatenate([drawn[name][1] for name in names]))
    assert dataset.checksums == {
        name: hashlib.sha256(encode(*batch)).hexdigest() for name, batch in drawn.items()
    }
    assert not dataset.original


def test_the_original_files_are_known_by_their_checksums(folder, monkeypatch):
    write_cifar10(folder)
    monkeypatch.setattr(cifar10, "FILES", cifar10.read(folder).checksums)
    assert cifar10.read(folder).original
    assert cifar10.read(folder, holdout=30).original


def test_forms_may_be_mixed(folder):
    write_cifar10(folder, "tar")
    drawn = write_cifar10(folder, "xz", test=False)
    (folder / "data_batch_2.bin.xz").unlink()
    other = drawn["data_batch_2.bin"][0], (drawn["data_batch_2.bin"][1] + 1) % 10
    (folder / "data_batch_2.bin").write_bytes(encode(*other))
    dataset = cifar10.read(folder)
    np.testing.assert_array_equal(dataset.train_labels[RECORDS : 2 * RECORDS], other[1])
    assert len(dataset.test_labels) == RECORDS


def test_pixels_are_centred_exactly():
    pixels = np.arange(256, dtype=np.uint8)
    images = centred(pixels)
    assert (images[0], images[255]) == (-0.5, 0.5)
    np.testing.assert_array_equal(images, -images[::-1])
    np.testing.assert_allclose(images, (np.arange(256) - 127.5) / 255, rtol=1e-7)


# The test set ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("test", [True, False])
def test_a_holdout_takes_the_test_set_out_of_the_training_images(form, test, folder):
    drawn = write_cifar10(folder, form, test)
    dataset = load("cifar10", folder, holdout=30)
    labels = np.concatenate([drawn[name][1] for name in BATCHES[:5]])
    images = centred(np.concatenate([drawn[name][0] for name in BATCHES[:5]]))
    train, held_out = hold_out(labels, 30, seed=0)
    assert dataset.test_name == "30 held-out training images"
    np.testing.assert_array_equal(dataset.test_images, images[held_out])
    np.testing.assert_array_equal(dataset.test_labels, labels[held_out])
    np.testing.assert_array_equal(dataset.train_images, images[train])
    np.testing.assert_array_equal(dataset.train_labels, labels[train])
    assert np.bincount(dataset.test_labels).tolist() == [3] * 10
    assert list(dataset.checksums) == list(BATCHES[:5])


@pytest.mark.parametrize("form", ["bin", "xz"])
def test_without_a_test_batch_a_holdout_is_proposed(form, folder):
    write_cifar10(folder, form, test=False)
    assert refused(folder) == (
        f"{folder}: lacks test_batch.bin; --holdout 10000 takes the test set out of the training"
        " images instead"
    )


@pytest.mark.parametrize("count", [-1, 100, 50_000])
def test_a_holdout_that_leaves_nothing_is_refused(count, folder):
    write_cifar10(folder)
    assert refused(folder, count) == f"holdout must lie in [0, 99], got {count}"


@pytest.mark.parametrize("name", ["auto", "mnist", "digits", "svhn"])
def test_other_sets_have_no_holdout(name):
    with pytest.raises(DataError, match=f"holdout must be 0 for {name}, .* got 5"):
        load(name, holdout=5)


# Files that are not as they should be ------------------------------------------------------------


@pytest.mark.parametrize("form", ["bin", "xz"])
@pytest.mark.parametrize("given", [True, False])
def test_a_missing_batch_is_named(form, given, folder, monkeypatch):
    write_cifar10(folder, form)
    suffix = ".xz" if form == "xz" else ""
    (folder / f"data_batch_3.bin{suffix}").unlink()
    if not given:
        monkeypatch.setenv("MINIVAT_DATA", str(folder.parent))
    with pytest.raises(DataError) as caught:
        load("cifar10", folder if given else None)
    assert str(caught.value) == f"{folder}: lacks data_batch_3.bin"


def test_a_folder_without_any_is_named(tmp_path):
    with pytest.raises(DataError, match="data_dir must hold cifar10/ or data_batch_1"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda content: content[:-1],
            LENGTH + f"got {SIZE - 1}",
        ),
        (
            lambda content: content[:-3073],
            LENGTH + f"got {SIZE - 3073}",
        ),
        (
            lambda content: content + b"\n",
            LENGTH + f"got more than {SIZE}",
        ),
        (lambda content: b"", LENGTH + "got 0"),
        (lambda content: b"\x0a" + content[1:], "label 0 must lie in [0, 9], got 10"),
        (
            lambda content: content[:-3073] + b"\xff" + content[-3072:],
            "label 19 must lie in [0, 9], got 255",
        ),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_a_malformed_batch_is_refused_by_name(form, damage, reason, name, folder):
    drawn = write_cifar10(folder, form)
    contents = {each: encode(*batch) for each, batch in drawn.items()}
    contents[name] = damage(contents[name])
    path = place = folder / name
    content = contents[name]
    if form == "xz":
        path = place = folder / f"{name}.xz"
        content = lzma.compress(content, preset=0)
    if form == "tar":
        path = folder / "cifar-10-binary.tar.gz"
        place = f"{path}: cifar-10-batches-bin/{name}"
        content = archive({f"cifar-10-batches-bin/{n}": each for n, each in contents.items()})
    path.write_bytes(content)
    assert refused(folder).startswith(f"{place}: {reason}")


COMPRESSED = lzma.compress(bytes(SIZE), preset=0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>404</html>",
        COMPRESSED[:5],
        COMPRESSED[: len(COMPRESSED) // 2],
        COMPRESSED[:-1],
        COMPRESSED + b"\n",
        COMPRESSED + b"what is this?",
        COMPRESSED + COMPRESSED,
        COMPRESSED[:-20] + bytes(20),
    ],
)
def test_a_damaged_xz_file_is_refused_by_name(content, folder):
    write_cifar10(folder, "xz")
    path = folder / "data_batch_4.bin.xz"
    path.write_bytes(content)
    assert refused(folder).startswith(f"{path}: corrupt xz data (")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"<html>404</html>",
        lambda content: content[:5],
        lambda content: content[: len(content) // 2],
        lambda content: content[:2] + b"\x00" + content[3:],
    ],
)
def test_a_damaged_archive_is_refused_by_name(damage, folder):
    write_cifar10(folder, "tar")
    path = folder / "cifar-10-binary.tar.gz"
    path.write_bytes(damage(path.read_bytes()))
    assert refused(folder).startswith(f"{path}: corrupt tar.gz archive (")


@given(st.data())
def test_an_archive_cut_anywhere_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cut")
    write_cifar10(folder, "tar")
    path = folder / "cifar-10-binary.tar.gz"
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1), "length")])
    assert refused(folder).startswith(f"{path}: corrupt tar.gz archive (")


def test_an_archive_with_damaged_pixels_is_refused(folder):
    """Pixels say nothing of themselves: the checksum at the end of the archive does."""
    write_cifar10(folder, "tar")
    path = folder / "cifar-10-binary.tar.gz"
    tar = bytearray(gzip.decompress(path.read_bytes()))
    checksum_and_length = path.read_bytes()[-8:]
    tar[512 + 100] ^= 1  # in the first batch's first image, after the batch's header
    stored = gzip.compress(bytes(tar), compresslevel=0)
    path.write_bytes(stored[:-8] + checksum_and_length)
    assert refused(folder).startswith(f"{path}: corrupt tar.gz archive (CRC check failed")


def test_an_archive_without_a_batch_is_refused_by_name(folder):
    drawn = write_cifar10(folder, "tar")
    path = folder / "cifar-10-binary.tar.gz"
    contents = {f"cifar-10-batches-bin/{name}": encode(*batch) for name, batch in drawn.items()}
    del contents["cifar-10-batches-bin/data_batch_5.bin"]
    contents["data_batch_5.bin"] = b""
    path.write_bytes(archive(contents))
    assert refused(folder) == f"{path}: lacks cifar-10-batches-bin/data_batch_5.bin"


def test_an_archive_with_a_folder_for_a_batch_is_refused(folder, monkeypatch):
    write_cifar10(folder, "tar")
    monkeypatch.setattr("tarfile.TarInfo.isfile", lambda member: False)
    assert refused(folder).endswith("data_batch_1.bin: not a file")


def test_a_batch_that_cannot_be_read_is_an_error(folder):
    write_cifar10(folder)
    path = folder / "test_batch.bin"
    path.unlink()
    path.mkdir()
    assert refused(folder) == f"{path}: cannot be read (Is a directory)"


def test_an_over_long_file_is_not_decompressed_to_its_end(folder):
    write_cifar10(folder, "xz")
    path = folder / "data_batch_1.bin.xz"
    path.write_bytes(lzma.compress(bytes(10**8), preset=0))
    with allocating_less_than(10**7):
        assert "more than" in refused(folder)


def test_where_it_cannot_be_had_the_archive_is_asked_for(cache):
    with pytest.raises(DataError) as caught:
        load("cifar10")
    (message,) = str(caught.value).splitlines()
    assert message.startswith(f"CIFAR-10 is neither in MINIVAT_DATA (not set) nor in {cache}/cifar")
    assert message.endswith(
        "; put cifar-10-binary.tar.gz into a folder and name it in --data-dir or MINIVAT_DATA"
    )


# The real files ----------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.exists(), reason="needs CIFAR-10's first batch as .xz in MINIVAT_DATA")
def test_the_first_real_batch(monkeypatch):
    monkeypatch.setattr(cifar10, "RECORDS", 10_000)
    pixels, labels, sha256 = cifar10._read_file(REAL.parent, "data_batch_1.bin")
    assert sha256 == cifar10.FILES["data_batch_1.bin"]
    assert np.bincount(labels).tolist() == [
        *(1005, 974, 1032, 1016, 999),
        *(937, 1030, 1001, 1025, 981),
    ]
    assert pixels.shape == (10_000, 32, 32, 3)
