"""A table of the paper: every line run with several seeds, beside the paper's numbers.

Finished runs are skipped and unfinished ones resumed. When all are done, their results are written
as <table>.json and <table>.md, and beside them the metrics of every run; with other data or
settings than the paper's, under a name that says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import common, jobs
from experiments.lab import runs
from minivat import data


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a table.

    cells      its first columns, for people
    module     the experiment whose runs it shows
    arguments  of the experiment
    paper      test error in percent, mean and standard deviation; None where the paper has none
    usual      whether it is run where no rows are asked for; never without a number of the paper's
    """

    cells: tuple[str, ...]
    module: str
    arguments: Sequence[str]
    paper: tuple[float, float] | None
    usual: bool = True


@dataclasses.dataclass(frozen=True)
class Table:
    """A table and how it is made.

    name      of the files
    updates   of every run; None: as many as the experiments say
    columns   names of the lines' first columns
    lines     by their keys, which name the runs' folders
    key       a result's line
    cited     what the paper cites from others: first columns, and test error in percent
    datasets  to choose from, where there is a choice
    """

    name: str
    updates: int | None
    columns: tuple[str, ...]
    lines: Mapping[str, Line]
    key: Callable[[Mapping[str, Any]], str]
    cited: Sequence[tuple[str, ...]]
    datasets: Sequence[str] = ()


def parser(description: str, table: Table, seeds: list[int]) -> common.Parser:
    """The command line of a table."""
    parser = common.Parser(description)
    parser.add_argument(
        "--rows",
        nargs="+",
        type=jobs.by_row(list(table.lines), common.integer(0), "SEED"),
        metavar="ROW:SEED,...",
        help="rows, each with seeds of its own (default: all of the paper's with --seeds)",
    )
    parser.add_argument(
        "--add",
        action="store_true",
        help="keep the runs that the results already hold, and do not run those again",
    )
    jobs.add_arguments(parser, seeds=seeds, updates=table.updates, datasets=table.datasets)
    return parser


def markdown(table: Table, results: Sequence[Mapping[str, Any]]) -> str:
    """The table: our error, mean ± standard deviation over the seeds, beside the paper's.

    Where a test set is not the official one, the column and a note say so.
    """
    comparable = all(
        each["paper_test_error"] is not None or table.lines[table.key(each)].paper is None
        for each in results
    )
    held_out = {each.get("test_set", data.Dataset.test_name) for each in results}
    held_out -= {data.Dataset.test_name}
    header = [*table.columns, "ε", "error (%)" if held_out else "test error (%)", "by seed"]
    header.append("paper, official test set (%)" if held_out else "paper (%)")
    lines = [f"| {' | '.join(header)} |", "| --- " * len(header) + "|"]
    for key, line in table.lines.items():
        mine = [each for each in results if table.key(each) == key]
        if not mine:
            continue
        errors = {each["seed"]: each["test_error"] for each in mine}
        epsilon = "" if mine[0]["epsilon"] is None else f"{mine[0]['epsilon']:g}"
        ours = f"{statistics.mean(errors.values()):.2f}"
        if len(errors) > 1:
            ours += f" ± {statistics.stdev(errors.values()):.2f}"
        seeds = ", ".join(f"{seed}: {error:.2f}" for seed, error in sorted(errors.items()))
        theirs = "{:.2f} ± {:.2f}".format(*line.paper) if comparable and line.paper else "-"
        lines.append(f"| {' | '.join([*line.cells, epsilon, ours, seeds, theirs])} |")
    if comparable:
        for (name, *others), error in ((cells[:-1], cells[-1]) for cells in table.cited):
            cells = [f"{name} (cited by the paper)", *others]
            lines.append(f"| {' | '.join(cells)} | | | | {error} |")
    about = "; ".join(dict.fromkeys(map(_about, results)))
    lines += ["", f"Data set: {about}; ± is the standard deviation over seeds."]
    if held_out and comparable:
        lines.append(
            "The paper's networks were trained on all training images and tested on the official "
            "test set: its numbers are no measure of ours, which were not."
        )
    return "\n".join(lines) + "\n"


