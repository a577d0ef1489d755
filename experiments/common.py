"""What every experiment's command line has in common: flags, files, manners.

An experiment parses its arguments with `Parser`, `add_method_arguments` and `add_run_arguments`,
says in an `Experiment` what it trains, and hands it to `run`. The wrapper `command` turns mistakes
into one line.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.lab import loop, runs
from experiments.lab.cli import (  # noqa: F401
    Parser,
    add_count,
    add_device_arguments,
    command,
    command_line,
    device_arguments,
    folder_name,
    integer,
    iterations,
    not_negative,
    positive,
    table,
)
from experiments.lab.machine import (  # noqa: F401
    THREADS,
    benchmarked,
    environment,
    peak_memory_mib,
)
from minivat import backend, data, nn, training, vat

COLUMNS = ("update", "nll", "r_vadv", "learning_rate", "error", "seconds", "regularizer")
R_VADV_EPSILON = 2.0  # of figure 2: one yardstick for all methods, whatever they were trained with
R_VADV_IMAGES = 1000
ERRORS = ("test_error", "validation_error", "paper_test_error")  # of result.json


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of one of the paper's tables.

    name      for people
    settings  the flags that mean something to the method, and their defaults
    paper     test error in percent, mean and standard deviation over the paper's runs, by what
              else they differ in: the number of labels, for images the network and augmentation
    """

    name: str
    settings: Mapping[str, Any]
    paper: Mapping[Any, tuple[float, float]]


# The command line --------------------------------------------------------------------------------


METHOD_FLAGS = ("direction", "epsilon", "alpha", "power_iterations", "xi", "samples")
# What random and virtual adversarial perturbations take, and the defaults; epsilon is by row.
RPT = {"epsilon": None, "alpha": 1.0, "samples": 1}
VAT = {**RPT, "power_iterations": 1, "xi": 1e-6}


def add_method_arguments(
    parser: argparse.ArgumentParser, methods: Sequence[str], direction: str
) -> argparse._ArgumentGroup:
    """--method, "vat" by default, and METHOD_FLAGS, None where they are not given.

    direction: VAT's where none is given. Returns the flags' group, for the experiment to add to.
    """
    group = parser.add_argument_group("method (a flag that the method does not use is refused)")
    group.add_argument("--method", choices=methods, default="vat", help="default: vat")
    group.add_argument(
        "--direction",
        choices=vat.DIRECTIONS,
        help=f"vat: how H d is computed (default: {direction})",
    )
    for flag, kind, metavar, text in (
        ("--epsilon", positive, "X", "size of the perturbation (default: by method)"),
        ("--alpha", positive, "X", "weight of the method's term (default: 1)"),
        ("--power-iterations", iterations, "K", "vat: K, 0.5 too (default: 1; K = 0 is rpt)"),
        ("--xi", positive, "X", "vat by finite differences: xi (default: 1e-6)"),
        ("--samples", integer(1, 100), "S", "rpt, vat: perturbations averaged (default: 1)"),
    ):
        group.add_argument(flag, type=kind, metavar=metavar, help=text)
    return group


def row_of(args: argparse.Namespace, direction: str) -> str:
    """The row that is asked for: VAT has one for each direction, with `direction` the default."""
    return f"vat-{args.direction or direction}" if args.method == "vat" else args.method


def row_arguments(row: str) -> list[str]:
    """The flags that name a row."""
    method, _, direction = row.partition("-")
    if method == "vat" and direction in vat.DIRECTIONS:
        return ["--method", method, "--direction", direction]
    return ["--method", row]


def method_settings(
    args: argparse.Namespace, row: Row, flags: Sequence[str] = METHOD_FLAGS
) -> dict[str, Any]:
    """The row's settings: what is given, else its defaults.

    Raises RunError for a flag that means nothing to the row, or to its direction.
    """
    given = {name: getattr(args, name) for name in flags if getattr(args, name) is not None}
    for name, value in given.items():
        if name not in row.settings:
            flag = name.replace("_", "-")
            raise runs.RunError(f"--{flag} {value} means nothing to {row.name}: leave it out")
    settings = {**row.settings, **given}
    if settings.get("power_iterations") == 0.5 and settings["direction"] != "exact":
        raise runs.RunError("--power-iterations 0.5 needs --direction exact")
    if settings.get("direction") == "exact":
        if "xi" in given:
            raise runs.RunError(f"--xi {args.xi} needs --direction finite-difference")
        del settings["xi"]
    return settings


