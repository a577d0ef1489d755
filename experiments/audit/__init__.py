"""What one power iteration really finds: exact curvature of two trained networks, measured.

    python -m experiments audit

On the test images, for networks trained without VAT and with it: the spectrum of every image's H
over training; what the directions of K power iterations capture of it, exact and by finite
differences; and how far D at r_vadv is from the true maximum on the ball, ε by ε. The networks are
those of the newest finished runs of `make mnist-sup` or `make table1`, of --seed and of the next
one; if there are none, shorter ones are trained first. Measured parts are kept, so the command
continues where it was stopped. Page and figures are written last, from audit.json alone.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from experiments.audit import measure, networks, numbers, page
from experiments.lab import cli, machine, results, runs
from minivat import backend, data

STAGES = (0, 600, 6_000)
UPDATES = 60_000  # of the paper's runs
WORK = Path("runs", "audit")


def parser() -> cli.Parser:
    """The command line."""
    parser = cli.Parser(__doc__, "audit")
    add = parser.add_argument
    for label, method in networks.METHODS.items():
        text = f"finished runs of {method}: the first is audited in full, other seeds in part"
        add(f"--{label}", nargs="+", default=[], type=Path, metavar="RUN", help=text)
    count = functools.partial(cli.add_count, parser)
    count("--seed", 0, 1, "of the runs and of the random directions")
    count("--images", 1, None, "test images, evenly spread (default: all)")
    count("--updates", 1, 6_000, "of the runs that are trained if none are finished")
    count("--jobs", 1, 2, "runs, or chunks of images, at once, each on one thread")
    text = f"updates after which spectra are taken, too (default: {' '.join(map(str, STAGES))})"
    add("--stages", nargs="*", type=cli.integer(0), default=STAGES, metavar="N", help=text)
    cli.add_device_arguments(parser)
    add("--data", default="auto", choices=["auto", "mnist", "digits"])
    add("--data-dir", metavar="DIR", help="where the data set's files are")
    add("--out", type=Path, metavar="DIR", help="folder of the page (default: by data and images)")
    text = f"folder of measured parts and of networks trained here (default: {WORK})"
    add("--work", type=Path, default=WORK, metavar="DIR", help=text)
    add("--overwrite", action="store_true", help="measure all parts again")
    add("--quiet", action="store_true", help="print the result only")
    add("--page", type=Path, metavar="DIR", help="only write the page of DIR/audit.json again")
    return parser


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, write the numbers, the figures and the page; the exit code."""
    args = parser().parse_args(argv)
    out = args.page
    if out is None:
        device = backend.select_device(args.device, args.tf32)
        dataset = data.load(args.data, args.data_dir)
        total = len(dataset.test_images)
        count = args.images or total
        if count > total:
            message = f"--images {count} is too many: {dataset.name} has {total} test images"
            raise runs.RunError(message)
        images = dataset.test_images[:: total // count][:count]
        audited = networks.networks_to_audit(args, dataset)
        name = _name(args, dataset.name, max(each.updates for each in audited))
        out = args.out or results.NEW / name
        path = results.writable(out / "audit.json")
        audit = _measured(args, audited, dataset, images, device, args.work / name)
        runs.write_json(path, audit)
    print(page.write(out))
    return 0


def _name(args, dataset, updates):
    """audit, and what makes it another one than that of the paper's runs and the whole test set."""
    name = "audit"
    if (dataset, updates) != ("mnist", UPDATES):
        name += f"-{dataset}-{updates}-updates"
    name += f"-{args.images}-images" if args.images is not None else ""
    return name + (f"-seed{args.seed}" if args.seed != 1 else "")


def _measured(args, audited, dataset, images, device, folder):
    """The content of audit.json; measures the parts that have no file in the folder yet."""
    about = {"seed": args.seed, "images": len(images)}
    specs = {each.label: each.spec.settings() for each in audited}
    files = {"name": dataset.name, "checksums": dataset.checksums}
    config = {"settings": {**about, "networks": specs}, "data": files}
    environment = machine.environment(device)
    choice = {"resume": not args.overwrite, "overwrite": args.overwrite}
    with runs.open_run(folder, config, environment, **choice, say=lambda text: None):
        if args.overwrite:
            for path in folder.glob("*.npz"):
                path.unlink()
        parts = [part for network in audited for part in measure.parts_of(network)]
        missing = [part for part in parts if not (folder / part.file).exists()]
        _measure(args, missing, dataset, images, device, folder)
        return {
            "experiment": "audit",
            **about,
            "dataset": dataset.name,
            "device": device.description,
            "commit": environment["commit"],
            "networks": numbers.numbers(parts, folder),
            "data": files,
            "environment": environment,
        }


def _measure(args, parts, dataset, images, device, folder):
    """Write the parts' files; --jobs chunks of images at once."""
    import threadpoolctl

    starts = range(0, len(images), measure.CHUNK)
    cpu = device.name == "cpu"
    with (
        threadpoolctl.threadpool_limits(1 if cpu else None),
        ThreadPoolExecutor(args.jobs if cpu else 1) as pool,
    ):
        for network, its_parts in itertools.groupby(parts, lambda part: part.network):
            trainer = network.trainer(dataset, device)
            for part in its_parts:
                if not args.quiet:
                    print(f"[{parts.index(part) + 1}/{len(parts)}] {part.file}", file=sys.stderr)
                logits = results.trained_network(trainer, device, part.dtype)
                of_chunk = functools.partial(part.measure, logits, images, device, args.seed)
                chunks = list(pool.map(of_chunk, starts))
                found = {key: np.concatenate([c[key] for c in chunks], -1) for key in chunks[0]}
                if part.kind == "spectra":
                    error = trainer.error(dataset.test_images, dataset.test_labels)
                    found["test_error"] = np.array(error)
                runs.replace_file(folder / part.file, functools.partial(np.savez, **found))
