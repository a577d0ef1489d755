"""A table of the paper: every line run with several seeds, beside the paper's numbers.

Finished runs are skipped and unfinished ones resumed. When all are done, their results are written
as <table>.json and <table>.md, and beside them the metrics of every run; with other data than MNIST
or another number of updates than the paper's, under a name that says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import common, jobs
from minivat import runs


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a table.

    cells      its first columns, for people
    arguments  of the experiment
    paper      test error in percent, mean and standard deviation; None where the paper has none
    """

    cells: tuple[str, ...]
    arguments: Sequence[str]
    paper: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table and how it is made.

    name      of the files
    module    the experiment whose runs it shows
    updates   of every run
    columns   names of the lines' first columns
    lines     by their keys, which name the runs' folders
    key       a result's line
    cited     what the paper cites from others: first columns, and test error in percent
    """

    name: str
    module: str
    updates: int
    columns: tuple[str, ...]
    lines: Mapping[str, Line]
    key: Callable[[Mapping[str, Any]], str]
    cited: Sequence[tuple[str, ...]]


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
    jobs.add_arguments(parser, seeds=seeds, updates=table.updates, datasets=["mnist", "digits"])
    return parser


def markdown(table: Table, results: Sequence[Mapping[str, Any]]) -> str:
    """The table: our error, mean ± standard deviation over the seeds, beside the paper's."""
    comparable = all(
        each["paper_test_error"] is not None or table.lines[table.key(each)].paper is None
        for each in results
    )
    header = [*table.columns, "ε", "test error (%)", "by seed", "paper (%)"]
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
    about = f"{results[0]['dataset']}, {results[0]['updates']} updates; ± is the standard deviation"
    return "\n".join([*lines, "", f"Data set: {about} over seeds."]) + "\n"


def published(table: Table, path: Path) -> dict[str, dict[str, Any]]:
    """The runs that a results file holds, by label; none where there is no file."""
    if not path.exists():
        return {}
    return {f"{table.key(each)}-seed{each['seed']}": each for each in runs.read_json(path)["runs"]}


def make(table: Table, args: argparse.Namespace) -> None:
    """Run what is missing, write the table, print it."""
    dataset, shared = jobs.shared_arguments(args)
    shared += ["--evaluate-every", str(max(1, args.updates // 50))]
    of_the_paper = [key for key, line in table.lines.items() if line.paper]
    rows = args.rows or [(key, args.seeds) for key in of_the_paper]
    name = table.name
    if (dataset, args.updates) != ("mnist", table.updates):
        name += f"-{dataset}-{args.updates}-updates"
    todo = {
        f"{key}-seed{seed}": [*table.lines[key].arguments, "--seed", str(seed), *shared]
        for key, seeds in rows
        for seed in seeds
    }
    folder = Path(args.runs or Path("runs", name))
    kept = published(table, args.results / f"{name}.json") if args.add else {}
    todo = {label: arguments for label, arguments in todo.items() if label not in kept}
    results = list((kept | jobs.run_all(table.module, todo, folder, args.jobs)).values())
    order = list(table.lines)
    results.sort(key=lambda each: (order.index(table.key(each)), each["seed"]))

    path = jobs.in_folder(args.results / f"{name}.json")
    runs.write_json(path, {"runs": results})
    for label in todo:
        metrics = (folder / label / "metrics.csv").read_bytes()
        course = jobs.in_folder(args.results / name / f"{label}.csv")
        runs.replace_file(course, lambda file, metrics=metrics: file.write(metrics))
    text = markdown(table, results)
    runs.replace_file(path.with_suffix(".md"), lambda file: file.write(text.encode()))
    print(text, end="")
