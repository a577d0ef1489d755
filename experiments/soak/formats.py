"""Honest files of every format that is read, and how each is read."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import struct
import tarfile
from collections.abc import Callable
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


class Format(NamedTuple):
    """name: of a file that holds the content; read: its folder ↦ anything; error: what read raises
    where the file is damaged, in one line."""

    name: str
    content: bytes
    read: Callable[[Path], Any]
    error: type[Exception]


def formats(published: Path) -> dict[str, Format]:
    """By what people call them. published: a file of a table's results and its runs."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (IMAGES, *DIGIT), np.uint8)
    images = struct.pack(">HBB3I", 0, 8, 3, IMAGES, *DIGIT) + pixels.tobytes()
    cifar10.RECORDS = RECORDS  # of this process, which reads nothing else
    batch = bytes(
        byte
        for _ in range(RECORDS)
        for byte in (draw.integers(10), *draw.integers(0, 256, cifar10.RECORD_BYTES - 1))
    )
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
        "idx": Format("images", images, digits, data.DataError),
        "idx, gzipped": Format("images", gzip.compress(images), digits, data.DataError),
        "CIFAR-10 binary": Format(first, batch, cifar((first,)), data.DataError),
        "CIFAR-10 .xz": Format(
            f"{first}.xz", lzma.compress(batch), cifar((first,)), data.DataError
        ),
        "CIFAR-10 tar.gz": Format(
            cifar10.ARCHIVE,
            archive((first, *others), batch),
            cifar((first, *others)),
            data.DataError,
        ),
        "SVHN .mat": Format(
            "svhn.mat",
            mat.getvalue(),
            lambda folder: svhn.parse((folder / "svhn.mat").read_bytes(), IMAGES),
            data.DataError,
        ),
        "checkpoint": Format(
            "checkpoint.npz",
            checkpoint(draw),
            lambda folder: runs.read_checkpoint(folder / "checkpoint.npz"),
            runs.RunError,
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
