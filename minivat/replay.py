"""An update as a CUDA graph: recorded once, then launched as a whole.

An update is some hundreds of small kernels, and Python is slower at giving them to a GPU than the
GPU at doing them. Of a graph there is one to give. It does the same at every launch, so all that
tells one update from the next lies in arrays on the device: a block of batches and of the
optimizer's numbers, which the host writes now and then, and two counters that the graph itself
counts up. Within a block nothing is copied, and nothing waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .backend import Device
from .typing import RawArray, RawArrays

BLOCK = 512  # updates
EAGER = 3  # updates before the recording: CuPy compiles its kernels, cuDNN chooses its own


class Replay:
    """apply(update, *given(update)) by a graph, on a device that `captures`; the same to the bit.

    given: an update's number ↦ what tells it from the others: arrays of the device, floats, and
        None, alike for all updates.
    apply: the update, by operations on the device alone, none of which depends on a value of it. It
        gets the number as an array (1,) of uint64, and the floats as arrays (1,) of `dtype`; it
        returns arrays by name.
    """

    def __init__(
        self,
        device: Device,
        given: Callable[[int], Sequence[Any]],
        apply: Callable[..., RawArrays],
        dtype: DTypeLike,
    ):
        self._device, self._given, self._apply, self._dtype = device, given, apply, dtype
        self._block = range(0)  # its updates
        self._tables: list[RawArray | None] = []  # their rows: what each is given
        self._row = device.asarray(np.zeros(1, np.int64))  # the next one's
        self._update = device.asarray(np.zeros(1, np.uint64))  # and its number
        self._next = 0  # which the host knows, too
        self._eager = EAGER
        self._recorded: tuple[RawArrays, Callable[[], None]] | None = None

    def __call__(self, update: int) -> RawArrays:
        """One update; the arrays are the caller's own."""
        if update not in self._block:
            self._fill(update)
        if update != self._next:
            self._row[...], self._update[...] = update - self._block.start, update
        self._next = update + 1
        if self._eager:
            self._eager -= 1
            return self._step()
        if self._recorded is None:
            self._recorded = self._device.capture(self._step)
        results, launch = self._recorded
        launch()
        return {name: np.copy(result) for name, result in results.items()}

    def _step(self) -> RawArrays:
        """The update that the counters name; they then name the next."""
        rows = [None if t is None else np.take(t, self._row, axis=0) for t in self._tables]
        given = [row if row is None or row.ndim == 1 else row[0] for row in rows]
        results = self._apply(self._update, *given)
        self._row += 1
        self._update += 1
        return results

    def _fill(self, start: int) -> None:
        """Write the block that begins with this update, into the same arrays as all others."""
        given = [self._given(start)]
        for update in range(start + 1, start + BLOCK):
            try:
                given.append(self._given(update))
            except Exception:  # of a schedule that ends; raised when that update is asked for
                break
        self._block, self._next = range(start, start + len(given)), -1
        given += given[-1:] * (BLOCK - len(given))
        columns = [self._column(each) for each in zip(*given, strict=True)]
        if not self._tables:
            self._tables = columns
        for table, column in zip(self._tables, columns, strict=True):
            if table is not None and column is not None:
                table[...] = column

    def _column(self, of_updates: Sequence[Any]) -> RawArray | None:
        """One of the things that the updates are given, in one array."""
        if of_updates[0] is None:
            return None
        if isinstance(of_updates[0], float):
            return self._device.asarray(np.array(of_updates, self._dtype))
        return np.stack(of_updates)
