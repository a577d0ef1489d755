"""What is measured of a network, on chunks of images, and the files that keep it.

Every measure takes a network with running statistics and images x (N, D) on its device, and
returns host arrays by name, whose last axis is the images'. Directions d (N, D) and z (N, C) are
standard normal numbers.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.audit.networks import Audited
from experiments.lab import runs
from minivat import backend, curvature, ops, vat
from minivat.backend import to_host
from minivat.divergence import categorical

Array = Any
Measured = dict[str, np.ndarray]

ITERATIONS = (0, 0.5, 1, 2, 4, 8)  # K
XIS = tuple(10.0**exponent for exponent in range(-8, 2))
PAPER_XI = 1e-6
EPSILONS = (0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0)
EPSILONS_AGAIN = (0.1, 1.0, 2.0)  # on other seeds
CHUNK = 500

# Names of directions, in files and in audit.json
FIRST = "u1"
CLASS = "class"
TRUE = "maximiser"


def after(k: float, xi: float | None = None) -> str:
    """The name of the direction after K power iterations: exact, or by finite differences."""
    return f"K={k:g}" if xi is None else f"xi={xi:g} K={k:g}"


def xis_of(names: Iterable[str]) -> list[float]:
    """The xi of the finite differences among these directions, rising."""
    return sorted({float(n.split()[0].removeprefix("xi=")) for n in names if n.startswith("xi=")})


def spectra(network: vat.Model, x: Array) -> Measured:
    """eigenvalues (C, N), falling; doubt (N,): 1 − the largest probability."""
    spectrum = curvature.spectrum(network, x, eigenvectors=0)
    p = np.sort(to_host(ops.softmax(network(x))), axis=1)
    return {"eigenvalues": to_host(spectrum.eigenvalues).T, "doubt": p[:, :-1].sum(axis=1)}


def directions(network: vat.Model, x: Array, d: Array, z: Array, xis: Sequence[float]) -> Measured:
    """Captured curvature and alignment with u₁, as (2, N), of all directions."""
    spectrum = curvature.spectrum(network, x)
    largest, u = spectrum.eigenvalues[:, 0], spectrum.eigenvectors[:, 0]
    product = curvature.hessian(network, x)

    def quality(d: Array) -> np.ndarray:
        captured = curvature.captured_curvature(product, d, largest)
        return to_host(np.stack([captured, curvature.alignment(d, u)]))

    return {name: quality(d_k) for name, d_k in _directions(network, x, d, z, xis)}


def perturbations(
    network: vat.Model, x: Array, d: Array, z: Array, epsilon: float, steps: int
) -> Measured:
    """D, and 1 where the prediction changes, of perturbations of norm epsilon; and λ₁ (N,).

    Of ±ε times u₁ and the directions of every K, the paper's finite difference among them:
    (2, 2, N), the signs first. Of the best direction towards a class, and of the true maximiser:
    (2, N). D where the maximiser's starts ended, after `steps` steps: (4, N); the last start is the
    signed perturbation of the largest D.
    """
    logits = network(x)
    spectrum = curvature.spectrum(network, x)

    def tried(r: Array) -> tuple[Array, Array]:
        new = network(x + r)
        flipped = np.argmax(new, axis=1) != np.argmax(logits, axis=1)
        return r, np.stack([categorical(logits, new), flipped.astype(logits.dtype)])

    units = dict(_directions(network, x, d, z))
    paper = curvature.hessian(network, x, route="finite-difference", xi=PAPER_XI)
    units[after(1, PAPER_XI)] = vat.power_iteration(paper, d, 1)
    units[FIRST] = spectrum.eigenvectors[:, 0]
    signed = {name: (tried(epsilon * u), tried(-epsilon * u)) for name, u in units.items()}
    towards = [tried(epsilon * u) for u in curvature.class_directions(network, x)]
    best, _ = _largest([pair for pairs in signed.values() for pair in pairs])
    top = curvature.true_maximiser(network, x, epsilon, [best], steps=steps)
    return {
        "lambda1": to_host(spectrum.eigenvalues[:, 0]),
        **{name: to_host(np.stack([a, b])) for name, ((_, a), (_, b)) in signed.items()},
        CLASS: to_host(_largest(towards)[1]),
        TRUE: to_host(tried(top.r)[1]),
        "starts": to_host(top.by_start),
    }


def _largest(candidates):
    """For each image the r whose outcome has the largest D, and that outcome."""
    best, most = candidates[0]
    for r, outcome in candidates[1:]:
        better = outcome[0] > most[0]
        best = np.where(better[:, None], r, best)
        most = np.where(better, outcome, most)
    return best, most


def _directions(network, x, d, z, xis=()):
    """Name and unit direction of every K, exact (that of K = ½ comes from z), and for every xi."""
    half, _ = vat.half_product(network, x)
    start = vat.unit(d)
    yield after(0.5), vat.unit(half(z))
    yield after(0), start
    products = {None: curvature.hessian(network, x)}
    for xi in xis:
        products[xi] = curvature.hessian(network, x, route="finite-difference", xi=xi)
    for xi, product in products.items():
        d_k = start if xi is None else d
        for before, k in itertools.pairwise((0, 1, 2, 4, 8)):
            d_k = vat.power_iteration(product, d_k, k - before)
            yield after(k, xi), d_k


@dataclasses.dataclass(frozen=True)
class Part:
    """What is measured at once, into one file.

    kind: "spectra", "directions", or "perturbations", which have an epsilon, and steps of the
    ascent to the true maximum.
    """

    network: Audited
    kind: str
    dtype: str
    epsilon: float = 0.0
    steps: int = 0

    @property
    def file(self) -> str:
        name = f"epsilon{self.epsilon:g}" if self.kind == "perturbations" else self.kind
        return f"{self.network.label}-{name}-{self.dtype}.npz"

    def measure(
        self, network: vat.Model, images: Array, device: backend.Device, seed: int, start: int
    ) -> Measured:
        """The measure of the chunk of host images that begins at `start`."""
        x = device.asarray(images[start : start + CHUNK], self.dtype)
        if self.kind == "spectra":
            return spectra(network, x)

        def normal(purpose: str, size: int) -> Array:
            generator = backend.host_generator(seed, f"audit {purpose}", start)
            draws = generator.standard_normal((len(x), size), dtype=np.float32)
            return device.asarray(draws, self.dtype)

        d, z = normal("directions", x.shape[1]), normal("half", network(x[:1]).shape[1])
        if self.kind == "directions":
            return directions(network, x, d, z, XIS if self.network.role == "first" else ())
        return perturbations(network, x, d, z, self.epsilon, self.steps)

    def read(self, folder: Path) -> Measured:
        """What was measured, as float64; RunError if the file is damaged."""
        path = folder / self.file
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name].astype(np.float64) for name in file.files}
        except Exception as error:  # damaged bytes make zipfile and numpy raise nearly anything
            message = f"{path} is damaged: remove it to measure this part again"
            raise runs.RunError(message) from error


def parts_of(network: Audited) -> Iterator[Part]:
    """All that is measured of a network, by its role."""
    yield Part(network, "spectra", "float64")
    if network.role == "stage":
        return
    for dtype in ("float64", "float32"):
        yield Part(network, "directions", dtype)
    for epsilon in EPSILONS if network.role == "first" else EPSILONS_AGAIN:
        # D below about 1e-4 is rounding noise in float32.
        dtype, steps = ("float64", 8) if epsilon < 1 else ("float32", 16)
        yield Part(network, "perturbations", dtype, epsilon, steps)
