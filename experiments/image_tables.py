"""What the tables on SVHN and CIFAR-10 have in common: flags, and names of what is not the paper's.

A full table needs a GPU: --rows picks lines of it, --width and --updates make the runs small, and
then neither the files' names nor the table claim to be the paper's.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

from experiments import common, images, tables

DATASET_NAMES = {"svhn": "SVHN", "cifar10": "CIFAR-10"}


def lines(
    task: images.Task,
    models: Sequence[str],
    augment: str,
    columns: tuple[str, ...],
    iterations: Sequence[int] = (1,),
) -> dict[str, tables.Line]:
    """The lines of a task, by what `key` gives for their results.

    columns: which of "data set", "network", "method" and "K" its cells are. VAT by the exact
    direction, which is not the paper's, is only run where it is asked for.
    """
    found = {}
    for model in models:
        for name, row in task.rows.items():
            for k in iterations:
                if k != 1 and not name.startswith("vat"):
                    continue
                cells = {
                    "data set": DATASET_NAMES[task.dataset],
                    "network": model,
                    "method": row.name,
                    "K": str(k),
                }
                arguments = [*common.row_arguments(name), "--model", model, "--augment", augment]
                arguments += ["--power-iterations", str(k)] if k != 1 else []
                found[f"{task.dataset}-{model}-{name}" + (f"-k{k}" if k != 1 else "")] = (
                    tables.Line(
                        cells=tuple(cells[column] for column in columns),
                        module=f"experiments.{task.name}",
                        arguments=arguments,
                        paper=row.paper.get((model, augment, k)),
                        usual=name != "vat-exact",
                    )
                )
    return found


def key(result: dict) -> str:
    """A result's line."""
    k = result["settings"].get("power_iterations", 1)
    line = f"{result['dataset']}-{result['model']}-{result['row']}"
    return line + (f"-k{k}" if k != 1 else "")


def parser(description: str, table: tables.Table) -> common.Parser:
    """The command line of a table."""
    parser = tables.parser(description, table, seeds=[1, 2, 3])
    parser.add_argument(
        "--width",
        type=common.positive,
        default=1.0,
        metavar="X",
        help="factor of the networks' numbers of channels (default: 1)",
    )
    common.add_count(
        parser,
        "--decay-updates",
        1,
        None,
        "the last N updates of every run, in which the learning rate falls (default: by data set)",
    )
    if any("cifar10" in line.module for line in table.lines.values()):
        common.add_count(
            parser,
            "--holdout",
            0,
            0,
            "CIFAR-10: N training images are the test set, where the official one is missing",
        )
    return parser


def check(table: tables.Table, args: argparse.Namespace) -> None:
    """Raise what the runs would of their settings, the width or the data, before any is started.

    And have the whitening fitted, once, which runs that start together would all do.
    """
    datasets = set()
    for key, _ in tables.asked(table, args):
        line = table.lines[key]
        task = importlib.import_module(line.module).TASK
        run = images.parser(task).parse_args([*line.arguments, *shared(args)])
        settings = images.all_settings(task, run, common.row_of(run, images.DIRECTION))
        images.build(task.dataset, settings)
        datasets.add(task.dataset)
    for name in sorted(datasets):
        images.load(name, args.data_dir, args.holdout if name == "cifar10" else 0)


def shared(args: argparse.Namespace) -> list[str]:
    """The arguments that every run is given."""
    flags = {
        "--width": args.width if args.width != 1 else None,
        "--updates": args.updates,
        "--decay-updates": args.decay_updates,
        # An evaluation takes as long as dozens of updates: of runs made short, but a few.
        "--evaluate-every": max(1, args.updates // 12) if args.updates else None,
        "--data-dir": args.data_dir,
    }
    given = [str(part) for flag in flags.items() if flag[1] is not None for part in flag]
    return given + common.device_arguments(args)


def make(table: tables.Table, args: argparse.Namespace) -> None:
    """Run what is missing, write the table, print it."""
    check(table, args)
    holdout = ["--holdout", str(args.holdout)] if getattr(args, "holdout", 0) else []
    suffix = f"-{args.updates}-updates" if args.updates else ""
    suffix += f"-{args.decay_updates}-decay-updates" if args.decay_updates else ""
    suffix += f"-width{args.width:g}" if args.width != 1 else ""
    suffix += f"-{args.holdout}-held-out" if holdout else ""
    tables.make(
        table,
        args,
        suffix,
        lambda line: [*shared(args), *(holdout if "cifar10" in line.module else [])],
    )
