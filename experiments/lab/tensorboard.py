"""The rows of metrics.csv for TensorBoard, by tensorboardX, which needs no TensorFlow."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Not its SummaryWriter, whose thread would die of a full disk in silence.
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from experiments.lab import runs


@contextlib.contextmanager
def events(run: runs.Run) -> Iterator[Callable[[dict[str, float]], None]]:
    """Begin an event file with the rows that the run has; gives the function that adds one more.

    Each column is a scalar at the row's update, `seconds` after the run began. Event files of
    before are removed: they may hold rows that a resumed run makes again. Raises RunFailed where
    the file cannot be written.
    """
    rows = run.start.rows if run.start else []
    began = time.time() - (rows[-1]["seconds"] if rows else 0.0)

    def add(row: dict[str, float]) -> None:
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if name != "update"
        ]
        time_of_row = began + row["seconds"]
        event = Event(step=row["update"], wall_time=time_of_row, summary=Summary(value=values))
        with _named_failure(run.folder):
            writer.write_event(event)
            writer.flush()

    with _named_failure(run.folder):
        for path in run.folder.glob(runs.EVENTS):
            path.unlink()
        writer = EventsWriter(str(run.folder / "events"))
    try:
        for row in rows:
            add(row)
        yield add
    finally:
        with _named_failure(run.folder):
            writer.close()


@contextlib.contextmanager
def _named_failure(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise runs.RunFailed(f"cannot write events in {folder}: {error.strerror}") from error
