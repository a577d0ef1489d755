"""Many runs: the processes that are started, and what becomes of those that fail."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask
import distributed
import pytest

from experiments.lab import cli, loop, results, runner, runs, sweep
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


def test_jobs_are_counted_or_on_a_cluster():
    assert parsed().jobs == 1 and parsed("--jobs", "3").jobs == 3
    assert parsed("--jobs", "tcp://host:8786").jobs == "tcp://host:8786"
    for text in ("0", "2.5", "host", "udp://host:1"):
        with pytest.raises(argparse.ArgumentTypeError, match="from 1, or the address of a Dask"):
            sweep.at_once(text)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """`stand_in(script)`: lets a shell's script run in place of jobs, in the folder $out."""

    def stand_in(script: str) -> None:
        _executable(tmp_path / "python", f"for last; do out=$before before=$last; done\n{script}")
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    return stand_in


def _executable(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def jobs(count: int) -> dict[str, list[str]]:
    return {f"run{seed}": ["mnist-sup", *BRIEF, "--seed", str(seed)] for seed in range(count)}


TELL = """echo '{"threads": "'$OPENBLAS_NUM_THREADS'", "device": "'$CUDA_VISIBLE_DEVICES'"}'"""
TELL += " >$out/result.json"


@pytest.mark.parametrize(("at_once", "threads"), [(1, "7"), (2, "1")])
def test_runs_with_others_have_one_thread(tmp_path, monkeypatch, stand_in, at_once, threads):
    for name in sweep.ONE_THREAD:
        monkeypatch.setenv(name, "7")
    stand_in(f'{TELL}; echo "$@"')
    found = sweep.run_all(jobs(3), tmp_path / "runs", at_once)
    assert list(found) == ["run0", "run1", "run2"]
    assert {each["threads"] for each in found.values()} == {threads}
    folder = tmp_path / "runs" / "run2"
    command = f"-m experiments mnist-sup {' '.join(BRIEF)} --seed 2 --out {folder} --resume\n"
    assert (folder / "log.txt").read_text() == command


@pytest.mark.parametrize("chosen", [None, "4,GPU-7"])
def test_each_of_several_cuda_devices_has_one_run_at_a_time(
    tmp_path, monkeypatch, stand_in, chosen
):
    (tmp_path / "bin").mkdir()
    _executable(tmp_path / "bin" / "nvidia-smi", "echo 0; echo 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    # The first run goes on until the last one begins, so that the others have to take turns.
    stand_in(
        f"""{TELL}
        mkdir $out/../$CUDA_VISIBLE_DEVICES || exit 1
        case $out in *run0) until [ -e $out/../run3 ]; do sleep 0.01; done;; esac
        rmdir $out/../$CUDA_VISIBLE_DEVICES"""
    )
    found = sweep.run_all(jobs(4), tmp_path / "runs", 2)
    first, other = {each["device"] for each in found.values()}
    assert {first, other} == set(chosen.split(",") if chosen else "01")
    assert [each["device"] for each in found.values()].count(found["run0"]["device"]) <= 2


def test_a_run_alone_has_all_cuda_devices(tmp_path, monkeypatch, stand_in):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    stand_in(TELL)
    assert sweep.run_all(jobs(1), tmp_path, 1)["run0"]["device"] == "0,1"


def test_one_bar_of_the_updates_of_all_runs(tmp_path, monkeypatch):
    bars, make = [], loop.progress_bar
    monkeypatch.setattr(loop, "progress_bar", lambda *of: bars.append(make(*of)) or bars[-1])
    monkeypatch.setattr(sweep, "LOOK_EVERY_SECONDS", 0.01)

    def done(label: str, update: int) -> None:
        runs.write_metrics(tmp_path / label / "metrics.csv", ("update",), [{"update": update}])

    for label in ("run0", "run1"):
        (tmp_path / label).mkdir()
    done("run0", 20)
    with sweep._progress(jobs(3), tmp_path):
        (bar,) = bars
        assert (bar.initial, bar.n, bar.total) == (20, 20, 60)
        done("run1", 5)
        until = time.monotonic() + 10
        while bar.n == 20 and time.monotonic() < until:
            time.sleep(0.01)
        assert bar.n == 25
        monkeypatch.setattr(sweep, "LOOK_EVERY_SECONDS", 100)
        done("run1", 20)
    assert bar.n == 40


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
    log = tmp_path / "log.txt"
    log.write_bytes(b"")
    assert sweep._last_line(log) == "no output"
    log.write_bytes(b"first\n\xff last\n")
    assert sweep._last_line(log).endswith(" last")


@pytest.fixture(scope="module")
def cluster():
    """The address of a Dask cluster of two workers, each a process for one run at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
        with distributed.LocalCluster(**options) as cluster:
            yield cluster.scheduler_address


@pytest.mark.parametrize("where", ["here", "cluster"])
def test_interrupted_runs_write_their_checkpoints(tmp_path, request, where):
    command = [sys.executable, "-m", "experiments", "table1", "--data", "digits", "--device", "cpu"]
    command += ["--rows", "mle:1,2,3", "--updates", "1000000", "--runs", str(tmp_path)]
    command += ["--jobs", "2" if where == "here" else request.getfixturevalue("cluster")]
    # In a shell's background jobs SIGINT is ignored, and what they start inherits that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    with process:
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
    assert {path.name for path in tmp_path.iterdir()} == {"mle-seed1", "mle-seed2"}


def test_what_killed_commands_have_left_is_waited_for_and_removed(tmp_path, stand_in):
    stand_in(f"{TELL}; test ! -e $out/busy")
    folder = tmp_path / "runs"
    (folder / ".going-dead").mkdir(parents=True)
    (folder / ".going-alive").mkdir()
    (folder / "run0").mkdir()
    (folder / "run0" / ".lock").touch()
    (folder / "run0" / "busy").touch()

    def finish():
        (folder / "run0" / "busy").unlink()
        at_work.close()

    with runs.lock(folder / ".going-alive"), contextlib.ExitStack() as at_work:
        at_work.enter_context(runs.lock(folder / "run0" / ".lock"))
        timer = threading.Timer(0.3, finish)
        timer.start()
        assert list(sweep.run_all(jobs(2), folder, 2)) == ["run0", "run1"]
        timer.join()
    assert {path.name for path in folder.iterdir()} == {".going-alive", "run0", "run1"}


def test_a_folder_that_cannot_be_made_is_named(tmp_path, capsys, stand_in):
    with pytest.raises(runs.RunFailed, match="cannot write in the folder /dev/null: File exists"):
        sweep.run_all(jobs(1), Path("/dev/null"), 1)
    stand_in(TELL)
    (tmp_path / "run0").write_text("in the way")
    with pytest.raises(runs.RunFailed, match=r"^failed: run0; see"):
        sweep.run_all(jobs(2), tmp_path, 1)
    assert f"run0: error: cannot write in the folder {tmp_path / 'run0'}" in capsys.readouterr().out
    assert (tmp_path / "run1" / "result.json").exists()


def test_runs_on_a_dask_cluster(tmp_path, cluster):
    brief = ["mnist-sup", *BRIEF, "--method", "mle", "--seed"]
    found = sweep.run_all({"a": [*brief, "1"], "b": [*brief, "2"]}, tmp_path, cluster)
    assert {label: each["settings"]["seed"] for label, each in found.items()} == {"a": 1, "b": 2}


def test_a_cluster_that_is_lost(cluster):
    with (
        pytest.raises(runs.RunFailed, match="lost its workers; the same command goes on"),
        sweep._parallel(cluster),
    ):
        raise distributed.KilledWorker("run", None, None)


def test_a_cluster_that_is_not_there(tmp_path):
    with (
        dask.config.set({"distributed.comm.timeouts.connect": 0.1}),
        pytest.raises(runs.RunError, match=r"^--jobs tcp://127.0.0.1:9: Timed out"),
    ):
        sweep.run_all(jobs(1), tmp_path, "tcp://127.0.0.1:9")
    assert not list(tmp_path.iterdir())


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
