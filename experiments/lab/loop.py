"""The loop over updates: losses, evaluations, checkpoints, progress, and stopping.

It knows arrays, updates and the files of a run, and nothing of the method that is trained.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from experiments.lab import runs

READ_EVERY_ON_GPU = 100  # reading a loss waits for the device; the CPU has nothing to wait for
LINE_EVERY_SECONDS = 30.0
LONG_SECONDS = 3600.0  # a run that will take longer says so
TIMED_UPDATES = 10


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train and what to report.

    columns: of metrics.csv, in order. describe: the newest values in words, for the progress bar.
    report: told every new row of metrics.csv.
    shorten: what makes the run shorter, to tell whoever starts one of hours.
    """

    updates: int
    evaluate_every: int
    checkpoint_every: int
    columns: tuple[str, ...]
    describe: Callable[[dict[str, float]], str]
    report: Callable[[dict[str, float]], Any] = lambda row: None
    shorten: str = "fewer updates"
    quiet: bool = False


def train(
    run: runs.Run,
    arrays: dict[str, Any],
    step: Callable[[int], dict[str, Any]],
    evaluate: Callable[[int], dict[str, float]],
    plan: Plan,
    device: Any,
) -> tuple[list[dict[str, float]], float]:
    """Train from where `run` stands to the end of the plan; the rows of metrics.csv, and seconds.

    `step(update)` makes update number `update`, counted from 0, changing `arrays` in place, and
    returns its losses by name, as 0-d arrays of `device`. `evaluate(done)` returns more values by
    name. A row of metrics.csv holds the number of updates done, each loss averaged over the updates
    since the last row, the evaluation, and the seconds so far. Where more than an hour is left by
    the time of the first updates, or of an evaluation, that is said.

    Raises RunFailed when a loss, a value or an array is not finite (the checkpoint on disk is then
    the last good one) or a file cannot be written; Interrupted after a signal (`deferred_signals`),
    when the update is finished and the checkpoint written.
    """
    state = _Progress(run, arrays, plan, device)
    # An update's graph is freed by reference counting; without the objects of all the modules to
    # go through, the collector's visits cost next to nothing (3 % of an update before).
    gc.freeze()
    interrupted = threading.Event()
    with (
        deferred_signals(interrupted.set),
        progress_bar(state.done, plan.updates, plan.quiet) as bar,
        np.errstate(all="ignore"),  # what is not finite is found and named
    ):
        for update in range(state.done, plan.updates):
            state.updated(step(update))
            last = state.done == plan.updates
            stop = interrupted.is_set()
            evaluating = last or state.done % plan.evaluate_every == 0
            saving = last or stop or state.done % plan.checkpoint_every == 0
            if evaluating:
                state.evaluated(evaluate)
            if saving:
                state.save()
            bar.set_postfix_str(plan.describe(state.values), refresh=False)
            bar.update()
            if stop and not last:
                raise runs.Interrupted(
                    f"interrupted after update {state.done} of {plan.updates}; "
                    f"the same command with --resume goes on from there ({run.folder})"
                )
        bar.refresh()
    return state.rows, state.seconds


