"""Runs: nothing is lost, nothing is overwritten, and a resumed run ends with the same bits.

The training here is a toy whose state is two arrays: the promises of `runs` do not depend on it.
"""

from __future__ import annotations

import concurrent.futures
import csv
import dataclasses
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

from experiments.lab import loop, runs
from minivat import backend
from tests.allocation import allocating_less_than

COLUMNS = ("update", "loss", "distance", "error", "seconds")
TARGET = np.linspace(-1, 1, 1000, dtype=np.float32)
ENVIRONMENT = {"versions": {"numpy": np.__version__}, "device": "cpu"}


def toy(updates: int, hooks=None, pause: float = 0.0, evaluation: float = 0.0):
    """Arrays, step and evaluation of a noisy descent; `hooks[update]` meddles with an update.

    pause, evaluation: seconds that an update and an evaluation wait.
    """
    arrays = {"w": np.zeros(1000, np.float32), "moments/m": np.zeros((2, 3))}

    def step(update):
        noise = np.random.Generator(np.random.Philox(key=update)).standard_normal(1000)
        arrays["w"] += np.float32(0.1) * (TARGET - arrays["w"] + noise.astype(np.float32))
        arrays["moments/m"] *= 0.9
        arrays["moments/m"] += noise[:6].reshape(2, 3)
        losses = {
            "loss": np.mean((arrays["w"] - TARGET) ** 2),
            "distance": np.max(np.abs(arrays["w"])),
        }
        if pause:
            time.sleep(pause)
        if hooks and update in hooks:
            hooks[update](losses, arrays)
        return losses

    def evaluate(done):
        time.sleep(evaluation)
        return {"error": float(np.abs(arrays["w"] - TARGET).sum())}

    return arrays, step, evaluate


def run_toy(folder, updates=30, *, config=None, environment=ENVIRONMENT, hooks=None, **options):
    """One process of the toy; returns its arrays and what it said."""
    said = []
    opening = {name: options.pop(name) for name in ("resume", "overwrite") if name in options}
    config = config or {"settings": {"updates": updates, "seed": 1}, "data": {"name": "toy"}}
    pause, evaluation = options.pop("pause", 0.0), options.pop("evaluation", 0.0)
    with runs.open_run(folder, config, environment, say=said.append, **opening) as run:
        if run.result is not None:
            return run.result, said
        arrays, step, evaluate = toy(updates, hooks, pause, evaluation)
        plan = {
            "updates": updates,
            "columns": COLUMNS,
            "evaluate_every": 7,
            "checkpoint_every": 4,
            "describe": lambda values: f"loss {values['loss']:.3f}",
            "quiet": True,
        }
        device = options.pop("device", None) or backend.select_device("cpu")
        loop.train(run, arrays, step, evaluate, loop.Plan(**{**plan, **options}), device)
    return arrays, said


def read_rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def assert_same_run(folder, reference):
    """Bit-identical arrays, rows and configuration; only the seconds may differ."""
    mine, other = (runs.read_checkpoint(each / "checkpoint.npz") for each in (folder, reference))
    assert mine.update == other.update
    assert mine.arrays.keys() == other.arrays.keys()
    for name, array in mine.arrays.items():
        assert array.dtype == other.arrays[name].dtype
        assert array.tobytes() == other.arrays[name].tobytes(), name
    assert without_seconds(mine.rows) == without_seconds(other.rows)
    assert without_seconds(read_rows(folder)) == without_seconds(read_rows(reference))
    assert mine.config == other.config


def interrupt_at(update, number=signal.SIGINT):
    return {update: lambda losses, arrays: signal.raise_signal(number)}


@pytest.fixture
def reference(tmp_path):
    run_toy(tmp_path / "reference")
    return tmp_path / "reference"


# What a run leaves --------------------------------------------------------------------------------


