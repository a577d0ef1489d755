"""Many training runs, a few at once, each in a process and a folder of its own.

A job is a label, which names its folder, and an experiment's module with its arguments. Every job
is started with --resume: a finished run answers at once, an unfinished one goes on, and one whose
settings have changed is refused.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import common
from experiments.lab import loop, runs
from minivat import data

# With several processes on one machine, each with one thread is faster than each with all.
ONE_THREAD = dict.fromkeys(common.THREADS, "1")

RESULTS = Path(__file__).parent / "results"


def add_arguments(
    parser: argparse.ArgumentParser,
    *,
    seeds: list[int],
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
        type=common.integer(0),
        default=seeds,
        metavar="N",
        help=f"of every run (default: {' '.join(map(str, seeds))})",
    )
    of_every_run = "of every run" if updates else "of every run (default: what its experiment says)"
    common.add_count(parser, "--updates", 1, updates, of_every_run)
    common.add_count(parser, "--jobs", 1, 1, "runs at once; several have one thread each")
    common.add_device_arguments(parser)
    if datasets:
        parser.add_argument("--data", default="auto", choices=["auto", *datasets])
    parser.add_argument("--data-dir", metavar="DIR", help="where the data set's files are")
    parser.add_argument("--runs", metavar="DIR", help="folder of the runs' folders")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR", help="folder of the results"
    )


def shared_arguments(args: argparse.Namespace) -> tuple[str, list[str]]:
    """The data set that all runs shall use, found once, and the arguments that they share.

    Other files under a data set's names are not that data set: its name then says so.
    """
    dataset = data.load(args.data, args.data_dir)
    shared = ["--data", dataset.name, "--updates", str(args.updates)]
    shared += common.device_arguments(args)
    if args.data_dir is not None and dataset.name != "digits":
        shared += ["--data-dir", args.data_dir]
    return dataset.name + ("" if dataset.original else "-of-other-files"), shared


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
    """Run `python -m *job` for all jobs, `at_once` at a time; their results by label.

    What a job prints goes to log.txt in its folder. Ctrl-C and SIGTERM are passed on, so that all
    write their checkpoints (Interrupted). Raises RunFailed, naming them, when jobs have failed; the
    others are finished all the same.
    """
    waiting, running, failed = list(jobs), {}, []
    environment = {**os.environ, **(ONE_THREAD if at_once > 1 else {})}
    with loop.deferred_signals() as interrupted:
        try:
            while (waiting or running) and not interrupted.is_set():
                while waiting and len(running) < at_once:
                    label = waiting.pop(0)
                    running[label] = _start(jobs[label], folder / label, environment)
                time.sleep(0.1)
                for label, process in list(running.items()):
                    if process.poll() is not None:
                        del running[label]
                        done = len(jobs) - len(waiting) - len(running)
                        print(f"[{done}/{len(jobs)}] {label}: {_last_line(folder / label)}")
                        sys.stdout.flush()
                        failed += [label] if process.returncode else []
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


def published(
    path: Path,
    what: str,
    label: Callable[[Mapping[str, Any]], str],
    held: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """The runs that a results file holds, by label; none where there is no file.

    what: the kind of results, for people. Raises RunError where a run has no label, or lacks one of
    `held`.
    """
    if not path.exists():
        return {}
    content = runs.read_json(path)
    try:
        for name in held:
            _ = [each[name] for each in content["runs"]]
        return {label(each): each for each in content["runs"]}
    except (KeyError, TypeError, ValueError) as error:
        raise runs.RunError(f"{path}: holds no runs of this {what} ({error})") from error


def in_folder(path: Path) -> Path:
    """The path, with its folder made where there was none (RunFailed where that cannot be)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot write in the folder {path.parent}: {error.strerror}"
        raise runs.RunFailed(message) from error
    return path


def writable(path: Path) -> Path:
    """The path, in a folder that was made and can be written in (RunFailed), before any work."""
    if path.is_dir():
        raise runs.RunFailed(f"cannot write {path}: it is a folder")
    try:
        with tempfile.TemporaryFile(dir=in_folder(path).parent):
            return path
    except OSError as error:
        raise runs.RunFailed(f"cannot write {path}: {error.strerror}") from error


def _start(job: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    command = [sys.executable, "-m", *job, "--out", str(folder), "--resume"]
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


def _last_line(folder: Path) -> str:
    lines = (folder / "log.txt").read_text(errors="replace").splitlines()
    return lines[-1] if lines else "no output"
