"""Settings chosen on held-out images, by many runs: the size of the perturbation, few labels.

Runs are labelled by variant and seed. Finished ones are skipped and unfinished ones resumed; the
results keep the runs of other variants and seeds that they hold. The test set is not touched.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

from experiments.lab import cli, results, runner, runs, sweep, table
from experiments.lab.spec import Spec
from experiments.mnist import MnistSemisup, MnistSup
from minivat import data

VALIDATION = 10_000
Result = Mapping[str, Any]

# The size of the perturbation --------------------------------------------------------------------

GRIDS = {
    "rpt": [2.5, 5.0, 10.0],
    "at-linf": [0.05, 0.075, 0.1],
    "at-l2": [1.0, 1.5, 2.1, 3.0],
    "vat-exact": [1.5, 2.1, 3.0, 4.0],
    "vat-finite-difference": [1.5, 2.1, 3.0, 4.0],
}
EPSILON = """The size of the perturbation: short runs on held-out images, for every row of Table 1.

Trains with each epsilon of each row's grid, on 50,000 images, and reports the error on the other
10,000; the test set is not touched. The runs are a tenth as long as the paper's, with the learning
rate's schedule compressed in proportion. Finished runs are skipped and unfinished ones resumed; the
results keep the runs of other epsilons and seeds that they hold."""
EPSILON_UPDATES = 6000


@cli.command
def epsilon(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, write the results, print the table; the exit code."""
    parser = cli.Parser(EPSILON, "search")
    parser.add_argument(
        "--grid",
        nargs="+",
        type=sweep.by_row(list(GRIDS), cli.positive, "EPSILON"),
        default=list(GRIDS.items()),
        metavar="ROW:EPSILON,...",
        help="rows and their epsilons (default: all rows, each with its grid)",
    )
    args = parsed(parser, argv, seeds=[1], updates=EPSILON_UPDATES)
    variants = {
        variant_of(spec): spec
        for row, epsilons in args.grid
        for spec in (
            # A run's share of the schedule is that of the paper's 60,000 updates.
            MnistSup(method=row, epsilon=each, decay_every=max(1, args.updates // 100))
            for each in epsilons
        )
    }
    usual = ("mnist", EPSILON_UPDATES, VALIDATION)
    dataset, path, found = run("search", usual, variants, args)
    check_alike(found, lambda each: results.spec_of(each).method, free=["epsilon"])
    by_row: dict[str, dict[float, list[Result]]] = {}
    for each in found:
        spec = results.spec_of(each)
        by_row.setdefault(spec.method, {}).setdefault(spec.epsilon, []).append(each)
    lines, choice = [], {}
    for row, by_epsilon in by_row.items():
        errors = {size: mean(each, "validation_error") for size, each in sorted(by_epsilon.items())}
        leaking = {size for size, each in by_epsilon.items() if any(map(leaks, each))}
        choice[row] = chosen(errors, set(errors) - leaking or set(errors), args.validation)
        for size, error in errors.items():
            verdict = "chosen" if size == choice[row] else "leaks" if size in leaking else ""
            r_vadv = mean(by_epsilon[size], "r_vadv")
            lines.append([row, f"{size:g}", f"{error:.2f}", f"{r_vadv:.2f}", verdict])
    runs.write_json(path, {"chosen": choice, "runs": found})
    header = [f"{dataset}: method", "epsilon", "validation error (%)", "R_vadv", ""]
    print(cli.table(header, lines))
    return 0


def variant_of(spec: Spec) -> str:
    """The variant of a run that differs by its epsilon alone."""
    return f"{spec.method}-epsilon{spec.epsilon:g}"


def leaks(result: Result) -> bool:
    """Whether VAT's network recognises perturbed batches by their statistics (batch-norm leakage).

    The LDS that training sees, with batch statistics, is then small, and the one with the running
    statistics large. The two are compared at the same size of the perturbation (the LDS grows with
    its square, eq. 19); more than twice as large counts as leakage.
    """
    spec = results.spec_of(result)
    if not spec.method.startswith("vat"):
        return False
    comparable = result["r_vadv"] * (spec.epsilon / runner.R_VADV_EPSILON) ** 2
    return comparable > 2 * result["regularizer"]


def chosen(errors: Mapping[float, float], allowed: Iterable[float], images: int) -> float:
    """The largest epsilon whose error, in percent, is within one standard error of the best one's.

    Closer than that, an error on so many images does not tell two sizes apart; and a short run,
    which underfits, prefers too weak a regularization. Only sizes in `allowed` count.
    """
    allowed = list(allowed)
    best = min(errors[size] for size in allowed) / 100
    limit = 100 * (best + sqrt(best * (1 - best) / images))
    return max(size for size in allowed if errors[size] <= limit)


# Few labels --------------------------------------------------------------------------------------

SEMISUP = """What the paper does not say of its semi-supervised setting: runs on held-out images.

Trains VAT as mnist-semisup does by default, and again with one thing changed at a time, and reports
the error on 10,000 images held out of the training set; the test set is not touched. The runs are
those of Table 3, cut short: the number of updates at a high learning rate matters, so a schedule
compressed to as few would mislead. Every run's error and R_vadv are measured twice: with the
running statistics that training leaves, of noisy labelled batches, and with those re-estimated over
all images without noise. Finished runs are skipped and unfinished ones resumed; the results keep
the runs of other variants and seeds that they hold."""
SEMISUP_UPDATES = 6000
EXACT, ENTMIN = {"method": "vat-exact"}, {"method": "vat-entmin"}
# What begins with "exact-" is to be compared with "exact", RPT with RPT, VAT+EntMin with
# VAT+EntMin.
VARIANTS: dict[str, MnistSemisup] = {
    name: MnistSemisup(**{"method": "vat-finite-difference", **changes})
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
        # Images and labels of one seed, weights and batches of another: which of them decides?
        **{f"data-seed{seed}": {"data_seed": seed} for seed in (1, 2, 3)},
    }.items()
}
# The columns of the table: means over the seeds.
MEASURED = {
    "validation error (%)": "validation_error",
    "before re-estimation": "validation_error_before_bn_reestimation",
    "R_vadv": "r_vadv_after_bn_reestimation",
    "before": "r_vadv",
}


@cli.command
def semisup(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, write the results, print the table; the exit code."""
    parser = cli.Parser(SEMISUP, "search-semisup")
    names = list(VARIANTS)
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=names,
        default=names,
        metavar="NAME",
        help=f"of: {', '.join(names)} (default: all)",
    )
    cli.add_count(parser, "--labels", 1, 100, "labelled examples")
    args = parsed(parser, argv, seeds=[1, 2, 3], updates=SEMISUP_UPDATES)
    variants = {name: VARIANTS[name].replace(labels=args.labels) for name in args.variants}
    usual = ("mnist", 100, SEMISUP_UPDATES, VALIDATION)
    dataset, path, found = run("search_semisup", usual, variants, args)
    check_alike(found, lambda each: each["variant"])
    runs.write_json(path, {"runs": found})
    lines = []
    for variant in dict.fromkeys(each["variant"] for each in found):
        mine = [each for each in found if each["variant"] == variant]
        means = [f"{mean(mine, name):.2f}" for name in MEASURED.values()]
        seeds = [f"{each['settings']['seed']}: {each['validation_error']:.2f}" for each in mine]
        lines.append([variant, *means, ", ".join(seeds)])
    print(f"{dataset}, {args.labels} labels:\n")
    print(cli.table(["variant", *MEASURED, "by seed"], lines))
    return 0


# Both --------------------------------------------------------------------------------------------


def parsed(
    parser: cli.Parser, argv: Sequence[str] | None, seeds: list[int], updates: int
) -> argparse.Namespace:
    """What the command line asks for."""
    cli.add_count(parser, "--validation", 1, VALIDATION, "images held out")
    cli.add_count(
        parser, "--evaluate-every", 1, None, "updates from row to row (default: a fifth of all)"
    )
    sweep.add_arguments(parser, seeds=seeds, updates=updates, datasets=MnistSup.datasets)
    return parser.parse_args(argv)


def run(
    name: str, usual: Sequence[Any], variants: Mapping[str, Spec], args: argparse.Namespace
) -> tuple[str, Path, list[dict[str, Any]]]:
    """The data set, the results file, and all its runs once the missing ones are made.

    usual: data set, labels where they matter, updates and validation of the file `name`; with
    others its name says so.
    """
    dataset = data.load(args.data, args.data_dir)
    about = dataset.name + ("" if dataset.original else "-of-other-files")
    labels = [args.labels] if "labels" in args else []
    if [about, *labels, args.updates, args.validation] != list(usual):
        about += "".join(f"-{n}-labels" for n in labels)
        name += f"-{about}-{args.updates}-updates-{args.validation}-held-out"
    shared = {
        "dataset": dataset.name,
        "updates": args.updates,
        "validation": args.validation,
        "evaluate_every": args.evaluate_every or max(1, args.updates // 5),
    }
    path = args.results / f"{name}.json"
    kept = published(path)
    jobs = {
        f"{variant}-seed{seed}": sweep.job(spec.replace(**shared, seed=seed), args)
        for variant, spec in variants.items()
        for seed in args.seeds
    }
    folder = Path(args.runs or Path("runs", name))
    found = sweep.run_all(jobs, folder, args.jobs)
    for label, result in found.items():
        row = results.Run(folder / label).rows(("r_vadv", "regularizer"))[-1]
        result |= {"variant": label.rpartition("-seed")[0]}
        result |= {"r_vadv": row["r_vadv"], "regularizer": row["regularizer"]}
    every = list((kept | found).values())
    return dataset.name, results.in_folder(path), every


def check_alike(
    found: Sequence[Result], line: Callable[[Result], str], free: Sequence[str] = ()
) -> None:
    """RunError, naming the setting, where runs of one line differ in more than is `free`."""
    for key, setting, first, other in table.differing(found, line, free):
        raise runs.RunError(
            f"{key}: the results hold a run with {setting} {first} and this one has {other}: "
            "give another folder in --results"
        )


def published(path: Path) -> dict[str, dict[str, Any]]:
    """The runs that a search's results file holds, by label, each with its variant."""
    needed = ("settings", "data", "validation_error", "r_vadv", "regularizer")
    kept = results.published(path, "search", _label, needed)
    for label, each in kept.items():
        each.setdefault("variant", label.rpartition("-seed")[0])
    return kept


def _label(result: Result) -> str:
    variant = result.get("variant") or variant_of(results.spec_of(result))
    return f"{variant}-seed{result['settings']['seed']}"


def mean(found: Iterable[Result], name: str) -> float:
    """The mean of a number of the runs."""
    return statistics.mean(each[name] for each in found)