def test_files_rows_and_checkpoint(tmp_path):
    arrays, said = run_toy(tmp_path / "run")
    assert said == []
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".lock",
        "checkpoint.npz",
        "config.json",
        "metrics.csv",
    ]
    rows = read_rows(tmp_path / "run")
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["update"]) for row in rows] == [7, 14, 21, 28, 30]
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds)
    saved = runs.read_checkpoint(tmp_path / "run" / "checkpoint.npz")
    assert saved.update == 30
    assert all((saved.arrays[name] == array).all() for name, array in arrays.items())
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["settings"] == {"updates": 30, "seed": 1}
    assert config["environments"] == [{"from_update": 0, **ENVIRONMENT}]


def test_a_row_averages_the_losses_since_the_last_row(tmp_path):
    losses = []
    hooks = {update: lambda each, _: losses.append(float(each["loss"])) for update in range(30)}
    run_toy(tmp_path, hooks=hooks)
    averages = [np.mean(losses[i : i + 7]) for i in range(0, 30, 7)]
    assert [float(row["loss"]) for row in read_rows(tmp_path)] == pytest.approx(averages, rel=1e-15)


def test_no_pickles(reference):
    with np.load(reference / "checkpoint.npz", allow_pickle=False) as content:
        assert all(content[name].dtype != object for name in content.files)


# Going on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("update", [0, 5, 6, 7, 20])
def test_interrupted_and_resumed_ends_with_the_same_bits(tmp_path, reference, update, number):
    with pytest.raises(runs.Interrupted) as stop:
        run_toy(tmp_path / "run", hooks=interrupt_at(update, number))
    assert f"after update {update + 1} of 30" in str(stop.value)
    assert "--resume" in str(stop.value)
    assert runs.read_checkpoint(tmp_path / "run" / "checkpoint.npz").update == update + 1
    _, said = run_toy(tmp_path / "run", resume=True)
    assert said == [f"resuming {tmp_path / 'run'} after update {update + 1}"]
    assert_same_run(tmp_path / "run", reference)


def test_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(runs.Interrupted):
        run_toy(tmp_path, hooks=interrupt_at(3))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_an_ignored_signal_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run_toy(tmp_path, hooks=interrupt_at(3))
    finally:
        signal.signal(signal.SIGINT, before)
    assert runs.read_checkpoint(tmp_path / "checkpoint.npz").update == 30


def test_seconds_go_on(tmp_path):
    with pytest.raises(runs.Interrupted):
        run_toy(tmp_path, hooks=interrupt_at(10), pause=0.01)
    before = runs.read_checkpoint(tmp_path / "checkpoint.npz").seconds
    assert before >= 0.1
    run_toy(tmp_path, resume=True)
    assert runs.read_checkpoint(tmp_path / "checkpoint.npz").seconds > before


def test_resume_with_nothing_there_starts_from_the_beginning(tmp_path, reference):
    _, said = run_toy(tmp_path / "new", resume=True)
    assert said == [f"a new run in {tmp_path / 'new'}"]
    assert_same_run(tmp_path / "new", reference)


def test_resume_before_the_first_checkpoint(tmp_path, reference):
    with pytest.raises(ZeroDivisionError):
        run_toy(tmp_path / "run", hooks={2: lambda *_: 1 / 0})
    _, said = run_toy(tmp_path / "run", resume=True)
    assert said == [f"no checkpoint yet in {tmp_path / 'run'}: starting from the beginning"]
    assert_same_run(tmp_path / "run", reference)


