"""The experiments on SVHN and CIFAR-10: their flags, the recipe they share, and a run of them.

The recipe is that of the authors' code: Adam at 0.001, whose learning rate falls linearly to 0 at
the end of the run while β₁ is 0.5 instead of 0.9; 32 labelled and 128 unlabelled images in an
update; the running statistics of batch norm re-estimated before the last evaluation. CIFAR-10 is
whitened (ZCA, fitted on the training images), SVHN is not. What the paper varies is in a `Task`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import common
from experiments.lab import runs
from minivat import backend, data, nn, optim, training, vat

MODELS = {"conv-small": nn.conv_small, "conv-large": nn.conv_large}
# The paper's; an update takes as long with the exact one. On MNIST that loses its hold at the
# paper's epsilon for few labels.
DIRECTION = "finite-difference"
LEARNING_RATE = 0.001
BETA1, BETA1_OF_DECAY = 0.9, 0.5
CLASSES = 10
MAX_SHIFT = 2  # pixels, of augmentation
# Ours: an hour's work is worth keeping, and a checkpoint costs a small part of a second.
CHECKPOINT_EVERY = 200


@dataclasses.dataclass(frozen=True)
class Task:
    """An experiment of the paper.

    name           of its module and of the folder of its runs
    about          what it is, for --help
    dataset        "cifar10" or "svhn"
    rows           its methods; Row.paper is by (model, augment, K)
    model, augment, labels, batch_size, updates    the usual ones; labels None: all images have one
    epsilon        size of the perturbation, by whether images are augmented, "yes" or "no"
    decay_share    of the updates, in which the learning rate falls
    balanced       whether the same number of labels is drawn of each class
    """

    name: str
    about: str
    dataset: str
    rows: Mapping[str, common.Row]
    model: str
    augment: str
    labels: int | None
    batch_size: int
    updates: int
    epsilon: Mapping[str, float]
    decay_share: float
    balanced: bool = True

    @property
    def methods(self) -> list[str]:
        """Those of --method; VAT's two directions are two rows and one method."""
        directed = [f"vat-{direction}" for direction in vat.DIRECTIONS]
        return list(dict.fromkeys("vat" if row in directed else row for row in self.rows))

    @property
    def flags(self) -> list[str]:
        """The flags that mean something to some of the methods."""
        semisupervised = ["entropy_weight", "unlabelled_batch_size"]
        return [*common.METHOD_FLAGS, *(semisupervised if self.labels else [])]


Paper = Mapping[tuple[str, str, float], tuple[float, float]]


def semisupervised_rows(*, rpt: Paper, vat: Paper, entmin: Paper) -> dict[str, common.Row]:
    """The methods for few labels with the paper's numbers; the first one has the labels alone."""
    second = {"unlabelled_batch_size": 128}
    vat_settings = {**common.VAT, **second}
    exact, differences = {"direction": "exact"}, {"direction": "finite-difference"}
    return {
        "mle": common.Row("labels alone", {}, {}),
        "rpt": common.Row("RPT", {**common.RPT, **second}, rpt),
        "vat-exact": common.Row("VAT, exact", {**exact, **vat_settings}, vat),
        "vat-finite-difference": common.Row(
            "VAT, finite differences", {**differences, **vat_settings}, vat
        ),
        "vat-entmin": common.Row(
            "VAT+EntMin", {"direction": DIRECTION, **vat_settings, "entropy_weight": 1.0}, entmin
        ),
    }


# The command line --------------------------------------------------------------------------------