class _Progress:
    """A run between two updates: how many are done, what they showed, what is on the disk."""

    def __init__(self, run: runs.Run, arrays: dict[str, Any], plan: Plan, device: Any):
        self.run, self.arrays, self.plan, self.device = run, arrays, plan, device
        self.path = run.folder / "checkpoint.npz"
        self.done, self.seconds = 0, 0.0
        self.rows: list[dict[str, float]] = []
        self.window: list[np.ndarray] = []  # losses since the last row
        if run.start is not None:
            runs.restore(arrays, run.start, device, self.path)
            self.done, self.seconds = run.start.update, run.start.seconds
            self.rows, self.window = list(run.start.rows), list(run.start.window)
        self._write_metrics()
        self.values = dict(self.rows[-1]) if self.rows else {}
        self.pace = Pace(plan)
        self._began = time.monotonic() - self.seconds
        self._unread: list[dict[str, Any]] = []
        self._read_every = READ_EVERY_ON_GPU if device.name == "cuda" else 1

    def updated(self, losses: dict[str, Any]) -> None:
        """One more update; its losses may be read later."""
        self._unread.append(losses)
        self.done += 1
        if len(self._unread) == self._read_every or not self.values:
            self._read()

    def _read(self) -> None:
        """The losses of the last updates, in one transfer; RunFailed where one is not finite."""
        if not self._unread:
            return
        names = list(self._unread[-1])
        stacked = np.stack([loss for losses in self._unread for loss in losses.values()])
        losses = self.device.to_host(stacked).astype(np.float64).reshape(len(self._unread), -1)
        bad = np.argwhere(~np.isfinite(losses))
        if len(bad):
            row, column = bad[0]
            update = self.done - len(self._unread) + int(row) + 1
            raise self._not_finite(update, f"{names[column]} is {losses[row, column]}")
        self.values.update(zip(names, losses[-1].tolist(), strict=True))
        self.window.extend(losses)
        self._unread.clear()
        self._names = names
        self.pace.read(self.done)

    def evaluated(self, evaluate: Callable[[int], dict[str, float]]) -> None:
        """One more row of metrics.csv; RunFailed where a value is not finite."""
        self._read()
        started = time.monotonic()
        row = dict(zip(self._names, np.mean(self.window, axis=0).tolist(), strict=True))
        row |= {"update": self.done, **evaluate(self.done)}
        row["seconds"] = round(time.monotonic() - self._began, 3)
        for name, value in row.items():
            if not math.isfinite(value):
                raise self._not_finite(self.done, f"{name} is {value}")
        self.rows.append({name: row[name] for name in self.plan.columns})
        self._write_metrics()
        self.plan.report(self.rows[-1])
        self.values.update(row)
        self.window.clear()
        self.pace.evaluated(self.done, time.monotonic() - started)

    def _write_metrics(self) -> None:
        runs.write_metrics(self.run.folder / "metrics.csv", self.plan.columns, self.rows)

    def save(self) -> None:
        """Write the checkpoint; RunFailed where an array is not finite."""
        self._read()
        host = {name: self.device.to_host(array) for name, array in self.arrays.items()}
        for name, array in host.items():
            if not np.isfinite(array).all():
                raise self._not_finite(self.done, f"{name} is not finite")
        self.seconds = time.monotonic() - self._began
        window, config = np.array(self.window), self.run.config
        state = runs.Checkpoint(self.done, host, self.rows, window, self.seconds, config)
        runs.write_checkpoint(self.path, state)

    def _not_finite(self, update: int, what: str) -> runs.RunFailed:
        kept = "there is no checkpoint yet"
        if self.path.exists():
            kept = f"{self.path} keeps the last good state"
        return runs.RunFailed(f"stopped at update {update}: {what}; {kept}")


class Pace:
    """How fast updates are, and one line on how long the run will take, where that is long."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._announced = plan.quiet
        # (updates, time) from which the speed is measured: the very first update is slower than
        # the others, and only a reading waits for the device.
        self._start: tuple[int, float] | None = None
        self.seconds: float | None = None  # an update

    def read(self, done: int) -> None:
        """To be told when so many updates are known to be done."""
        now = time.monotonic()
        self._start = self._start or (done, now)
        updates = done - self._start[0]
        if self.seconds is None and updates >= TIMED_UPDATES:
            self.seconds = (now - self._start[1]) / updates
            self.evaluated(done, 0.0)

    def evaluated(self, done: int, seconds: float) -> None:
        """To be told how long an evaluation took."""
        if self.seconds is None or self._announced:
            return
        updates = self._plan.updates - done
        left = self.seconds * updates + seconds * math.ceil(updates / self._plan.evaluate_every)
        if left > LONG_SECONDS:
            from tqdm import tqdm

            tqdm.write(  # which knows how to write above a progress bar
                f"at {1 / self.seconds:.2g} updates/s this run has about {left / 3600:.1f} hours "
                f"to go; shorter: {self._plan.shorten}; Ctrl-C stops it for --resume to go on with",
                file=sys.stderr,
            )
            self._announced = True


@contextlib.contextmanager
def deferred_signals(stop: Callable[[], Any]) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP (a closed terminal) do nothing but call `stop`, which says so
    to whoever can stop well.

    A signal may well come twice (the terminal's and make's): the second call must change nothing.
    """
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return
    before = {
        number: signal.signal(number, lambda *_: stop())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # as nohup and `&` in a script set it
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def progress_bar(done: int, updates: int, quiet: bool = False) -> Any:
    """A bar of updates on stderr; where that is no terminal, a line now and then and at the end."""
    from tqdm import tqdm

    how: dict[str, Any] = {"dynamic_ncols": True}
    if not sys.stderr.isatty():
        how = {"file": _Lines(), "leave": False}  # closing it adds no line
        how |= dict.fromkeys(("mininterval", "delay"), LINE_EVERY_SECONDS)
    return tqdm(
        initial=done,
        total=updates,
        unit=" updates",
        disable=quiet or done == updates,
        miniters=1,  # with more, tqdm's own thread shows the bar whenever it finds it stale
        **how,
    )


class _Lines:
    """A line on stderr for every state of a bar."""

    def write(self, text: str) -> None:
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)
