"""TensorBoard's event files: what they hold, read without the library that writes them."""

from __future__ import annotations

import errno
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from experiments.lab import results, runs, tensorboard

BRIEF = ("mnist-sup", "--data", "digits", "--device", "cpu", "--method", "mle", "--updates", "20")
BRIEF += ("--evaluate-every", "5", "--quiet", "--out", "run")

pytestmark = pytest.mark.usefixtures("figures")


def events(folder: Path = Path("run")) -> list[Event]:
    """Those of a folder's one event file, whose records are TFRecords: length, CRC, data, CRC."""
    (path,) = folder.glob("*tfevents*")
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack_from("<Q", data)
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[12 + length + 4 :]
    return found


def rows_of(events: list[Event]) -> list[dict[str, float]]:
    version, *others = events
    assert version.file_version == "brain.Event:2"
    return [
        {"update": event.step, **{each.tag: each.simple_value for each in event.summary.value}}
        for event in others
    ]


def metrics() -> list[dict[str, float]]:
    rows = results.Run("run").rows()
    return [{name: float(np.float32(value)) for name, value in row.items()} for row in rows]


def test_the_rows_of_metrics_are_scalars(call):
    assert call(*BRIEF, "--tensorboard") == 0
    assert rows_of(events()) == metrics()
    assert [row["update"] for row in metrics()] == [5, 10, 15, 20]
    first, *_, last = events()[1:]
    rows = results.Run("run").rows()
    seconds = rows[-1]["seconds"] - rows[0]["seconds"]
    assert last.wall_time - first.wall_time == pytest.approx(seconds, abs=1e-5)


def test_without_the_option_there_is_no_such_file_and_nothing_else_differs(call):
    assert call(*BRIEF) == 0
    plain = runs.read_json(Path("run", "config.json"))
    assert not list(Path("run").glob("*tfevents*"))
    assert call(*BRIEF, "--overwrite", "--tensorboard") == 0
    assert runs.read_json(Path("run", "config.json")) == plain
    assert call(*BRIEF, "--overwrite") == 0
    assert not list(Path("run").glob("*tfevents*"))


def test_a_resumed_run_has_every_row_once(call, call_interrupted):
    assert call_interrupted(*BRIEF, "--tensorboard") == 130
    assert [row["update"] for row in rows_of(events())] == [5, 10]
    # As if it had been killed later than its checkpoint was written.
    with open(next(Path("run").glob("*tfevents*")), "ab") as file:
        file.write(b"the first bytes of a row")
    assert call(*BRIEF, "--resume", "--tensorboard") == 0
    assert rows_of(events()) == metrics()
    assert [row["update"] for row in metrics()] == [5, 10, 15, 20]


def test_a_finished_run_is_told_too(call):
    assert call(*BRIEF) == 0
    assert call(*BRIEF, "--resume", "--tensorboard") == 0
    assert rows_of(events()) == metrics()


def test_a_full_disk(call, monkeypatch, capsys):
    write = tensorboard.EventsWriter.write_event

    def full(self, event):
        if event.step == 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, event)

    monkeypatch.setattr(tensorboard.EventsWriter, "write_event", full)
    assert call(*BRIEF, "--tensorboard") == 1
    assert capsys.readouterr().err == "error: cannot write events in run: No space left on device\n"


def test_a_missing_library_is_named_before_there_is_a_folder(refused, monkeypatch):
    class Missing:
        def find_spec(name, path, target=None):
            if name == "tensorboardX":
                raise ModuleNotFoundError("not here", name=name)

    for name in [each for each in sys.modules if "tensorboard" in each]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing, *sys.meta_path])
    assert 'pip install -e ".[tensorboard]"' in refused(*BRIEF, "--tensorboard")
    assert not Path("run").exists()
