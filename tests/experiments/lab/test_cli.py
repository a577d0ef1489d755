"""The shared command line: types of arguments, tables, exit codes."""

from __future__ import annotations

import argparse
import sys

import pytest

from experiments.lab import cli, runs
from minivat import backend, data


@pytest.mark.parametrize("text", ["0", "3", " 7 ", "1_000"])
def test_integers_within_bounds(text):
    assert cli.integer(0)(text) == int(text)


@pytest.mark.parametrize("text", ["-1", "11", "1.0", "", "ten"])
def test_integers_out_of_bounds(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"an integer from 0 to 10, got '"):
        cli.integer(0, 10)(text)


def test_positive():
    assert cli.positive("1e-6") == 1e-6
    for text in ("0", "-1", "nan", "inf", "1e999", "", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match="a finite number above 0, got"):
            cli.positive(text)


def test_not_negative():
    assert cli.not_negative("0") == 0 and cli.not_negative("2.5") == 2.5
    for text in ("-0.5", "nan", "inf", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="a finite number from 0, got"):
            cli.not_negative(text)


def test_iterations():
    for text, number in (("0", 0), ("3", 3), ("0.5", 0.5), (".5", 0.5)):
        assert cli.iterations(text) == number
    for text in ("-1", "0.6", "1.5", "nan", ""):
        with pytest.raises(argparse.ArgumentTypeError, match=r"must be 0\.5 or an integer from 0"):
            cli.iterations(text)


def test_a_folder_has_a_name():
    assert cli.folder_name("a b") == "a b"
    with pytest.raises(argparse.ArgumentTypeError, match="must be the name of a folder, got ''"):
        cli.folder_name("")


def parser() -> cli.Parser:
    parser = cli.Parser("What it does.", "name")
    cli.add_device_arguments(parser)
    cli.add_count(parser, "--count", 1, 3, "how many")
    cli.add_count(parser, "--limit", 0, None, "at most")
    parser.add_argument("--out")
    return parser


def parsed(*arguments: str) -> argparse.Namespace:
    return parser().parse_args(arguments)


def test_a_command_is_what_was_typed(monkeypatch):
    typed = ["--out", "a b"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/__main__.py", *typed])
    for args in (parser().parse_args(typed), parser().parse_args()):
        line = cli.command_line("mnist-sup", args)
        assert line == "python -m experiments mnist-sup --out 'a b'"


def test_counts_and_their_help(capsys):
    assert (parsed().count, parsed().limit) == (3, None)
    assert (parsed("--count", "1").count, parsed("--limit", "0").limit) == (1, 0)
    with pytest.raises(SystemExit):
        parsed("--help")
    out = capsys.readouterr().out
    assert out.startswith("usage: python -m experiments name ")
    assert "how many (default: 3)\n" in out and "at most\n" in out


@pytest.mark.parametrize(
    "flags", [["--device", "auto"], ["--device", "cpu"], ["--device", "cuda", "--tf32"]]
)
def test_the_device_of_another_process_is_the_same(flags):
    assert cli.device_arguments(parsed(*flags)) == flags


@pytest.mark.parametrize(
    "mistake", [["--count", "0"], ["--cou", "4"], ["--device", "gpu"], ["more"]]
)
def test_a_mistake_is_one_line(capsys, mistake):
    with pytest.raises(SystemExit) as stop:
        parsed(*mistake)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert mistake[0] in err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (runs.RunError("a"), 2, "error: a"),
        (data.DataError("b"), 2, "error: b"),
        (backend.DeviceError("c"), 2, "error: c"),
        (runs.RunFailed("d"), 1, "error: d"),
        (runs.Interrupted("e"), 130, "e"),
        (MemoryError(), 1, "error: out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            ModuleNotFoundError("No module named 'tqdm'", name="tqdm"),
            2,
            'error: tqdm is missing: pip install -e ".[experiments]"',
        ),
        (
            ModuleNotFoundError("No module named 'distributed'", name="distributed"),
            2,
            'error: distributed is missing: pip install -e ".[dask]"',
        ),
    ],
)
def test_exit_codes(capsys, error, code, line):
    @cli.command
    def main(argv=None):
        raise error

    assert main() == code
    assert capsys.readouterr() == ("", line + "\n")


def test_a_command_returns_its_own_code():
    assert cli.command(lambda argv: len(argv))(["a", "b", "c"]) == 3


def test_a_bug_is_not_taken_for_a_mistake_of_the_user():
    @cli.command
    def main(argv=None):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        main()


def test_table():
    text = cli.table(["a", "long name"], [["1", "x"], ["222", "y"]])
    assert text == "a    long name\n1    x\n222  y"
