"""ZCA whitening: the linear map, symmetric and hence closest to the identity, that makes the
pixels of the training images uncorrelated and of variance one.

Fitted in float64 from the eigenvectors of the pixels' covariance, on the host; applied in float32.

Sources: Bell and Sejnowski, "The 'independent components' of natural scenes are edge filters",
Vision Research 37(23), 1997; Krizhevsky, "Learning Multiple Layers of Features from Tiny Images",
2009, appendix A.
"""

import dataclasses
import hashlib
import math
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from .dataset import DataError, Dataset, Unavailable
from .locate import cache_folder

# VAT's authors add 1e-6 after the inverse root, where it does nothing. Inside, the same 1e-6 is
# what little there should be. Rounding to 256 levels alone gives every direction a variance of
# (1/255)²/12 = 1.3e-6, and CIFAR-10's least, 1.6e-6, is hardly more than that noise, amplified by
# 622 instead of 794. Yet a whitened image keeps its norm, to which the paper's sizes of the
# perturbation refer: 54.7 (root mean square), and 55.4 with no epsilon; 1e-4 leaves 44.7, 0.1 14.5.
EPSILON = 1e-6

CHUNK = 1024  # images at a time
VERSION = 1  # of what `fit_zca` computes: another one, and the matrices kept before are not used


@dataclasses.dataclass(frozen=True, eq=False)
class ZCA:
    """The map x -> (x - mean) matrix, for images of d = height * width * channels numbers.

    mean: (d,), matrix: (d, d), symmetric; float32.
    """

    mean: NDArray[np.float32] = dataclasses.field(repr=False)
    matrix: NDArray[np.float32] = dataclasses.field(repr=False)

    def apply(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """The images whitened: float32, of the same shape, (N, ...) with d numbers in an image.

        Raises DataError for images of another size.
        """
        rows = _rows(images)
        if rows.shape[1] != len(self.mean):
            raise DataError(f"images must have {len(self.mean)} numbers each, got {rows.shape[1]}")
        whitened = np.empty(rows.shape, np.float32)
        for start in range(0, len(rows), CHUNK):
            chunk = slice(start, start + CHUNK)
            np.matmul(
                np.subtract(rows[chunk], self.mean, dtype=np.float32),
                self.matrix,
                out=whitened[chunk],
            )
        return whitened.reshape(images.shape)

    def revert(self, images: NDArray[np.floating]) -> NDArray[np.float64]:
        """The inverse of `apply`, in float64, for pictures."""
        rows = _rows(images).astype(np.float64)
        # The matrix is symmetric: no transpose.
        pixels = scipy.linalg.solve(self.matrix.astype(np.float64), rows.T, assume_a="pos").T
        return (pixels + self.mean).reshape(images.shape)


def fit_zca(images: NDArray[np.floating], epsilon: float = EPSILON) -> ZCA:
    """The whitening of `images` (N, ...): U diag(1/√(λ + epsilon)) Uᵀ.

    λ, U: eigenvalues and eigenvectors of the covariance over the images, divided by N. A direction
    of variance λ is left with λ/(λ + epsilon), so epsilon bounds by how much noise is amplified.

    Raises DataError for no images, and for an epsilon that is not a finite number above 0.
    """
    _check(images, epsilon)
    rows = _rows(images)
    mean = rows.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((len(mean), len(mean)), order="F")
    for start in range(0, len(rows), CHUNK):
        centred = rows[start : start + CHUNK] - mean
        covariance = scipy.linalg.blas.dsyrk(
            1 / len(rows), centred.T, beta=1, c=covariance, lower=1, overwrite_c=1
        )
    variances, vectors = scipy.linalg.eigh(covariance, lower=True, overwrite_a=True, driver="evd")
    # The half of the matrix, whose product with its own transpose is symmetric to the last bit;
    # rounding may leave a variance of zero a little below it.
    half = vectors * (np.maximum(variances, 0) + epsilon) ** -0.25
    return ZCA(mean.astype(np.float32), (half @ half.T).astype(np.float32))


def whiten(dataset: Dataset, epsilon: float = EPSILON) -> Dataset:
    """The data set with both its parts whitened by what is fitted on its training images.

    By `cached_zca`, whose errors it raises. The matrix joins the `checksums` as "zca.matrix": its
    last bits are those of the BLAS of the machine that has fitted it.
    """
    zca = cached_zca(dataset.train_images, epsilon)
    return dataclasses.replace(
        dataset,
        train_images=zca.apply(dataset.train_images),
        test_images=zca.apply(dataset.test_images),
        checksums=dataset.checksums | {"zca.matrix": hashlib.sha256(zca.matrix.data).hexdigest()},
    )


def _check(images: NDArray[np.floating], epsilon: float) -> None:
    if not 0 < epsilon < np.inf:
        raise DataError(f"epsilon must be positive and finite, got {epsilon}")
    if not len(images):
        raise DataError("images must be 1 or more, got none")


def _rows(images: NDArray[np.floating]) -> NDArray[np.floating]:
    """One image a row, even if there are no images."""
    return images.reshape(len(images), math.prod(images.shape[1:]))


def cached_zca(images: NDArray[np.float32], epsilon: float = EPSILON) -> ZCA:
    """`fit_zca`, kept in the user's cache under the checksum of these images and epsilon.

    It is fitted again if that file is missing or damaged. Raises what `fit_zca` raises.
    """
    _check(images, epsilon)
    try:
        path = cache_folder("zca") / f"{_checksum(images, epsilon)}.npz"
    except Unavailable:
        return fit_zca(images, epsilon)
    zca = _read(path, images[0].size)
    if zca is None:
        print(f"fitting the whitening of {len(images):,} images, once", file=sys.stderr)
        zca = fit_zca(images, epsilon)
        _write(path, zca)
    return zca


def _checksum(images: NDArray[np.float32], epsilon: float) -> str:
    digest = hashlib.blake2b(digest_size=16)  # faster than SHA-256, of up to a gigabyte
    digest.update(f"{VERSION} {images.shape} {images.dtype} {float(epsilon)!r}".encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()


def _read(path: Path, size: int) -> ZCA | None:
    """What `_write` wrote there, or None where it is missing or damaged."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            zca = ZCA(file["mean"], file["matrix"])
    except Exception:  # damaged bytes make zipfile and numpy raise nearly anything
        return None
    shapes = zca.mean.shape, zca.matrix.shape
    dtypes = {zca.mean.dtype, zca.matrix.dtype}
    return zca if shapes == ((size,), (size, size)) and dtypes == {np.dtype(np.float32)} else None


def _write(path: Path, zca: ZCA) -> None:
    """To a temporary file next to it, then renamed: two runs may write at the same time."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
            temporary = Path(file.name)
            np.savez(file, mean=zca.mean, matrix=zca.matrix)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        print(f"the whitening cannot be kept in {path} ({error.strerror})", file=sys.stderr)
