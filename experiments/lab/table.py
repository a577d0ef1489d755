"""A table of the paper: every line run with several seeds, beside the paper's numbers."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.lab import cli, results, runs, sweep
from experiments.lab.spec import Spec
from experiments.lab.sweep import Result
from minivat import backend, data

DATASET_NAMES = {"svhn": "SVHN", "cifar10": "CIFAR-10"}
# The first columns that a table can have: what they say of a line's resolved spec.
COLUMNS: dict[str, Callable[[Any], str]] = {
    "method": lambda spec: spec.title_of_method,
    "data set": lambda spec: DATASET_NAMES[spec.dataset],
    "labels": lambda spec: str(spec.labels),
    "network": lambda spec: spec.model,
    "setting": lambda spec: spec.preset,
    "K": lambda spec: f"{spec.power_iterations:g}",
}
MAKING = """

Finished runs are skipped and unfinished ones resumed. When all are done, their results are written
as {name}.json and {name}.md, and beside them the metrics of every run; with other data or settings
than the paper's, under a name that says so."""
# What the command line changes of every line that has it, and how the files' names say so.
CHANGES = {
    "updates": "{}-updates",
    "decay_updates": "{}-decay-updates",
    "width": "width{:g}",
    "holdout": "{}-held-out",
}
OFFICIAL = data.Dataset.test_name


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a table.

    spec     what is run; the fields that it gives tell its runs from those of the other lines
    paper    test error in percent, mean and standard deviation; None where the paper has none
    default  whether it is run where no rows are asked for; never without a number of the paper's
    """

    spec: Spec
    paper: tuple[float, float] | None = None
    default: bool = True

    def holds(self, spec: Spec) -> bool:
        """Whether a run of that resolved spec stands in this line."""
        return type(spec) is type(self.spec) and self.spec.given().items() <= spec.given().items()


@dataclasses.dataclass(frozen=True)
class Table:
    """A table and how it is made.

    name         of the files and on the command line
    about        for --help
    columns      the first ones, of COLUMNS
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

    @property
    def first(self) -> Spec:
        """The spec of its first line."""
        return next(iter(self.lines.values())).spec

    def key(self, result: Result) -> str:
        """A result's line; RunError where it has none."""
        spec = results.spec_of(result)
        for key, line in self.lines.items():
            if line.holds(spec):
                return key
        raise runs.RunError(f"a run of {spec.title()!r} is no row of this table")


def parser(table: Table) -> cli.Parser:
    """The command line of a table."""
    parser = cli.Parser(table.about + MAKING.format(name=table.name), table.name)
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
    sweep.add_arguments(parser, seeds=[1, 2, 3], updates=None, datasets=table.first.datasets)
    if hasattr(table.first, "width"):
        text = "factor of the networks' numbers of channels"
        parser.add_argument("--width", type=cli.positive, metavar="X", help=text)
        cli.add_count(parser, "--decay-updates", 1, None, "in which the learning rate falls to 0")
        text = "CIFAR-10: training images that are the test set"
        cli.add_count(parser, "--holdout", 1, None, text)
    return parser


