"""A run of training: its folder, its checkpoint, and the loop over updates.

A run lives in one folder:

    config.json      what was asked for, and every environment (versions, device) it ran in
    metrics.csv      one row every `evaluate_every` updates
    checkpoint.npz   all that is needed to go on: arrays, update, rows, configuration; no pickles
    result.json      written last: a folder that has it holds a finished run

Every file is written beside its place and renamed, so a process killed at any moment leaves either
the old file or the new one. The randomness of an update is a function of its number alone, so the
arrays and that number are the whole state: a resumed run ends, on the CPU, with the same bits.
This file knows arrays, updates and files, and nothing of the method that is trained.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import fcntl
import gc
import io
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

FILES = ("config.json", "metrics.csv", "checkpoint.npz", "curves.png", "result.json")
READ_EVERY_ON_GPU = 100  # reading a loss waits for the device; the CPU has nothing to wait for
LINE_EVERY_SECONDS = 30.0
LONG_SECONDS = 3600.0  # a run that will take longer says so
TIMED_UPDATES = 10


class RunError(ValueError):
    """A run that cannot start as asked; the message is one line for the user."""


class RunFailed(RuntimeError):
    """A run that had to stop (non-finite values, a full disk); the message is one line."""


class Interrupted(Exception):
    """A run that was asked to stop (Ctrl-C, SIGTERM) and has written its checkpoint."""


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


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; RunError, one line naming the file, when it does not hold one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} holds {type(content).__name__}, not a JSON object")
    return content


def write_metrics(path: Path, columns: tuple[str, ...], rows: list[dict[str, float]]) -> None:
    """Write all rows of metrics.csv, whole or not at all (RunFailed)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_file(path, lambda file: file.write(text.getvalue().encode()))


