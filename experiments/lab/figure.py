"""A figure of the paper: points, each run with several seeds, measured, and drawn from the results.

The points are specs. What a figure shows beyond the results of its runs is measured on the trained
networks. All of it is in the figure's JSON file, from which the picture is drawn.
"""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.lab import cli, machine, results, runs, sweep
from experiments.lab.results import Run
from experiments.lab.spec import Spec
from experiments.lab.sweep import Result
from minivat import backend, data

MAKING = """

Finished runs are skipped and unfinished ones resumed; seeds whose runs the results hold already
are not run again. Writes {name}.json and {name}.png; with other data or another number of updates,
under a name that says so. The learning rate's schedule is then stretched in proportion."""
OF_THE_SCHEDULE = ("updates", "decay_every", "decay_updates")
ROW = ("update", "error", "r_vadv")

Measured = Mapping[str, Mapping[str, Any]]  # by point


class Place(NamedTuple):
    """Where a measure is taken: the runs' data set, the device, the folder of the data's files."""

    dataset: data.Dataset
    device: backend.Device
    data_dir: str | None


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure and how it is made.

    name         of the files and on the command line
    about        for --help; its first line is the title
    setting      what it is made of, in words
    points       what is run, by labels
    draw         (an empty Matplotlib figure, the results by point) ↦ nothing; a result is that of a
                 run, with "rows", and "measured" where there is a measure
    measure      (the runs of one seed by point, where) ↦ JSON by point
    held         (folder of results) ↦ results that another command left there, by point and seed
    seeds        by default
    evaluations  of every run, and rows of it that are kept
    """

    name: str
    about: str
    setting: str
    points: Mapping[str, Spec]
    draw: Callable[[Any, Mapping[str, Sequence[Result]]], None]
    measure: Callable[[Mapping[str, Run], Place], Measured] | None = None
    held: Callable[[Path], dict[str, Any]] | None = None
    seeds: Sequence[int] = (1, 2, 3)
    evaluations: int = 50

    @property
    def datasets(self) -> tuple[str, ...]:
        """Those that it can be made of."""
        return next(iter(self.points.values())).datasets

    @property
    def updates(self) -> int:
        """Of its longest run."""
        return max(spec.resolved().updates for spec in self.points.values())


def parser(figure: Figure) -> cli.Parser:
    """The command line of a figure."""
    about = f"{figure.about}\n{figure.setting}" + MAKING.format(name=figure.name)
    parser = cli.Parser(about, figure.name)
    sweep.add_arguments(
        parser, seeds=figure.seeds, updates=figure.updates, datasets=figure.datasets
    )
    return parser


def specs(figure: Figure, args: Namespace, dataset: str) -> dict[str, Spec]:
    """The points as the command line asks for them."""
    share = args.updates / figure.updates

    def asked(spec: Spec) -> Spec:
        held_out = spec.validation and sweep.VALIDATION[dataset]
        spec = spec.replace(dataset=dataset, validation=held_out)
        if share != 1:
            whole = spec.resolved()
            lengths = {name: getattr(whole, name, None) for name in OF_THE_SCHEDULE}
            spec = spec.replace(**{k: max(1, round(n * share)) for k, n in lengths.items() if n})
        return spec.replace(evaluate_every=max(1, spec.resolved().updates // figure.evaluations))

    return {point: asked(spec) for point, spec in figure.points.items()}


def make(figure: Figure, argv: Sequence[str] | None = None) -> int:
    """Run what is missing, measure it, write the results and the picture; the exit code."""
    args = parser(figure).parse_args(argv)
    device = backend.select_device(args.device, args.tf32)
    first = next(iter(figure.points.values()))
    chosen = getattr(args, "data", "auto")
    dataset = first.replace(dataset=None if chosen == "auto" else chosen).load(args.data_dir)
    points = specs(figure, args, dataset.name)
    next(iter(points.values())).resolved().split(dataset)  # too few images: said before any run
    counts = {"updates": (args.updates, figure.updates)}
    name = sweep.file_name(figure.name, dataset, counts)
    path = results.writable(args.results / f"{name}.json")
    found = figure.held(args.results) if figure.held else {}
    found |= results.published(path, "figure", _label, ("rows",))
    todo = [seed for seed in args.seeds if any(f"{p}-seed{seed}" not in found for p in points)]
    folder = Path(args.runs or Path("runs", name))
    jobs = {
        f"{point}-seed{seed}": sweep.job(spec.replace(seed=seed), args)
        for seed in todo
        for point, spec in points.items()
    }
    of_runs = sweep.run_all(jobs, folder, args.jobs)
    environment = machine.environment(device)
    for seed in todo:
        runs_of_seed = {point: Run(folder / f"{point}-seed{seed}") for point in points}
        place = Place(dataset, device, args.data_dir)
        measured = figure.measure(runs_of_seed, place) if figure.measure else {}
        for point, run in runs_of_seed.items():
            label = f"{point}-seed{seed}"
            rows = [{name: row[name] for name in ROW} for row in run.rows(ROW)]
            found[label] = {**of_runs[label], "point": point, "rows": rows}
            found[label] |= {"measured": measured.get(point), "environment": environment}
    runs.write_json(path, {"figure": figure.name, "runs": list(found.values())})
    from experiments.lab import plotting

    plotting.save(canvas(figure, list(found.values())), path.with_suffix(".png"))
    print(f"written: {path}; drawn: {path.with_suffix('.png')}")
    return 0


def canvas(figure: Figure, found: Sequence[Result]) -> Any:
    """The picture of the results, a Matplotlib figure."""
    from matplotlib.figure import Figure as Canvas

    drawn = Canvas(layout="constrained")
    grouped = sweep.grouped(found, lambda each: each["point"])
    figure.draw(drawn, {point: grouped[point] for point in figure.points if point in grouped})
    return drawn


def _label(result: Result) -> str:
    return f"{result['point']}-seed{result['settings']['seed']}"
