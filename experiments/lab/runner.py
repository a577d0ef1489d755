"""From the command line of an experiment to a finished run: flags → Spec → training → result."""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.lab import cli, loop, machine, runs
from experiments.lab.methods import METHOD_SETTINGS, METHODS, method_name
from experiments.lab.spec import Paper, Spec, flags
from minivat import backend, data, vat

COLUMNS = ("update", "nll", "r_vadv", "learning_rate", "error", "seconds", "regularizer")
R_VADV_EPSILON = 2.0  # of figure 2: one yardstick for all methods, whatever they were trained with
R_VADV_IMAGES = 1000


def parser(cls: type[Spec]) -> cli.Parser:
    """The command line of an experiment."""
    parser = cli.Parser(inspect.cleandoc(cls.__doc__), cls.experiment)
    method = parser.add_argument_group("method (a flag that the method does not use is refused)")
    spec = cls().resolved()
    usual = {**spec.usual, **spec.given()}
    method.add_argument(
        "--method", choices=["vat", *cls.methods], help=f"default: vat, which is {spec.method}"
    )
    method.add_argument(
        "--direction", choices=vat.DIRECTIONS, help="of vat and vat-entmin: how H d is computed"
    )
    training = parser.add_argument_group("training")
    for name, options in flags(cls).items():
        group = method if name in METHOD_SETTINGS else training
        text, value = options["help"], usual.get(name)
        if value is not None and "(default" not in text:
            text += f" (default: {value:g})" if isinstance(value, float) else f" (default: {value})"
        group.add_argument(f"--{name.replace('_', '-')}", **{**options, "help": text})
    place = parser.add_argument_group("device, data and files")
    cli.add_device_arguments(place)
    if len(cls.datasets) > 1:
        first, *_, last = cls.datasets
        place.add_argument(
            "--data",
            default="auto",
            choices=["auto", *cls.datasets],
            help=f"default: auto, which is {first} where it can be had, else {last}",
        )
    place.add_argument("--data-dir", metavar="DIR", help="where the data set's files are")
    place.add_argument(
        "--out",
        type=cli.folder_name,
        metavar="DIR",
        help="the run's folder (default: named after the run)",
    )
    again = place.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    again.add_argument("--overwrite", action="store_true", help="replace the run in the folder")
    place.add_argument(
        "--tensorboard", action="store_true", help="write the metrics for TensorBoard too"
    )
    place.add_argument("--quiet", action="store_true", help="print the result only")
    return parser


def spec_of(cls: type[Spec], args: argparse.Namespace) -> Spec:
    """The spec that the command line asks for; RunError where its flags do not fit together."""
    method = args.method or "vat"
    if method not in METHODS or args.direction:
        method = method_name(method, args.direction or cls.direction)
    if method not in cls.methods:
        title = "this experiment" if args.method in (None, "vat") else METHODS[args.method].title
        raise runs.RunError(f"--direction {args.direction} means nothing to {title}: leave it out")
    dataset = getattr(args, "data", cls.datasets[0])
    values = {name: getattr(args, name) for name in flags(cls)}
    spec = cls(method=method, dataset=None if dataset == "auto" else dataset, **values)
    spec.resolved()
    return spec


def main(
    cls: type[Spec], paper_of: Callable[[Spec], Paper | None], argv: Sequence[str] | None = None
) -> int:
    """Train one network, write the run's folder, print the summary; the exit code."""
    args = parser(cls).parse_args(argv)
    spec = spec_of(cls, args)  # before any file is read or downloaded
    device = backend.select_device(args.device, args.tf32)
    dataset = spec.load(args.data_dir)
    spec = spec.replace(dataset=dataset.name)
    if not dataset.original and not args.quiet:
        print(
            f"these are not {dataset.name}'s original files (their SHA-256 differ): "
            "results will not be compared with the paper's",
            file=sys.stderr,
        )
    paper = paper_of(spec) if dataset.original else None
    print(summary(spec, run(spec, dataset, device, args, paper), paper))
    return 0