def _about(result: Mapping[str, Any]) -> str:
    """The data set of a run, what its error was measured on if not the official test set, how long
    it was trained, and the width of its network where that is not the paper's."""
    width = result["settings"].get("width", 1)
    narrow = "" if width == 1 else f", width {width:g}"
    tested = result.get("test_set", data.Dataset.test_name)
    tested = "" if tested == data.Dataset.test_name else f", tested on {tested}"
    return f"{result['dataset']}{tested}, {result['updates']} updates{narrow}"


def published(table: Table, path: Path) -> dict[str, dict[str, Any]]:
    """The runs that a results file holds, by label; none where there is no file.

    Raises RunError where it does not hold runs of this table.
    """
    kept = jobs.published(path, "table", lambda each: f"{table.key(each)}-seed{each['seed']}")
    if unknown := {table.key(each) for each in kept.values()} - table.lines.keys():
        raise runs.RunError(f"{path}: {min(unknown)!r} is no row of this table")
    return kept


# Of a run's settings, what the runs of one line may differ in.
FREE = ("seed", "evaluate_every", "checkpoint_every")


def differing(
    results: Sequence[Mapping[str, Any]],
    line: Callable[[Mapping[str, Any]], str],
    free: Sequence[str] = (),
) -> Iterator[tuple[str, str, Any, Any]]:
    """In what runs of one line differ from its first, besides what is free: line, setting, the
    first's value, the other's."""
    first: dict[str, Mapping[str, Any]] = {}
    for each in results:
        key, settings = line(each), each["settings"]
        usual = first.setdefault(key, settings)
        for name in sorted((settings.keys() | usual.keys()) - {*FREE, *free}):
            if settings.get(name) != usual.get(name):
                yield key, name, usual.get(name), settings.get(name)


def check_alike(table: Table, results: Sequence[Mapping[str, Any]]) -> None:
    """RunError, naming the setting, where runs of one line were made with different ones."""
    for key, name, usual, other in differing(results, table.key):
        raise runs.RunError(
            f"{key}: runs with {name} {usual} and {other} are not one line; without --add the "
            "results' earlier runs are left out"
        )


def make_on_mnist(table: Table, args: argparse.Namespace) -> None:
    """Make a table of MNIST, or of the digits, which its files' names then say."""
    dataset, shared = jobs.shared_arguments(args)
    shared += ["--evaluate-every", str(max(1, args.updates // 50))]
    usual = (dataset, args.updates) == ("mnist", table.updates)
    suffix = "" if usual else f"-{dataset}-{args.updates}-updates"
    make(table, args, suffix, lambda line: shared)


def asked(table: Table, args: argparse.Namespace) -> list[tuple[str, list[int]]]:
    """The lines to run, by their keys, each with its seeds."""
    of_the_paper = [key for key, line in table.lines.items() if line.paper and line.usual]
    return args.rows or [(key, args.seeds) for key in of_the_paper]


def make(
    table: Table,
    args: argparse.Namespace,
    suffix: str,
    shared: Callable[[Line], Sequence[str]],
) -> None:
    """Run what is missing, write the table, print it.

    suffix: of the files' names, "" for the paper's settings. shared: what is added to a line's
    arguments.
    """
    name = table.name + suffix
    todo = {
        f"{key}-seed{seed}": [line.module, *line.arguments, "--seed", str(seed), *shared(line)]
        for key, seeds in asked(table, args)
        for line in [table.lines[key]]
        for seed in seeds
    }
    folder = Path(args.runs or Path("runs", name))
    kept = published(table, args.results / f"{name}.json") if args.add else {}
    todo = {label: job for label, job in todo.items() if label not in kept}
    results = list((kept | jobs.run_all(todo, folder, args.jobs)).values())
    order = list(table.lines)
    results.sort(key=lambda each: (order.index(table.key(each)), each["seed"]))

    check_alike(table, results)

    path = jobs.in_folder(args.results / f"{name}.json")
    runs.write_json(path, {"runs": results})
    for label in todo:
        try:
            metrics = (folder / label / "metrics.csv").read_bytes()
        except OSError as error:
            raise runs.RunFailed(f"{error.filename}: {error.strerror}") from error
        course = jobs.in_folder(args.results / name / f"{label}.csv")
        runs.replace_file(course, lambda file, metrics=metrics: file.write(metrics))
    text = markdown(table, results)
    runs.replace_file(path.with_suffix(".md"), lambda file: file.write(text.encode()))
    print(text, end="")
