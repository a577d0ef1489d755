"""What the paper does not say of its semi-supervised setting: short runs on held-out images.

    python -m experiments.search_semisup --labels 100 --seeds 1 2 3 --jobs 2

Trains VAT as mnist_semisup does by default, and again with one thing changed at a time, and reports
the error on 10,000 images held out of the training set; the test set is not touched. The runs are
a fifth as long as those of Table 3, with the learning rate's schedule compressed in proportion.
Every run is evaluated twice: with the running statistics that training leaves, of noisy labelled
batches, and with those re-estimated over all images without noise. Finished runs are skipped and
unfinished ones resumed.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import common, jobs, mnist_semisup, search
from minivat import runs

UPDATES = 10_000
VALIDATION = 10_000


def variants(updates: int) -> dict[str, list[str]]:
    """Flags by what they change; the schedule makes as many steps as the paper's in any case."""

    def schedule(updates: int, steps: int = 100) -> list[str]:
        return ["--updates", str(updates), "--decay-every", str(max(1, updates // steps))]

    usual = schedule(updates)
    return {
        "usual": usual,
        "noise-of-each-pass": [*usual, "--shared-noise", "no"],
        "no-noise": [*usual, "--noise", "0"],
        "no-output-norm": [*usual, "--output-norm", "no"],
        "half-as-long": schedule(max(1, updates // 2)),
        "twice-as-long": schedule(2 * updates),
        "slower-decay": schedule(updates, steps=25),
        "half-the-learning-rate": [*usual, "--learning-rate", "0.001"],
        "two-power-iterations": [*usual, "--power-iterations", "2"],
        **{
            f"{method}-epsilon{epsilon:g}": [*usual, "--method", method, "--epsilon", str(epsilon)]
            for method, epsilons in (
                ("vat", (2.5, 4.0, 6.0, 7.5)),
                ("rpt", (2.5, 5.0, 10.0, 20.0)),
            )
            for epsilon in epsilons
        },
        "vat-entmin": [*usual, "--method", "vat-entmin"],
    }


def parser() -> common.Parser:
    """The command line."""
    parser = common.Parser(__doc__)
    names = list(variants(UPDATES))
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=names,
        default=names,
        metavar="NAME",
        help=f"of: {', '.join(names)} (default: all)",
    )
    for flag, default, text in (
        ("--labels", mnist_semisup.LABELS, "labelled examples"),
        ("--validation", VALIDATION, "images held out"),
    ):
        parser.add_argument(
            flag,
            type=common.integer(1),
            default=default,
            metavar="N",
            help=f"{text} (default: {default})",
        )
    jobs.add_arguments(parser, seeds=[1, 2, 3], updates=UPDATES, datasets=["mnist", "digits"])
    return parser


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, write the results, print the table; the exit code."""
    args = parser().parse_args(argv)
    dataset, shared = jobs.shared_arguments(args)
    shared += ["--labels", str(args.labels), "--validation", str(args.validation)]
    shared += ["--evaluate-every", str(max(1, args.updates // 5))]
    name = "search_semisup"
    usual = ("mnist", mnist_semisup.LABELS, UPDATES, VALIDATION)
    if (dataset, args.labels, args.updates, args.validation) != usual:
        name += f"-{dataset}-{args.labels}-labels-{args.updates}-updates"
        name += f"-{args.validation}-held-out"
    flags = variants(args.updates)
    todo = {
        f"{variant}-seed{seed}": [*shared, *flags[variant], "--seed", str(seed)]
        for variant in args.variants
        for seed in args.seeds
    }
    folder = Path(args.runs or Path("runs", name))
    found = jobs.run_all("experiments.mnist_semisup", todo, folder, args.jobs)
    for label, result in found.items():
        row = search.last_row(folder / label)
        result |= {"variant": label.rpartition("-seed")[0]}
        result |= {"r_vadv": row["r_vadv"], "regularizer": row["regularizer"]}
    runs.write_json(jobs.in_folder(args.results / f"{name}.json"), {"runs": list(found.values())})

    lines = []
    for variant in args.variants:
        mine = [each for each in found.values() if each["variant"] == variant]
        errors = [each["validation_error"] for each in mine]
        before = [each["validation_error_before_bn_reestimation"] for each in mine]
        lines.append(
            [
                variant,
                f"{statistics.mean(errors):.2f}",
                ", ".join(f"{each['seed']}: {each['validation_error']:.2f}" for each in mine),
                f"{statistics.mean(before):.2f}",
                f"{statistics.mean(each['r_vadv'] for each in mine):.2f}",
            ]
        )
    header = ["variant", "validation error (%)", "by seed", "before re-estimation", "R_vadv"]
    print(f"{dataset}, {args.labels} labels:\n")
    print(common.table(header, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
