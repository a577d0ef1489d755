"""Settings chosen on held-out images, by many runs: the size of the perturbation, few labels.

Runs are labelled by variant and seed. The test set is not touched.
"""

from __future__ import annotations

import itertools
import statistics
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import sqrt
from pathlib import Path

from experiments.lab import cli, results, runner, runs, sweep
from experiments.lab.spec import Spec
from experiments.lab.sweep import Result
from experiments.mnist import MnistSemisup, MnistSup
from minivat import data, targets

UPDATES, LABELS = 6000, 100
LAST = ("r_vadv", "regularizer")  # of the last row of metrics.csv
NEEDED = ("settings", "data", "validation_error", *LAST)
KEPT = """

Finished runs are skipped, unfinished ones resumed, and the other runs in the results kept."""

# The size of the perturbation --------------------------------------------------------------------

EPSILON = """The size of the perturbation: short runs on held-out images, for every row of Table 1.

Trains with each epsilon of each row's grid, on 50,000 images, and reports the error on the other
10,000; the test set is not touched. The runs are a tenth as long as the paper's, with the learning
rate's schedule compressed in proportion."""
GRIDS = {
    "rpt": [2.5, 5.0, 10.0],
    "at-linf": [0.05, 0.075, 0.1],
    "at-l2": [1.0, 1.5, 2.1, 3.0],
    "vat-exact": [1.5, 2.1, 3.0, 4.0],
    "vat-finite-difference": [1.5, 2.1, 3.0, 4.0],
}


