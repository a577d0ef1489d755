"""What the paper does not say of its semi-supervised setting: short runs on held-out images.

    python -m experiments.search_semisup --labels 100 --seeds 1 2 3 --jobs 2

Trains VAT as mnist_semisup does by default, and again with one thing changed at a time, and reports
the error on 10,000 images held out of the training set; the test set is not touched. The runs are
those of Table 3, cut short: the number of updates at a high learning rate matters, so a schedule
compressed to as few would mislead. Every run's error and R_vadv are measured twice: with the
running statistics that training leaves, of noisy labelled batches, and with those re-estimated over
all images without noise. Finished runs are skipped and unfinished ones resumed; the results keep
the runs of other variants and seeds that they hold.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import common, jobs, mnist_semisup, search
from experiments.lab import runs

UPDATES = 6000
VALIDATION = 10_000
# The columns of the table: means over the seeds.
MEASURED = {
    "validation error (%)": "validation_error",
    "before re-estimation": "validation_error_before_bn_reestimation",
    "R_vadv": "r_vadv_after_bn_reestimation",
    "before": "r_vadv",
}
HELD = ("variant", "seed", "settings", *MEASURED.values())
LABEL = "{variant}-seed{seed}"
EXACT = ["--direction", "exact"]
ENTMIN = ["--method", "vat-entmin"]
# Flags by what they change. What begins with "exact-" is to be compared with "exact", RPT with RPT,
# VAT+EntMin with VAT+EntMin.
VARIANTS = {
    "usual": [],
    "exact": EXACT,
    "exact-epsilon3.5": [*EXACT, "--epsilon", "3.5"],
    "exact-half-iteration": [*EXACT, "--power-iterations", "0.5"],
    "no-output-norm": ["--output-norm", "no"],
    "noise-of-each-pass": ["--shared-noise", "no"],
    "no-noise": ["--noise", "0"],
    "half-the-learning-rate": ["--learning-rate", "0.001"],
    "vat-epsilon1.5": ["--epsilon", "1.5"],
    "vat-epsilon2.1": ["--epsilon", "2.1"],
    "vat-epsilon3.5": ["--epsilon", "3.5"],
    "vat-epsilon5": ["--epsilon", "5"],
    "vat-epsilon7": ["--epsilon", "7"],
    "rpt-epsilon5": ["--method", "rpt", "--epsilon", "5"],
    "rpt-epsilon10": ["--method", "rpt", "--epsilon", "10"],
    "rpt-epsilon20": ["--method", "rpt", "--epsilon", "20"],
    "vat-entmin-epsilon1": [*ENTMIN, "--epsilon", "1"],
    "vat-entmin-epsilon1.5": [*ENTMIN, "--epsilon", "1.5"],
    "vat-entmin-epsilon2.1": [*ENTMIN, "--epsilon", "2.1"],
    "vat-entmin-epsilon5": [*ENTMIN, "--epsilon", "5"],
    "vat-entmin-epsilon1.5-weight0.3": [*ENTMIN, "--epsilon", "1.5", "--entropy-weight", "0.3"],
    "vat-entmin-epsilon1.5-weight3": [*ENTMIN, "--epsilon", "1.5", "--entropy-weight", "3"],
    "vat-entmin-epsilon5-weight3": [*ENTMIN, "--epsilon", "5", "--entropy-weight", "3"],
    # Images and labels of one seed, weights and batches of another: which of them decides?
    "data-seed1": ["--data-seed", "1"],
    "data-seed2": ["--data-seed", "2"],
    "data-seed3": ["--data-seed", "3"],
}


def parser() -> common.Parser:
    """The command line."""
    parser = common.Parser(__doc__)
    names = list(VARIANTS)
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
        common.add_count(parser, flag, 1, default, text)
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
    todo = {
        LABEL.format(variant=variant, seed=seed): [
            "experiments.mnist_semisup",
            *shared,
            *VARIANTS[variant],
            *("--seed", str(seed)),
        ]
        for variant in args.variants
        for seed in args.seeds
    }
    folder = Path(args.runs or Path("runs", name))
    results_path = args.results / f"{name}.json"
    kept = jobs.published(results_path, "search", LABEL.format_map, HELD)
    found = jobs.run_all(todo, folder, args.jobs)
    for label, result in found.items():
        row = common.rows_of(folder / label, ("r_vadv", "regularizer"))[-1]
        result |= {"variant": label.rpartition("-seed")[0]}
        result |= {"r_vadv": row["r_vadv"], "regularizer": row["regularizer"]}
    results = list((kept | found).values())
    search.check_alike(results, "variant", [])
    runs.write_json(jobs.in_folder(results_path), {"runs": results})

    lines = []
    for variant in dict.fromkeys(each["variant"] for each in results):
        mine = [each for each in results if each["variant"] == variant]
        means = [statistics.mean(each[name] for each in mine) for name in MEASURED.values()]
        seeds = ", ".join(f"{each['seed']}: {each['validation_error']:.2f}" for each in mine)
        lines.append([variant, *(f"{mean:.2f}" for mean in means), seeds])
    header = ["variant", *MEASURED, "by seed"]
    print(f"{dataset}, {args.labels} labels:\n")
    print(common.table(header, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
