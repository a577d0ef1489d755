"""Several runs in one figure: error and R_vadv over training.

    python -m experiments.curves "labels alone=RUN" "VAT=RUN" --out curves.png

RUN is the folder of a run, finished or not; without a name, the folder's name is its name. A JSON
file beside the figure says what it was drawn from.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import common, jobs
from experiments.lab import runs
from minivat import backend


def parser() -> common.Parser:
    """The command line."""
    parser = common.Parser(__doc__)
    parser.add_argument("runs", nargs="+", type=named_run, metavar="[NAME=]RUN")
    parser.add_argument("--title", metavar="TEXT", help="default: the data set")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/curves.png"),
        metavar="FILE",
        help="default: runs/curves.png",
    )
    return parser


def named_run(text: str) -> tuple[str, Path]:
    """An argparse type: a run's name and its folder."""
    name, separator, folder = text.partition("=")
    return (name, Path(folder)) if separator else (Path(text).name, Path(text))


def read_config(folder: Path) -> dict[str, Any]:
    """A run's config.json; RunError where it is not that of a run."""
    config = runs.read_json(folder / "config.json")
    try:
        measured_on(config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise runs.RunError(f"{folder / 'config.json'} is not that of a run") from error
    return config


def measured_on(config: Mapping[str, Any]) -> tuple[str, str, frozenset[tuple[str, str]]]:
    """A run's data set, what its error is the error on, and the checksums of its files.

    The whitening's is left out: fitted on another machine, its matrix differs in its last bits.
    """
    settings, dataset = config["settings"], config["data"]["name"]
    checksums = config["data"]["checksums"].items()
    files = frozenset((name, checksum) for name, checksum in checksums if name != "zca.matrix")
    what = "test images"
    if holdout := settings.get("holdout"):
        what = f"{holdout:,} held-out training images"
    if settings.get("validation"):
        others = f", others than the {what}" if holdout else ""
        seed = settings.get("data_seed", settings["seed"])
        what = f"{settings['validation']:,} validation images of seed {seed}{others}"
    return dataset, what, files


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure, write beside it what it was drawn from; the exit code."""
    args = parser().parse_args(argv)
    configs = {name: read_config(folder) for name, folder in args.runs}
    found = {measured_on(config) for config in configs.values()}
    if len(found) > 1:
        differences = sorted({f"{dataset}, {what}" for dataset, what, _ in found})
        if len(differences) == 1:
            differences.append("the same of other files (SHA-256)")
        raise runs.RunError(
            f"the runs are measured on different images: {' and '.join(differences)}"
        )
    ((dataset, what, _),) = found
    columns = ("update", "error", "r_vadv")
    courses = {name: common.rows_of(folder, columns) for name, folder in args.runs}
    if len(courses) < len(args.runs):
        raise runs.RunError("two of the runs have the same name: give them as NAME=RUN")
    from experiments import plots

    path = jobs.writable(args.out)
    environment = common.environment(backend.Device())  # before a figure in the repository changes
    plots.curves(path, courses, args.title or dataset, f"error on {what} (%)")
    drawn_from = {
        "command": common.command_line("curves", args),
        "runs": configs,
        "environment": environment,
    }
    runs.write_json(path.with_suffix(".json"), drawn_from)
    print(f"drawn: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