@cli.command
def epsilon(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, write the results, print the table; the exit code."""
    parser = cli.Parser(EPSILON + KEPT, "search")
    parser.add_argument(
        "--grid",
        nargs="+",
        type=sweep.by_row(list(GRIDS), cli.positive, "EPSILON"),
        default=list(GRIDS.items()),
        metavar="ROW:EPSILON,...",
        help="rows and their epsilons (default: all rows, each with its grid)",
    )
    args = parsed(parser, argv, seeds=[1])
    # A run's share of the schedule is that of the paper's 60,000 updates.
    every = max(1, args.updates // 100)
    variants = {
        f"{row}-epsilon{size:g}": MnistSup(method=row, epsilon=size, decay_every=every)
        for row, sizes in args.grid
        for size in sizes
    }
    if len(variants) < sum(len(sizes) for _, sizes in args.grid):
        raise runs.RunError(
            "--grid: two epsilons of a row are the same, or too close to tell apart"
        )
    dataset, path, found = run("search", variants, args, _row, free=["epsilon"])
    lines, choice = [], {}
    for row, of_row in sweep.grouped(found, _row).items():
        of_size = sweep.grouped(sorted(of_row, key=_size), _size)
        errors = {size: mean(each, "validation_error") for size, each in of_size.items()}
        tight = {size: errors[size] for size, each in of_size.items() if not any(map(leaks, each))}
        choice[row] = chosen(tight or errors, args.validation)
        for size, each in of_size.items():
            verdict = "chosen" if size == choice[row] else "" if size in tight else "leaks"
            r_vadv = mean(each, "r_vadv")
            lines.append([row, f"{size:g}", f"{errors[size]:.2f}", f"{r_vadv:.2f}", verdict])
    runs.write_json(path, {"chosen": choice, "runs": found})
    header = ["epsilon", "validation error (%)", "R_vadv", ""]
    print(cli.table([f"{dataset}: method", *header], lines))
    return 0


def _row(result: Result) -> str:
    return results.spec_of(result).method


def _size(result: Result) -> float:
    return result["settings"]["epsilon"]


def leaks(result: Result) -> bool:
    """Whether VAT's network recognises perturbed batches by their statistics (batch-norm leakage).

    The LDS that training sees, with batch statistics, is then small, and the one with the running
    statistics large. The two are compared at the same size of the perturbation (the LDS grows with
    its square, eq. 19); more than twice as large counts as leakage.
    """
    spec = results.spec_of(result)
    comparable = result["r_vadv"] * (spec.epsilon / runner.R_VADV_EPSILON) ** 2
    return spec.method.startswith("vat") and comparable > 2 * result["regularizer"]


def chosen(errors: Mapping[float, float], images: int) -> float:
    """The largest epsilon whose error, in percent, is within one standard error of the best one's.

    Closer than that, an error on so many images does not tell two sizes apart; and a short run,
    which underfits, prefers too weak a regularization.
    """
    best = min(errors.values()) / 100
    limit = 100 * (best + sqrt(best * (1 - best) / images))
    return max(size for size, error in errors.items() if error <= limit)


# Few labels --------------------------------------------------------------------------------------

SEMISUP = """What the paper does not say of its semi-supervised setting: runs on held-out images.

Trains VAT as mnist-semisup --preset paper does, and again with one thing changed at a time, or with
schedule (const), noise (after, fresh) and batches (100-250) changed in all combinations, and the
methods with targets as --preset tuned does, and reports the error on images held out of the
training set; the test set is not touched. The runs are those of Table 3, cut short: the number of
updates at a high learning rate matters, so a schedule compressed to as few would mislead. Every
run's error and R_vadv are measured twice: with the running statistics that training leaves, of
noisy labelled batches, and with those re-estimated over all images without noise."""
EXACT, ENTMIN = {"method": "vat-exact"}, {"method": "vat-entmin"}
# What VAT alone may lack with 100 labels, to be run with --updates 30000: the learning rate's
# schedule, the place and the sharing of the noise, and the sizes of the batches (of arXiv
# 1507.00677), in all combinations; "usual" has none of them.
CHANGES = {
    "const": {"schedule": "constant-then-linear"},
    "after": {"noise_place": "after"},
    "fresh": {"shared_noise": "no"},
    "100-250": {"batch_size": 100, "unlabelled_batch_size": 250},
}
LONG = {
    "-".join(names): {key: value for name in names for key, value in CHANGES[name].items()}
    for count in range(1, len(CHANGES) + 1)
    for names in itertools.combinations(CHANGES, count)
}
# Of what people compare VAT with, in Table 3's setting: the papers' are for other data sets.
WEIGHTS = {
    f"{method}-alpha{alpha:g}": {"method": method, "preset": "tuned", "alpha": alpha}
    for method, kind in targets.METHODS.items()
    for alpha in (kind().alpha * share for share in (0.01, 0.1, 1))
}
# What begins with "exact-" is to be compared with "exact", RPT with RPT, VAT+EntMin with
# VAT+EntMin.
VARIANTS: dict[str, MnistSemisup] = {
    name: MnistSemisup(**{"method": "vat-finite-difference", "preset": "paper", **changes})
    for name, changes in {
        "usual": {},
        "exact": EXACT,
        "exact-epsilon3.5": {**EXACT, "epsilon": 3.5},
        "exact-half-iteration": {**EXACT, "power_iterations": 0.5},
        "no-output-norm": {"output_norm": "no"},
        "noise-of-each-pass": {"shared_noise": "no"},
        "no-noise": {"noise": 0.0},
        "half-the-learning-rate": {"learning_rate": 0.001},
        **{f"vat-epsilon{e:g}": {"epsilon": e} for e in (1.5, 2.1, 3.5, 5.0, 7.0)},
        **{f"rpt-epsilon{e:g}": {"method": "rpt", "epsilon": e} for e in (5.0, 10.0, 20.0)},
        **{f"vat-entmin-epsilon{e:g}": {**ENTMIN, "epsilon": e} for e in (1.0, 1.5, 2.1, 5.0)},
        **{
            f"vat-entmin-epsilon{e:g}-weight{w:g}": {**ENTMIN, "epsilon": e, "entropy_weight": w}
            for e, w in ((1.5, 0.3), (1.5, 3.0), (5.0, 3.0))
        },
        **LONG,
        **WEIGHTS,
        # Images and labels of one seed, weights and batches of another: which of them decides?
        **{f"data-seed{seed}": {"data_seed": seed} for seed in (1, 2, 3)},
    }.items()
}
MEASURED = {
    "validation error (%)": "validation_error",
    "before re-estimation": "validation_error_before_bn_reestimation",
    "R_vadv": "r_vadv_after_bn_reestimation",
    "before": "r_vadv",
}


@cli.command
def semisup(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, write the results, print the table; the exit code."""
    parser = cli.Parser(SEMISUP + KEPT, "search-semisup")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=list(VARIANTS),
        default=list(VARIANTS),
        metavar="NAME",
        help=f"of: {', '.join(VARIANTS)} (default: all)",
    )
    cli.add_count(parser, "--labels", 1, LABELS, "labelled examples")
    args = parsed(parser, argv, seeds=[1, 2, 3])
    variants = {name: VARIANTS[name].replace(labels=args.labels) for name in args.variants}
    dataset, path, found = run("search_semisup", variants, args, variant_of)
    runs.write_json(path, {"runs": found})
    lines = []
    for variant, mine in sweep.grouped(found, variant_of).items():
        means = [f"{mean(mine, name):.2f}" for name in MEASURED.values()]
        seeds = [f"{each['settings']['seed']}: {each['validation_error']:.2f}" for each in mine]
        lines.append([variant, *means, ", ".join(seeds)])
    title = f"{dataset}, {args.labels} labels: variant"
    print(cli.table([title, *MEASURED, "by seed"], lines))
    return 0


