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

from experiments.lab import cli, results, runs, sweep
from experiments.lab.spec import Paper, Spec
from minivat import backend, data

Result = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a table.

    cells    its first columns, for people
    spec     what is run; the fields that it gives tell its runs from those of the other lines
    paper    test error in percent, mean and standard deviation; None where the paper has none
    default  whether it is run where no rows are asked for; never without a number of the paper's
    """

    cells: tuple[str, ...]
    spec: Spec
    paper: tuple[float, float] | None = None
    default: bool = True

    def holds(self, spec: Spec) -> bool:
        """Whether a run of that resolved spec stands in this line."""
        given = {name: value for name, value in self.spec.given().items() if name != "dataset"}
        return type(spec) is type(self.spec) and all(
            getattr(spec, name) == value for name, value in given.items()
        )


@dataclasses.dataclass(frozen=True)
class Table:
    """A table and how it is made.

    name         of the files and on the command line
    about        for --help
    columns      names of the lines' first columns
    lines        by their keys, which name the runs' folders
    cited        what the paper cites from others: first columns, and test error in percent
    evaluations  of every run; None: few of a run made short, else what the experiment says
    """

    name: str
    about: str
    columns: tuple[str, ...]
    lines: Mapping[str, Line]
    cited: Sequence[tuple[str, ...]] = ()
    evaluations: int | None = None

    def key(self, result: Result) -> str:
        """A result's line; RunError where it has none."""
        spec = results.spec_of(result)
        for key, line in self.lines.items():
            if line.holds(spec):
                return key
        raise runs.RunError(f"a run of {spec.title()!r} is no row of this table")

    def paper_of(self, spec: Spec) -> Paper | None:
        """What the paper has for a spec; None where it has nothing for those settings."""
        for line in self.lines.values():
            if line.paper is not None and line.spec.like(spec):
                return Paper(*line.paper, line.spec.resolved().updates)
        return None

    @property
    def fields(self) -> set[str]:
        """The settings that all of its experiments have."""
        classes = {type(line.spec) for line in self.lines.values()}
        return set.intersection(*({f.name for f in dataclasses.fields(c)} for c in classes))

    @property
    def datasets(self) -> tuple[str, ...]:
        """To choose from, where there is a choice."""
        return next(iter(self.lines.values())).spec.datasets


def parser(table: Table) -> cli.Parser:
    """The command line of a table."""
    parser = cli.Parser(table.about, table.name)
    parser.add_argument(
        "--rows",
        nargs="+",
        type=sweep.by_row(list(table.lines), cli.integer(0), "SEED"),
        metavar="ROW:SEED,...",
        help="rows, each with seeds of its own (default: all of the paper's with --seeds), of: "
        + ", ".join(table.lines),
    )
    parser.add_argument(
        "--add",
        action="store_true",
        help="keep the runs that the results already hold, and do not run those again",
    )
    sweep.add_arguments(parser, seeds=[1, 2, 3], updates=None, datasets=table.datasets)
    if "width" in table.fields:
        for flag, kind, metavar, text in (
            ("--width", cli.positive, "X", "factor of the networks' numbers of channels"),
            ("--decay-updates", cli.integer(1), "N", "in which the learning rate falls to 0"),
            ("--holdout", cli.integer(1), "N", "CIFAR-10: training images that are the test set"),
        ):
            parser.add_argument(flag, type=kind, metavar=metavar, help=text)
    return parser


FEW_EVALUATIONS = 12  # on images one takes as long as dozens of updates
# What the command line changes of every line that has it, and how the files' names say so.
CHANGES = {
    "updates": "{}-updates",
    "decay_updates": "{}-decay-updates",
    "width": "width{:g}",
    "holdout": "{}-held-out",
}


