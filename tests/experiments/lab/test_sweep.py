"""Many runs: the processes that are started, and what becomes of those that fail."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from experiments.lab import cli, results, runner, runs, sweep
from experiments.mnist import MnistSup
from tests import commands

ROOT = results.RESULTS.parents[1]
BRIEF = ["--data", "digits", "--updates", "20", "--device", "cpu"]


def parsed(*arguments: str) -> argparse.Namespace:
    parser = cli.Parser("")
    sweep.add_arguments(parser, seeds=[1, 2], updates=None, datasets=MnistSup.datasets)
    return parser.parse_args(arguments)


def test_a_job_is_the_command_line_of_its_spec():
    spec = MnistSup(method="rpt", dataset="mnist", epsilon=0.1, seed=7, decay_every=3)
    experiment, *job = sweep.job(spec, parsed("--device", "cpu", "--data-dir", "a b", "--tf32"))
    assert experiment == "mnist-sup"
    args = runner.parser(MnistSup).parse_args(job)
    assert runner.spec_of(MnistSup, args) == spec
    assert (args.device, args.data_dir, args.tf32) == ("cpu", "a b", True)
    assert "--tf32" not in sweep.job(spec, parsed())


def test_the_digits_are_in_no_folder():
    job = sweep.job(MnistSup(dataset="digits"), parsed("--data-dir", "d"))
    assert "--data-dir" not in job


def test_rows_and_values():
    convert = sweep.by_row(["a", "b"], cli.integer(0), "SEED")
    assert convert("b:1,20") == ("b", [1, 20])
    for text in ("c:1", "a", "a:", ":1", ""):
        with pytest.raises(
            argparse.ArgumentTypeError, match=r"must be ROW:SEED,\.\.\. .* of a, b, got"
        ):
            convert(text)
    with pytest.raises(argparse.ArgumentTypeError, match="an integer from 0, got 'x'"):
        convert("a:1,x")


def test_a_choice_of_data_sets_is_offered_where_there_is_one():
    assert parsed().seeds == [1, 2] and parsed().data == "auto"
    parser = cli.Parser("")
    sweep.add_arguments(parser, seeds=[1], updates=7, datasets=("svhn",))
    assert "data" not in parser.parse_args([]) and parser.parse_args([]).updates == 7


@pytest.mark.parametrize(("at_once", "threads"), [(1, "7"), (2, "1")])
def test_runs_with_others_have_one_thread(tmp_path, monkeypatch, at_once, threads):
    class Refused(Exception):
        pass

    def popen(command, env, **options):
        assert command[1:] == [
            "-m",
            "experiments",
            "name",
            "--out",
            str(tmp_path / "run"),
            "--resume",
        ]
        assert env["OPENBLAS_NUM_THREADS"] == env["OMP_NUM_THREADS"] == threads
        raise Refused

    for name in sweep.ONE_THREAD:
        monkeypatch.setenv(name, "7")
    monkeypatch.setattr(sweep.subprocess, "Popen", popen)
    with pytest.raises(Refused):
        sweep.run_all({"run": ["name"]}, tmp_path, at_once)


def test_a_failing_run_is_named_and_the_others_are_finished(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "mle-seed1").mkdir()
    (tmp_path / "mle-seed1" / "checkpoint.npz").write_text("damaged")
    arguments = [*BRIEF, "--rows", "mle:1,2", "--runs", tmp_path, "--results", tmp_path / "results"]
    assert commands.call("table1", *arguments) == 1
    out, err = capsys.readouterr()
    assert "mle-seed1: error: " in out and "checkpoint.npz is damaged" in out
    assert err.startswith("error: failed: mle-seed1; see log.txt")
    assert (tmp_path / "mle-seed2" / "result.json").exists()
    assert not list((tmp_path / "results").iterdir())


def test_a_run_that_says_nothing(tmp_path):
    (tmp_path / "log.txt").write_bytes(b"")
    assert sweep._last_line(tmp_path) == "no output"
    (tmp_path / "log.txt").write_bytes(b"first\n\xff last\n")
    assert sweep._last_line(tmp_path).endswith(" last")


def test_interrupted_runs_write_their_checkpoints(tmp_path):
    command = [sys.executable, "-m", "experiments", "table1", "--data", "digits", "--device", "cpu"]
    command += ["--rows", "mle:1,2,3", "--updates", "1000000", "--jobs", "2"]
    command += ["--runs", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        under_way = [tmp_path / f"mle-seed{seed}" / "metrics.csv" for seed in (1, 2)]
        while process.poll() is None and not all(path.exists() for path in under_way):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert err == "interrupted; the same command goes on from here\n"
    for path in under_way:
        assert runs.read_checkpoint(path.with_name("checkpoint.npz")).update > 0
        assert "interrupted after update" in path.with_name("log.txt").read_text()
    assert not (tmp_path / "mle-seed3").exists()


def test_a_folder_that_cannot_be_made_is_named():
    with pytest.raises(runs.RunFailed, match="cannot write in the folder /dev/null/a: Not a dir"):
        sweep.run_all({"a": ["name"]}, Path("/dev/null"), 1)


# What the results hold ---------------------------------------------------------------------------


def result(name: str, **settings: Any) -> dict:
    return {"name": name, "settings": settings}


def name_of(result: Mapping[str, Any]) -> str:
    return result["name"]


def test_runs_of_one_line_differ_in_their_seed_and_how_often_they_are_looked_at():
    found = [
        result("a", seed=1, evaluate_every=7, alpha=1.0, epsilon=10.0, network=[2]),
        result("b", epsilon=9.0),
        result("a", seed=2, checkpoint_every=9, alpha=1.0, epsilon=10.0, network=[2]),
    ]
    groups = sweep.grouped(found, name_of)
    assert groups == {"a": [found[0], found[2]], "b": [found[1]]}
    sweep.check_alike(groups, "advice")

    found.append(result("a", seed=3, alpha=2.0, epsilon=3.0))
    groups = sweep.grouped(found, name_of)
    for free, named in (
        ([], "alpha 1.0 and 2.0"),
        (["alpha"], "epsilon 10.0 and 3.0"),
        (["alpha", "epsilon"], r"network \[2\] and None"),
    ):
        with pytest.raises(runs.RunError, match=f"^a: runs with {named} are not one line; advice$"):
            sweep.check_alike(groups, "advice", free)
    sweep.check_alike(groups, "advice", free=["alpha", "epsilon", "network"])


def test_published_runs_are_labelled_by_line_and_seed(tmp_path):
    path = tmp_path / "results.json"
    assert sweep.published(path, "table", name_of) == {}
    each = result("a", seed=3)
    runs.write_json(path, {"runs": [each]})
    assert sweep.published(path, "table", name_of) == {"a-seed3": each}
    with pytest.raises(runs.RunError, match=r"holds no runs of this search \('error'\)"):
        sweep.published(path, "search", name_of, ["error"])