def regularization(settings: Mapping[str, Any], **others: Any) -> training.Regularization:
    """The method as `minivat.training` takes it, from those of the settings that it knows."""
    given = dict(settings | others)
    how = {"power_iterations": "iterations", "direction": "direction", "xi": "xi"}
    how = {how[k]: v for k, v in given.items() if k in how}
    fields = {field.name for field in dataclasses.fields(training.Regularization)}
    return training.Regularization(
        **{k: v for k, v in given.items() if k in fields},
        power_iteration=vat.PowerIteration(**how),
    )


def add_run_arguments(
    parser: argparse.ArgumentParser,
    *,
    updates: int,
    batch_size: int,
    learning_rate: float,
    datasets: Sequence[str] = (),
    checkpoint_every: int = 1000,
) -> argparse._ArgumentGroup:
    """The flags of every training experiment, with this experiment's defaults.

    datasets: those to choose from, where there is a choice. Returns the group of the flags that
    shape the training, for the experiment to add to.
    """
    shape = parser.add_argument_group("training")
    place = parser.add_argument_group("device, data and files")

    add_count(shape, "--seed", 0, 1, "of weights, batches, directions and the held-out images")
    add_count(shape, "--updates", 1, updates, "updates to train for")
    add_count(shape, "--batch-size", 2, batch_size, "images in a batch")
    shape.add_argument(
        "--learning-rate",
        type=positive,
        default=learning_rate,
        metavar="X",
        help=f"Adam's at the beginning (default: {learning_rate:g})",
    )
    add_count(
        shape,
        "--validation",
        0,
        0,
        "hold out N training images, report the error on them and leave the test set alone",
    )
    add_count(
        shape,
        "--evaluate-every",
        1,
        None,
        "updates from row to row (default: updates / 100, at least 50)",
    )
    add_count(
        shape,
        "--checkpoint-every",
        1,
        checkpoint_every,
        "updates from checkpoint to checkpoint",
    )
    add_device_arguments(place)
    if datasets:
        place.add_argument(
            "--data",
            default="auto",
            choices=["auto", *datasets],
            help=f"default: auto, which is {datasets[0]} where it can be had, else {datasets[-1]}",
        )
    place.add_argument("--data-dir", metavar="DIR", help="where the data set's files are")
    place.add_argument(
        "--out",
        type=folder_name,
        metavar="DIR",
        help="the run's folder (default: named after the run)",
    )
    there = place.add_mutually_exclusive_group()
    there.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    there.add_argument("--overwrite", action="store_true", help="replace the run in the folder")
    place.add_argument("--quiet", action="store_true", help="print the result only")
    return shape


