"""A process that trains for long: no growth of its memory, and no more open files."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path

import numpy as np
import scipy.stats

from experiments.soak import threads
from experiments.soak.promise import Promise
from minivat import backend, data, nn
from minivat.training import Trainer

COUNT = 30  # minutes
SECONDS = 60.0
MOST = 1.0  # MiB an hour: of a process that needs a hundred, none that could matter in a day


def promises(count: int, seed: int, folder: Path) -> list[Promise]:
    """One, whose trials are minutes of one training."""
    measured: list[str] = []
    training = Training(seed, count, measured)
    return [
        Promise(
            "a process that goes on training needs no more memory and opens no more files",
            f"a minute each, one after another, by VAT on the digits; the slope in the second "
            f"half, when the allocator has settled, at most {MOST:g} MiB an hour",
            training.minute,
            count,
            measured,
        )
    ]


class Training:
    """One trainer, and what its process held after each minute."""

    def __init__(self, seed: int, count: int, measured: list[str]):
        self._seed, self._count, self._measured = seed, count, measured
        self._updates = 0
        self._held: list[tuple[float, int]] = []  # MiB, files

    @functools.cached_property
    def _trainer(self) -> Trainer:
        digits = data.load("digits")
        network = nn.mlp([64, 100, 100, 10], noise=0.3)
        images, labels = digits.train_images, digits.train_labels
        return Trainer(
            network, backend.Device(), images, labels, seed=self._seed, **threads.SETTINGS
        )

    def minute(self, number: int) -> str:
        """Train for a minute; a fault after the last one alone tells what all have shown."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            self._trainer.step(self._updates)
            self._updates += 1
        self._held.append((_anonymous(), len(os.listdir("/proc/self/fd"))))
        return self._fault() if number == self._count - 1 else ""

    def _fault(self) -> str:
        memory, files = np.array(self._held).T
        half = memory[len(memory) // 2 :]
        if len(half) < 3:
            return f"{len(memory)} minutes are too few to tell"
        line = scipy.stats.linregress(np.arange(len(half)), half)
        slope, error = line.slope * 3600 / SECONDS, line.stderr * 3600 / SECONDS
        self._measured.append(
            f"{self._updates:,} updates in {len(memory)} minutes; {memory[0]:.1f} MiB after the "
            f"first, {half[0]:.1f} halfway, {half[-1]:.1f} in the end, {slope:+.2f} ± {error:.2f} "
            f"MiB an hour, {files[-1]:.0f} open files"
        )
        if slope - 2 * error > MOST:
            return f"{slope:.1f} ± {error:.1f} MiB an hour"
        return f"{files[-1] - files[0]:.0f} more files" if files[-1] > files[0] else ""


def _anonymous() -> float:
    """MiB that this process has asked for, in memory or swapped out; no pages of files, which come
    and go as the system likes."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(status[name].split()[0]) for name in ("RssAnon", "VmSwap")) / 1024
