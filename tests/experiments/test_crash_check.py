"""The check that a killed run ends with the same bits."""

from pathlib import Path

import numpy as np

from experiments import crash_check
from experiments.lab import runs
from tests.commands import call, refused

ROOT = Path(crash_check.__file__).parents[1]


def test_a_killed_run_ends_with_the_same_bits(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = ["--updates", "200", "--kills", "1", "--data", "digits", "--seed", "2"]
    assert call(crash_check.main, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("kill 1, after update ")
    assert lines[-1] == "arrays after update 200: bit-identical"


def test_a_changed_bit_is_seen():
    one = runs.Checkpoint(1, {"w": np.zeros(3)}, [], np.zeros(0), 0.0, {})
    other = runs.Checkpoint(1, {"w": np.array([0.0, -0.0, 0.0])}, [], one.window, 0.0, {})
    assert crash_check.same_bits(one, one)
    assert not crash_check.same_bits(one, other)
    assert not crash_check.same_bits(one, runs.Checkpoint(1, {}, [], one.window, 0.0, {}))


def test_a_run_too_short_to_be_killed_is_refused(capsys):
    arguments = ["--updates", "60", "--kills", "1", "--checkpoint-every", "20"]
    message = refused(crash_check.main, capsys, *arguments)
    assert "--updates 60 is too few for 1 kills" in message and "more than 60" in message


def test_mistakes_take_one_line(capsys):
    for arguments in (["--kills", "0"], ["--method", "vat-entmin"], ["--data", "cifar10"]):
        assert arguments[0] in refused(crash_check.main, capsys, *arguments)