def parser(task: Task) -> common.Parser:
    """The command line."""
    parser = common.Parser(task.about)
    group = common.add_method_arguments(parser, task.methods, DIRECTION)
    shape = common.add_run_arguments(
        parser,
        updates=task.updates,
        batch_size=task.batch_size,
        learning_rate=LEARNING_RATE,
        checkpoint_every=CHECKPOINT_EVERY,
    )
    shape.add_argument(
        "--model", choices=MODELS, default=task.model, help=f"the network (default: {task.model})"
    )
    shape.add_argument(
        "--width",
        type=common.positive,
        default=1.0,
        metavar="X",
        help="factor of the network's numbers of channels; below 1 it is faster (default: 1)",
    )
    shape.add_argument(
        "--augment",
        choices=["yes", "no"],
        default=task.augment,
        help=f"random translation by up to {MAX_SHIFT} pixels, "
        + ("and mirroring, " if task.dataset == "cifar10" else "")
        + f"of every batch (default: {task.augment})",
    )
    share = f"{100 * task.decay_share:.3g} %%"  # argparse wants it twice
    common.add_count(
        shape,
        "--decay-updates",
        1,
        None,
        f"the last N updates, in which the learning rate falls to 0 (default: {share} of all)",
    )
    if task.labels:
        group.add_argument(
            "--entropy-weight",
            type=common.positive,
            metavar="X",
            help="vat-entmin: weight of the conditional entropy (default: 1)",
        )
        common.add_count(
            group,
            "--unlabelled-batch-size",
            2,
            None,
            "all but mle: unlabelled images in a batch (default: 128)",
        )
        drawn = ", balanced by class" if task.balanced else ""
        common.add_count(shape, "--labels", 2, task.labels, "labelled images" + drawn)
    if task.dataset == "cifar10":
        common.add_count(
            shape,
            "--holdout",
            0,
            0,
            "where the official test batch is missing: N training images, always the same, are the "
            "test set",
        )
    # Fewer labels than the usual batch are one batch.
    parser.set_defaults(batch_size=None)
    return parser


def all_settings(task: Task, args: argparse.Namespace, row: str) -> dict[str, Any]:
    """Everything that determines the result, besides the data: what is given, else the defaults.

    Raises RunError for a flag that the row does not use, and for a decay longer than the run.
    """
    method = common.method_settings(args, task.rows[row], task.flags)
    if "epsilon" in method and method["epsilon"] is None:
        method["epsilon"] = task.epsilon[args.augment]
    decay = args.decay_updates or max(1, round(task.decay_share * args.updates))
    if decay > args.updates:
        raise runs.RunError(
            f"--decay-updates {decay} is too many: there are {args.updates} updates"
        )
    settings = {
        "method": args.method,
        **method,
        "model": args.model,
        "width": args.width,
        "augment": args.augment,
        **common.run_settings(args),
        "batch_size": args.batch_size or task.batch_size,
        "decay_updates": decay,
        "beta1": BETA1,
        "beta1_of_decay": BETA1_OF_DECAY,
    }
    if task.labels:
        settings["labels"] = args.labels
        settings["batch_size"] = args.batch_size or min(task.batch_size, args.labels)
    if task.dataset == "cifar10":
        settings["holdout"] = args.holdout
        settings["zca_epsilon"] = data.whitening.EPSILON
    return settings


def usual_settings(
    task: Task, settings: Mapping[str, Any], row: str, kept: Sequence[str]
) -> dict[str, Any]:
    """The row's settings where no flags are given but those of `kept` that the settings have."""
    arguments = common.row_arguments(row)
    for name in kept:
        if name in settings:
            arguments += ["--" + name.replace("_", "-"), str(settings[name])]
    return all_settings(task, parser(task).parse_args(arguments), row)


def default_folder(task: Task, args: argparse.Namespace, row: str) -> Path:
    """The run's folder where none is named."""
    settings = all_settings(task, args, row)
    title = [task.dataset, args.model, row]
    if task.labels:
        title.append(f"{args.labels}labels")
    usual = usual_settings(task, settings, row, ["model", "updates", "labels"])
    usual["updates"] = task.updates
    return common.run_folder(task.name, title, settings, usual, args)


# The run -----------------------------------------------------------------------------------------


def build(dataset: str, settings: Mapping[str, Any]) -> nn.Network:
    """The network that the settings describe; RunError for a width that it cannot have."""
    try:
        return MODELS[settings["model"]](dataset, settings["width"])
    except ValueError as error:
        raise runs.RunError(f"--width {settings['width']:g}: {error}") from error


def load(name: str, data_dir: str | None, holdout: int) -> data.Dataset:
    """The data set as the networks get it."""
    dataset = data.load(name, data_dir, holdout)
    return data.whiten(dataset) if name == "cifar10" else dataset


def schedules(
    settings: Mapping[str, Any],
) -> tuple[Callable[[int], float], Callable[[int], float]]:
    """The learning rate and β₁, as functions of the update."""
    updates = settings["updates"]
    start = updates - settings["decay_updates"]
    rate = optim.constant_then_linear(settings["learning_rate"], start, updates)
    before, after = settings["beta1"], settings["beta1_of_decay"]
    return rate, lambda update: before if update < start else after


