"""Small files in MNIST's format, written without minivat's own reader."""

import gzip
import struct
from pathlib import Path

import numpy as np


def encode(array: np.ndarray) -> bytes:
    """The gzip-compressed idx file of an array of unsigned bytes."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


def write_mnist(folder: Path, train: int = 200, test: int = 100) -> dict[str, np.ndarray]:
    """Write MNIST's four files, with random pixels and labels, into `folder`: {name: array}."""
    generator = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte.gz": generator.integers(256, size=(train, 28, 28)),
        "train-labels-idx1-ubyte.gz": generator.integers(10, size=train),
        "t10k-images-idx3-ubyte.gz": generator.integers(256, size=(test, 28, 28)),
        "t10k-labels-idx1-ubyte.gz": generator.integers(10, size=test),
    }
    arrays = {name: array.astype(np.uint8) for name, array in arrays.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        (folder / name).write_bytes(encode(array))
    return arrays
