"""A run of training: its folder, its files, its checkpoint. The loop over updates is in loop.py.

A run lives in one folder:

    config.json      what was asked for, and every environment (versions, device) it ran in
    metrics.csv      one row every `evaluate_every` updates
    checkpoint.npz   all that is needed to go on: arrays, update, rows, configuration; no pickles
    result.json      written last: a folder that has it holds a finished run
    events.out...    with --tensorboard, the rows of metrics.csv for TensorBoard

Every other file is written beside its place and renamed, so a process killed at any moment leaves
either the old file or the new one. The randomness of an update is a function of its number alone,
so the arrays and that number are the whole state: a resumed run ends, on the CPU, with the same
bits.
This file knows arrays and files, and nothing of the method that is trained.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import fcntl
import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

FILES = ("config.json", "metrics.csv", "checkpoint.npz", "curves.png", "result.json")
EVENTS = "events.out.tfevents.*"  # what TensorBoard's files are called


class RunError(ValueError):
    """A run that cannot start as asked; the message is one line for the user."""


class RunFailed(RuntimeError):
    """A run that had to stop (non-finite values, a full disk); the message is one line."""


class Interrupted(Exception):
    """A run that was asked to stop (Ctrl-C, SIGTERM, SIGHUP) and has written its checkpoint."""


# Files -------------------------------------------------------------------------------------------


def replace_file(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Give `write` a binary file beside `path`, then rename it to `path` once it is on the disk.

    Raises RunFailed, one line, when the file cannot be written; `path` is then what it was.
    """
    beside = path.with_name(path.name + ".partial")
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise RunFailed(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all (RunFailed)."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    replace_file(path, lambda file: file.write(text.encode()))


def read_json(path: Path, advice: str = "") -> dict[str, Any]:
    """Read a JSON object; RunError, one line naming the file, when it does not hold one.

    advice: what to do then, for the message.
    """
    advice = advice and f"; {advice}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read as JSON: {error}{advice}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} holds {type(content).__name__}, not a JSON object{advice}")
    return content


def write_metrics(path: Path, columns: tuple[str, ...], rows: list[dict[str, float]]) -> None:
    """Write all rows of metrics.csv, whole or not at all (RunFailed)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_file(path, lambda file: file.write(text.getvalue().encode()))


# Checkpoints -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """All there is to know of a run after `update` updates.

    arrays   the arrays that training changes, on the host, by name
    rows     the rows of metrics.csv so far, each a dict with the same columns
    window   (n, losses) float64: the losses of the n updates since the last row
    seconds  time spent in the loop, all processes together
    config   the configuration the run was started with
    """

    update: int
    arrays: dict[str, np.ndarray]
    rows: list[dict[str, float]]
    window: np.ndarray
    seconds: float
    config: dict[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint as .npz, whole or not at all (RunFailed)."""
    content = {f"arrays/{name}": array for name, array in checkpoint.arrays.items()}
    content |= {name: getattr(checkpoint, name) for name in ("update", "seconds", "window")}
    for name in ("rows", "config"):
        text = json.dumps(getattr(checkpoint, name))
        content[name] = np.frombuffer(text.encode(), np.uint8)
    replace_file(path, lambda file: np.savez(file, **content))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; RunError, one line naming the file, when it is damaged or not one."""
    try:
        _check_sizes(path)
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}  # all, so that all is checked
        return Checkpoint(
            update=int(content.pop("update")),
            seconds=float(content.pop("seconds")),
            window=content.pop("window"),
            rows=json.loads(content.pop("rows").tobytes()),
            config=json.loads(content.pop("config").tobytes()),
            arrays={name.removeprefix("arrays/"): array for name, array in content.items()},
        )
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make zipfile and numpy raise nearly anything
        raise RunError(
            f"{path} is damaged or no checkpoint: start again with --overwrite"
        ) from error


def _check_sizes(path: Path) -> None:
    """ValueError where an array promises more bytes than the file has: NumPy would ask for them."""
    whole = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                reader = getattr(np.lib.format, "read_array_header_{}_{}".format(*version))
                shape, _, dtype = reader(file)
                size = file.tell() + math.prod(shape) * dtype.itemsize
            stored = member.compress_type == zipfile.ZIP_STORED
            if not stored or size != member.file_size or size > whole:
                raise ValueError(f"{member.filename}: {size} bytes")


def restore(arrays: dict[str, Any], checkpoint: Checkpoint, device: Any, path: Path) -> None:
    """Write a checkpoint's arrays into `arrays`; RunError, naming `path`, where they do not fit."""
    here, there = (
        {name: f"{array.dtype} {array.shape}" for name, array in each.items()}
        for each in (arrays, checkpoint.arrays)
    )
    if changes := _changes(there, here):
        raise RunError(f"{path} does not fit: array {changes[0]}")
    for name, array in arrays.items():
        array[...] = device.asarray(checkpoint.arrays[name])