def paper_error(task: Task, settings: Mapping[str, Any], row: str) -> float | None:
    """The paper's test error for a run with these settings, where they are the paper's."""
    kept = ["direction", "power_iterations", "model", "augment", "holdout", "updates"]
    if not common.as_in_the_paper(settings, usual_settings(task, settings, row, kept)):
        return None
    key = settings["model"], settings["augment"], settings.get("power_iterations", 1)
    return task.rows[row].paper.get(key, (None,))[0]


def network_name(settings: Mapping[str, Any]) -> str:
    """The network and what it sees, for people."""
    width = "" if settings["width"] == 1 else f" x {settings['width']:g}"
    augmented = ", augmented" if settings["augment"] == "yes" else ""
    return settings["model"] + width + augmented


def held_out_note(result: Mapping[str, Any]) -> str | None:
    """What is to be said of a test set that is not the official one; None for that."""
    if result["test_set"] == data.Dataset.test_name:
        return None
    return (
        f"Test set: {result['test_set']}, not the official test batch. The paper's numbers are on "
        "the latter, and its networks were trained on all training images."
    )


def summary(task: Task, result: dict[str, Any]) -> str:
    """The run's result beside the paper's number, as a table, and what the test set was."""
    title = {
        "data set": result["dataset"],
        **({"labels": str(result["labels"])} if task.labels else {}),
        "network": network_name(result["settings"]),
        "method": task.rows[result["row"]].name,
    }
    lines = [common.summary(result, title)]
    if result["validation_error"] is None and (note := held_out_note(result)):
        lines.append(note)
    return "\n".join(lines)


def main(task: Task, argv: Sequence[str] | None) -> int:
    """Train one network, write the run's folder, print the summary; the exit code."""
    args = parser(task).parse_args(argv)
    row = common.row_of(args, DIRECTION)
    settings = all_settings(task, args, row)
    network = build(task.dataset, settings)
    device = backend.select_device(args.device, args.tf32)
    dataset = load(task.dataset, args.data_dir, settings.get("holdout", 0))
    comparable = common.comparable(dataset, args.quiet)
    images, labels, held, held_name = common.hold_out(dataset, args.validation, args.seed)
    x, y, unlabelled = images, labels, None
    if task.labels:
        labelled = common.draw_labels(labels, args.labels, args.seed, task.balanced, CLASSES)
        x, y = images[labelled], labels[labelled]
    common.check_batch_size(settings["batch_size"], x, what="with a label")
    if "unlabelled_batch_size" in settings:
        unlabelled = images
        size = settings["unlabelled_batch_size"]
        common.check_batch_size(size, unlabelled, "--unlabelled-batch-size")
    learning_rate, beta1 = schedules(settings)
    method = "vat" if args.method == "vat-entmin" else args.method
    augment = functools.partial(
        data.translate_and_flip, max_shift=MAX_SHIFT, flip=task.dataset == "cifar10"
    )

    def make_trainer() -> training.Trainer:
        return training.Trainer(
            network,
            device,
            x,
            y,
            unlabelled=unlabelled,
            regularization=common.regularization(settings, method=method),
            learning_rate=learning_rate,
            beta1=beta1,
            augment=augment if settings["augment"] == "yes" else None,
            seed=args.seed,
            batch_size=settings["batch_size"],
            unlabelled_batch_size=settings.get("unlabelled_batch_size"),
        )

    labelled_as = {
        "experiment": task.name,
        "row": row,
        "method": args.method,
        "direction": settings.get("direction"),
        "model": args.model,
        "labels": settings.get("labels", len(images)),
        "epsilon": settings.get("epsilon"),
        "test_set": dataset.test_name,
        "paper_test_error": paper_error(task, settings, row) if comparable else None,
    }
    title = f"{dataset.name}, {labelled_as['labels']} labels: {task.rows[row].name}"
    title += f", {network_name(settings)}"
    if held_out_note(labelled_as):
        title += f"\ntest set: {dataset.test_name}"
    experiment = common.Experiment(
        settings=settings,
        labels=labelled_as,
        title=title,
        make_trainer=make_trainer,
        held=held,
        held_name=held_name,
        learning_rate=learning_rate,
        columns=common.COLUMNS + (("entropy",) if args.method == "vat-entmin" else ()),
        shorten=("--width", "--updates"),
    )
    folder = args.out or default_folder(task, args, row)
    print(summary(task, common.run(experiment, dataset, device, folder, args)))
    return 0