def run_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What of `add_run_arguments` determines the result, for `Experiment.settings`."""
    return {
        "seed": args.seed,
        "updates": args.updates,
        "batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "validation": args.validation,
        "evaluate_every": args.evaluate_every or max(50, args.updates // 100),
        "checkpoint_every": args.checkpoint_every,
    }


def run_folder(
    experiment: str,
    title: Sequence[str],
    settings: Mapping[str, Any],
    usual: Mapping[str, Any],
    args: argparse.Namespace,
) -> Path:
    """runs/<experiment>/<title>[-<setting that is given and not the usual>...]-seed<seed>."""
    changed = [
        f"{name.replace('_', '-')}{value}"
        for name, value in settings.items()
        if name != "seed" and value != usual.get(name) and getattr(args, name, None) is not None
    ]
    return Path("runs", experiment, "-".join([*title, *changed, f"seed{settings['seed']}"]))


# What a run may do its own way and still be compared with the paper.
OWN = {"seed", "data_seed", "updates", "evaluate_every", "checkpoint_every", "validation", "aside"}


def as_in_the_paper(settings: Mapping[str, Any], usual: Mapping[str, Any]) -> bool:
    """Whether the paper's number may stand beside a run's: its settings are the usual ones."""
    return all(settings.get(name) == usual.get(name) for name in {*settings, *usual} - OWN)


def hold_out(
    dataset: data.Dataset, count: int, seed: int, aside: int = 0
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray], str]:
    """Training images, their labels, the held (images, labels), and what these are: "test" or
    "validation". With count > 0 the held ones are training images; the test set is not touched.
    With count = 0 they are the test set, and `aside` training images are not used at all."""
    images, labels = dataset.train_images, dataset.train_labels
    if count >= len(images):
        raise runs.RunError(
            f"--validation {count} is too many: {dataset.name} has {len(images)} training images"
        )
    if count or aside:
        kept, held = data.hold_out(labels, count or aside, seed)
        validation = images[held], labels[held]
        images, labels = images[kept], labels[kept]
    if count:
        return images, labels, validation, "validation"
    return images, labels, (dataset.test_images, dataset.test_labels), "test"


def draw_labels(
    labels: np.ndarray, count: int, seed: int, balanced: bool = True, classes: int | None = None
) -> np.ndarray:
    """Indices of `count` examples that keep their label; RunError where that is not possible."""
    try:
        return data.draw_labels(labels, count, seed, balanced, classes)
    except data.DataError as error:
        raise runs.RunError(f"--labels {count}: {error}") from error


def check_batch_size(
    batch_size: int, images: np.ndarray, flag: str = "--batch-size", what: str = "to train on"
) -> None:
    """RunError where a batch would need more images than there are."""
    if batch_size > len(images):
        raise runs.RunError(
            f"{flag} {batch_size} is too many: there are {len(images)} images {what}"
        )


def comparable(dataset: data.Dataset, quiet: bool) -> bool:
    """Whether results on these files may stand beside the paper's; a line on stderr where not."""
    if not dataset.original and not quiet:
        print(
            f"these are not {dataset.name}'s original files (their SHA-256 differ): "
            "results will not be compared with the paper's",
            file=sys.stderr,
        )
    return dataset.name != "digits" and dataset.original


