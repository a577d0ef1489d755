"""What `experiments.audit` measures of one network on a chunk of images.

Every function takes a network with running statistics and images x (N, D) on its device, and
returns host arrays by name, whose last axis is the images'. Directions d (N, D) and z (N, C) are
standard normal numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from minivat import curvature, ops, vat
from minivat.backend import to_host
from minivat.divergence import categorical

Array = Any
Found = dict[str, np.ndarray]

ITERATIONS = (0, 0.5, 1, 2, 4, 8)  # K
XIS = tuple(10.0**exponent for exponent in range(-8, 2))
PAPER_XI = 1e-6
FIRST = "u1"
CLASS = "class"
TRUE = "maximiser"


def exact(k: float) -> str:
    """The name of the direction after K exact power iterations."""
    return f"K={k:g}"


def finite_difference(xi: float, k: float) -> str:
    """The name of the direction after K power iterations by finite differences."""
    return f"xi={xi:g} K={k:g}"


def spectra(network: vat.Network, x: Array) -> Found:
    """eigenvalues (C, N), falling; doubt (N,): 1 − the largest probability."""
    found = curvature.spectrum(network, x, eigenvectors=0)
    p = np.sort(to_host(ops.softmax(network(x))), axis=1)
    return {"eigenvalues": to_host(found.eigenvalues).T, "doubt": p[:, :-1].sum(axis=1)}


def directions(
    network: vat.Network, x: Array, d: Array, z: Array, xis: Sequence[float] = XIS
) -> Found:
    """Captured curvature and alignment with u₁, as (2, N), of every K: exact, and for every xi.

    Finite differences begin with K = 1.
    """
    found = curvature.spectrum(network, x)
    largest, u = found.eigenvalues[:, 0], found.eigenvectors[:, 0]
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
    network: vat.Network, x: Array, d: Array, z: Array, epsilon: float, steps: int
) -> Found:
    """D, and 1 where the prediction changes, of perturbations of norm epsilon.

    Of +ε and −ε times u₁ and the directions of every K, the paper's finite difference among them:
    (2, 2, N), the signs first. Of the best direction towards a class: (2, N). Of the true
    maximiser: (2, N), and D where its starts ended, (4, N). λ₁: (N,).
    The maximiser climbs `steps` steps from its own starts and from the signed perturbation of the
    largest D.
    """
    logits = network(x)
    found = curvature.spectrum(network, x)

    def outcome(r: Array) -> Array:
        new = network(x + r)
        flipped = np.argmax(new, axis=1) != np.argmax(logits, axis=1)
        return np.stack([categorical(logits, new), flipped.astype(logits.dtype)])

    named = {exact(k): d_k for k, d_k in _exact_directions(network, x, d, z)}
    paper = curvature.hessian(network, x, route="finite-difference", xi=PAPER_XI)
    named[finite_difference(PAPER_XI, 1)] = vat.power_iteration(paper, d, 1)
    named[FIRST] = found.eigenvectors[:, 0]
    signed = {
        each: [(sign * u, outcome(sign * epsilon * u)) for sign in (1, -1)]
        for each, u in named.items()
    }
    towards = [(u, outcome(epsilon * u)) for u in curvature.class_directions(network, x)]
    best, _ = _largest([pair for pairs in signed.values() for pair in pairs])
    top = curvature.true_maximiser(network, x, epsilon, [epsilon * best], steps=steps)
    return {
        "lambda1": to_host(found.eigenvalues[:, 0]),
        **{each: to_host(np.stack([a, b])) for each, ((_, a), (_, b)) in signed.items()},
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
    network: vat.Network, x: Array, d: Array, z: Array
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
