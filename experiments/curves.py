"""Several runs in one figure: error and R_vadv over training.

    python -m experiments.curves "labels alone=RUN" "VAT=RUN" --out curves.png

RUN is the folder of a run, finished or not; without a name, the folder's name is its name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import common, jobs
from minivat import runs


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


def measured_on(folder: Path) -> tuple[str, str]:
    """A run's data set, and what its error is the error on."""
    config = runs.read_json(folder / "config.json")
    try:
        settings, dataset = config["settings"], config["data"]["name"]
    except (KeyError, TypeError) as error:
        raise runs.RunError(f"{folder / 'config.json'} is not that of a run") from error
    if settings.get("validation"):
        return dataset, f"{settings['validation']:,} validation images"
    if settings.get("holdout"):
        return dataset, f"{settings['holdout']:,} held-out training images"
    return dataset, "test images"


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure; the exit code."""
    args = parser().parse_args(argv)
    found = {measured_on(folder) for _, folder in args.runs}
    if len(found) > 1:
        differences = " and ".join(sorted(f"{dataset}, {what}" for dataset, what in found))
        raise runs.RunError(f"the runs are measured on different images: {differences}")
    ((dataset, what),) = found
    columns = ("update", "error", "r_vadv")
    courses = {name: common.rows_of(folder, columns) for name, folder in args.runs}
    if len(courses) < len(args.runs):
        raise runs.RunError("two of the runs have the same name: give them as NAME=RUN")
    from experiments import plots

    path = jobs.in_folder(args.out)
    plots.curves(path, courses, args.title or dataset, f"error on {what} (%)")
    print(f"drawn: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