# The folder --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Run:
    """A folder opened by `open_run`.

    start is the checkpoint to go on from, result what result.json holds of a finished run.
    """

    folder: Path
    config: dict[str, Any]
    start: Checkpoint | None = None
    result: dict[str, Any] | None = None

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json, which marks the run as finished."""
        write_json(self.folder / "result.json", result)


@contextlib.contextmanager
def open_run(
    folder: str | Path,
    config: dict[str, Any],
    environment: dict[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    say: Callable[[str], Any] = print,
) -> Iterator[Run]:
    """Open `folder`, made if missing, for this process alone, and decide where its run begins.

    `config` is what determines the result, as JSON: resuming with another one is refused.
    `environment` is where the run happens: it may differ on resuming, and is then noted in
    config.json and said through `say`, because the bits may differ.
    Raises RunError when the folder is in use, cannot be made, holds a run and neither `resume` nor
    `overwrite` is given, or holds one that cannot be resumed.
    """
    folder = Path(folder)
    config, environment = json.loads(json.dumps([config, environment]))  # tuples become lists
    with _locked(folder):
        held = [path.name for name in (*FILES, EVENTS) for path in folder.glob(name)]
        if held and not (resume or overwrite):
            raise RunError(
                f"{folder} holds a run already ({', '.join(held)}): "
                "give --resume to go on with it, --overwrite to replace it, or another --out"
            )
        if held and overwrite:
            _remove([folder / name for name in held])
        run = _resumed(folder, config, environment, say) if resume else None
        if run is None:
            environments = [{"from_update": 0, **environment}]
            run = Run(folder, {**config, "environments": environments})
        if run.result is None:
            write_json(folder / "config.json", run.config)
        yield run


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Lock a file or a folder for this process, which its death undoes; OSError where it cannot
    be, BlockingIOError where another process has it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def in_use(folder: Path) -> bool:
    """Whether another process is at the run in the folder."""
    try:
        with lock(folder / ".lock"):
            return False
    except BlockingIOError:
        return True
    except OSError:  # no folder yet, or one that nobody can use
        return False


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # The file stays: removing it would race with the next process. The lock goes at death.
            open(folder / ".lock", "a").close()
            stack.enter_context(lock(folder / ".lock"))
        except BlockingIOError as error:
            raise RunError(f"{folder} is in use by another process") from error
        except OSError as error:
            raise RunError(f"cannot write in the folder {folder}: {error.strerror}") from error
        yield


def _foreign(config: Path) -> bool:
    """Whether a config.json is that of something else; a damaged one may be a run's."""
    try:
        content = json.loads(config.read_bytes())
    except (OSError, ValueError):
        return False
    return not isinstance(content, dict) or "environments" not in content


def _remove(held: list[Path]) -> None:
    """Remove the files of a run; RunError where they cannot be, or are not a run's."""
    for path in held:
        if path.name == "config.json" and _foreign(path):
            raise RunError(f"{path} is not that of a run: give another --out")
    for path in held:
        try:
            path.unlink()
        except OSError as error:
            raise RunError(f"cannot remove {path}: {error.strerror}") from error


def _resumed(folder: Path, config: dict, environment: dict, say: Callable) -> Run | None:
    """The run in `folder` to go on with; None where it has to start from the beginning."""
    path = folder / "checkpoint.npz"
    start = read_checkpoint(path) if path.exists() else None
    if start is None and not (folder / "config.json").exists():
        say(f"a new run in {folder}")
        return None
    advice = "start again with --overwrite"
    before = dict(start.config if start else read_json(folder / "config.json", advice))
    environments = before.pop("environments", [])
    if changes := _changes(before, config):
        raise RunError(
            f"cannot resume {folder}: the configuration has changed: {', '.join(changes)}"
        )
    if (folder / "result.json").exists():
        say(f"{folder} holds this run, finished")
        advice = "remove it, and --resume makes it again"
        return Run(folder, config, start, read_json(folder / "result.json", advice))
    if start is None:
        say(f"no checkpoint yet in {folder}: starting from the beginning")
        return None
    say(f"resuming {folder} after update {start.update}")
    last = {name: value for name, value in environments[-1].items() if name != "from_update"}
    if changes := _changes(last, environment):
        say(f"the environment has changed, so the bits may differ: {', '.join(changes)}")
        environments = [*environments, {"from_update": start.update, **environment}]
    return Run(folder, {**config, "environments": environments}, start)


def _changes(old: dict, new: dict, prefix: str = "") -> list[str]:
    found = []
    for name in sorted(old.keys() | new.keys()):
        before, now = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            found += _changes(before, now, f"{prefix}{name}.")
        elif before != now:
            found.append(f"{prefix}{name} was {before} and is now {now}")
    return found
