"""Many training runs, a few at once, each in a process and a folder of its own.

A job is a label, which names its folder, and the command line of an experiment. Every job is
started with --resume: a finished run answers at once, an unfinished one goes on, and one whose
settings have changed is refused. joblib decides when and where a job is started: here, or on the
machines of a Dask cluster that share the folder.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.lab import cli, loop, machine, results, runner, runs
from experiments.lab.spec import Spec
from experiments.registry import EXPERIMENTS
from minivat import data

Result = Mapping[str, Any]
# With several processes on one machine, each with one thread is faster than each with all.
ONE_THREAD = dict.fromkeys(machine.THREADS, "1")
# How many training images are held out where the test set is not to be touched.
VALIDATION = {"mnist": 10_000, "digits": 300}
# What the runs of one line may differ in.
FREE = ("seed", "evaluate_every", "checkpoint_every")
FEW_EVALUATIONS = 12  # of a run: on images one takes as long as dozens of updates
GOING = ".going-"
LOOK_EVERY_SECONDS = 10.0  # at how far the runs are

at_once = cli.argument(
    lambda text: text if text.startswith(("tcp://", "tls://")) else int(text),
    lambda value: isinstance(value, str) or value >= 1,
    "an integer from 1, or the address of a Dask scheduler, tcp://host:8786",
)


def add_arguments(
    parser: cli.Parser, *, seeds: Sequence[int], updates: int | None, datasets: Sequence[str]
) -> None:
    """The flags of every command that starts many runs.

    updates: None where every experiment has its own default. datasets: those to choose from.
    """
    cli.add_seeds(parser, seeds, f"of every run (default: {' '.join(map(str, seeds))})")
    of_every_run = "of every run" if updates else "of every run (default: what its experiment says)"
    cli.add_count(parser, "--updates", 1, updates, of_every_run)
    parser.add_argument(
        "--jobs",
        type=at_once,
        default=1,
        metavar="N|ADDRESS",
        help="runs at once, several with one thread each (default: %(default)s); or the address "
        "of a Dask scheduler, tcp://host:8786, whose workers run them",
    )
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
    jobs: Mapping[str, Sequence[str]], folder: Path, at_once: int | str
) -> dict[str, dict[str, Any]]:
    """Run `python -m experiments *job` for all jobs, `at_once` at a time; their results by label.

    at_once: how many on this machine, or the address of a Dask scheduler, whose workers see this
    working folder and `folder`. What a job prints goes to log.txt in its folder. Ctrl-C, SIGTERM
    and SIGHUP are passed on, so that all write their checkpoints (Interrupted). Raises RunFailed,
    naming them, when jobs have failed; the others are finished all the same.
    """
    import joblib
    from tqdm import tqdm

    _remove_left(results.writable(folder / "x").parent)
    # Its removal stops the jobs: a signal that reaches other machines too.
    going = tempfile.TemporaryDirectory(prefix=GOING, dir=folder)
    shared = Path.cwd(), Path.cwd() / going.name, _environments(at_once)
    tasks = (
        joblib.delayed(_run)(label, job, folder / label, *shared) for label, job in jobs.items()
    )
    codes = {}
    with (
        going,
        runs.lock(Path(going.name)),
        loop.deferred_signals(going.cleanup),
        _progress(jobs, folder),
        _parallel(at_once) as parallel,
    ):
        for label, code, line in parallel(tasks):
            codes[label] = code
            if code is not None:
                with tqdm.external_write_mode():
                    print(f"[{len(codes)}/{len(jobs)}] {label}: {line}", flush=True)
        interrupted = not Path(going.name).exists()
    if interrupted:
        raise runs.Interrupted("interrupted; the same command goes on from here")
    if failed := [label for label in jobs if codes[label]]:
        raise runs.RunFailed(f"failed: {', '.join(failed)}; see log.txt in the folders in {folder}")
    return {label: runs.read_json(folder / label / "result.json") for label in jobs}


def _remove_left(folder: Path) -> None:
    """Remove what commands that were killed have left; a living one has locked its own."""
    for left in folder.glob(f"{GOING}*"):
        with contextlib.suppress(OSError), runs.lock(left):
            left.rmdir()


@contextlib.contextmanager
def _parallel(at_once: int | str) -> Iterator[Any]:
    """joblib's Parallel, here or on a Dask cluster; RunError where that is not at the address,
    RunFailed where it is lost."""
    import joblib

    # Threads, since each waits for a process of its own. When joblib stops processes it kills all
    # that they have started.
    how = {"prefer": "threads", "batch_size": 1, "return_as": "generator_unordered"}
    if isinstance(at_once, int):
        yield joblib.Parallel(at_once, **how)
        return
    from distributed import CancelledError, Client, KilledWorker

    try:
        client = Client(at_once, set_as_default=False)
    except (OSError, ValueError) as error:
        raise runs.RunError(f"--jobs {at_once}: {error}") from error
    try:
        with client, joblib.parallel_config("dask", client=client):
            yield joblib.Parallel(**how)
    except (CancelledError, KilledWorker) as error:
        raise runs.RunFailed(
            f"--jobs {at_once}: lost its workers; the same command goes on"
        ) from error


def _environments(at_once: int | str) -> list[dict[str, str]]:
    """What is set in the environments of jobs that run at once, so that they share the machine.

    Of several CUDA devices each has its own. A Dask worker is started with those that it may use.
    """
    if at_once == 1:
        return [{}]
    if isinstance(at_once, str):
        return [ONE_THREAD]
    devices = machine.cuda_devices()
    own = [{"CUDA_VISIBLE_DEVICES": each} for each in devices] if len(devices) > 1 else [{}]
    return [ONE_THREAD | each for each in itertools.islice(itertools.cycle(own), at_once)]


def _run(
    label: str,
    job: Sequence[str],
    folder: Path,
    here: Path,
    going: Path,
    environments: list[dict[str, str]],
) -> tuple[str, int | None, str]:
    """Run a job in the working folder `here` until `going` is removed.

    environments: those that no other job has now. A run that another process is at is waited for:
    the job of a command that was killed lives on. Returns the label, the exit code, None where the
    job was not started, and the last line it printed.
    """
    while going.exists() and runs.in_use(here / folder):
        time.sleep(0.1)
    if not going.exists():
        return label, None, ""
    try:
        log = results.writable(here / folder / "log.txt")
    except runs.RunFailed as error:
        return label, 1, f"error: {error}"
    environment = environments.pop(0)
    with (
        open(log, "a") as out,
        subprocess.Popen(
            [sys.executable, "-m", "experiments", *job, "--out", str(folder), "--resume"],
            cwd=here,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,  # the terminal's Ctrl-C reaches it through us alone
        ) as process,
    ):
        while process.poll() is None and going.exists():
            time.sleep(0.1)
        process.terminate()  # does nothing to one that has ended
    environments.append(environment)
    return label, process.returncode, _last_line(log)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "no output"


@contextlib.contextmanager
def _progress(jobs: Mapping[str, Sequence[str]], folder: Path) -> Iterator[None]:
    """One bar of the updates of all runs, by their files, which any machine may have written."""
    over = threading.Event()

    def done() -> int:
        return sum(_done(folder / label) for label in jobs)

    def follow() -> None:
        while not over.wait(LOOK_EVERY_SECONDS):
            bar.update(done() - bar.n)

    with loop.progress_bar(done(), sum(map(_updates, jobs.values()))) as bar:
        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            bar.update(done() - bar.n)


def _updates(job: Sequence[str]) -> int:
    name, *flags = job
    cls = EXPERIMENTS[name]
    return runner.spec_of(cls, runner.parser(cls).parse_args(flags)).resolved().updates


def _done(folder: Path) -> int:
    with contextlib.suppress(runs.RunError):
        return int(results.Run(folder).rows()[-1]["update"])
    return 0
