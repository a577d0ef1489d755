"""Killed at random moments, resumed, ended with the same bits."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from experiments.lab import runs
from experiments.soak.promise import Promise

COUNT = 8
KILLS = 3  # of each run
# What the clock and the place decide, in whatever is written.
FREE = {"seconds", "updates_per_second", "peak_memory_mib", "command"}

TRAINING = ("--checkpoint-every", "5", "--quiet", "--resume")
DIGITS = (*TRAINING, "--data", "digits", "--updates", "120")
NARROW = ("--width", "0.0625", "--holdout", "10000", "--updates", "40")  # of the real images
SWEEP = ("--data", "digits", "--updates", "30", "--jobs", "2")
# experiment: its flags, and those that name its folders in {}
COMMANDS: dict[str, tuple[Iterable[str], Iterable[str]]] = {
    "mnist-sup": (DIGITS, ["--out", "{}/run"]),
    "mnist-semisup": (DIGITS, ["--out", "{}/run"]),
    "cifar10-semisup": ((*TRAINING, *NARROW), ["--out", "{}/run"]),
    "table1": (
        (*SWEEP, "--rows", "mle:1", "rpt:1", "vat-exact:1,2"),
        ["--runs", "{}/runs", "--results", "{}/results"],
    ),
    "search": (
        (*SWEEP, "--grid", "rpt:1,2", "vat-exact:0.5"),
        ["--runs", "{}/runs", "--results", "{}/results"],
    ),
}


def promises(count: int, seed: int, folder: Path) -> list[Promise]:
    """One for each experiment of COMMANDS, on the digits; a narrow network on CIFAR-10."""
    return [
        Promise(
            f"a `{name}` that is killed at any moment resumes to the same bits, and leaves nothing",
            f"{count} runs, {KILLS} SIGKILLs each at random moments, beside one without a break",
            trial(functools.partial(command, name), folder / name, seed),
            count,
        )
        for name in COMMANDS
    ]


def command(name: str, folder: Path) -> list[str]:
    """What runs an experiment into a folder, or goes on with it."""
    flags, places = COMMANDS[name]
    where = [each.format(folder) for each in places]
    base = (sys.executable, "-m", "experiments", name, "--device", "cpu")
    return [*base, *flags, *where]


def trial(
    command: Callable[[Path], list[str]], folder: Path, seed: int, kills: int = KILLS
) -> Callable[[int], str]:
    """The trial of a command into a folder: killed, resumed, compared with a run without a break.

    Between 0 seconds and as many as that run has taken, any moment is as likely as another.
    """

    @functools.cache
    def reference() -> tuple[float, dict[str, Any]]:
        began = time.monotonic()
        subprocess.run(command(folder / "whole"), capture_output=True, check=True)
        return time.monotonic() - began, ends(folder / "whole")

    def killed_and_resumed(number: int) -> str:
        seconds, whole = reference()
        draw, place = random.Random(f"{seed} {number}"), folder / str(number)
        for _ in range(kills):
            kill(command(place), draw.uniform(0, seconds))
        done = subprocess.run(command(place), capture_output=True, text=True)
        if done.returncode:
            return f"exit code {done.returncode}: {done.stderr.strip()}"
        return difference(whole, ends(place))

    return killed_and_resumed


def kill(command: list[str], delay: float) -> None:
    """Start a process and kill it after so many seconds, unless it has ended before."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        process.kill()


def difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """In what two folders' ends differ; "" where they are the same."""
    if extra := other.keys() - one.keys():
        return f"left behind: {', '.join(sorted(extra))}"
    if missing := one.keys() - other.keys():
        return f"missing: {', '.join(sorted(missing))}"
    return ", ".join(f"{name} differs" for name in sorted(one) if one[name] != other[name])


def ends(folder: Path) -> dict[str, Any]:
    """All that is in a folder, by path, without what the clock and the place decide."""
    return {
        path.relative_to(folder).as_posix(): content(path) for path in sorted(folder.rglob("*"))
    }


def content(path: Path) -> Any:
    """What a file holds, to the bit; of logs and folders, that they are there."""
    if path.is_dir() or path.name == "log.txt":
        return None
    if path.suffix == ".npz":
        checkpoint = runs.read_checkpoint(path)
        arrays = {
            name: (array.dtype, array.shape, array.tobytes())
            for name, array in checkpoint.arrays.items()
        }
        rest = checkpoint.update, timeless(checkpoint.rows), timeless(checkpoint.config)
        return arrays, checkpoint.window.tobytes(), rest
    if path.suffix == ".json":
        return timeless(json.loads(path.read_bytes()))
    if path.suffix == ".csv":
        return timeless(list(csv.DictReader(path.read_text().splitlines())))
    return path.read_bytes()


def timeless(value: Any) -> Any:
    """JSON without the values that are FREE."""
    if isinstance(value, dict):
        return {name: timeless(each) for name, each in value.items() if name not in FREE}
    return [timeless(each) for each in value] if isinstance(value, list) else value
