"""What one power iteration really finds: exact curvature of two trained networks, measured.

    python -m experiments audit

On the test images, for networks trained without VAT and with it: the spectrum of every image's H
over training; what the directions of K power iterations capture of it, exact and by finite
differences; and how far D at r_vadv is from the true maximum on the ball, ε by ε. The networks are
those of finished runs of `make mnist-sup` and `make table1`; if there are none, shorter ones are
trained first. Measured parts are kept, so the command continues where it was stopped. The last
files written are a page with figures, from audit.json alone; --page writes only these again.
"""

from __future__ import annotations

import functools
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.audit import measure, networks, numbers, page
from experiments.lab import cli, machine, results, runs
from minivat import backend, data

STAGES = (0, 600, 6_000)
UPDATES = 60_000  # of the paper's runs


def parser() -> cli.Parser:
    """The command line."""
    parser = cli.Parser(__doc__, "audit")
    for flag, method in networks.METHODS.items():
        parser.add_argument(
            f"--{flag}",
            nargs="+",
            type=Path,
            metavar="RUN",
            help=f"finished runs of {method}: the first is audited in full, the others, of other "
            "seeds, in less detail (default: those of --seed and of the next seed in "
            "runs/mnist_sup or runs/table1)",
        )
    for flag, low, default, text in (
        ("--seed", 0, 1, "of the runs and of the random directions"),
        ("--images", 1, None, "test images, evenly spread (default: all)"),
        ("--updates", 1, 6_000, "of the runs that are trained if none are finished"),
        ("--jobs", 1, 2, "runs, or chunks of images, at once, each on one thread"),
    ):
        cli.add_count(parser, flag, low, default, text)
    parser.add_argument(
        "--stages",
        nargs="*",
        type=cli.integer(0),
        default=STAGES,
        metavar="N",
        help=f"updates after which spectra are taken, too (default: {' '.join(map(str, STAGES))})",
    )
    cli.add_device_arguments(parser)
    parser.add_argument("--data", default="auto", choices=["auto", "mnist", "digits"])
    parser.add_argument("--data-dir", metavar="DIR", help="where the data set's files are")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the page (default: by data and images)"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs", "audit"),
        metavar="DIR",
        help="folder of measured parts and of networks trained here (default: runs/audit)",
    )
    parser.add_argument("--overwrite", action="store_true", help="measure all parts again")
    parser.add_argument("--quiet", action="store_true", help="print the result only")
    parser.add_argument(
        "--page",
        type=Path,
        metavar="DIR",
        help="measure nothing: write page and figures of the audit.json in this folder again",
    )
    return parser


def name_of(args: Namespace, dataset: str, updates: int) -> str:
    """audit, and what makes it another one than that of the paper's runs and the whole test set."""
    name = "audit"
    if (dataset, updates) != ("mnist", UPDATES):
        name += f"-{dataset}-{updates}-updates"
    name += f"-{args.images}-images" if args.images is not None else ""
    return name + (f"-seed{args.seed}" if args.seed != 1 else "")


def images_of(args: Namespace, dataset: data.Dataset) -> np.ndarray:
    """So many test images, evenly spread; RunError if there are not so many."""
    total = len(dataset.test_images)
    count = total if args.images is None else args.images
    if count > total:
        raise runs.RunError(f"--images {count} is too many: {dataset.name} has {total} test images")
    return dataset.test_images[:: total // count][:count]


def measured(
    args: Namespace,
    audited: Sequence[networks.Audited],
    dataset: data.Dataset,
    images: np.ndarray,
    device: backend.Device,
    work: Path,
) -> dict[str, Any]:
    """The content of audit.json; measures the parts that are missing in the folder `work`."""
    specs = {each.label: each.spec.settings() for each in audited}
    config = {
        "settings": {"seed": args.seed, "images": len(images), "networks": specs},
        "data": {"name": dataset.name, "checksums": dataset.checksums},
    }
    environment = machine.environment(device)
    opened = runs.open_run(
        work,
        config,
        environment,
        resume=not args.overwrite,
        overwrite=args.overwrite,
        say=lambda text: None,
    )
    with opened:
        if args.overwrite:
            for path in work.glob("*.npz"):
                path.unlink()
        parts = [part for network in audited for part in measure.parts_of(network)]
        jobs = args.jobs if device.name == "cpu" else 1
        how = {"seed": args.seed, "jobs": jobs, "quiet": args.quiet}
        measure.measure_missing(parts, dataset, images, device, work, **how)
        return {
            "experiment": "audit",
            "seed": args.seed,
            "images": len(images),
            "dataset": dataset.name,
            "device": device.description,
            "commit": environment["commit"],
            "networks": numbers.numbers(parts, work),
            "data": config["data"],
            "environment": environment,
        }


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, write the numbers, the figures and the page; the exit code."""
    args = parser().parse_args(argv)
    if args.page is not None:
        print(page.write(args.page, runs.read_json(args.page / "audit.json")))
        return 0
    device = backend.select_device(args.device, args.tf32)
    dataset = data.load(args.data, args.data_dir)
    images = images_of(args, dataset)
    log = (lambda text: None) if args.quiet else functools.partial(print, file=sys.stderr)
    audited = networks.networks_to_audit(args, dataset, log)
    name = name_of(args, dataset.name, max(each.updates for each in audited))
    audit = measured(args, audited, dataset, images, device, args.work / name)
    out = args.out or results.RESULTS / name
    runs.write_json(results.in_folder(out / "audit.json"), audit)
    print(page.write(out, runs.read_json(out / "audit.json")))
    return 0
