"""The machinery of the soak: what it counts, prints, writes and keeps."""

import itertools
import json
import mmap
import random
import time
import warnings

import numpy as np
import pytest

from experiments import soak
from experiments.lab import runs
from experiments.soak import downloads, formats, fuzz, growth, hostile, kills, mutations, threads
from experiments.soak.promise import Promise
from tests.commands import call, refused


def wrong_at_odd(number):
    if number == 3:
        raise KeyError("three")
    return "odd" if number % 2 else ""


def test_a_promise_counts_what_went_wrong():
    row = Promise("text", "tested", wrong_at_odd, 5, ["1 MiB"]).kept()
    assert row["failures"] == ["trial 1: odd", "trial 3: KeyError: 'three'"]
    assert (row["promise"], row["tested"], row["count"]) == ("text", "tested", 5)
    assert row["measured"] == ["1 MiB"] and row["seconds"] >= 0


@pytest.fixture
def _stand_ins(monkeypatch):
    """Two checks that take no time: what the first promises is kept, the second breaks."""

    class Check:
        COUNT = 4

        def __init__(self, trial):
            self.trial = trial

        def promises(self, count, seed, folder):
            assert folder.is_dir()
            return [Promise("text", f"with {seed}", self.trial, count, ["fast"])]

    modules = {"good": Check(lambda number: ""), "bad": Check(wrong_at_odd)}
    monkeypatch.setattr(soak, "CHECKS", dict.fromkeys(modules, "things"))
    monkeypatch.setattr(soak, "_module", modules.__getitem__)