def changes(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the command line changes."""
    given = {name: getattr(args, name, None) for name in CHANGES}
    return {k: v for k, v in given.items() if v is not None and (k, v) != ("width", 1)}


def specs(table: Table, args: argparse.Namespace) -> dict[str, Spec]:
    """The specs to run, by label; RunError for wrong settings."""
    of_the_paper = [key for key, line in table.lines.items() if line.paper and line.default]
    found = {}
    for key, seeds in args.rows or [(key, args.seeds) for key in of_the_paper]:
        spec = table.lines[key].spec
        spec = spec.replace(**{k: v for k, v in changes(args).items() if hasattr(spec, k)})
        if getattr(args, "data", "auto") != "auto":
            spec = spec.replace(dataset=args.data)
        if evaluations := table.evaluations or (args.updates and sweep.FEW_EVALUATIONS):
            spec = spec.replace(evaluate_every=max(1, spec.resolved().updates // evaluations))
        spec.resolved()
        found |= {f"{key}-seed{seed}": spec.replace(seed=seed) for seed in seeds}
    return found


def name_of(table: Table, args: argparse.Namespace, dataset: data.Dataset) -> str:
    """The name of the files, with what is not the paper's. dataset: that of the runs."""
    if len(table.first.datasets) == 1:
        parts = [CHANGES[name].format(value) for name, value in changes(args).items()]
        return "-".join([table.name, *parts])
    usual = table.first.resolved().updates
    return sweep.file_name(table.name, dataset, {"updates": (args.updates or usual, usual)})


def make(table: Table, argv: Sequence[str] | None = None) -> int:
    """Run what is missing, write the table, print it; the exit code."""
    args = parser(table).parse_args(argv)
    backend.select_device(args.device, args.tf32)
    todo = specs(table, args)  # before any file is read or downloaded
    one_of_each = {spec.datasets: spec for spec in todo.values()}
    loaded = {names: spec.load(args.data_dir) for names, spec in one_of_each.items()}
    name = name_of(table, args, next(iter(loaded.values())))
    folder, path = (
        Path(args.runs or Path("runs", name)),
        results.writable(args.results / f"{name}.json"),
    )
    kept = sweep.published(path, "table", table.key) if args.add else {}
    jobs = {
        label: sweep.job(spec.replace(dataset=loaded[spec.datasets].name), args)
        for label, spec in todo.items()
        if label not in kept
    }
    found = list((kept | sweep.run_all(jobs, folder, args.jobs)).values())
    order = list(table.lines)
    found.sort(key=lambda each: (order.index(table.key(each)), each["settings"]["seed"]))
    advice = "without --add the results' earlier runs are left out"
    sweep.check_alike(sweep.grouped(found, table.key), advice)
    runs.write_json(path, {"runs": found})
    for label in jobs:
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


# The text ----------------------------------------------------------------------------------------


def markdown(table: Table, found: Sequence[Result]) -> str:
    """The table: our error, mean ± standard deviation over the seeds, beside the paper's.

    Where a test set is not the official one, the column and a note say so.
    """
    of_line = sweep.grouped(found, table.key)
    comparable = all(
        each["paper_test_error"] is not None or table.lines[key].paper is None
        for key, mine in of_line.items()
        for each in mine
    )
    held_out = any(each.get("test_set", OFFICIAL) != OFFICIAL for each in found)
    error, paper = "test error (%)", "paper (%)"
    if held_out:
        error, paper = "error (%)", "paper, official test set (%)"
    header = [*table.columns, "ε", error, "by seed", paper]
    rows = [header, ["---"] * len(header)]
    for key, line in table.lines.items():
        if key in of_line:
            cells = [COLUMNS[name](line.spec.resolved()) for name in table.columns]
            rows.append([*cells, *_numbers(of_line[key], line.paper if comparable else None)])
    for name, *others, error in table.cited if comparable else ():
        rows.append([f"{name} (cited by the paper)", *others, "| |", error])  # three empty cells
    about = "; ".join(dict.fromkeys(map(_about, found)))
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    lines += ["", f"Data set: {about}; ± is the standard deviation over seeds."]
    if held_out and comparable:
        lines.append(
            "The paper's networks were trained on all training images and tested on the official "
            "test set: its numbers are no measure of ours, which were not."
        )
    return "\n".join(lines) + "\n"


def _numbers(found: Sequence[Result], paper: tuple[float, float] | None) -> list[str]:
    errors = {each["settings"]["seed"]: each["test_error"] for each in found}
    epsilon = found[0]["settings"].get("epsilon")
    ours = f"{statistics.mean(errors.values()):.2f}"
    if len(errors) > 1:
        ours += f" ± {statistics.stdev(errors.values()):.2f}"
    seeds = ", ".join(f"{seed}: {error:.2f}" for seed, error in sorted(errors.items()))
    theirs = "{:.2f} ± {:.2f}".format(*paper) if paper else "-"
    return ["" if epsilon is None else f"{epsilon:g}", ours, seeds, theirs]


def _about(result: Result) -> str:
    """Data set, test images if not the official ones, updates, and width if not the paper's."""
    about, settings = result["data"]["name"], result["settings"]
    if result.get("test_set", OFFICIAL) != OFFICIAL:
        about += f", tested on {result['test_set']}"
    about += f", {settings['updates']} updates"
    width = settings.get("width", 1)
    return about if width == 1 else f"{about}, width {width:g}"
