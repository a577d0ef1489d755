"""Many training runs, a few at once, each in a process and a folder of its own.

A job is a label, which names its folder, and the command line of an experiment. Every job is
started with --resume: a finished run answers at once, an unfinished one goes on, and one whose
settings have changed is refused.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.lab import cli, loop, machine, results, runs
from experiments.lab.spec import Spec

# With several processes on one machine, each with one thread is faster than each with all.
ONE_THREAD = dict.fromkeys(machine.THREADS, "1")


def add_arguments(
    parser: argparse.ArgumentParser,
    *,
    seeds: Sequence[int],
    updates: int | None,
    datasets: Sequence[str] = (),
) -> None:
    """The flags of every command that starts many runs.

    updates: None where every experiment has its own default. datasets: those to choose from, where
    there is a choice.
    """
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=cli.integer(0),
        default=list(seeds),
        metavar="N",
        help=f"of every run (default: {' '.join(map(str, seeds))})",
    )
    of_every_run = "of every run" if updates else "of every run (default: what its experiment says)"
    cli.add_count(parser, "--updates", 1, updates, of_every_run)
    cli.add_count(parser, "--jobs", 1, 1, "runs at once; several have one thread each")
    cli.add_device_arguments(parser)
    if len(datasets) > 1:
        parser.add_argument("--data", default="auto", choices=["auto", *datasets])
    parser.add_argument("--data-dir", metavar="DIR", help="where the data set's files are")
    parser.add_argument("--runs", metavar="DIR", help="folder of the runs' folders")
    parser.add_argument(
        "--results", type=Path, default=results.RESULTS, metavar="DIR", help="folder of the results"
    )


def job(spec: Spec, args: argparse.Namespace) -> list[str]:
    """The command line that trains a spec, where and as `args` of `add_arguments` say."""
    place = cli.device_arguments(args)
    if args.data_dir is not None and spec.dataset != "digits":
        place += ["--data-dir", args.data_dir]
    return [spec.experiment, *spec.arguments(), *place]


def by_row(
    rows: Sequence[str], value: Callable[[str], Any], what: str
) -> Callable[[str], tuple[str, list[Any]]]:
    """An argparse type: ROW:VALUE,VALUE,..., one of `rows` and the values to run it with."""

    def convert(text: str) -> tuple[str, list[Any]]:
        row, _, values = text.partition(":")
        if row not in rows or not values:
            raise argparse.ArgumentTypeError(
                f"must be ROW:{what},... with ROW one of {', '.join(rows)}, got {text!r}"
            )
        return row, [value(each) for each in values.split(",")]

    return convert


def run_all(
    jobs: Mapping[str, Sequence[str]], folder: Path, at_once: int
) -> dict[str, dict[str, Any]]:
    """Run `python -m experiments *job` for all jobs, `at_once` at a time; their results by label.

    What a job prints goes to log.txt in its folder. Ctrl-C and SIGTERM are passed on, so that all
    write their checkpoints (Interrupted). Raises RunFailed, naming them, when jobs have failed; the
    others are finished all the same.
    """
    waiting, failed = list(jobs), []
    running: dict[str, subprocess.Popen] = {}
    environment = {**os.environ, **(ONE_THREAD if at_once > 1 else {})}
    with loop.deferred_signals() as interrupted:
        try:
            while (waiting or running) and not interrupted.is_set():
                while waiting and len(running) < at_once:
                    label = waiting.pop(0)
                    running[label] = _start(jobs[label], folder / label, environment)
                time.sleep(0.1)
                for label in _ended(running):
                    process = running.pop(label)
                    failed += [label] if process.returncode else []
                    done = len(jobs) - len(waiting) - len(running)
                    print(f"[{done}/{len(jobs)}] {label}: {_last_line(folder / label)}", flush=True)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
    if interrupted.is_set():
        raise runs.Interrupted("interrupted; the same command goes on from here")
    if failed:
        raise runs.RunFailed(f"failed: {', '.join(failed)}; see log.txt in the folders in {folder}")
    return {label: runs.read_json(folder / label / "result.json") for label in jobs}


def _start(job: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments", *job, "--out", str(folder), "--resume"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "log.txt", "a") as log:
            return subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # the terminal's Ctrl-C reaches it through us alone
            )
    except OSError as error:
        raise runs.RunError(f"cannot write in the folder {folder}: {error.strerror}") from error


def _ended(running: Mapping[str, subprocess.Popen]) -> list[str]:
    return [label for label, process in running.items() if process.poll() is not None]


def _last_line(folder: Path) -> str:
    lines = (folder / "log.txt").read_text(errors="replace").splitlines()
    return lines[-1] if lines else "no output"
