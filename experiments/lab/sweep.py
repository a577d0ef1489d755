"""Many training runs, a few at once, each in a process and a folder of its own.

A job is a label, which names its folder, and the command line of an experiment. Every job is
started with --resume: a finished run answers at once, an unfinished one goes on, and one whose
settings have changed is refused.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from experiments.lab import cli, loop, machine, results, runs
from experiments.lab.spec import Spec
from minivat import data

Result = Mapping[str, Any]
# With several processes on one machine, each with one thread is faster than each with all.
ONE_THREAD = dict.fromkeys(machine.THREADS, "1")
# How many training images are held out where the test set is not to be touched.
VALIDATION = {"mnist": 10_000, "digits": 300}
# What the runs of one line may differ in.
FREE = ("seed", "evaluate_every", "checkpoint_every")


def add_arguments(
    parser: cli.Parser, *, seeds: Sequence[int], updates: int | None, datasets: Sequence[str]
) -> None:
    """The flags of every command that starts many runs.

    updates: None where every experiment has its own default. datasets: those to choose from.
    """
    cli.add_seeds(parser, seeds, f"of every run (default: {' '.join(map(str, seeds))})")
    of_every_run = "of every run" if updates else "of every run (default: what its experiment says)"
    cli.add_count(parser, "--updates", 1, updates, of_every_run)
    cli.add_count(parser, "--jobs", 1, 1, "runs at once; several have one thread each")
    cli.add_device_arguments(parser)
    if len(datasets) > 1:
        parser.add_argument("--data", default="auto", choices=["auto", *datasets])
    parser.add_argument("--data-dir", metavar="DIR", help="where the data set's files are")
    parser.add_argument("--runs", metavar="DIR", help="folder of the runs' folders")
    parser.add_argument(
        "--results",
        type=Path,
        default=results.NEW,
        metavar="DIR",
        help="folder of the results (default: %(default)s)",
    )


def file_name(name: str, dataset: data.Dataset, counts: Mapping[str, tuple[int, int]]) -> str:
    """The name of results: `name` for MNIST's with the usual counts, else with what they are.

    counts: by what they count, those of the runs and the usual ones.
    """
    about = dataset.name + ("" if dataset.original else "-of-other-files")
    if about == "mnist" and all(count == usual for count, usual in counts.values()):
        return name
    return "-".join([name, about, *(f"{count}-{what}" for what, (count, _) in counts.items())])


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


def published(
    path: Path, what: str, line: Callable[[Result], str], needed: Sequence[str] = ()
) -> dict[str, Result]:
    """The runs that a results file holds, by label: line and seed. See `results.published`."""
    return results.published(
        path, what, lambda each: f"{line(each)}-seed{each['settings']['seed']}", needed
    )


def grouped(found: Iterable[Result], key: Callable[[Result], Any]) -> dict[Any, list[Result]]:
    """The results by their keys, in the order of their first ones."""
    groups: dict[Any, list[Result]] = {}
    for each in found:
        groups.setdefault(key(each), []).append(each)
    return groups


def check_alike(
    groups: Mapping[str, Sequence[Result]], advice: str, free: Sequence[str] = ()
) -> None:
    """RunError, with advice, where runs of one group differ in a setting that is not free."""
    for key, found in groups.items():
        for name in sorted({name for each in found for name in each["settings"]} - {*FREE, *free}):
            first, *others = (each["settings"].get(name) for each in found)
            for other in others:
                if other != first:
                    both = f"{name} {first} and {other}"
                    raise runs.RunError(f"{key}: runs with {both} are not one line; {advice}")


def run_all(
    jobs: Mapping[str, Sequence[str]], folder: Path, at_once: int
) -> dict[str, dict[str, Any]]:
    """Run `python -m experiments *job` for all jobs, `at_once` at a time; their results by label.

    What a job prints goes to log.txt in its folder. Ctrl-C, SIGTERM and SIGHUP are passed on, so
    that all write their checkpoints (Interrupted). Raises RunFailed, naming them, when jobs have
    failed; the others are finished all the same.
    """
    number = itertools.count(1)

    def run(label: str) -> int | None:
        if interrupted.is_set():
            return None
        with _start(jobs[label], folder / label, at_once == 1) as process:
            while process.poll() is None and not interrupted.wait(0.1):
                pass
            process.terminate()  # does nothing to one that has ended
        print(f"[{next(number)}/{len(jobs)}] {label}: {_last_line(folder / label)}", flush=True)
        return process.returncode

    with loop.deferred_signals() as interrupted, ThreadPoolExecutor(at_once) as pool:
        codes = dict(zip(jobs, pool.map(run, jobs), strict=True))
    if interrupted.is_set():
        raise runs.Interrupted("interrupted; the same command goes on from here")
    if failed := [label for label, code in codes.items() if code]:
        raise runs.RunFailed(f"failed: {', '.join(failed)}; see log.txt in the folders in {folder}")
    return {label: runs.read_json(folder / label / "result.json") for label in jobs}


def _start(job: Sequence[str], folder: Path, alone: bool) -> subprocess.Popen:
    with open(results.writable(folder / "log.txt"), "a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "experiments", *job, "--out", str(folder), "--resume"],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **({} if alone else ONE_THREAD)},
            start_new_session=True,  # the terminal's Ctrl-C reaches it through us alone
        )


def _last_line(folder: Path) -> str:
    lines = (folder / "log.txt").read_text(errors="replace").splitlines()
    return lines[-1] if lines else "no output"
