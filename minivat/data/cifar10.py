"""CIFAR-10: 50,000 training and 10,000 test images of ten classes, 32 x 32 in colour, from the
binary version: five training batches and a test batch of 10,000 records.

A record is a label byte, 0 to 9, then the image's 1,024 red, 1,024 green and 1,024 blue bytes, row
by row.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report,
University of Toronto, 2009.
"""

import gzip
import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from .dataset import DataError, Dataset, centred
from .locate import locate_or_fetch, missing_from
from .splits import hold_out

TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"

# of the batches, uncompressed
FILES = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    TEST_FILE: "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}

ARCHIVE = "cifar-10-binary.tar.gz"
ARCHIVE_FOLDER = "cifar-10-batches-bin"  # in the archive
DOWNLOADS = {ARCHIVE: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"}
MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)

IMAGE_SHAPE = (32, 32, 3)
CLASSES = 10
RECORD_BYTES = 1 + 32 * 32 * 3
RECORDS = 10_000  # in a batch

# the pixels (N, 32, 32, 3) and labels (N,) of a batch, both uint8, and its SHA-256
Batch = tuple[NDArray[np.uint8], NDArray[np.uint8], str]


def forms(file: str) -> Sequence[str]:
    """The names under which a folder may hold a batch: as it is, as .xz, or in the archive."""
    return *_loose_forms(file), ARCHIVE


def _loose_forms(file: str) -> Sequence[str]:
    return file, f"{file}.xz"


def load(data_dir: str | Path | None = None, holdout: int = 0) -> Dataset:
    """CIFAR-10 from `data_dir`, or else from MINIVAT_DATA, the user's cache, or a download.

    holdout: the number of training images to use as the test set, always the same ones and each
        class in proportion; the test batch is then neither needed nor read.

    Raises DataError where files that are there are incomplete or malformed, for a holdout that
    leaves nothing to train on, and its subclass Unavailable where there are no files and none can
    be downloaded.
    """
    folder = locate_or_fetch(
        "CIFAR-10", "cifar10", TRAIN_FILES, data_dir, DOWNLOADS, MIRRORS, forms
    )
    return read(folder, holdout)


def read(folder: Path, holdout: int = 0) -> Dataset:
    """CIFAR-10 from the batches in `folder`; DataError, naming the file, where one is malformed."""
    total = RECORDS * len(TRAIN_FILES)
    if not 0 <= holdout < total:
        raise DataError(f"holdout must lie in [0, {total - 1}], got {holdout}")
    if not holdout and missing_from(folder, [TEST_FILE], forms):
        raise DataError(
            f"{folder}: lacks {TEST_FILE}; --holdout 10000 takes the test set out of the training"
            " images instead"
        )
    train: NDArray[np.intp] | slice
    test: NDArray[np.intp] | slice
    if holdout:
        pixels, labels, checksums = _read_batches(folder, TRAIN_FILES)
        train, test = hold_out(labels, holdout, seed=0)
        test_name = f"{holdout:,} held-out training images"
    else:
        pixels, labels, checksums = _read_batches(folder, (*TRAIN_FILES, TEST_FILE))
        train, test = slice(total), slice(total, None)
        test_name = Dataset.test_name
    return Dataset(
        name="cifar10",
        train_images=centred(pixels[train]),
        train_labels=labels[train],
        test_images=centred(pixels[test]),
        test_labels=labels[test],
        image_shape=IMAGE_SHAPE,
        checksums=checksums,
        original=all(FILES[file] == sha256 for file, sha256 in checksums.items()),
        test_name=test_name,
    )


def parse(content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The pixels (N, 32, 32, 3) and labels (N,) of a batch, views of its bytes.

    Anything but N = RECORDS records with labels from 0 to 9 raises DataError with the reason.
    """
    size = RECORDS * RECORD_BYTES
    if len(content) != size:
        given = f"more than {size}" if len(content) > size else len(content)
        raise DataError(
            f"length must be {size} bytes ({RECORDS} records of {RECORD_BYTES}), got {given}"
        )
    records = np.frombuffer(content, np.uint8).reshape(RECORDS, RECORD_BYTES)
    labels = records[:, 0]
    if labels.max() >= CLASSES:
        index = int(np.argmax(labels >= CLASSES))
        raise DataError(f"label {index} must lie in [0, 9], got {labels[index]}")
    return records[:, 1:].reshape(RECORDS, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _read_batches(
    folder: Path, files: Sequence[str]
) -> tuple[NDArray[np.uint8], NDArray[np.int64], dict[str, str]]:
    """Pixels and labels of all the batches, and the SHA-256 of each."""
    loose = [file for file in files if not missing_from(folder, [file], _loose_forms)]
    archived = [file for file in files if file not in loose]
    with ThreadPoolExecutor() as threads:  # to decompress an .xz takes more than a second
        batches = dict(zip(loose, threads.map(partial(_read_file, folder), loose), strict=True))
    if archived:
        batches |= _read_archive(folder / ARCHIVE, archived)
    pixels, labels, checksums = zip(*(batches[file] for file in files), strict=True)
    return (
        np.concatenate(pixels),
        np.concatenate(labels).astype(np.int64),
        dict(zip(files, checksums, strict=True)),
    )


def _read_file(folder: Path, file: str) -> Batch:
    path, read_it = folder / file, _start_of_file
    if not path.exists():
        path, read_it = folder / f"{file}.xz", _start_of_xz
    try:
        return _parse_batch(read_it(path), str(path))
    except lzma.LZMAError as error:
        raise DataError(f"{path}: corrupt xz data ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _start_of_file(path: Path) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(_enough())


def _start_of_xz(path: Path) -> bytes:
    """LZMAError where the file is not exactly one stream; lzma.open passes over what follows it."""
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    content = stream.decompress(path.read_bytes(), _enough())
    if len(content) < _enough() and not stream.eof:
        raise lzma.LZMAError("the stream has no end")
    if stream.unused_data:
        raise lzma.LZMAError(f"{len(stream.unused_data)} bytes after the stream")
    return content


def _read_archive(path: Path, files: Sequence[str]) -> dict[str, Batch]:
    """Those batches by name, in one pass through the archive."""
    wanted = {PurePosixPath(ARCHIVE_FOLDER, file): file for file in files}
    batches = {}
    try:
        with gzip.open(path) as stream:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                for member in archive:
                    file = wanted.pop(PurePosixPath(member.name), None)
                    if file is not None:
                        batches[file] = _read_member(archive, member, f"{path}: {member.name}")
            while stream.read(2**20):  # the checksum of it all is at its end
                pass
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: corrupt tar.gz archive ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if wanted:
        raise DataError(f"{path}: lacks {', '.join(map(str, wanted))}")
    return batches


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo, place: str) -> Batch:
    stream = archive.extractfile(member) if member.isfile() else None
    if stream is None:
        raise DataError(f"{place}: not a file")
    return _parse_batch(stream.read(_enough()), place)


def _enough() -> int:
    """One byte more than a batch has: enough to see that a file is too long."""
    return RECORDS * RECORD_BYTES + 1


def _parse_batch(content: bytes, place: str) -> Batch:
    try:
        return *parse(content), hashlib.sha256(content).hexdigest()
    except DataError as reason:
        raise DataError(f"{place}: {reason}") from None