def test_resume_mends_metrics(tmp_path, reference):
    with pytest.raises(runs.Interrupted):
        run_toy(tmp_path / "run", hooks=interrupt_at(20))
    with open(tmp_path / "run" / "metrics.csv", "a") as file:
        file.write("28,0.1,0.2,0.3,9\n35,0.")  # rows after the checkpoint, the last one torn
    run_toy(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", reference)


def test_a_finished_run_is_not_run_again(tmp_path):
    with runs.open_run(tmp_path, {"settings": {}}, ENVIRONMENT) as run:
        run.finish({"error": 1.25})
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with runs.open_run(tmp_path, {"settings": {}}, ENVIRONMENT, resume=True) as run:
        assert run.result == {"error": 1.25}
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_another_environment_is_said_and_noted(tmp_path):
    with pytest.raises(runs.Interrupted):
        run_toy(tmp_path, hooks=interrupt_at(9))
    other = {"versions": {"numpy": "9.9"}, "device": "cpu"}
    _, said = run_toy(tmp_path, resume=True, environment=other)
    assert said[1] == (
        "the environment has changed, so the bits may differ: "
        f"versions.numpy was {np.__version__} and is now 9.9"
    )
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["environments"] == [
        {"from_update": 0, **ENVIRONMENT},
        {"from_update": 10, **other},
    ]


def test_what_cannot_be_removed_is_named(tmp_path, monkeypatch):
    run_toy(tmp_path)

    def unlink(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", unlink)
    path = re.escape(str(tmp_path / "config.json"))
    with pytest.raises(runs.RunError, match=rf"^cannot remove {path}: Permission denied$"):
        run_toy(tmp_path, overwrite=True)


def test_a_run_in_a_thread_has_no_signals_to_defer(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(run_toy, tmp_path).result()
    assert runs.read_checkpoint(tmp_path / "checkpoint.npz").update == 30


def test_overwrite_starts_again(tmp_path, reference):
    run_toy(tmp_path / "run", updates=3)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    run_toy(tmp_path / "run", overwrite=True)
    assert_same_run(tmp_path / "run", reference)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("content", ['{"compilerOptions": {}}', "[1]", "7"])
def test_overwrite_leaves_what_is_not_a_runs(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    (tmp_path / "metrics.csv").write_text("mine")
    assert refused(tmp_path, overwrite=True) == f"{path} is not that of a run: give another --out"
    assert path.read_text() == content and (tmp_path / "metrics.csv").read_text() == "mine"


def test_a_damaged_file_says_how_to_go_on(tmp_path, reference):
    run_toy(tmp_path)
    for name, content in ("config.json", '{"sett'), ("result.json", "[]"):
        (tmp_path / name).write_text(content)
    assert refused(tmp_path, resume=True).endswith(
        "result.json holds list, not a JSON object; remove it, and --resume makes it again"
    )
    (tmp_path / "result.json").unlink()
    (tmp_path / "checkpoint.npz").unlink()
    assert refused(tmp_path, resume=True).endswith("; start again with --overwrite")
    run_toy(tmp_path, overwrite=True)
    assert_same_run(tmp_path, reference)


# Refusals -----------------------------------------------------------------------------------------


def refused(*args, **kwargs) -> str:
    with pytest.raises(runs.RunError) as error:
        run_toy(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", runs.FILES)
def test_a_folder_with_a_run_is_not_overwritten(tmp_path, name):
    (tmp_path / name).write_text("precious")
    message = refused(tmp_path)
    assert name in message and "--resume" in message and "--overwrite" in message
    assert (tmp_path / name).read_text() == "precious"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": {"updates": 31, "seed": 1}}, "settings.updates was 30 and is now 31"),
        ({"settings": {"updates": 30}}, "settings.seed was 1 and is now None"),
        ({"settings": {"updates": 30, "seed": 1, "x": 0.5}}, "settings.x was None and is now 0.5"),
        ({"data": {"name": "other"}}, "data.name was toy and is now other"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_resume_with_another_configuration_is_refused(tmp_path, change, named, finished):
    config = {"settings": {"updates": 30, "seed": 1}, "data": {"name": "toy"}}
    run_toy(tmp_path)
    if finished:
        (tmp_path / "result.json").write_text("{}")
    before = (tmp_path / "checkpoint.npz").read_bytes()
    assert named in refused(tmp_path, resume=True, config={**config, **change})
    assert (tmp_path / "checkpoint.npz").read_bytes() == before


def test_resume_before_the_first_checkpoint_checks_the_configuration_too(tmp_path):
    (tmp_path / "config.json").write_text('{"settings": {"updates": 5}}')
    assert "settings.updates was 5 and is now 30" in refused(tmp_path, resume=True)


def test_two_processes_in_one_folder(tmp_path):
    with runs.open_run(tmp_path, {}, {}):
        assert "in use by another process" in refused(tmp_path, resume=True)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write in the folder" in refused(tmp_path / "file")
    assert "cannot write in the folder" in refused(tmp_path / "file" / "below")


def test_damaged_checkpoints_are_refused_by_name(tmp_path, reference):
    """Cut anywhere, a byte changed anywhere: a line that names the file, or the right content."""
    good = (reference / "checkpoint.npz").read_bytes()
    sound = runs.read_checkpoint(reference / "checkpoint.npz")
    draw = random.Random(0)
    damaged = [good[: draw.randrange(len(good))] for _ in range(50)]
    for _ in range(150):
        place = draw.randrange(len(good))
        damaged.append(
            good[:place] + bytes([good[place] ^ draw.randrange(1, 256)]) + good[place + 1 :]
        )
    path = tmp_path / "checkpoint.npz"
    refusals = []
    for content in [b"", b"PK\x05\x06" + bytes(18), b"not a checkpoint", *damaged]:
        path.write_bytes(content)
        try:
            read = runs.read_checkpoint(path)
        except runs.RunError as error:
            refusals.append(str(error))
        else:  # the byte was one that the zip format does not use
            assert read.update == sound.update and read.rows == sound.rows
            assert all((read.arrays[k] == sound.arrays[k]).all() for k in sound.arrays)
    assert len(refusals) >= 150
    assert set(refusals) == {f"{path} is damaged or no checkpoint: start again with --overwrite"}


def test_an_array_that_promises_more_than_the_file_has_is_damage(tmp_path):
    path = tmp_path / "checkpoint.npz"
    runs.write_checkpoint(path, runs.Checkpoint(1, {"w": np.ones(5000)}, [], np.ones(1), 1.0, {}))
    content = path.read_bytes()
    longer = content.replace(b"(5000,), }" + b" " * 6, b"(1000000000,), }")
    assert longer != content
    path.write_bytes(longer)
    with (
        allocating_less_than(2**20),
        pytest.raises(runs.RunError, match="is damaged or no checkpoint"),
    ):
        runs.read_checkpoint(path)
    np.savez_compressed(path, w=np.zeros(10**7))
    with pytest.raises(runs.RunError, match="is damaged or no checkpoint"):
        runs.read_checkpoint(path)


def test_too_little_memory_is_not_taken_for_damage(reference, monkeypatch):
    def load(*args, **options):
        raise MemoryError

    monkeypatch.setattr(np, "load", load)
    with pytest.raises(MemoryError):
        runs.read_checkpoint(reference / "checkpoint.npz")


def test_foreign_and_pickled_checkpoints_are_refused(tmp_path):
    np.savez(tmp_path / "checkpoint.npz", weights=np.ones(3))
    assert "checkpoint.npz" in refused(tmp_path, resume=True)
    np.savez(tmp_path / "checkpoint.npz", update=np.array([{}], dtype=object))
    assert "checkpoint.npz" in refused(tmp_path, resume=True)


def test_a_checkpoint_of_other_arrays_is_refused(tmp_path):
    run_toy(tmp_path, updates=8)
    path = tmp_path / "checkpoint.npz"
    saved = runs.read_checkpoint(path)
    saved.arrays["w"] = saved.arrays["w"].astype(np.float64)
    runs.write_checkpoint(path, saved)
    message = refused(tmp_path, updates=8, resume=True)
    assert "array w was float64 (1000,) and is now float32 (1000,)" in message
    del saved.arrays["w"]
    runs.write_checkpoint(path, saved)
    assert "array w was None and is now float32" in refused(tmp_path, updates=8, resume=True)


@pytest.mark.parametrize("content", ["{", "[]", "\0"])
def test_damaged_config(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert "config.json" in refused(tmp_path, resume=True)


# Failures under way -------------------------------------------------------------------------------


def failed(*args, **kwargs) -> str:
    with pytest.raises(runs.RunFailed) as error:
        run_toy(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def poison(name, value):
    return lambda losses, arrays: losses.update({name: np.float32(value)})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["loss", "distance"])
def test_a_non_finite_loss_stops_the_run(tmp_path, reference, name, value):
    message = failed(tmp_path / "run", hooks={16: poison(name, value)})
    assert f"stopped at update 17: {name} is {value}" in message
    assert "keeps the last good state" in message
    assert runs.read_checkpoint(tmp_path / "run" / "checkpoint.npz").update == 16
    run_toy(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", reference)


def test_a_non_finite_loss_before_the_first_checkpoint(tmp_path):
    message = failed(tmp_path, hooks={0: poison("loss", np.nan)})
    assert message == "stopped at update 1: loss is nan; there is no checkpoint yet"


def test_a_non_finite_array_is_not_written_over_the_good_checkpoint(tmp_path):
    """The gradient overflows though the loss before it was finite."""
    hooks = {19: lambda losses, arrays: arrays["w"].__setitem__(3, np.inf)}
    assert "stopped at update 20: w is not finite" in failed(tmp_path, hooks=hooks)
    assert runs.read_checkpoint(tmp_path / "checkpoint.npz").update == 16


def test_a_gpu_is_read_now_and_then_and_the_update_still_named(tmp_path):
    """Each reading waits for the device: after the first update, at rows, checkpoints and every
    hundredth update only."""
    transfers = []

    class Gpu:
        name = "cuda"

        @staticmethod
        def to_host(array):
            transfers.append(array.shape)
            return np.asarray(array)

    options = {"device": Gpu, "updates": 250, "evaluate_every": 250, "checkpoint_every": 250}
    run_toy(tmp_path / "run", **options)
    assert transfers == [(2,), (200,), (200,), (98,), (1000,), (2, 3)]
    message = failed(tmp_path / "poisoned", hooks={120: poison("loss", np.nan)}, **options)
    assert "stopped at update 121: loss is nan" in message


def test_a_gpu_has_a_bar_from_the_first_update_on(tmp_path, monkeypatch, capsys):
    """There the losses of most updates are not known yet."""
    device = types.SimpleNamespace(name="cuda", to_host=np.asarray)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run_toy(tmp_path / "run", device=device, quiet=False, evaluate_every=30, checkpoint_every=30)
    assert "30/30" in capsys.readouterr().err


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, reference, monkeypatch):
    """The third checkpoint meets a full disk: one line, and the second one is whole."""
    # config.json, metrics.csv, a checkpoint, a row of metrics.csv, a checkpoint, then full
    sync, left = os.fsync, [6]

    def fsync(descriptor):
        left[0] -= 1
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    message = failed(tmp_path / "run")
    assert message == f"cannot write {tmp_path / 'run' / 'checkpoint.npz'}: No space left on device"
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob("*.partial"))
    assert runs.read_checkpoint(tmp_path / "run" / "checkpoint.npz").update == 8
    run_toy(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", reference)


# Killed -------------------------------------------------------------------------------------------

SITTING = """
import os, signal, sys
sys.path[:0] = [{tests!r}, {root!r}]
import test_runs

def at(name, count):  # SIGKILL at the count-th call of os.<name>, before it does anything
    call, left = getattr(os, name), [count]
    def dying(*args):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args)
    setattr(os, name, dying)

if {dying!r}:
    at(*{dying!r})
print("ready", flush=True)
test_runs.run_toy({folder!r}, updates={updates}, resume=True, pause={pause})
"""


def sitting(folder, updates, *, dying=None, pause=0.0):
    here = Path(__file__).resolve()
    script = SITTING.format(
        tests=str(here.parent),
        root=str(here.parents[3]),
        folder=str(folder),
        updates=updates,
        dying=dying,
        pause=pause,
    )
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)


def test_killed_at_random_moments_ends_with_the_same_bits(tmp_path):
    run_toy(tmp_path / "reference", updates=800)
    draw = random.Random(1)
    for _ in range(5):
        process = sitting(tmp_path / "run", 800, pause=0.001)
        process.stdout.readline()
        time.sleep(draw.uniform(0, 0.15))  # at most 150 of the 800 updates
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    process = sitting(tmp_path / "run", 800)
    process.communicate()
    assert process.returncode == 0
    assert_same_run(tmp_path / "run", tmp_path / "reference")


@pytest.mark.parametrize("dying", [("replace", 1), ("fsync", 3), ("replace", 4)])
def test_killed_while_writing_a_file(tmp_path, reference, dying):
    process = sitting(tmp_path / "run", 30, dying=dying)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert list((tmp_path / "run").glob("*.partial"))
    run_toy(tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", reference)
    assert not list((tmp_path / "run").glob("*.partial"))


# Progress -----------------------------------------------------------------------------------------


def test_lines_when_stderr_is_not_a_terminal(tmp_path, capsys, monkeypatch):
    run_toy(tmp_path / "brief", quiet=False)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and " 30/30 " in err
    with pytest.raises(runs.Interrupted):
        run_toy(tmp_path / "stopped", quiet=False, hooks=interrupt_at(20))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(loop, "LINE_EVERY_SECONDS", 0.1)
    began = time.monotonic()
    run_toy(tmp_path / "run", updates=200, pause=0.002, quiet=False)
    lines_at_most = (time.monotonic() - began) / 0.1 + 1  # the last one need not wait
    out, err = capsys.readouterr()
    assert out == "" and "\r" not in err and "\n\n" not in err and err.endswith("\n")
    lines = err.splitlines()
    assert 2 <= len(lines) <= lines_at_most
    assert all("updates/s" in line and "loss 0." in line for line in lines)
    done = [int(line.split("/200 ")[0].split()[-1]) for line in lines]
    assert done == sorted(done) and 0 < done[0] < 200 == done[-1]


def test_a_bar_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(runs.Interrupted):
        run_toy(tmp_path, quiet=False, hooks=interrupt_at(20))
    assert "21/30" in capsys.readouterr().err
    run_toy(tmp_path, quiet=False, resume=True)
    err = capsys.readouterr().err
    assert "30/30" in err and "loss 0." in err and "updates/s" in err


@pytest.mark.parametrize("terminal", [False, True])
def test_a_long_run_says_how_long_and_how_to_make_it_shorter(
    tmp_path, capsys, monkeypatch, terminal
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(loop, "LONG_SECONDS", 0.02)
    options = {"updates": 40, "pause": 0.001, "shorten": "--width"}
    run_toy(tmp_path / "run", quiet=False, **options)
    err = capsys.readouterr().err
    assert err.count("hours to go; shorter: --width; Ctrl-C stops it for --resume") == 1
    run_toy(tmp_path / "quiet", **options)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(loop, "LONG_SECONDS", 100.0)
    run_toy(tmp_path / "brief", quiet=False, **options)
    assert "to go" not in capsys.readouterr().err


def test_the_time_of_a_run_is_that_of_its_updates_and_evaluations(capsys):
    plan = loop.Plan(7_211, 3_000, 1_000, (), str)
    pace = loop.Pace(plan)
    pace.seconds = 0.5
    pace.evaluated(11, 0.0)
    assert capsys.readouterr().err == ""  # an hour, not more
    pace = loop.Pace(dataclasses.replace(plan, updates=72_000, evaluate_every=24_000))
    pace.seconds = 0.5
    pace.evaluated(0, 1_200.0)
    assert "at 2 updates/s this run has about 11.0 hours to go" in capsys.readouterr().err


def test_a_run_that_is_long_by_its_evaluations_alone_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loop, "LONG_SECONDS", 0.5)
    options = {"updates": 40, "evaluate_every": 15, "quiet": False}
    run_toy(tmp_path / "run", evaluation=0.3, **options)  # 0.6 seconds of two that are left
    assert capsys.readouterr().err.count("hours to go") == 1
    run_toy(tmp_path / "brief", **options)
    assert "hours to go" not in capsys.readouterr().err


def test_quiet(tmp_path, capsys):
    run_toy(tmp_path, quiet=True)
    assert capsys.readouterr() == ("", "")
