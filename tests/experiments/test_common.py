"""The shared command line: number types, tables, exit codes, what is recorded of a machine."""

from __future__ import annotations

import argparse
import json

import pytest

from experiments import common
from experiments.lab import runs
from minivat import backend, data


@pytest.mark.parametrize("text", ["0", "3", " 7 ", "1_000"])
def test_integers_within_bounds(text):
    assert common.integer(0)(text) == int(text)


@pytest.mark.parametrize("text", ["-1", "11", "1.0", "", "ten"])
def test_integers_out_of_bounds(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"an integer from 0 to 10, got '"):
        common.integer(0, 10)(text)


def test_positive():
    assert common.positive("1e-6") == 1e-6
    for text in ("0", "-1", "nan", "inf", "", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match="a finite number above 0, got"):
            common.positive(text)


def test_a_command_is_what_was_typed(monkeypatch):
    parser = common.Parser("")
    parser.add_argument("--out")
    typed = ["--out", "a b"]
    monkeypatch.setattr(common.sys, "argv", ["/somewhere/mnist_sup.py", *typed])
    for args in (parser.parse_args(typed), parser.parse_args()):
        line = common.command_line("mnist_sup", args)
        assert line == "python -m experiments.mnist_sup --out 'a b'"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (runs.RunError("a"), 2, "error: a"),
        (data.DataError("b"), 2, "error: b"),
        (backend.DeviceError("c"), 2, "error: c"),
        (runs.RunFailed("d"), 1, "error: d"),
        (runs.Interrupted("e"), 130, "e"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            ModuleNotFoundError("No module named 'tqdm'", name="tqdm"),
            2,
            'error: tqdm is missing: pip install -e ".[experiments]"',
        ),
    ],
)
def test_exit_codes(capsys, error, code, line):
    @common.command
    def main(argv=None):
        raise error

    assert main() == code
    assert capsys.readouterr() == ("", line + "\n")


def test_a_bug_is_not_taken_for_a_mistake_of_the_user():
    @common.command
    def main(argv=None):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        main()


def test_environment_is_json_and_the_same_twice():
    device = backend.select_device("cpu")
    environment = common.environment(device)
    assert json.loads(json.dumps(environment)) == environment == common.environment(device)
    assert environment["device"] == device.description


def test_environment_without_git_and_threadpoolctl(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(common.sys.modules, "threadpoolctl", None)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment = common.environment(backend.select_device("cpu"))
    assert environment["commit"] is None and environment["blas"] is None
    threads = environment["threads"]
    assert threads["OPENBLAS_NUM_THREADS"] == "3" and threads["OMP_NUM_THREADS"] is None


def test_table():
    text = common.table(["a", "long name"], [["1", "x"], ["222", "y"]])
    assert text == "a    long name\n1    x\n222  y"
