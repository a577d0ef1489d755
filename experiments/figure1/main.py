"""Figure 1: VAT on points in the plane, eight of them with a label, next to MLE and RPT.

    python -m experiments synthetic

Trains all methods on two moons and on two circles, with every seed; prints and writes the share of
the unlabelled points that each gets wrong (synthetic.json), draws the first seed's training
(synthetic.png), and lets the boundary move off the data (synthetic.gif).
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.figure1 import train
from experiments.figure1.train import Settings, Stage
from experiments.lab import cli, machine, results, runs
from minivat import backend
from minivat.data import synthetic

MOST_NOISE = 10.0  # ten radii
STAGES = (10, 50, 150)  # updates of VAT that the picture shows before the last one
FRAMES = 40


def parser() -> cli.Parser:
    """The command line."""
    parser = cli.Parser(__doc__, "synthetic")
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=cli.integer(0),
        default=list(range(1, 11)),
        metavar="N",
        help="of points, labels and networks; the first is drawn (default: 1 to 10)",
    )
    parser.add_argument(
        "--epsilon",
        type=cli.positive,
        metavar="X",
        help="of RPT and VAT (default: 0.15 on the moons, 0.1 on the circles)",
    )
    for name, kind, metavar, text in (
        ("updates", cli.integer(1), "N", "of every network"),
        ("noise", cli.not_negative, "X", "standard deviation of the points around their curves"),
        ("alpha", cli.positive, "X", "weight of RPT's and VAT's term"),
        ("power_iterations", cli.iterations, "K", "of VAT, 0.5 too"),
        ("samples", cli.integer(1, 100), "S", "perturbations averaged by RPT and VAT"),
    ):
        default = getattr(Settings, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=default,
            metavar=metavar,
            help=f"{text} (default: {default:g})",
        )
    parser.add_argument(
        "--draw",
        choices=synthetic.DRAWS,
        default=Settings.draw,
        help="which points are labelled: spread along the curves (default), or drawn at random, "
        "as many of each class (balanced) or not (plain)",
    )
    parser.add_argument(
        "--out",
        type=cli.folder_name,
        default="runs/synthetic",
        metavar="DIR",
        help="default: runs/synthetic",
    )
    return parser


def settings_of(args: argparse.Namespace) -> Settings:
    """What the arguments ask for."""
    if args.noise > MOST_NOISE:
        raise runs.RunError(f"--noise {args.noise:g} is too large: the largest is {MOST_NOISE:g}")
    settings = Settings(
        updates=args.updates,
        early=min(Settings.early, args.updates),
        noise=args.noise,
        draw=args.draw,
        alpha=args.alpha,
        power_iterations=args.power_iterations,
        samples=args.samples,
    )
    if args.epsilon is None:
        return settings
    return dataclasses.replace(settings, epsilon=dict.fromkeys(train.SETS, args.epsilon))


def frame_updates(updates: int) -> list[int]:
    """The numbers of updates that the film shows: close at the beginning, where most happens."""
    return sorted({0, *np.geomspace(1, updates, FRAMES).round().astype(int).tolist()})


def shown(settings: Settings, name: str, seed: int) -> tuple[list[Stage], list[Stage]]:
    """The stages of the picture, VAT's and the last of MLE and RPT, and VAT's in the film."""
    points, end = train.make_points(settings, name, seed), settings.updates
    pictured = [update for update in STAGES if update < end] + [end]
    filmed = frame_updates(end)
    updates = sorted({*pictured, *filmed})
    by_update = {
        stage.update: stage for stage in train.stages(settings, points, "vat", seed, updates)
    }
    others = [
        stage
        for method in ("mle", "rpt")
        for stage in train.stages(settings, points, method, seed, [end])
    ]
    return [by_update[update] for update in pictured] + others, [by_update[u] for u in filmed]


def table(errors: Sequence[Mapping[str, Any]], settings: Settings) -> str:
    """The errors for people: early and at the end the mean, at the end also every seed's."""
    lines = []
    for name in train.SETS:
        for method in train.METHODS:
            mine = [each for each in errors if (each["set"], each["method"]) == (name, method)]
            last = [each["error"] for each in mine]
            lines.append(
                [
                    name,
                    method.upper(),
                    "" if method == "mle" else f"{settings.epsilon[name]:g}",
                    f"{statistics.mean(each['early_error'] for each in mine):.2f}",
                    f"{statistics.mean(last):.2f}",
                    f"{max(last):.1f}",
                    " ".join(f"{error:.1f}" for error in last),
                ]
            )
    ends = f"error (%) at {settings.early}", f"at {settings.updates}"
    return cli.table(["points", "method", "ε", *ends, "largest", "by seed"], lines)


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Train all networks, draw, write the errors, print them; the exit code."""
    args = parser().parse_args(argv)
    settings = settings_of(args)
    if len(set(args.seeds)) < len(args.seeds):
        raise runs.RunError(f"--seeds {' '.join(map(str, args.seeds))}: each only once")
    from experiments.figure1 import draw  # Matplotlib takes longer to import than all the rest

    out = Path(args.out)
    path = results.in_folder(out / "synthetic.json")
    environment = machine.environment(backend.Device())  # before figures in the repository change
    errors = train.errors(settings, args.seeds)
    pictured, filmed = zip(
        *(shown(settings, name, args.seeds[0]) for name in train.SETS), strict=True
    )
    draw.picture(out / "synthetic.png", pictured)
    draw.film(out / "synthetic.gif", filmed)
    runs.write_json(
        path,
        {
            "command": cli.command_line("synthetic", args),
            "settings": dataclasses.asdict(settings),
            "runs": errors,
            "environment": environment,
        },
    )
    print(table(errors, settings))
    print(f"drawn: {out / 'synthetic.png'}, {out / 'synthetic.gif'}")
    return 0
