"""What is measured of a network, on chunks of images, and the files that keep it.

Every measure takes a network with running statistics and images x (N, D) on its device, and
returns host arrays by name, whose last axis is the images'. Directions d (N, D) and z (N, C) are
standard normal numbers.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from experiments.audit.networks import Audited
from experiments.lab import results, runs
from minivat import backend, curvature, data, ops, vat
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


def exact(k: float) -> str:
    """The name of the direction after K exact power iterations."""
    return f"K={k:g}"


def finite_difference(xi: float, k: float) -> str:
    """The name of the direction after K power iterations by finite differences."""
    return f"xi={xi:g} K={k:g}"


def xis_of(names: Iterable[str]) -> list[float]:
    """The xi of the finite differences among these directions, rising."""
    return sorted({float(n.split()[0].removeprefix("xi=")) for n in names if n.startswith("xi=")})


# Measures ----------------------------------------------------------------------------------------


def spectra(network: vat.Model, x: Array) -> Measured:
    """eigenvalues (C, N), falling; doubt (N,): 1 − the largest probability."""
    spectrum = curvature.spectrum(network, x, eigenvectors=0)
    p = np.sort(to_host(ops.softmax(network(x))), axis=1)
    return {"eigenvalues": to_host(spectrum.eigenvalues).T, "doubt": p[:, :-1].sum(axis=1)}


def directions(
    network: vat.Model, x: Array, d: Array, z: Array, xis: Sequence[float] = XIS
) -> Measured:
    """Captured curvature and alignment with u₁, as (2, N), of every K: exact, and for every xi.

    Finite differences begin with K = 1.
    """
    spectrum = curvature.spectrum(network, x)
    largest, u = spectrum.eigenvalues[:, 0], spectrum.eigenvectors[:, 0]
    product = curvature.hessian(network, x)

    def quality(d: Array) -> np.ndarray:
        captured = curvature.captured_curvature(product, d, largest)
        return np.stack([to_host(captured), to_host(curvature.alignment(d, u))])

    measured = {exact(k): quality(d_k) for k, d_k in _exact_directions(network, x, d, z)}
    for xi in xis:
        approximate = curvature.hessian(network, x, route="finite-difference", xi=xi)
        for k, d_k in _iterates(approximate, d, [k for k in ITERATIONS if k >= 1]):
            measured[finite_difference(xi, k)] = quality(d_k)
    return measured


def perturbations(
    network: vat.Model, x: Array, d: Array, z: Array, epsilon: float, steps: int
) -> Measured:
    """D, and 1 where the prediction changes, of perturbations of norm epsilon.

    Of +ε and −ε times u₁ and the directions of every K, the paper's finite difference among them:
    (2, 2, N), the signs first. Of the best direction towards a class: (2, N). Of the true
    maximiser: (2, N), and D where its starts ended, (4, N). λ₁: (N,).
    The maximiser climbs `steps` steps from its own starts and from the signed perturbation of the
    largest D.
    """
    logits = network(x)
    spectrum = curvature.spectrum(network, x)

    def outcome(r: Array) -> Array:
        new = network(x + r)
        flipped = np.argmax(new, axis=1) != np.argmax(logits, axis=1)
        return np.stack([categorical(logits, new), flipped.astype(logits.dtype)])

    units = {exact(k): d_k for k, d_k in _exact_directions(network, x, d, z)}
    paper = curvature.hessian(network, x, route="finite-difference", xi=PAPER_XI)
    units[finite_difference(PAPER_XI, 1)] = vat.power_iteration(paper, d, 1)
    units[FIRST] = spectrum.eigenvectors[:, 0]
    signed = {
        name: [(sign * u, outcome(sign * epsilon * u)) for sign in (1, -1)]
        for name, u in units.items()
    }
    towards = [(u, outcome(epsilon * u)) for u in curvature.class_directions(network, x)]
    best, _ = _largest([pair for pairs in signed.values() for pair in pairs])
    top = curvature.true_maximiser(network, x, epsilon, [epsilon * best], steps=steps)
    return {
        "lambda1": to_host(spectrum.eigenvalues[:, 0]),
        **{name: to_host(np.stack([a, b])) for name, ((_, a), (_, b)) in signed.items()},
        CLASS: to_host(_largest(towards)[1]),
        TRUE: to_host(outcome(top.r)),
        "starts": to_host(top.by_start),
    }


def _largest(candidates: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """For each image the direction whose outcome has the largest D, and that outcome."""
    best, most = candidates[0]
    for direction, outcome in candidates[1:]:
        better = outcome[0] > most[0]
        best = np.where(better[:, None], direction, best)
        most = np.where(better, outcome, most)
    return best, most


def _exact_directions(
    network: vat.Model, x: Array, d: Array, z: Array
) -> Iterator[tuple[float, Array]]:
    """The unit direction of every K; that of K = ½ comes from z."""
    half, _ = vat.half_product(network, x)
    yield 0.5, vat.unit(half(z))
    yield from _iterates(curvature.hessian(network, x), d, [k for k in ITERATIONS if k != 0.5])


def _iterates(
    product: Callable[[Array], Array], d: Array, counts: Sequence[int]
) -> Iterator[tuple[int, Array]]:
    """The unit vectors after so many power iterations, the counts rising."""
    done = 0
    for k in counts:
        d, done = vat.power_iteration(product, d, k - done), k
        yield k, d


# Parts -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Part:
    """What is measured at once, into one file.

    kind: "spectra", "directions", or "perturbations", which have an epsilon.
    """

    network: Audited
    kind: str
    dtype: str
    epsilon: float = 0.0

    @property
    def file(self) -> str:
        name = f"epsilon{self.epsilon:g}" if self.kind == "perturbations" else self.kind
        return f"{self.network.label}-{name}-{self.dtype}.npz"

    @property
    def steps(self) -> int:
        """Of the ascent to the true maximum."""
        return 8 if self.dtype == "float64" else 16

    def measure(self, network: vat.Model, x: Array, d: Array, z: Array) -> Measured:
        """The part's measure of these images."""
        if self.kind == "spectra":
            return spectra(network, x)
        if self.kind == "directions":
            return directions(network, x, d, z, XIS if self.network.role == "first" else ())
        return perturbations(network, x, d, z, self.epsilon, self.steps)