# Both --------------------------------------------------------------------------------------------


def parsed(parser: cli.Parser, argv: Sequence[str] | None, seeds: Sequence[int]) -> Namespace:
    """What the command line asks for."""
    held_out = ", ".join(f"{count} of {name}" for name, count in sweep.VALIDATION.items())
    cli.add_count(parser, "--validation", 1, None, f"images held out (default: {held_out})")
    every = "updates from row to row (default: a fifth of all)"
    cli.add_count(parser, "--evaluate-every", 1, None, every)
    sweep.add_arguments(parser, seeds=seeds, updates=UPDATES, datasets=MnistSup.datasets)
    return parser.parse_args(argv)


def run(
    name: str,
    variants: Mapping[str, Spec],
    args: Namespace,
    line: Callable[[Result], str],
    free: Sequence[str] = (),
) -> tuple[str, Path, list[Result]]:
    """The data set, the results file, and all its runs once the missing ones are made.

    name: of the file; with other data or settings than the usual ones it says so. Runs of one line
    differ in what is `free` alone.
    """
    dataset = data.load(args.data, args.data_dir)
    args.validation = args.validation or sweep.VALIDATION[dataset.name]
    counts = {"labels": (args.labels, LABELS)} if "labels" in args else {}
    counts |= {
        "updates": (args.updates, UPDATES),
        "held-out": (args.validation, sweep.VALIDATION[dataset.name]),
    }
    name = sweep.file_name(name, dataset, counts)
    folder = Path(args.runs or Path("runs", name))
    path = results.writable(args.results / f"{name}.json")
    found = sweep.published(path, "search", variant_of, NEEDED)
    shared = {
        "dataset": dataset.name,
        "updates": args.updates,
        "validation": args.validation,
        "evaluate_every": args.evaluate_every or max(1, args.updates // 5),
    }
    for spec in variants.values():
        spec.replace(**shared).resolved().split(dataset)  # too few images: said before any run
    jobs = {
        f"{variant}-seed{seed}": sweep.job(spec.replace(**shared, seed=seed), args)
        for variant, spec in variants.items()
        for seed in args.seeds
    }
    for label, result in sweep.run_all(jobs, folder, args.jobs).items():
        row = results.Run(folder / label).rows(LAST)[-1]
        found[label] = {**result, "variant": label.rpartition("-seed")[0]}
        found[label] |= {name: row[name] for name in LAST}
    every = list(found.values())
    sweep.check_alike(sweep.grouped(every, line), "give another folder in --results", free)
    return dataset.name, path, every


def variant_of(result: Result) -> str:
    """A run's variant; the first ones, which do not name it, differ by method and epsilon."""
    if "variant" in result:
        return result["variant"]
    spec = results.spec_of(result)
    return f"{spec.method}-epsilon{spec.epsilon:g}"


def mean(found: Iterable[Result], name: str) -> float:
    """The mean of a number of the runs."""
    return statistics.mean(each[name] for each in found)
