"""Supervised learning on MNIST (the paper's Table 1): train one network with one method.

    python -m experiments.mnist_sup --method vat

Every method trains the network of the authors' code with their settings, on all 60,000 images.
Where there is no MNIST, `--data auto` trains a smaller network on scikit-learn's 8x8 digits.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common
from minivat import backend, data, nn, optim, runs, training, vat

SIZES = {"mnist": [784, 1200, 600, 300, 150, 10], "digits": [64, 200, 100, 10]}


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of Table 1.

    name      for people
    paper     test error in percent, mean and standard deviation over the paper's runs
    settings  the flags that mean something to the method, and their defaults
    """

    name: str
    paper: tuple[float, float]
    settings: dict[str, Any]


VAT = {"epsilon": None, "alpha": 1.0, "samples": 1, "power_iterations": 1}
ROWS = {
    "mle": Row("MLE", (1.11, 0.06), {}),
    "rpt": Row("RPT", (0.84, 0.03), {"epsilon": None, "alpha": 1.0, "samples": 1}),
    "at-linf": Row("adversarial, Linf", (0.79, 0.03), {"epsilon": None, "alpha": 1.0}),
    "at-l2": Row("adversarial, L2", (0.71, 0.03), {"epsilon": None, "alpha": 1.0}),
    "vat-exact": Row("VAT, exact", (0.64, 0.05), {"direction": "exact", **VAT}),
    "vat-finite-difference": Row(
        "VAT, finite differences",
        (0.64, 0.05),
        {"direction": "finite-difference", **VAT, "xi": 1e-6},
    ),
}
# Each row's epsilon, by data set: the best on held-out images (experiments.search).
# The digits take the L2 norms that MNIST began with, scaled by the root of the number of pixels.
EPSILON = {
    "mnist": {
        "rpt": 5.0,
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
    group = parser.add_argument_group("method (a flag that the method does not use is refused)")
    group.add_argument("--method", choices=training.METHODS, default="vat", help="default: vat")
    group.add_argument(
        "--direction", choices=vat.DIRECTIONS, help="vat: how H d is computed (default: exact)"
    )
    for flag, kind, metavar, text in (
        ("--epsilon", common.positive, "X", "size of the perturbation (default: by method)"),
        ("--alpha", common.positive, "X", "weight of the method's term (default: 1)"),
        ("--power-iterations", common.integer(1), "K", "vat: K (default: 1; K = 0 is rpt)"),
        ("--xi", common.positive, "X", "vat by finite differences: xi (default: 1e-6)"),
        ("--samples", common.integer(1, 100), "S", "rpt, vat: perturbations averaged (default: 1)"),
    ):
        group.add_argument(flag, type=kind, metavar=metavar, help=text)
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


def row_arguments(row: str) -> list[str]:
    """The flags that name a row of Table 1."""
    method, _, direction = row.partition("-") if row.startswith("vat-") else (row, "", "")
    return ["--method", method] + (["--direction", direction] if direction else [])


def row_of(args: argparse.Namespace) -> str:
    """The row of Table 1 that is asked for. RunError for a flag that its method does not use."""
    row = f"vat-{args.direction or 'exact'}" if args.method == "vat" else args.method
    for name in ("direction", "epsilon", "alpha", "power_iterations", "xi", "samples"):
        given, used = getattr(args, name), name in ROWS[row].settings
        if given is not None and not used:
            flag = name.replace("_", "-")
            raise runs.RunError(f"--{flag} {given} means nothing to {ROWS[row].name}: leave it out")
    return row


def all_settings(args: argparse.Namespace, row: str, dataset: str) -> dict[str, Any]:
    """Everything that determines the result, besides the data: what is given, else the defaults."""
    method = ROWS[row].settings | ({"epsilon": EPSILON[dataset][row]} if row != "mle" else {})
    given = {name: getattr(args, name) for name in method if getattr(args, name) is not None}
    return {
        "method": args.method,
        **method,
        **given,
        "network": SIZES[dataset],
        **common.run_settings(args),
        "decay_every": args.decay_every,
    }


def default_folder(args: argparse.Namespace, row: str, dataset: str) -> Path:
    """runs/mnist_sup/<dataset>-<row>[-<setting that is not the default>...]-seed<seed>."""
    settings = all_settings(args, row, dataset)
    usual = all_settings(parser().parse_args(row_arguments(row)), row, dataset)
    changed = [
        f"{name.replace('_', '-')}{value}"
        for name, value in settings.items()
        if name != "seed" and value != usual[name] and getattr(args, name) is not None
    ]
    return Path("runs", "mnist_sup", "-".join([dataset, row, *changed, f"seed{args.seed}"]))


def regularization(settings: dict[str, Any]) -> training.Regularization:
    """The method as `minivat.training` takes it."""
    fields = {field.name for field in dataclasses.fields(training.Regularization)}
    return training.Regularization(**{k: v for k, v in settings.items() if k in fields})


def make_trainer(
    settings: dict[str, Any], device: backend.Device, images: np.ndarray, labels: np.ndarray
) -> training.SupervisedTrainer:
    """The trainer that a run with these settings has: see `all_settings`."""
    return training.SupervisedTrainer(
        nn.mlp(settings["network"]),
        device,
        images,
        labels,
        regularization=regularization(settings),
        learning_rate=learning_rate(settings),
        seed=settings["seed"],
        batch_size=settings["batch_size"],
    )


def learning_rate(settings: dict[str, Any]) -> Callable[[int], float]:
    """The schedule: update ↦ rate."""
    return optim.exponential_decay(settings["learning_rate"], every=settings["decay_every"])


def trained_network(
    settings: dict[str, Any], arrays: dict[str, Any], device: backend.Device, dtype: Any
) -> vat.Network:
    """x ↦ logits of the network with a trainer's or a checkpoint's arrays and running statistics.

    dtype: of its parameters, float32 or float64, to be called with x of that dtype on `device`.
    """
    network = nn.mlp(settings["network"])
    template, state_template = network.init(backend.host_generator(0, "template"))
    params = nn.unpack(device.asarray(arrays["params"], dtype), template)
    state = {name: device.asarray(arrays[name], dtype) for name in state_template}
    return lambda x: network(params, x, state, statistics="running")[0]


def summary(result: dict[str, Any]) -> str:
    """The run's result beside the paper's number, as a table."""
    kind = "test" if result["validation_error"] is None else "validation"
    paper = result["paper_test_error"]
    return common.table(
        ["data set", "method", f"{kind} error (%)", "paper (%)"],
        [
            [
                result["dataset"],
                ROWS[result["row"]].name,
                f"{result[f'{kind}_error']:.2f}",
                "-" if paper is None or kind == "validation" else f"{paper:.2f}",
            ]
        ],
    )


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Train one network, write the run's folder, print the summary; the exit code."""
    args = parser().parse_args(argv)
    row = row_of(args)
    device = backend.select_device(args.device)
    dataset = data.load(args.data, args.data_dir)
    settings = all_settings(args, row, dataset.name)
    images, labels, held, held_name = common.hold_out(dataset, args.validation, args.seed)
    common.check_batch_size(args.batch_size, images)
    comparable = dataset.name == "mnist" and dataset.original
    if not dataset.original and not args.quiet:
        print(
            f"these are not {dataset.name}'s original files (their SHA-256 differ): "
            "results will not be compared with the paper's",
            file=sys.stderr,
        )
    experiment = common.Experiment(
        settings=settings,
        labels={
            "experiment": "mnist_sup",
            "row": row,
            "method": args.method,
            "direction": settings.get("direction"),
            "epsilon": settings.get("epsilon"),
            "paper_test_error": ROWS[row].paper[0] if comparable else None,
        },
        title=f"{dataset.name}: {ROWS[row].name}",
        make_trainer=lambda: make_trainer(settings, device, images, labels),
        held=held,
        held_name=held_name,
        learning_rate=learning_rate(settings),
    )
    result = common.run(
        experiment,
        dataset,
        device,
        args.out or default_folder(args, row, dataset.name),
        resume=args.resume,
        overwrite=args.overwrite,
        quiet=args.quiet,
    )
    print(summary(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