def parts_of(network: Audited) -> Iterator[Part]:
    """All that is measured of a network, by its role."""
    yield Part(network, "spectra", "float64")
    if network.role == "stage":
        return
    for dtype in ("float64", "float32"):
        yield Part(network, "directions", dtype)
    for epsilon in EPSILONS if network.role == "first" else EPSILONS_AGAIN:
        # D below about 1e-4 is rounding noise in float32.
        yield Part(network, "perturbations", "float64" if epsilon < 1 else "float32", epsilon)


def read_part(path: Path) -> Measured:
    """What `measure_missing` wrote, as float64; RunError if the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name].astype(np.float64) for name in file.files}
    except Exception as error:  # damaged bytes make zipfile and numpy raise nearly anything
        raise runs.RunError(f"{path} is damaged: remove it to measure this part again") from error


def measure_missing(
    parts: Sequence[Part],
    dataset: data.Dataset,
    images: np.ndarray,
    device: backend.Device,
    folder: Path,
    *,
    seed: int,
    jobs: int,
    quiet: bool,
) -> None:
    """Measure the parts that have no file in the folder yet, `jobs` chunks of images at once."""
    import threadpoolctl
    from tqdm import tqdm

    missing = [part for part in parts if not (folder / part.file).exists()]
    with (
        threadpoolctl.threadpool_limits(1 if device.name == "cpu" else None),
        tqdm(
            total=len(missing) * len(images),
            unit=" images",
            mininterval=0.1 if sys.stderr.isatty() else 30.0,
            disable=quiet or not missing,
        ) as bar,
    ):
        for network, its_parts in itertools.groupby(missing, lambda part: part.network):
            trainer = network.trainer(dataset, device)
            for part in its_parts:
                bar.set_description(part.file.removesuffix(".npz"), refresh=False)
                logits = results.trained_network(trainer, device, part.dtype)
                measured = _in_chunks(part, logits, images, device, seed, jobs, bar.update)
                if part.kind == "spectra":
                    error = trainer.error(dataset.test_images, dataset.test_labels)
                    measured["test_error"] = np.array(error)
                runs.replace_file(
                    folder / part.file, lambda file, arrays=measured: np.savez(file, **arrays)
                )


def _in_chunks(
    part: Part,
    network: vat.Model,
    images: np.ndarray,
    device: backend.Device,
    seed: int,
    jobs: int,
    done: Callable[[int], Any],
) -> Measured:
    """The part of all images; `done` is told the number of images of every chunk."""
    classes = network(device.asarray(images[:1], part.dtype)).shape[1]

    def chunk(start: int) -> Measured:
        x = images[start : start + CHUNK]
        draws = (
            backend.host_generator(seed, f"audit {purpose}", start).standard_normal(
                (len(x), size), dtype=np.float32
            )
            for purpose, size in (("directions", x.shape[1]), ("half", classes))
        )
        measured = part.measure(network, *(device.asarray(a, part.dtype) for a in (x, *draws)))
        done(len(x))
        return measured

    with ThreadPoolExecutor(jobs) as pool:
        chunks = list(pool.map(chunk, range(0, len(images), CHUNK)))
    return {name: np.concatenate([c[name] for c in chunks], axis=-1) for name in chunks[0]}
