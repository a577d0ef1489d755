"""Figure 1: VAT on points in the plane, eight of them with a label, next to MLE and RPT.

    python -m experiments synthetic

Trains all methods on two moons and on two circles, with every seed; prints and writes the share of
the unlabelled points that each gets wrong (synthetic.json), draws the first seed's training
(synthetic.png), and lets the boundary move off the data (synthetic.gif).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.figure1 import train
from experiments.figure1.train import Settings, Stage
from experiments.lab import cli, machine, results, runs
from minivat import backend

FLAGS = [field for field in dataclasses.fields(Settings) if field.metadata]
MOST_NOISE = 10.0  # ten radii
STAGES = (10, 50, 150)  # updates of VAT that the picture shows before the last one
FRAMES = 40


def parser() -> cli.Parser:
    """The command line."""
    parser = cli.Parser(__doc__, "synthetic")
    text = "of points, labels and networks; the first is drawn (default: 1 to 10)"
    cli.add_seeds(parser, range(1, 11), text)
    parser.add_argument(
        "--epsilon",
        type=cli.positive,
        metavar="X",
        help="of RPT and VAT (default: 0.15 on the moons, 0.1 on the circles)",
    )
    for field in FLAGS:
        flag = f"--{field.name.replace('_', '-')}"
        parser.add_argument(flag, default=field.default, **field.metadata)
    parser.add_argument(
        "--out",
        type=cli.folder_name,
        default="runs/synthetic",
        metavar="DIR",
        help="default: %(default)s",
    )
    return parser


def settings_of(args: argparse.Namespace) -> Settings:
    """What the arguments ask for."""
    if args.noise > MOST_NOISE:
        raise runs.RunError(f"--noise {args.noise:g} is too large: the largest is {MOST_NOISE:g}")
    values = {field.name: getattr(args, field.name) for field in FLAGS}
    if args.epsilon is not None:
        values["epsilon"] = dict.fromkeys(train.SETS, args.epsilon)
    return Settings(early=min(Settings.early, args.updates), **values)


def frame_updates(updates: int) -> list[int]:
    """The numbers of updates that the film shows: close at the beginning, where most happens."""
    return sorted({0, *np.geomspace(1, updates, FRAMES).round().astype(int).tolist()})


def shown(settings: Settings, name: str, seed: int) -> tuple[list[Stage], list[Stage]]:
    """The stages of the picture, VAT's and the last of MLE and RPT, and VAT's in the film."""
    end = settings.updates
    pictured = [update for update in STAGES if update < end] + [end]
    filmed = frame_updates(end)
    vat = train.stages(settings, name, "vat", seed, {*pictured, *filmed})
    others = [train.stages(settings, name, method, seed, {end})[end] for method in ("mle", "rpt")]
    return [vat[update] for update in pictured] + others, [vat[update] for update in filmed]


def table(errors: Sequence[Mapping[str, Any]], settings: Settings) -> str:
    """The errors for people: early and at the end the mean, at the end also every seed's."""
    lines = []
    for name, method in itertools.product(train.SETS, train.METHODS):
        mine = [each for each in errors if (each["set"], each["method"]) == (name, method)]
        last = [each["error"] for each in mine]
        epsilon = "" if method == "mle" else f"{settings.epsilon[name]:g}"
        early_mean = statistics.mean(each["early_error"] for each in mine)
        means = [f"{mean:.2f}" for mean in (early_mean, statistics.mean(last))]
        by_seed = " ".join(f"{error:.1f}" for error in last)
        lines.append([name, method.upper(), epsilon, *means, f"{max(last):.1f}", by_seed])
    ends = f"error (%) at {settings.early}", f"at {settings.updates}"
    return cli.table(["points", "method", "ε", *ends, "largest", "by seed"], lines)


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Train all networks, draw, write the errors, print them; the exit code."""
    args = parser().parse_args(argv)
    settings = settings_of(args)
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
    content = {
        "command": cli.command_line("synthetic", args),
        "settings": dataclasses.asdict(settings),
        "runs": errors,
        "environment": environment,
    }
    runs.write_json(path, content)
    print(table(errors, settings))
    print(f"drawn: {out / 'synthetic.png'}, {out / 'synthetic.gif'}")
    return 0