@pytest.mark.usefixtures("_stand_ins")
def test_the_exit_code_the_table_and_the_file(tmp_path, capsys):
    arguments = ["--results", tmp_path, "--json"]
    assert call(soak.main, "bad", "--count", 2, "--seed", 7, *arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["text", "with", "7", "2", "1", "0"]
    assert lines[2:4] == ["bad: fast", "bad: trial 1: odd"]
    (row,) = json.loads(lines[4])["runs"]
    assert row["command"] == "python -m experiments soak bad --count 2 --seed 7"
    assert call(soak.main, "good", *arguments) == 0
    kept = runs.read_json(tmp_path / "soak.json")["runs"]
    assert [(each["check"], each["count"]) for each in kept] == [("good", 4), ("bad", 2)]
    assert (tmp_path / "soak.md").read_text().splitlines()[-1] == (
        "| text | with 7; fast | 2 | 1 | `soak bad --count 2 --seed 7` |"
    )


def test_mistakes_take_one_line(capsys):
    for arguments in (["mice"], ["--count", "0"], ["--seed", "x"]):
        assert arguments[-1] in refused(soak.main, capsys, *arguments)


# kills


@pytest.mark.parametrize(
    ("also", "fault"),
    [
        ("exit 0", ""),
        ("touch $0/end.partial", "left behind: end.partial"),
        ("echo 2 > $0/end", "end differs"),
        ("echo no >&2; exit 3", "exit code 3: no"),
    ],
)
def test_what_a_killed_run_ends_with_is_compared(tmp_path, also, fault):
    script = f"mkdir -p $0; echo 1 > $0/end; case $0 in */whole) ;; *) {also};; esac"
    trial = kills.trial(lambda folder: ["sh", "-c", script, str(folder)], tmp_path, 1)
    assert trial(0) == fault


def test_a_process_is_killed_after_its_delay(tmp_path):
    kills.kill(["sh", "-c", "touch $0; exec sleep 60", str(tmp_path / "begun")], 0.5)
    assert (tmp_path / "begun").exists()


def test_every_command_names_its_folder():
    for name in kills.COMMANDS:
        assert any(part.startswith("/place/") for part in kills.command(name, "/place"))


def test_what_differs_is_named(tmp_path):
    one = {"a": b"1", "b": [0.0]}
    assert kills.difference(one, dict(one)) == ""
    assert kills.difference(one, {**one, "c.partial": b""}) == "left behind: c.partial"
    assert kills.difference(one, {"a": b"1"}) == "missing: b"
    assert kills.difference(one, {**one, "a": b"2"}) == "a differs"


def test_a_changed_bit_is_seen_and_the_clock_is_not(tmp_path):
    def content(array, seconds):
        rows, path = [{"error": 1.0, "seconds": seconds}], tmp_path / "checkpoint.npz"
        runs.write_checkpoint(path, runs.Checkpoint(1, {"w": array}, rows, array, seconds, {}))
        return kills.content(path)

    assert content(np.zeros(2), 1.0) == content(np.zeros(2), 2.0)
    assert content(np.zeros(2), 1.0) != content(np.array([0.0, -0.0]), 1.0)
    metrics = tmp_path / "metrics.csv"
    metrics.write_text("error,seconds\n1,2\n")
    (tmp_path / "log.txt").write_text("resuming")
    found = kills.ends(tmp_path)
    assert found["metrics.csv"] == [{"error": "1"}] and found["log.txt"] is None


# fuzz


@pytest.mark.parametrize("name", list(formats.formats(fuzz.PUBLISHED)))
def test_a_few_damaged_files_of_every_format(name, tmp_path):
    format_ = formats.formats(fuzz.PUBLISHED)[name]
    assert fuzz.first_fault(format_._replace(crafted=tuple), "1", tmp_path, 5) == ""


def raise_it(error):
    raise error


@pytest.mark.parametrize(
    ("read", "fault"),
    [
        (lambda content: raise_it(KeyError("x")), "KeyError: 'x'"),
        (lambda content: raise_it(ValueError("one\ntwo")), "not one line"),
        (lambda content: bytes(1 << 24), "16 MiB, the whole file 0"),
        (lambda content: time.sleep(10), "TimeoutError: no end after 1 s"),
        (lambda content: warnings.warn("old", stacklevel=1), "UserWarning: old"),
        (lambda content: raise_it(ValueError("refused")), ""),
        (lambda content: None, ""),
    ],
)
def test_what_a_reader_of_damaged_files_must_not_do(read, fault, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "PATIENCE", 1)
    honest = b"honest"

    def only_damaged(folder):
        content = (folder / "file").read_bytes()
        return None if content == honest else read(content)

    format_ = formats.Format("file", honest, only_damaged, ValueError)
    found = fuzz.first_fault(format_, "1", tmp_path, 1)
    assert fault in found and bool(fault) == bool(found)


def test_a_process_that_ends_is_a_fault(tmp_path):
    assert fuzz.trial("no such format", 1, tmp_path, 1, 0) == "the process ended with 1"


def test_mutations_change_something_and_follow_from_their_seed():
    for seed in range(200):
        changed = mutations.mutated(b"0123456789" * 10, random.Random(seed))
        assert changed != b"0123456789" * 10
        assert changed == mutations.mutated(b"0123456789" * 10, random.Random(seed))
    assert mutations.mutated(b"", random.Random(0))


# hostile


def quiet(error="", code=0):
    return lambda command, place, draw, seconds: hostile.Ended(code, error)


@pytest.mark.parametrize(
    ("trouble", "fault"),
    [
        (quiet(), "missing: run/end"),
        (quiet("Traceback (most recent call last)"), "not one line"),
        (quiet("one\ntwo"), "not one line"),
        (quiet(code=1), "exit code 1 in silence"),
    ],
)
def test_trouble_that_is_not_overcome(trouble, fault, tmp_path, monkeypatch):
    monkeypatch.setattr(hostile, "command", lambda place: ["true"])
    whole = lambda: (1.0, {"run/end": b"1"})  # noqa: E731
    assert fault in hostile.trial(trouble, "name", tmp_path, whole, 1, 0)


@pytest.mark.parametrize("name", ["moved", "two", "interrupted", "clock"])
def test_troubles_of_a_script(name, tmp_path, monkeypatch):
    """One that writes its one file whatever happens, and says nothing."""
    script = "mkdir -p $0/run; trap '' INT; sleep 0.2; mkdir -p $0/run; echo 1 > $0/run/end"
    monkeypatch.setattr(hostile, "command", lambda place: ["sh", "-c", script, str(place)])
    whole = lambda: (0.1, {"run": None, "run/end": b"1\n"})  # noqa: E731
    trouble = hostile.TROUBLES[name][2]
    assert hostile.trial(trouble, name, tmp_path, whole, 1, 0) == ""


# downloads


def test_a_mirror_is_given_up_and_the_next_one_serves(tmp_path):
    for place, name in enumerate(("sends another file", "cuts off")):
        mirror = downloads.MIRRORS[name]
        assert downloads.given_up(mirror, tmp_path / str(place), 1, 0) == ""


def test_a_mirror_that_serves_is_no_bad_one(tmp_path):
    serve = lambda handler, content, draw: downloads.send(handler, content)  # noqa: E731
    assert downloads.given_up(serve, tmp_path, 1, 0) == "accepted"


def test_what_a_download_leaves_is_seen(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    assert downloads.compared({"a": b"1"}, tmp_path) == ""
    assert "holds ['a']" in downloads.compared({"a": b"2"}, tmp_path)


# threads, growth


def test_other_bits_are_named(monkeypatch):
    count = itertools.count()
    monkeypatch.setattr(threads, "work", lambda seed: bytes([next(count)]))
    assert threads.in_threads(1, 0).startswith("other bits for seeds [1000, 1001")
    monkeypatch.setattr(threads, "work", lambda seed: bytes(seed % 7))
    assert threads.in_threads(1, 0) == ""


# Where another test has loaded JAX, which warns of forks; nothing of it runs in these.
@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")
def test_forked_processes_compute_the_same():
    assert threads.in_forks(1, 0) == ""


@pytest.mark.parametrize(
    ("memory", "fault"),
    [
        (lambda minute: 100.0, ""),
        (lambda minute: 100.0 + 3 * min(minute, 5), ""),  # it settles
        (lambda minute: 100.0 + minute, "360000.0 ± 0.0 MiB an hour"),
        (lambda minute: 100.0 - minute, ""),
    ],
)
def test_growth_is_a_fault(memory, fault, monkeypatch):
    minutes = itertools.count()
    monkeypatch.setattr(growth, "SECONDS", 0.01)
    monkeypatch.setattr(growth, "_anonymous", lambda: memory(next(minutes)))
    (promise,) = growth.promises(12, 1, None)
    assert [promise.trial(number) for number in range(12)] == [""] * 11 + [fault]
    assert "in 12 minutes; 100.0 MiB after the first" in promise.measured[0]


def test_a_few_minutes_tell_nothing_of_growth(monkeypatch):
    monkeypatch.setattr(growth, "SECONDS", 0.01)
    (promise,) = growth.promises(1, 1, None)
    assert promise.trial(0) == "1 minutes are too few to tell"


def test_the_memory_of_this_process_is_seen_to_grow():
    before = growth._anonymous()
    # Of the system itself: an array might lie in memory that the allocator has kept.
    with mmap.mmap(-1, 2**25, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        held.write(b"x" * 2**25)
        assert 31 < growth._anonymous() - before < 100
