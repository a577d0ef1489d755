"""Supervised learning on MNIST (the paper's Table 1): train one network with one method.

    python -m experiments.mnist_sup --method vat

Every method trains the network of the authors' code with their settings, on all 60,000 images.
Where there is no MNIST, `--data auto` trains a smaller network on scikit-learn's 8x8 digits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from minivat import backend, data, nn, objective, optim, training

SIZES = {"mnist": [784, 1200, 600, 300, 150, 10], "digits": [64, 200, 100, 10]}
DIRECTION = "exact"
LABELS = 60_000
ROWS = {
    "mle": common.Row("MLE", {}, {LABELS: (1.11, 0.06)}),
    "rpt": common.Row("RPT", common.RPT, {LABELS: (0.84, 0.03)}),
    "at-linf": common.Row(
        "adversarial, Linf", {"epsilon": None, "alpha": 1.0}, {LABELS: (0.79, 0.03)}
    ),
    "at-l2": common.Row("adversarial, L2", {"epsilon": None, "alpha": 1.0}, {LABELS: (0.71, 0.03)}),
    "vat-exact": common.Row(
        "VAT, exact", {"direction": "exact", **common.VAT}, {LABELS: (0.64, 0.05)}
    ),
    "vat-finite-difference": common.Row(
        "VAT, finite differences",
        {"direction": "finite-difference", **common.VAT},
        {LABELS: (0.64, 0.05)},
    ),
}
# Each row's epsilon, by data set: the best on held-out images (experiments.search).
# The digits take the L2 norms that MNIST began with, scaled by the root of the number of pixels.
EPSILON = {
    "mnist": {
        "rpt": 10.0,
        "at-linf": 0.05,
        "at-l2": 3.0,
        "vat-exact": 2.1,
        "vat-finite-difference": 2.1,
    },
    "digits": {
        "rpt": 3.0,
        "at-linf": 0.08,
        "at-l2": 0.5,
        "vat-exact": 0.6,
        "vat-finite-difference": 0.6,
    },
}


def parser() -> common.Parser:
    """The command line."""
    parser = common.Parser(__doc__)
    common.add_method_arguments(parser, objective.METHODS, DIRECTION)
    schedule = common.add_run_arguments(
        parser, updates=60_000, batch_size=100, learning_rate=0.002, datasets=["mnist", "digits"]
    )
    schedule.add_argument(
        "--decay-every",
        type=common.integer(1),
        default=600,
        metavar="N",
        help="updates after which the learning rate is multiplied by 0.9 (default: 600)",
    )
    return parser


def all_settings(args: argparse.Namespace, row: str, dataset: str) -> dict[str, Any]:
    """Everything that determines the result, besides the data: what is given, else the defaults.

    Raises RunError for a flag that the row does not use.
    """
    method = common.method_settings(args, ROWS[row])
    if "epsilon" in method and method["epsilon"] is None:
        method["epsilon"] = EPSILON[dataset][row]
    return {
        "method": args.method,
        **method,
        "network": SIZES[dataset],
        **common.run_settings(args),
        "decay_every": args.decay_every,
    }


def usual_settings(row: str, dataset: str) -> dict[str, Any]:
    """The row's settings where no other flag is given."""
    return all_settings(parser().parse_args(common.row_arguments(row)), row, dataset)


def default_folder(args: argparse.Namespace, row: str, dataset: str) -> Path:
    """The run's folder where none is named."""
    settings, usual = all_settings(args, row, dataset), usual_settings(row, dataset)
    return common.run_folder("mnist_sup", [dataset, row], settings, usual, args)


def build(settings: Mapping[str, Any]) -> nn.Network:
    """The network that the settings describe."""
    return nn.mlp(settings["network"])


def make_trainer(
    settings: dict[str, Any], device: backend.Device, images: np.ndarray, labels: np.ndarray
) -> training.Trainer:
    """The trainer that a run with these settings has: see `all_settings`."""
    return training.Trainer(
        build(settings),
        device,
        images,
        labels,
        regularization=common.regularization(settings),
        learning_rate=learning_rate(settings),
        seed=settings["seed"],
        batch_size=settings["batch_size"],
    )


def learning_rate(settings: dict[str, Any]) -> Callable[[int], float]:
    """The schedule: update ↦ rate."""
    return optim.exponential_decay(settings["learning_rate"], every=settings["decay_every"])


def summary(result: dict[str, Any]) -> str:
    """The run's result beside the paper's number, as a table."""
    title = {"data set": result["dataset"], "method": ROWS[result["row"]].name}
    return common.summary(result, title)


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Train one network, write the run's folder, print the summary; the exit code."""
    args = parser().parse_args(argv)
    row = common.row_of(args, DIRECTION)
    device = backend.select_device(args.device, args.tf32)
    dataset = data.load(args.data, args.data_dir)
    settings = all_settings(args, row, dataset.name)
    images, labels, held, held_name = common.hold_out(dataset, args.validation, args.seed)
    common.check_batch_size(args.batch_size, images)
    comparable = common.comparable(dataset, args.quiet)
    comparable &= common.as_in_the_paper(settings, usual_settings(row, dataset.name))
    experiment = common.Experiment(
        settings=settings,
        labels={
            "experiment": "mnist_sup",
            "row": row,
            "method": args.method,
            "direction": settings.get("direction"),
            "epsilon": settings.get("epsilon"),
            "paper_test_error": ROWS[row].paper[LABELS][0] if comparable else None,
        },
        title=f"{dataset.name}: {ROWS[row].name}",
        make_trainer=lambda: make_trainer(settings, device, images, labels),
        held=held,
        held_name=held_name,
        learning_rate=learning_rate(settings),
    )
    folder = args.out or default_folder(args, row, dataset.name)
    print(summary(common.run(experiment, dataset, device, folder, args)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