def changes(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the command line changes."""
    found = {name: getattr(args, name, None) for name in CHANGES}
    return {
        name: value
        for name, value in found.items()
        if value is not None and (name, value) != ("width", 1)
    }


def specs(table: Table, args: argparse.Namespace) -> dict[str, Spec]:
    """The specs to run, by label, each with its data set where it is named; RunError for wrong
    settings."""
    of_the_paper = [key for key, line in table.lines.items() if line.paper and line.default]
    found = {}
    for key, seeds in args.rows or [(key, args.seeds) for key in of_the_paper]:
        spec = table.lines[key].spec
        fields = {field.name for field in dataclasses.fields(spec)}
        mine = {name: value for name, value in changes(args).items() if name in fields}
        if getattr(args, "data", "auto") != "auto":
            mine["dataset"] = args.data
        spec = spec.replace(**mine)
        if evaluations := table.evaluations or (args.updates and FEW_EVALUATIONS):
            every = max(1, spec.resolved().updates // evaluations)
            spec = spec.replace(evaluate_every=every)
        spec.resolved()
        found |= {f"{key}-seed{seed}": spec.replace(seed=seed) for seed in seeds}
    return found


def name_of(table: Table, args: argparse.Namespace, dataset: data.Dataset) -> str:
    """The name of the files: with "-" and what is not the paper's, where something is not.

    dataset: that of the runs, which tells where there is a choice.
    """
    parts = [CHANGES[name].format(value) for name, value in changes(args).items()]
    if len(table.datasets) > 1:
        about = dataset.name + ("" if dataset.original else "-of-other-files")
        (usual,) = {line.spec.resolved().updates for line in table.lines.values()}
        updates = args.updates or usual
        changed = (about, updates) != (table.datasets[0], usual)
        parts = [about, CHANGES["updates"].format(updates)] if changed else []
    return "-".join([table.name, *parts])


def make(table: Table, argv: Sequence[str] | None = None) -> int:
    """Run what is missing, write the table, print it; the exit code."""
    args = parser(table).parse_args(argv)
    backend.select_device(args.device, args.tf32)
    todo = specs(table, args)  # before any file is read or downloaded
    one_of_each = {spec.datasets: spec for spec in todo.values()}
    loaded = {names: spec.load(args.data_dir) for names, spec in one_of_each.items()}
    todo = {label: spec.replace(dataset=loaded[spec.datasets].name) for label, spec in todo.items()}
    name = name_of(table, args, next(iter(loaded.values())))
    folder = Path(args.runs or Path("runs", name))
    path = args.results / f"{name}.json"
    kept = published(table, path) if args.add else {}
    todo = {label: spec for label, spec in todo.items() if label not in kept}
    jobs = {label: sweep.job(spec, args) for label, spec in todo.items()}
    found = list((kept | sweep.run_all(jobs, folder, args.jobs)).values())
    order = list(table.lines)
    found.sort(key=lambda each: (order.index(table.key(each)), each["settings"]["seed"]))
    for key, setting, usual, other in differing(found, table.key):
        raise runs.RunError(
            f"{key}: runs with {setting} {usual} and {other} are not one line; without --add the "
            "results' earlier runs are left out"
        )
    runs.write_json(results.in_folder(path), {"runs": found})
    for label in todo:
        try:
            metrics = (folder / label / "metrics.csv").read_bytes()
        except OSError as error:
            raise runs.RunFailed(f"{error.filename}: {error.strerror}") from error
        curve = results.in_folder(args.results / name / f"{label}.csv")
        runs.replace_file(curve, lambda file, metrics=metrics: file.write(metrics))
    text = markdown(table, found)
    runs.replace_file(path.with_suffix(".md"), lambda file: file.write(text.encode()))
    print(text, end="")
    return 0


def published(table: Table, path: Path) -> dict[str, dict[str, Any]]:
    """The runs that a results file holds, by label; none where there is no file."""
    return results.published(
        path, "table", lambda each: f"{table.key(each)}-seed{each['settings']['seed']}"
    )


# Of a run's settings, what the runs of one line may differ in.
FREE = ("seed", "evaluate_every", "checkpoint_every")


def differing(
    found: Sequence[Result], line: Callable[[Result], str], free: Sequence[str] = ()
) -> Iterator[tuple[str, str, Any, Any]]:
    """In what runs of one line differ from its first, besides what is free: line, setting, the
    first's value, the other's."""
    first: dict[str, Mapping[str, Any]] = {}
    for each in found:
        key, settings = line(each), each["settings"]
        usual = first.setdefault(key, settings)
        for name in sorted((settings.keys() | usual.keys()) - {*FREE, *free}):
            if settings.get(name) != usual.get(name):
                yield key, name, usual.get(name), settings.get(name)


# The text ----------------------------------------------------------------------------------------


def markdown(table: Table, found: Sequence[Result]) -> str:
    """The table: our error, mean ± standard deviation over the seeds, beside the paper's.

    Where a test set is not the official one, the column and a note say so.
    """
    of_line: dict[str, list[Result]] = {}
    for each in found:
        of_line.setdefault(table.key(each), []).append(each)
    comparable = all(
        each["paper_test_error"] is not None or table.lines[key].paper is None
        for key, mine in of_line.items()
        for each in mine
    )
    held_out = {each.get("test_set", data.Dataset.test_name) for each in found}
    held_out -= {data.Dataset.test_name}
    header = [*table.columns, "ε", "error (%)" if held_out else "test error (%)", "by seed"]
    header.append("paper, official test set (%)" if held_out else "paper (%)")
    lines = [f"| {' | '.join(header)} |", "| --- " * len(header) + "|"]
    lines += [
        _line(line, of_line[key], comparable) for key, line in table.lines.items() if key in of_line
    ]
    if comparable:
        for (name, *others), error in ((cells[:-1], cells[-1]) for cells in table.cited):
            cells = [f"{name} (cited by the paper)", *others]
            lines.append(f"| {' | '.join(cells)} | | | | {error} |")
    about = "; ".join(dict.fromkeys(map(_about, found)))
    lines += ["", f"Data set: {about}; ± is the standard deviation over seeds."]
    if held_out and comparable:
        lines.append(
            "The paper's networks were trained on all training images and tested on the official "
            "test set: its numbers are no measure of ours, which were not."
        )
    return "\n".join(lines) + "\n"


def _line(line: Line, found: Sequence[Result], comparable: bool) -> str:
    errors = {each["settings"]["seed"]: each["test_error"] for each in found}
    epsilon = found[0]["settings"].get("epsilon")
    ours = f"{statistics.mean(errors.values()):.2f}"
    if len(errors) > 1:
        ours += f" ± {statistics.stdev(errors.values()):.2f}"
    seeds = ", ".join(f"{seed}: {error:.2f}" for seed, error in sorted(errors.items()))
    theirs = "{:.2f} ± {:.2f}".format(*line.paper) if comparable and line.paper else "-"
    size = "" if epsilon is None else f"{epsilon:g}"
    return f"| {' | '.join([*line.cells, size, ours, seeds, theirs])} |"


def _about(result: Result) -> str:
    """The data set of a run, what its error was measured on if not the official test set, how long
    it was trained, and the width of its network where that is not the paper's."""
    settings = result["settings"]
    width = settings.get("width", 1)
    narrow = "" if width == 1 else f", width {width:g}"
    tested = result.get("test_set", data.Dataset.test_name)
    tested = "" if tested == data.Dataset.test_name else f", tested on {tested}"
    return f"{result['data']['name']}{tested}, {settings['updates']} updates{narrow}"
