"""Honest files of every format that is read, and how each is read."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import struct
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.io

from experiments.lab import results, runs
from experiments.lab.results import Run
from experiments.tables import TABLES
from minivat import data
from minivat.data import cifar10, idx, svhn

IMAGES = 200  # in a file of MNIST or SVHN
RECORDS = 20  # in a batch of CIFAR-10, in place of 10,000
DIGIT = (28, 28)
ZEROS = bytes(1 << 26)


class Format(NamedTuple):
    """name: of a file that holds the content; read: its folder ↦ anything; error: what read raises
    where the file is damaged, in one line; crafted: ↦ contents made to do harm."""

    name: str
    content: bytes
    read: Callable[[Path], Any]
    error: type[Exception]
    crafted: Callable[[], Sequence[bytes]] = tuple


def formats(published: Path) -> dict[str, Format]:
    """By what people call them. published: a file of a table's results and its runs."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (IMAGES, *DIGIT), np.uint8)
    images = header(IMAGES) + pixels.tobytes()
    cifar10.RECORDS = RECORDS  # of this process, which reads nothing else
    records = draw.integers(0, 256, (RECORDS, cifar10.RECORD_BYTES), np.uint8)
    records[:, 0] %= cifar10.CLASSES
    batch = records.tobytes()
    mat = io.BytesIO()
    scipy.io.savemat(
        mat,
        {
            "X": draw.integers(0, 256, (*svhn.IMAGE_SHAPE, IMAGES), np.uint8),
            "y": draw.integers(1, 11, (IMAGES, 1)).astype(np.uint8),
        },
        do_compression=True,
    )
    table = runs.read_json(published)
    config = {name: table["runs"][0][name] for name in ("settings", "data")}
    first, others = cifar10.TRAIN_FILES[0], cifar10.TRAIN_FILES[1:]

    def cifar(files: tuple[str, ...]) -> Callable[[Path], Any]:
        return lambda folder: cifar10._read_batches(folder, files)

    def digits(folder: Path) -> Any:
        return idx.parse((folder / "images").read_bytes(), DIGIT)

    def table_of(folder: Path) -> Any:
        return results.published(folder / published.name, "table", TABLES["table1"].key)

    return {
        "idx": Format("images", images, digits, data.DataError, lambda: [header(2**32 - 1)]),
        "idx, gzipped": Format(
            "images",
            gzip.compress(images),
            digits,
            data.DataError,
            lambda: [gzip.compress(header(n) + ZEROS) for n in (IMAGES, 2**32 - 1)],
        ),
        "CIFAR-10 binary": Format(first, batch, cifar((first,)), data.DataError),
        "CIFAR-10 .xz": Format(
            f"{first}.xz",
            lzma.compress(batch),
            cifar((first,)),
            data.DataError,
            lambda: [lzma.compress(ZEROS, preset=0)],
        ),
        "CIFAR-10 tar.gz": Format(
            cifar10.ARCHIVE,
            archive((first, *others), batch),
            cifar((first, *others)),
            data.DataError,
            lambda: [archive((first,), ZEROS), *outside((first, *others), batch)],
        ),
        "SVHN .mat": Format(
            "svhn.mat",
            mat.getvalue(),
            lambda folder: svhn.parse((folder / "svhn.mat").read_bytes(), IMAGES),
            data.DataError,
            lambda: [bomb(mat.getvalue())],
        ),
        "checkpoint": Format(
            "checkpoint.npz",
            checkpoint(draw),
            lambda folder: runs.read_checkpoint(folder / "checkpoint.npz"),
            runs.RunError,
            lambda: promising_checkpoints(checkpoint(draw)),
        ),
        "results": Format(published.name, json.dumps(table).encode(), table_of, runs.RunError),
        "config.json": Format(
            "config.json",
            json.dumps(config, indent=2).encode(),
            lambda folder: (Run(folder).spec, Run(folder).checksums),
            runs.RunError,
        ),
        "metrics.csv": Format(
            "metrics.csv",
            b"update,error,r_vadv\n" + b"600,1.5,0.25\n" * 50,
            lambda folder: Run(folder).rows(),
            runs.RunError,
        ),
    }


def header(count: int) -> bytes:
    """Of an idx file of so many images."""
    return struct.pack(">HBB3I", 0, 8, 3, count, *DIGIT)


def outside(names: tuple[str, ...], content: bytes) -> list[bytes]:
    """Archives whose members lie outside of the folder, are links, or promise 8 GB."""
    found = []
    for name, kind, target, size in (
        (f"../{names[0]}", tarfile.REGTYPE, "", len(content)),
        (f"{cifar10.ARCHIVE_FOLDER}/{names[0]}", tarfile.SYMTYPE, "/etc/passwd", 0),
        (f"{cifar10.ARCHIVE_FOLDER}/{names[0]}", tarfile.LNKTYPE, "../../etc/passwd", 0),
        (f"{cifar10.ARCHIVE_FOLDER}/{names[0]}", tarfile.REGTYPE, "", 2**33),
    ):
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.size = kind, target, size
        found.append(gzip.compress(member.tobuf() + content + bytes(1024)))
    return found


def bomb(mat: bytes) -> bytes:
    """A .mat file whose first variable is inflated to many times what it promises."""
    length = struct.unpack_from("<I", mat, 132)[0]
    variable = zlib.compress(zlib.decompress(mat[136 : 136 + length]) + ZEROS)
    return mat[:128] + struct.pack("<II", 15, len(variable)) + variable + mat[136 + length :]


def promising_checkpoints(content: bytes) -> list[bytes]:
    """Checkpoints in which an array's header promises 4 GB, and one that is compressed zeros."""
    large, shape = io.BytesIO(), b"(5000,), }"
    np.savez_compressed(large, theta=np.frombuffer(ZEROS, np.uint8))
    larger = content.replace(shape + b" " * 6, b"(1000000000,), }")
    return [larger, large.getvalue()]


def archive(names: tuple[str, ...], content: bytes) -> bytes:
    """A tar.gz of CIFAR-10's batches, all with this content."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(f"{cifar10.ARCHIVE_FOLDER}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def checkpoint(draw: np.random.Generator) -> bytes:
    """A small checkpoint."""
    arrays = {"theta": draw.standard_normal(5000).astype(np.float32), "step": np.array(3)}
    content = {f"arrays/{name}": array for name, array in arrays.items()}
    content |= {"update": np.array(600), "seconds": np.array(1.5), "window": np.ones(10)}
    texts = {"rows": [{"update": 600, "error": 1.5}], "config": {"seed": 1}}
    content |= {n: np.frombuffer(json.dumps(each).encode(), np.uint8) for n, each in texts.items()}
    file = io.BytesIO()
    np.savez(file, **content)
    return file.getvalue()
