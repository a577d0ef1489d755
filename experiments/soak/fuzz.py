"""Damaged files: read, or refused in one line, quickly and in little memory."""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import random
import signal
import tempfile
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.lab import results
from experiments.soak.formats import Format, formats
from experiments.soak.mutations import mutated
from experiments.soak.promise import Promise

COUNT = 10_000
PUBLISHED = results.RESULTS / "table1.json"
BATCH = 500  # files that a process reads: what ends it is the fault of one of them
PATIENCE = 5  # seconds
TIMES = 3.0  # memory, in sizes of the honest file or of what is in it
LITTLE = 4 << 20  # bytes of memory that any reader may take


def promises(count: int, seed: int, folder: Path) -> list[Promise]:
    """One for each format; of more than BATCH files, a multiple of it."""
    batch = min(BATCH, count)
    return [
        Promise(
            f"a damaged {name} file is read, or refused in one line",
            f"1 to 4 changes at random to the bytes: bits, lengths, missing, repeated or "
            f"random parts; within {PATIENCE} s, and {TIMES:g} times the memory that the whole "
            "file takes; in processes of their own, which must not end",
            functools.partial(trial, name, seed, folder, batch),
            count // batch,
            each=batch,
        )
        for name in formats(PUBLISHED)
    ]


def trial(name: str, seed: int, folder: Path, files: int, number: int) -> str:
    """Read some files in a process of their own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (name, f"{seed} {name} {number}", str(folder), files, number == 0, sender)
    process = context.Process(target=_read_all, args=arguments)
    process.start()
    sender.close()
    try:
        fault: str = receiver.recv()
    except EOFError:
        process.join()
        fault = f"the process ended with {process.exitcode}"
    process.join()
    return fault


def _read_all(name: str, seed: str, folder: str, files: int, first: bool, sender: Any) -> None:
    format_ = formats(PUBLISHED)[name]
    if not first:
        format_ = format_._replace(crafted=tuple)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        sender.send(first_fault(format_, seed, Path(own), files))


def first_fault(format_: Format, seed: str, folder: Path, files: int) -> str:
    """What the first of the damaged files does that it must not; "" where there is none."""
    whole = taken(format_, format_.content, folder)
    if isinstance(whole, str):
        return f"the whole file: {whole}"
    most = max(TIMES * whole, LITTLE)
    draw = random.Random(seed)
    damaged = (mutated(format_.content, draw) for _ in range(files))
    for file, content in enumerate(itertools.chain(format_.crafted(), damaged)):
        found = taken(format_, content, folder)
        if isinstance(found, str):
            return f"file {file}: {found}"
        if found > most:
            return f"file {file}: {found / 2**20:.0f} MiB, the whole file {whole / 2**20:.0f}"
    return ""


def taken(format_: Format, content: bytes, folder: Path) -> int | str:
    """The most memory, in bytes, that reading the content takes; or what went wrong."""
    (folder / format_.name).write_bytes(content)
    tracemalloc.start()
    try:
        with _within(PATIENCE), warnings.catch_warnings(action="error"):
            format_.read(folder)
    except format_.error as error:
        if len(str(error).splitlines()) != 1:
            return f"not one line: {error!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return most


@contextlib.contextmanager
def _within(seconds: int) -> Iterator[None]:
    """TimeoutError after so many seconds."""

    def over(*_: Any) -> None:
        raise TimeoutError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
