"""Work in several threads at once, and after a fork: the same bits as alone."""

from __future__ import annotations

import functools
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from experiments.soak.promise import Promise
from minivat import backend, curvature, data, nn
from minivat.objective import Regularization
from minivat.sklearn import VATClassifier
from minivat.training import Trainer

COUNT = 20
THREADS = 8
PROCESSES = 2
SETTINGS: dict[str, Any] = {
    "regularization": Regularization(epsilon=1.0),
    "learning_rate": lambda update: 0.002,
}


def promises(count: int, seed: int, folder: Path) -> list[Promise]:
    """For threads, and for processes that are forked."""
    return [
        Promise(
            "training, spectra and `predict_proba` give the same bits in 8 threads at once",
            "each thread with a seed of its own, compared with itself alone",
            functools.partial(in_threads, seed),
            count,
        ),
        Promise(
            "a process forked after the threads of convolutions were used computes the same bits",
            f"{PROCESSES} at once by `multiprocessing`'s fork",
            functools.partial(in_forks, seed),
            count,
        ),
    ]


def in_threads(seed: int, number: int) -> str:
    """The works of several seeds, one after another and all at once."""
    seeds = [1000 * seed + THREADS * number + i for i in range(THREADS)]
    alone = list(map(work, seeds))
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(work, seeds))
    return _different(seeds, alone, together)


def in_forks(seed: int, number: int) -> str:
    """Convolutions here, then in processes forked from here."""
    seeds = [1000 * seed + PROCESSES * number + i for i in range(PROCESSES)]
    alone = list(map(convolutions, seeds))
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        forked = pool.map_async(convolutions, seeds).get(timeout=120)
    return _different(seeds, alone, forked)


def work(seed: int) -> bytes:
    """Parameters after some updates with VAT, spectra of the network, an estimator's answers."""
    digits = data.load("digits")
    network = nn.mlp([64, 50, 10], noise=0.3)
    images, labels = digits.train_images[:500], digits.train_labels[:500]
    trainer = Trainer(network, backend.Device(), images, labels, seed=seed, **SETTINGS)
    for update in range(10):
        trainer.step(update)
    params, state = trainer.predictor
    x = digits.test_images[:50]

    def model(x: np.ndarray) -> np.ndarray:
        return network(params, x, state, statistics="running")[0]

    spectrum = curvature.spectrum(model, x)
    estimator = VATClassifier(max_iter=10, random_state=seed)
    estimator.fit(digits.train_images[:200], digits.train_labels[:200])
    answers = estimator.predict_proba(x)
    return b"".join(
        np.ascontiguousarray(array).tobytes()
        for array in (*params.values(), spectrum.eigenvalues, spectrum.eigenvectors, answers)
    )


def convolutions(seed: int) -> bytes:
    """The gradient of one update of a small Conv-Small, on the threads of `minivat.parallel`."""
    random = backend.host_generator(seed, "soak")
    images = random.standard_normal((64, 16, 16, 3), np.float32)
    network = nn.conv_small(width=0.25, image_shape=(16, 16, 3))
    labels = random.integers(10, size=64)
    settings = SETTINGS | {"batch_size": 64}
    trainer = Trainer(network, backend.Device(), images, labels, seed=seed, **settings)
    trainer.step(0)
    return b"".join(array.tobytes() for array in trainer.params.values())


def _different(seeds: list[int], alone: list[bytes], others: list[bytes]) -> str:
    wrong = [s for s, one, other in zip(seeds, alone, others, strict=True) if one != other]
    return f"other bits for seeds {wrong}" if wrong else ""