# A training run ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What to train and how to speak of it.

    settings       all that determines the result, for config.json
    labels         what result.json says of the run besides its numbers: the module ("experiment"),
                   the method, the paper's error, ...
    title          the data set and the method, for people
    make_trainer   gives arrays, step, error, r_vadv, reestimate_statistics (minivat.training)
    held           (images, labels) whose error is watched
    held_name      "test" or "validation"
    learning_rate  the schedule, a function of the update's number
    columns        of metrics.csv
    shorten        the flags that make the run shorter, where it is a long one
    """

    settings: dict[str, Any]
    labels: dict[str, Any]
    title: str
    make_trainer: Callable[[], Any]
    held: tuple[np.ndarray, np.ndarray]
    held_name: str
    learning_rate: Callable[[int], float]
    columns: tuple[str, ...] = COLUMNS
    shorten: tuple[str, ...] = ("--updates",)


def run(
    experiment: Experiment,
    dataset: data.Dataset,
    device: backend.Device,
    folder: str | Path,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Train, evaluate, and fill the run's folder; return the content of result.json.

    A run that is finished already is not run again. args: of `add_run_arguments`, for the run's
    manners and its command. Raises what `minivat.runs` raises.
    """
    config = {
        "settings": experiment.settings,
        "data": {"name": dataset.name, "checksums": dataset.checksums},
    }
    say = (lambda text: None) if args.quiet else functools.partial(print, file=sys.stderr)
    opened = runs.open_run(
        folder,
        config,
        environment(device),
        resume=args.resume,
        overwrite=args.overwrite,
        say=say,
    )
    with opened as the_run:
        if the_run.result is not None:
            lacking = {"dataset", *experiment.labels, *ERRORS} - the_run.result.keys()
            if lacking:
                raise runs.RunError(
                    f"{Path(folder) / 'result.json'} lacks {min(lacking)!r}: it was not written by "
                    "this version; start again with --overwrite"
                )
            return the_run.result
        trainer = experiment.make_trainer()
        images, labels = experiment.held
        few = images[:: max(1, len(images) // R_VADV_IMAGES)]

        def evaluate(done: int) -> dict[str, float]:
            return {
                "r_vadv": trainer.r_vadv(few, R_VADV_EPSILON),
                "learning_rate": experiment.learning_rate(done - 1),
                "error": trainer.error(images, labels),
            }

        rows, seconds = loop.train(
            the_run,
            trainer.arrays,
            trainer.step,
            evaluate,
            loop.Plan(
                columns=experiment.columns,
                updates=experiment.settings["updates"],
                evaluate_every=experiment.settings["evaluate_every"],
                checkpoint_every=experiment.settings["checkpoint_every"],
                describe=functools.partial(_describe, experiment.held_name),
                shorten=" or ".join(
                    [*experiment.shorten, *(["--device cuda"] if device.name == "cpu" else [])]
                ),
                quiet=args.quiet,
            ),
            device,
        )
        before = rows[-1]["error"]  # the last row is always one of the last update
        trainer.reestimate_statistics()
        errors = {"test": (None, None), "validation": (None, None)}
        errors[experiment.held_name] = (trainer.error(images, labels), before)
        result = {
            **experiment.labels,
            "command": command_line(experiment.labels["experiment"], args),
            "dataset": dataset.name,
            "seed": experiment.settings["seed"],
            "updates": experiment.settings["updates"],
            "test_error": errors["test"][0],
            "test_error_before_bn_reestimation": errors["test"][1],
            "validation_error": errors["validation"][0],
            "validation_error_before_bn_reestimation": errors["validation"][1],
            "r_vadv_after_bn_reestimation": trainer.r_vadv(few, R_VADV_EPSILON),
            "updates_per_second": experiment.settings["updates"] / seconds,
            "seconds": seconds,
            "peak_memory_mib": peak_memory_mib(),
            "device": device.description,
            "commit": the_run.config["environments"][-1]["commit"],
            **the_run.config,
        }
        from experiments import plots  # Matplotlib takes longer to import than all the rest

        plots.curves(
            Path(folder) / "curves.png",
            {experiment.title: rows},
            experiment.title,
            f"{experiment.held_name} error (%)",
        )
        the_run.finish(result)
        return result


def rows_of(folder: Path, columns: Iterable[str]) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv; RunError where there are none with these columns."""
    path = folder / "metrics.csv"
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [
                {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise runs.RunError(f"{path} cannot be read as a run's metrics: {error}") from error
    if not rows or not set(columns) <= rows[0].keys():
        raise runs.RunError(f"{path} holds no row of a run's metrics")
    return rows


def restored(
    trainer: training.Trainer, checkpoint: runs.Checkpoint, device: backend.Device
) -> training.Trainer:
    """The trainer with a run's arrays, as the run's result is evaluated: with its running
    statistics estimated once more. The checkpoint is of before that.

    RunError where the arrays are those of another network.
    """
    for name, array in trainer.arrays.items():
        there = checkpoint.arrays.get(name)
        if there is None or there.shape != array.shape:
            found = "missing" if there is None else f"of shape {there.shape}"
            raise runs.RunError(
                f"a checkpoint does not fit its settings: {name} is {found}, not {array.shape}"
            )
        array[...] = device.asarray(there)
    trainer.reestimate_statistics()
    return trainer


def trained_network(
    network: nn.Network, arrays: Mapping[str, Any], device: backend.Device, dtype: Any
) -> vat.Model:
    """x ↦ logits of the network with a trainer's or a checkpoint's arrays and running statistics.

    dtype: of its parameters, float32 or float64, to be called with x of that dtype on `device`.
    """
    template, state_template = network.init(backend.host_generator(0, "template"))
    params = nn.unpack(device.asarray(arrays["params"], dtype), template)
    state = {name: device.asarray(arrays[name], dtype) for name in state_template}
    return lambda x: network(params, x, state, statistics="running")[0]


def summary(result: Mapping[str, Any], title: Mapping[str, str]) -> str:
    """The run's result beside the paper's number, as a table; `title` holds its first columns."""
    kind = "test" if result["validation_error"] is None else "validation"
    paper = result["paper_test_error"]
    columns = {
        **title,
        f"{kind} error (%)": f"{result[f'{kind}_error']:.2f}",
        "paper (%)": "-" if paper is None or kind == "validation" else f"{paper:.2f}",
    }
    return table(list(columns), [list(columns.values())])


def _describe(held_name: str, values: dict[str, float]) -> str:
    parts = [f"nll {values['nll']:.4f}"]
    if "error" in values:
        parts += [f"R_vadv {values['r_vadv']:.4f}", f"{held_name} error {values['error']:.2f} %"]
    return ", ".join(parts)