def append_metrics(path: Path, row: dict[str, float]) -> None:
    """Add one row to metrics.csv; resuming mends a line torn by a kill (RunFailed)."""
    try:
        with open(path, "a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, row, lineterminator="\n").writerow(row)
    except OSError as error:
        raise RunFailed(f"cannot write {path}: {error.strerror}") from error


# Checkpoints -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """All there is to know of a run after `update` updates.

    arrays   the arrays that training changes, on the host, by name
    rows     the rows of metrics.csv so far, each a dict with the same columns
    window   (n, losses) float64: the losses of the n updates since the last row
    seconds  time spent in the loop, over all sittings
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
    content["update"] = np.array(checkpoint.update)
    content["seconds"] = np.array(checkpoint.seconds)
    content["window"] = checkpoint.window
    content["rows"] = _as_bytes(checkpoint.rows)
    content["config"] = _as_bytes(checkpoint.config)
    replace_file(path, lambda file: np.savez(file, **content))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; RunError, one line naming the file, when it is damaged or not one."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}  # all, so that all is checked
        return Checkpoint(
            update=int(content.pop("update")),
            seconds=float(content.pop("seconds")),
            window=content.pop("window"),
            rows=_from_bytes(content.pop("rows")),
            config=_from_bytes(content.pop("config")),
            arrays={name.removeprefix("arrays/"): array for name, array in content.items()},
        )
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make zipfile and numpy raise nearly anything
        raise RunError(
            f"{path} is damaged or no checkpoint: start again with --overwrite"
        ) from error


def _as_bytes(content: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


def _from_bytes(array: np.ndarray) -> Any:
    return json.loads(array.tobytes())


def _restore(arrays: dict[str, Any], checkpoint: Checkpoint, device: Any, path: Path) -> None:
    here, there = (
        {name: f"{array.dtype} {array.shape}" for name, array in each.items()}
        for each in (arrays, checkpoint.arrays)
    )
    if changes := _differences(there, here):
        name, old, new = changes[0]
        raise RunError(f"{path} does not fit: array {name} is {old} there and {new} here")
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
    config = json.loads(json.dumps(config))
    environment = json.loads(json.dumps(environment))
    with _locked(folder):
        held = [name for name in FILES if (folder / name).exists()]
        if held and not (resume or overwrite):
            raise RunError(
                f"{folder} holds a run already ({', '.join(held)}): "
                "give --resume to go on with it, --overwrite to replace it, or another --out"
            )
        if overwrite:
            _remove([folder / name for name in held])
        run = _resumed(folder, config, environment, say) if resume else None
        if run is None:
            environments = [{"from_update": 0, **environment}]
            run = Run(folder, {**config, "environments": environments})
        if run.result is None:
            write_json(folder / "config.json", run.config)
        yield run


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The file stays: removing it would race with the next process. The lock goes at death.
        lock = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise RunError(f"cannot write in the folder {folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"{folder} is in use by another process") from error
        yield
    finally:
        os.close(lock)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        try:
            path.unlink()
        except OSError as error:
            raise RunError(f"cannot remove {path}: {error.strerror}") from error


def _resumed(folder: Path, config: dict, environment: dict, say: Callable) -> Run | None:
    path = folder / "checkpoint.npz"
    start = read_checkpoint(path) if path.exists() else None
    if start is not None:
        before = dict(start.config)
    elif (folder / "config.json").exists():
        before = dict(read_json(folder / "config.json"))
    else:
        say(f"nothing to resume in {folder}: starting from the beginning")
        return None
    environments = before.pop("environments", [])
    if changes := _differences(before, config):
        raise RunError(
            f"cannot resume {folder}: the configuration has changed: "
            + ", ".join(f"{name} was {old} and is now {new}" for name, old, new in changes)
        )
    if (folder / "result.json").exists():
        say(f"{folder} holds this run, finished")
        return Run(folder, config, start, read_json(folder / "result.json"))
    if start is None:
        say(f"no checkpoint yet in {folder}: starting from the beginning")
        return None
    say(f"resuming {folder} after update {start.update}")
    last = {name: value for name, value in environments[-1].items() if name != "from_update"}
    if changes := _differences(last, environment):
        say(
            "the environment has changed, so the bits may differ: "
            + ", ".join(f"{name} was {old} and is now {new}" for name, old, new in changes)
        )
        environments = [*environments, {"from_update": start.update, **environment}]
    return Run(folder, {**config, "environments": environments}, start)


def _differences(old: dict, new: dict, prefix: str = "") -> list[tuple[str, Any, Any]]:
    found = []
    for name in sorted(old.keys() | new.keys()):
        before, now = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            found += _differences(before, now, f"{prefix}{name}.")
        elif before != now:
            found.append((prefix + name, before, now))
    return found


# The loop ----------------------------------------------------------------------------------------


def train(
    run: Run,
    arrays: dict[str, Any],
    step: Callable[[int], dict[str, Any]],
    evaluate: Callable[[int], dict[str, float]],
    *,
    device: Any,
    columns: tuple[str, ...],
    updates: int,
    evaluate_every: int,
    checkpoint_every: int,
    describe: Callable[[dict[str, float]], str],
    shorten: str = "fewer updates",
    quiet: bool = False,
) -> tuple[list[dict[str, float]], float]:
    """Train from where `run` stands to `updates` updates; the rows of metrics.csv, and seconds.

    `step(update)` makes update number `update`, counted from 0, changing `arrays` in place, and
    returns its losses by name, as 0-d arrays of `device`. `evaluate(done)` returns more values by
    name. A row of metrics.csv holds the number of updates done, each loss averaged over the updates
    since the last row, the evaluation, and the seconds so far, in the order `columns`. `describe`
    puts the newest values in words for the progress bar. Where more than an hour is left by the
    time of the first updates, or of an evaluation, that is said, and `shorten`, what the user may
    do about it.

    Raises RunFailed when a loss, a value or an array is not finite (the checkpoint on disk is then
    the last good one) or a file cannot be written; Interrupted after Ctrl-C or SIGTERM, when the
    update is finished and the checkpoint written.
    """
    folder = run.folder
    done, rows, window, seconds = 0, [], [], 0.0
    if run.start is not None:
        _restore(arrays, run.start, device, folder / "checkpoint.npz")
        done, seconds = run.start.update, run.start.seconds
        rows, window = list(run.start.rows), list(run.start.window)
    write_metrics(folder / "metrics.csv", columns, rows)

    began = time.monotonic() - seconds
    read_every = READ_EVERY_ON_GPU if device.name == "cuda" else 1
    unread: list[dict[str, Any]] = []
    # (updates, time) from which the speed is measured: the very first update is slower than the
    # others, and only a reading waits for the device.
    timed: tuple[int, float] | None = None
    pace: float | None = None  # seconds an update
    announced = quiet
    values = dict(rows[-1]) if rows else {}
    # An update's graph is freed by reference counting; without the objects of all the modules to
    # go through, the collector's visits cost next to nothing (3 % of an update before).
    gc.freeze()
    with (
        deferred_signals() as interrupted,
        _progress(done, updates, quiet) as show,
        np.errstate(all="ignore"),  # what is not finite is found and named below
    ):
        for update in range(done, updates):
            unread.append(step(update))
            done = update + 1
            stop = interrupted.is_set()
            evaluating = done % evaluate_every == 0 or done == updates
            saving = done % checkpoint_every == 0 or done == updates or stop

            if len(unread) == read_every or not values or evaluating or saving:
                losses = _read(unread, device)
                _refuse_non_finite(losses, done - len(unread), unread[-1], folder)
                names = list(unread[-1])
                values.update(zip(names, losses[-1].tolist(), strict=True))
                window.extend(losses)
                unread.clear()
                now = time.monotonic()
                timed = timed or (done, now)
                if pace is None and done >= timed[0] + TIMED_UPDATES:
                    pace = (now - timed[1]) / (done - timed[0])
                    announced = announced or _announce(pace, updates - done, 0.0, shorten)
            if evaluating:
                started = time.monotonic()
                row = dict(zip(names, np.mean(window, axis=0).tolist(), strict=True))
                row |= {
                    "update": done,
                    **evaluate(done),
                    "seconds": round(time.monotonic() - began, 3),
                }
                for name, value in row.items():
                    if not math.isfinite(value):
                        raise RunFailed(_not_finite(done, f"{name} is {value}", folder))
                rows.append({name: row[name] for name in columns})
                append_metrics(folder / "metrics.csv", rows[-1])
                values.update(row)
                window.clear()
                if pace is not None and not announced:
                    taken = time.monotonic() - started
                    evaluations = math.ceil((updates - done) / evaluate_every)
                    announced = _announce(pace, updates - done, evaluations * taken, shorten)
            if saving:
                host = {name: device.to_host(array) for name, array in arrays.items()}
                for name, array in host.items():
                    if not np.isfinite(array).all():
                        raise RunFailed(_not_finite(done, f"{name} is not finite", folder))
                seconds = time.monotonic() - began
                write_checkpoint(
                    folder / "checkpoint.npz",
                    Checkpoint(done, host, rows, np.array(window), seconds, run.config),
                )
            show(done, lambda: describe(values))
            if stop and done < updates:
                raise Interrupted(
                    f"interrupted after update {done} of {updates}; "
                    f"the same command with --resume goes on from there ({folder})"
                )
    return rows, seconds


def _read(unread: list[dict[str, Any]], device: Any) -> np.ndarray:
    """The losses of several updates as (updates, losses) float64, in one transfer."""
    stacked = np.stack([loss for losses in unread for loss in losses.values()])
    return device.to_host(stacked).astype(np.float64).reshape(len(unread), -1)


def _refuse_non_finite(losses: np.ndarray, first: int, names: dict[str, Any], folder: Path) -> None:
    if np.isfinite(losses).all():
        return
    row, column = np.argwhere(~np.isfinite(losses))[0]
    what = f"{list(names)[column]} is {losses[row, column]}"
    raise RunFailed(_not_finite(first + int(row) + 1, what, folder))


def _not_finite(update: int, what: str, folder: Path) -> str:
    path = folder / "checkpoint.npz"
    kept = f"{path} keeps the last good state" if path.exists() else "there is no checkpoint yet"
    return f"stopped at update {update}: {what}; {kept}"


@contextlib.contextmanager
def deferred_signals() -> Iterator[threading.Event]:
    """Turn SIGINT and SIGTERM into an event to look at between updates.

    A signal may well come twice (the terminal's and make's), so a second one changes nothing.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield interrupted
        return
    before = {
        number: signal.signal(number, lambda *_: interrupted.set())
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN  # as nohup and `&` in a script set it
    }
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# Progress ----------------------------------------------------------------------------------------

Show = Callable[[int, Callable[[], str]], None]


def _announce(pace: float, updates: int, evaluations: float, shorten: str) -> bool:
    """Say how long `updates` updates of `pace` seconds, and the evaluations, will take, where that
    is long; whether it was said."""
    left = pace * updates + evaluations
    if left <= LONG_SECONDS:
        return False
    from tqdm import tqdm

    tqdm.write(  # which knows how to write above a progress bar
        f"at {1 / pace:.2g} updates/s this run has about {left / 3600:.1f} hours to go; "
        f"shorter: {shorten}; Ctrl-C stops it for --resume to go on with",
        file=sys.stderr,
    )
    return True


def _progress(done: int, updates: int, quiet: bool) -> contextlib.AbstractContextManager[Show]:
    """A function that shows how many updates are done: on a bar, in lines, or not at all."""
    if quiet or done == updates:
        return contextlib.nullcontext(lambda done, text: None)
    return (_bar if sys.stderr.isatty() else _lines)(done, updates)


@contextlib.contextmanager
def _bar(done: int, updates: int) -> Iterator[Show]:
    from tqdm import tqdm

    with tqdm(initial=done, total=updates, unit=" updates", dynamic_ncols=True) as bar:

        def show(done: int, text: Callable[[], str]) -> None:
            bar.set_postfix_str(text(), refresh=False)
            bar.update(done - bar.n)

        yield show


@contextlib.contextmanager
def _lines(done: int, updates: int) -> Iterator[Show]:
    from tqdm import tqdm

    first, began = done, time.monotonic()
    said = began

    def show(done: int, text: Callable[[], str]) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said < LINE_EVERY_SECONDS and done < updates:
            return
        said = now
        rate = (done - first) / max(now - began, 1e-9)
        left = tqdm.format_interval((updates - done) / rate)
        print(
            f"update {done}/{updates}, {text()}, {rate:.1f} updates/s, {left} left",
            file=sys.stderr,
            flush=True,
        )

    yield show
