"""The machinery of the soak: what it counts, prints, writes and keeps."""

import json

import numpy as np
import pytest

from experiments import soak
from experiments.lab import runs
from experiments.soak import kills
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
    assert soak.markdown(kept).splitlines()[-1] == (
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
