"""The size of the perturbation: short runs on held-out images, for every method of Table 1.

    python -m experiments.search --jobs 2

Trains with each epsilon of each row's grid, on 50,000 images, and reports the error on the other
10,000; the test set is not touched. The runs are a tenth as long as the paper's, with the learning
rate's schedule compressed in proportion. Finished runs are skipped and unfinished ones resumed; the
results keep the runs of other epsilons and seeds that they hold.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

from experiments import common, jobs, tables
from experiments.lab import runs

GRIDS = {
    "rpt": [2.5, 5.0, 10.0],
    "at-linf": [0.05, 0.075, 0.1],
    "at-l2": [1.0, 1.5, 2.1, 3.0],
    "vat-exact": [1.5, 2.1, 3.0, 4.0],
    "vat-finite-difference": [1.5, 2.1, 3.0, 4.0],
}
UPDATES = 6000
VALIDATION = 10_000
LABEL = "{row}-epsilon{epsilon:g}-seed{seed}"


def parser() -> common.Parser:
    """The command line."""
    parser = common.Parser(__doc__)
    parser.add_argument(
        "--grid",
        nargs="+",
        type=jobs.by_row(list(GRIDS), common.positive, "EPSILON"),
        default=list(GRIDS.items()),
        metavar="ROW:EPSILON,...",
        help="rows and their epsilons (default: all rows, each with its grid)",
    )
    parser.add_argument(
        "--validation",
        type=common.integer(1),
        default=VALIDATION,
        metavar="N",
        help=f"images held out (default: {VALIDATION})",
    )
    jobs.add_arguments(parser, seeds=[1], updates=UPDATES, datasets=["mnist", "digits"])
    return parser


# Of a run in the results, what they are read for.
HELD = ("row", "method", "epsilon", "seed", "settings", "validation_error", "r_vadv", "regularizer")


def check_alike(results: Sequence[Mapping[str, Any]], line: str, free: Sequence[str]) -> None:
    """RunError, naming the setting, where runs of one line differ in more than is `free`.

    line: what of a run names its line.
    """
    for key, name, usual, other in tables.differing(results, lambda each: each[line], free):
        raise runs.RunError(
            f"{key}: the results hold a run with {name} {usual} and this one has {other}: "
            "give another folder in --results"
        )


def means(results: Sequence[dict[str, Any]], name: str) -> dict[str, dict[float, float]]:
    """A number of the runs, averaged over seeds, by row and epsilon."""
    found: dict[str, dict[float, list[float]]] = {}
    for each in results:
        found.setdefault(each["row"], {}).setdefault(each["epsilon"], []).append(each[name])
    return {
        row: {epsilon: statistics.mean(values) for epsilon, values in sorted(by_epsilon.items())}
        for row, by_epsilon in found.items()
    }


def escaped(result: dict[str, Any]) -> bool:
    """Whether VAT has lost its hold on the network, with this epsilon.

    A large perturbation of a whole batch changes the batch's statistics, and the network can learn
    to tell by them: the LDS that training sees, with batch statistics, is then small, and the one
    with the running statistics large. The two are compared at the same size of the perturbation
    (the LDS grows with its square, eq. 19); more than twice as large counts as escaped.
    """
    comparable = result["r_vadv"] * (result["epsilon"] / common.R_VADV_EPSILON) ** 2
    return result["method"] == "vat" and comparable > 2 * result["regularizer"]


def chosen(errors: dict[float, float], held: Sequence[float], images: int) -> float:
    """The largest epsilon whose error, in percent, is within one standard error of the best one's.

    Closer than that, an error on so many images does not tell two sizes apart; and a short run,
    which underfits, prefers too weak a regularization. Only sizes in `held` count.
    """
    best = min(errors[epsilon] for epsilon in held) / 100
    limit = 100 * (best + sqrt(best * (1 - best) / images))
    return max(epsilon for epsilon in held if errors[epsilon] <= limit)


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, write the results, print the table; the exit code."""
    args = parser().parse_args(argv)
    dataset, shared = jobs.shared_arguments(args)
    shared += ["--decay-every", str(max(1, args.updates // 100))]  # as in the paper's 60,000
    shared += ["--validation", str(args.validation)]
    shared += ["--evaluate-every", str(max(1, args.updates // 5))]
    name = "search"
    if (dataset, args.updates, args.validation) != ("mnist", UPDATES, VALIDATION):
        name += f"-{dataset}-{args.updates}-updates-{args.validation}-held-out"
    todo = {
        LABEL.format(row=row, epsilon=epsilon, seed=seed): [
            "experiments.mnist_sup",
            *common.row_arguments(row),
            *("--epsilon", str(epsilon), "--seed", str(seed)),
            *shared,
        ]
        for row, epsilons in args.grid
        for epsilon in epsilons
        for seed in args.seeds
    }
    folder = Path(args.runs or Path("runs", name))
    results_path = args.results / f"{name}.json"
    kept = jobs.published(results_path, "search", LABEL.format_map, HELD)
    found = jobs.run_all(todo, folder, args.jobs)
    for label, result in found.items():
        row = common.rows_of(folder / label, ("r_vadv", "regularizer"))[-1]
        result |= {"r_vadv": row["r_vadv"], "regularizer": row["regularizer"]}
    results = list((kept | found).values())
    check_alike(results, "row", ["epsilon"])

    errors = means(results, "validation_error")
    lost = {(each["row"], each["epsilon"]) for each in results if escaped(each)}
    choice = {}
    for row, by_epsilon in errors.items():
        held = [epsilon for epsilon in by_epsilon if (row, epsilon) not in lost]
        choice[row] = chosen(by_epsilon, held or list(by_epsilon), args.validation)
    runs.write_json(jobs.in_folder(results_path), {"chosen": choice, "runs": results})
    r_vadv = means(results, "r_vadv")
    lines = [
        [
            row,
            f"{epsilon:g}",
            f"{error:.2f}",
            f"{r_vadv[row][epsilon]:.2f}",
            "chosen" if epsilon == choice[row] else "escaped" if (row, epsilon) in lost else "",
        ]
        for row, by_epsilon in errors.items()
        for epsilon, error in by_epsilon.items()
    ]
    print(
        common.table([f"{dataset}: method", "epsilon", "validation error (%)", "R_vadv", ""], lines)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
