"""Small files in CIFAR-10's and SVHN's formats, written without minivat's own readers.

The images' mean colour tells their class, so that a network can learn it in a few updates, however
they are moved, mirrored or whitened.
"""

import io
import lzma
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from minivat.data import cifar10, svhn

RECORDS = 20  # in each of CIFAR-10's batches
COUNTS = {"train_32x32.mat": 60, "test_32x32.mat": 30}  # images in SVHN's files

BATCHES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")


def accept_small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the readers expect these small numbers of images in place of the official ones."""
    monkeypatch.setattr(cifar10, "RECORDS", RECORDS)
    monkeypatch.setattr(svhn, "COUNTS", COUNTS)


def draw(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 32, 32, 3) uint8, and labels (count,) uint8, of each class as many."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(count) % 10)
    colours = np.stack([labels % 3, labels // 3 % 3, labels // 9], axis=1) * 80 + 40
    noise = generator.integers(-40, 41, size=(count, 32, 32, 3))
    return (colours[:, None, None, :] + noise).astype(np.uint8), labels.astype(np.uint8)


def encode(images: np.ndarray, labels: np.ndarray) -> bytes:
    """The records of a batch of CIFAR-10."""
    return b"".join(
        bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
        for image, label in zip(images, labels, strict=True)
    )


def archive(contents: dict[str, bytes]) -> bytes:
    """The tar.gz of these files, {name: content}."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def write_cifar10(
    folder: Path, form: str = "bin", test: bool = True
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write CIFAR-10's batches into `folder`: {name: (images, labels)}.

    form: "bin", "xz" or "tar"; test: the test batch, too.
    """
    drawn = {name: draw(seed, RECORDS) for seed, name in enumerate(BATCHES[: 5 + test])}
    contents = {name: encode(*batch) for name, batch in drawn.items()}
    folder.mkdir(parents=True, exist_ok=True)
    if form == "tar":
        members = {f"cifar-10-batches-bin/{name}": content for name, content in contents.items()}
        (folder / "cifar-10-binary.tar.gz").write_bytes(archive(members))
    for name, content in contents.items():
        if form == "xz":
            (folder / f"{name}.xz").write_bytes(lzma.compress(content, preset=0))
        elif form == "bin":
            (folder / name).write_bytes(content)
    return drawn


def write_svhn(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write SVHN's two files into `folder`: {name: (images, labels)}, with labels 0 to 9."""
    drawn = {name: draw(seed, count) for seed, (name, count) in enumerate(COUNTS.items())}
    folder.mkdir(parents=True, exist_ok=True)
    for name, (images, labels) in drawn.items():
        y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        variables = {"X": images.transpose(1, 2, 3, 0), "y": y}
        scipy.io.savemat(folder / name, variables, do_compression=True)
    return drawn