def run(
    spec: Spec,
    dataset: data.Dataset,
    device: backend.Device,
    args: argparse.Namespace,
    paper: Paper | None,
) -> Mapping[str, Any]:
    """Train, evaluate, and fill the run's folder; return the content of result.json.

    A run that is finished already is not run again. args: of `parser`, for the run's folder, its
    manners and its command. Raises what `runs.open_run` and `loop.train` raise.
    """
    folder = Path(args.out or spec.folder())
    spec = spec.resolved()
    kind, rate = "validation" if spec.validation else "test", spec.learning_rates()
    split = spec.split(dataset)  # too few images: said before there is a folder
    images, labels = split.held_out
    few = images[:: max(1, len(images) // R_VADV_IMAGES)]
    files = {"name": dataset.name, "checksums": dataset.checksums}
    events = _no_events
    if args.tensorboard:
        from experiments.lab.tensorboard import events  # an extra: missed before there is a folder
    opened = runs.open_run(
        folder,
        {"settings": spec.settings(), "data": files},
        machine.environment(device),
        resume=args.resume,
        overwrite=args.overwrite,
        say=(lambda text: None) if args.quiet else functools.partial(print, file=sys.stderr),
    )
    with opened as the_run, events(the_run) as report:
        if the_run.result is not None:
            if lacking := {"paper_test_error", f"{kind}_error"} - the_run.result.keys():
                raise runs.RunError(
                    f"{folder / 'result.json'} lacks {min(lacking)!r}: it was not written by this "
                    "version; start again with --overwrite"
                )
            return the_run.result
        trainer = spec.trainer(split, device)

        def evaluate(done: int) -> dict[str, float]:
            return {
                "r_vadv": trainer.r_vadv(few, R_VADV_EPSILON),
                "learning_rate": rate(done - 1),
                "error": trainer.error(images, labels),
            }

        def describe(values: dict[str, float]) -> str:
            text = f"nll {values['nll']:.4f}"
            if "error" in values:
                text += f", R_vadv {values['r_vadv']:.4f}, {kind} error {values['error']:.2f} %"
            return text

        plan = loop.Plan(
            updates=spec.updates,
            evaluate_every=spec.evaluate_every,
            checkpoint_every=spec.checkpoint_every,
            columns=(
                *COLUMNS,
                *(["entropy"] if spec.entropy_weight else []),
                *(["consistency"] if spec.targets() else []),
            ),
            describe=describe,
            report=report,
            shorten=spec.shorten + (" or --device cuda" if device.name == "cpu" else ""),
            quiet=args.quiet,
        )
        rows, seconds = loop.train(the_run, trainer.arrays, trainer.step, evaluate, plan, device)
        trainer.reestimate_statistics()
        result = {
            "experiment": spec.experiment,
            "command": cli.command_line(spec.experiment, args),
            "test_error": None,
            "test_error_before_bn_reestimation": None,
            "validation_error": None,
            "validation_error_before_bn_reestimation": None,
            "r_vadv_after_bn_reestimation": trainer.r_vadv(few, R_VADV_EPSILON),
            "test_set": dataset.test_name,
            "paper_test_error": paper.error if paper and spec.updates >= paper.updates else None,
            "updates_per_second": spec.updates / seconds,
            "seconds": seconds,
            "peak_memory_mib": machine.peak_memory_mib(),
            "device": device.description,
            "commit": the_run.config["environments"][-1]["commit"],
            **the_run.config,
            f"{kind}_error": trainer.error(images, labels),
            # The last row is always one of the last update.
            f"{kind}_error_before_bn_reestimation": rows[-1]["error"],
        }
        from experiments.lab import plotting  # Matplotlib takes longer to import than all the rest

        title = f"{spec.title()}, seed {spec.seed}, {spec.updates:,} updates"
        if kind == "test" and dataset.test_name != data.Dataset.test_name:
            title += f"\ntest set: {dataset.test_name}"
        curve = {spec.title_of_method: plotting.Curve(spec.method, rows)}
        plotting.curves(folder / "curves.png", curve, title, f"{kind} error (%)")
        the_run.finish(result)
        return result


def _no_events(run: runs.Run) -> contextlib.AbstractContextManager[Callable[[Any], None]]:
    return contextlib.nullcontext(lambda row: None)


def summary(spec: Spec, result: Mapping[str, Any], paper: Paper | None) -> str:
    """The run's result beside the paper's number, as a table, and what keeps them apart."""
    spec = spec.resolved()
    kind = "validation" if spec.validation else "test"
    dataset, *others = spec.parts_of_title()
    numbers = {
        f"{kind} error (%)": result[f"{kind}_error"],
        "paper (%)": result["paper_test_error"] if kind == "test" else None,
        "R_vadv": result.get("r_vadv_after_bn_reestimation"),
    }
    cells = {"data set": dataset, "setting": ", ".join(others), "method": spec.title_of_method}
    cells |= {name: "-" if value is None else f"{value:.2f}" for name, value in numbers.items()}
    header = [name for name, cell in cells.items() if cell]
    lines = [cli.table(header, [[cells[name] for name in header]])]
    if paper is not None and spec.updates < paper.updates:
        lines.append(
            f"{spec.updates:,} of {paper.updates:,} updates: too short to be compared with the "
            f"paper's {paper.error:.2f} %; VAT's effect is in R_vadv first."
        )
    test_set = result.get("test_set", data.Dataset.test_name)
    if kind == "test" and test_set != data.Dataset.test_name:
        lines.append(
            f"Test set: {test_set}, not the official test batch. The paper's numbers are on the "
            "latter, and its networks were trained on all training images."
        )
    return "\n".join(lines)
