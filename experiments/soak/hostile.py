"""A machine that does not play along: full disks, folders that go or cannot be written, clocks."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.lab import space
from experiments.soak import kills
from experiments.soak.promise import Promise

COUNT = 20
YEAR = 365 * 24 * 3600.0
NOBODY = 65534  # a user and a group
# Of its own: a disk of some size in a folder, from which all is copied when the command has ended.
ON_A_SMALL_DISK = """
mount -t tmpfs -o size="$1" tmpfs "$2" || exit 99
disk="$2" copy="$3"; shift 3
"$@"; code=$?
cp -a "$disk/." "$copy"; exit $code
"""


class Ended(NamedTuple):
    """A process that has: its exit code, and what it has written to standard error."""

    code: int
    error: str


Trouble = Callable[[list[str], Path, random.Random, float], Ended]


def promises(count: int, seed: int, folder: Path) -> list[Promise]:
    """One for each trouble."""
    folder.chmod(0o755)
    whole = functools.cache(functools.partial(_whole, folder / "whole"))
    return [
        Promise(
            f"{text}: at most one line, and the run resumes to the same bits",
            how,
            functools.partial(trial, trouble, name, folder, whole, seed),
            count,
        )
        for name, (text, how, trouble) in TROUBLES.items()
    ]


def trial(
    trouble: Trouble,
    name: str,
    folder: Path,
    whole: Callable[[], tuple[float, dict[str, object]]],
    seed: int,
    number: int,
) -> str:
    """A run in trouble, then the same command on a machine that plays along."""
    seconds, reference = whole()
    place = folder / f"{name}{number}"
    place.mkdir()
    draw = random.Random(f"{seed} {name} {number}")
    ended = trouble(command(place), place, draw, seconds)
    if "Traceback" in ended.error or len(ended.error.splitlines()) > 1:
        return f"not one line: {ended.error.strip()[-300:]}"
    if ended.code and not ended.error.strip():
        return f"exit code {ended.code} in silence"
    again = subprocess.run(command(place), capture_output=True, text=True)
    if again.returncode:
        return f"does not resume: {again.stderr.strip()}"
    return kills.difference(reference, kills.ends(place))


def command(place: Path) -> list[str]:
    """What trains for a few seconds, with many checkpoints, into a folder, or goes on there."""
    base = (sys.executable, "-m", "experiments", "mnist-sup", "--data", "digits", "--device", "cpu")
    flags = ("--updates", "40", "--checkpoint-every", "2", "--quiet", "--resume")
    return [*base, *flags, "--out", str(place / "run")]


def _whole(place: Path) -> tuple[float, dict[str, object]]:
    began = time.monotonic()
    subprocess.run(command(place), capture_output=True, check=True)
    return time.monotonic() - began, kills.ends(place)


def full_disk(command: list[str], place: Path, draw: random.Random, seconds: float) -> Ended:
    """On a disk of a size drawn, from nothing to a little more than the run needs."""
    size = sum(each.stat().st_size for each in (place.parent / "whole").rglob("*"))
    disk = place.with_suffix(".disk")
    disk.mkdir()
    script = ["sh", "-c", ON_A_SMALL_DISK, "sh", str(draw.randint(4096, 2 * size)), disk, place]
    there = [part.replace(str(place), str(disk)) for part in command]
    return _ended(["unshare", "--map-root-user", "--mount", *map(str, script), *there])


def read_only(command: list[str], place: Path, draw: random.Random, seconds: float) -> Ended:
    """All folders of the run cannot be written in from some moment on."""
    home = place.with_suffix(".home")  # the superuser's is no one else's: matplotlib would say so
    home.mkdir()
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    user += ["env", f"HOME={home}"]
    superuser = os.geteuid() == 0
    if superuser:  # whom nothing is forbidden
        for each in (place, home):
            os.chown(each, NOBODY, NOBODY)
    with _started([*user, *command] if superuser else command) as process:
        _wait(process, draw.uniform(0, seconds))
        for each in (place, *place.rglob("*/")):
            each.chmod(0o555)
        ended = Ended(*reversed((process.communicate()[1], process.returncode)))
    for each in (place, *place.rglob("*/")):
        each.chmod(0o755)
    return ended


def clock_back(command: list[str], place: Path, draw: random.Random, seconds: float) -> Ended:
    """Killed; then all its files are a year ahead of the clock."""
    kills.kill(command, draw.uniform(0, seconds))
    then = time.time() + YEAR
    for each in place.rglob("*"):
        os.utime(each, (then, then))
    return Ended(0, "")


def moved(command: list[str], place: Path, draw: random.Random, seconds: float) -> Ended:
    """The folder has another name while the run goes on, and its own again afterwards."""
    elsewhere = place.with_suffix(".moved")
    with _started(command) as process:
        _wait(process, draw.uniform(0, seconds))
        place.rename(elsewhere)
        error = process.communicate()[1]
    shutil.rmtree(place, ignore_errors=True)
    elsewhere.rename(place)
    return Ended(process.returncode, error)


def two_at_once(command: list[str], place: Path, draw: random.Random, seconds: float) -> Ended:
    """Two processes with the same folder: one does it, the other is refused or finds it done."""
    with _started(command) as first, _started(command) as second:
        errors = [process.communicate()[1] for process in (first, second)]
    codes = [first.returncode, second.returncode]
    if 0 not in codes:
        return Ended(1, f"none of the two has ended well: {errors}\n\n")
    return Ended(max(codes), "".join(errors))


def interrupted_twice(
    command: list[str], place: Path, draw: random.Random, seconds: float
) -> Ended:
    """Ctrl-C once Python itself has started, and again within a fifth of a second."""
    with _started(command) as process:
        _wait(process, draw.uniform(0.3, seconds))
        process.send_signal(signal.SIGINT)
        time.sleep(draw.uniform(0, 0.2))
        process.send_signal(signal.SIGINT)
        error = process.communicate()[1]
    return Ended(process.returncode, error)


def little_memory(command: list[str], place: Path, draw: random.Random, seconds: float) -> Ended:
    """`ulimit -v`: from a fifth of what the libraries need to twice as much."""
    return _ended(command, limit=int(draw.uniform(0.2, 2) * space.needed()))


TROUBLES: dict[str, tuple[str, str, Trouble]] = {
    "full": ("a disk that is full", "a tmpfs of a size drawn at random", full_disk),
    "readonly": (
        "folders that cannot be written any more",
        "chmod at a random moment, under a user without privileges",
        read_only,
    ),
    "clock": ("a clock that is set back", "killed, its files dated a year ahead", clock_back),
    "moved": ("a folder that is moved", "renamed at a random moment", moved),
    "two": ("two runs on one folder", "started at once", two_at_once),
    "interrupted": ("Ctrl-C twice", "at a random moment, within 0.2 s", interrupted_twice),
    "memory": (
        "too little memory",
        "`ulimit -v`, from a fifth of what the libraries need to twice as much",
        little_memory,
    ),
}


def _started(command: Sequence[str]) -> subprocess.Popen[str]:
    # Another user is to see the same commit: git shows no one a repository of someone else.
    trust = ("GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*")
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(["env", *trust, *command], **streams)


def _wait(process: subprocess.Popen[str], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _ended(command: Sequence[str], limit: int = resource.RLIM_INFINITY) -> Ended:
    """Run it to its end; limit: of its address space, in bytes."""
    limited = ["prlimit", f"--as={limit}:{limit}", *command] if limit > 0 else command
    done = subprocess.run(limited, capture_output=True, text=True)
    return Ended(done.returncode, done.stderr)
