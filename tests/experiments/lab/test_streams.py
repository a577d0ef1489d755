"""Commands whose standard output or error is closed, full, or read no more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from experiments.lab import results, streams
from tests.commands import spec_of

ROOT = results.RESULTS.parents[1]
BRIEF = ("--data", "digits", "--device", "cpu", "--updates", "20")
FULL = "error: standard output cannot be written: No space left on device\n"


@pytest.fixture
def full():
    """A stream that takes nothing."""
    with open("/dev/full", "w") as stream:
        yield stream
        stream.flush()  # does not fail any more


@pytest.mark.usefixtures("figures")
@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("closed", [False, True])
def test_a_run_is_made_to_its_end(call, capsys, monkeypatch, tmp_path, full, name, closed):
    monkeypatch.setattr(sys, name, None if closed else full)
    lost = name == "stdout" and not closed
    assert call("mnist-sup", *BRIEF, "--out", "run") == int(lost)
    assert (tmp_path / "run" / "result.json").exists()
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == (2 if name == "stderr" else 0)  # the result, and nothing else
    assert err.endswith(f"\n{FULL}") == lost and (err == "") == (name == "stderr")


@pytest.mark.usefixtures("_in_this_process")
def test_a_table_is_written_to_its_end(call, capsys, monkeypatch, tmp_path, full):
    monkeypatch.setattr(sys, "stdout", full)
    assert call("table1", *BRIEF, "--rows", "mle:1", "--seeds", "1", "--results", "r") == 1
    assert capsys.readouterr().err.endswith(FULL)
    assert len(results.published(*(tmp_path / "r").glob("*.json"), "table", str)) == 1


def test_a_figure_is_written_to_its_end(call, capsys, monkeypatch, tmp_path, full, make_run):
    make_run("run", spec_of("mnist-sup", "--data", "digits"))
    monkeypatch.setattr(sys, "stdout", full)
    assert call("curves", "run", "--out", "drawn.png") == 1
    assert capsys.readouterr().err == FULL
    assert (tmp_path / "drawn.png").exists() and (tmp_path / "drawn.json").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["mnist-sup", "--help"]])
def test_help_that_nobody_got(call, capsys, monkeypatch, full, arguments):
    monkeypatch.setattr(sys, "stdout", full)
    assert call(*arguments) == 1
    assert capsys.readouterr().err == FULL


def test_the_code_of_a_mistake_stays(call, capsys, monkeypatch, full):
    monkeypatch.setattr(sys, "stderr", full)
    assert call("table9") == call("mnist-sup", "--updates", "0") == 2
    assert capsys.readouterr().out == ""


def test_a_pipe_that_is_read_no_more_needs_no_words(call, capsys, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert call("--help") == 1
    assert capsys.readouterr().err == ""


def test_a_stream_that_works_is_what_it_was(capsys):
    before = sys.stdout, sys.stderr
    with streams.forgiving() as out:
        assert sys.stdout is out and not out.isatty() and out.encoding == before[0].encoding
        assert print("text") is None and out.write("more") == 4 and out.error is None
        print("error", file=sys.stderr)
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ("text\nmore", "error\n")


@pytest.mark.parametrize(
    ("shell", "code", "said"), [("2>&-", 0, ""), (">/dev/full", 1, FULL), (">&- 2>&- <&-", 0, "")]
)
def test_a_process_without_a_terminal(tmp_path, shell, code, said):
    """No file takes a closed stream's descriptor; nothing is said by Python itself at the end."""
    program = (
        "import os, sys; from experiments import __main__ as entry\n"
        "def called(arguments):\n"
        "    print('result')\n"
        f"    return int(open({str(tmp_path / 'file')!r}, 'w').fileno() < 3)\n"
        "entry.called = called\n"
        "sys.exit(entry.main())"
    )
    command = f'{sys.executable} -c "$PROGRAM" {shell}'
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env={**os.environ, "PROGRAM": program},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (code, said)
    assert done.stdout == ("result\n" if shell == "2>&-" else "")
