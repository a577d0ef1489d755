"""Table 1: supervised learning on MNIST, all methods, several seeds each.

    python -m experiments.table1 --seeds 1 2 3 --jobs 2

Finished runs are skipped and unfinished ones resumed. When all are done, their results are written
as table1.json and table1.md, and beside them the metrics of every run; with other data than MNIST
or another number of updates than the paper's, under a name that says so.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import common, jobs, mnist_sup
from minivat import runs

UPDATES = 60_000

# Rows that the paper cites from others: test error in percent.
CITED = {
    "SVM": "1.40",
    "Dropout": "1.05",
    "Adversarial, Linf (Goodfellow et al.)": "0.78",
    "Ladder networks": "0.57 ± 0.02",
}


def parser() -> common.Parser:
    """The command line."""
    parser = common.Parser(__doc__)
    parser.add_argument(
        "--rows",
        nargs="+",
        type=jobs.by_row(list(mnist_sup.ROWS), common.integer(0), "SEED"),
        metavar="ROW:SEED,...",
        help="rows, each with seeds of its own (default: all rows with --seeds)",
    )
    parser.add_argument(
        "--add",
        action="store_true",
        help="keep the runs that the results already hold, and do not run those again",
    )
    jobs.add_arguments(parser, seeds=[1, 2, 3], updates=UPDATES, datasets=["mnist", "digits"])
    return parser


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """The table: our error, mean ± standard deviation over the seeds, beside the paper's."""
    paper = all(each["paper_test_error"] is not None for each in results)
    lines = ["| method | ε | test error (%) | by seed | paper (%) |", "| --- " * 5 + "|"]
    for row, entry in mnist_sup.ROWS.items():
        mine = [each for each in results if each["row"] == row]
        if not mine:
            continue
        errors = {each["seed"]: each["test_error"] for each in mine}
        epsilon = "" if mine[0]["epsilon"] is None else f"{mine[0]['epsilon']:g}"
        ours = f"{statistics.mean(errors.values()):.2f}"
        if len(errors) > 1:
            ours += f" ± {statistics.stdev(errors.values()):.2f}"
        seeds = ", ".join(f"{seed}: {error:.2f}" for seed, error in sorted(errors.items()))
        theirs = "{:.2f} ± {:.2f}".format(*entry.paper[mnist_sup.LABELS]) if paper else "-"
        lines.append(f"| {entry.name} | {epsilon} | {ours} | {seeds} | {theirs} |")
    if paper:
        lines += [f"| {name} (cited by the paper) | | | | {e} |" for name, e in CITED.items()]
    about = f"{results[0]['dataset']}, {results[0]['updates']} updates; ± is the standard deviation"
    return "\n".join([*lines, "", f"Data set: {about} over seeds."]) + "\n"


def published(path: Path) -> dict[str, dict[str, Any]]:
    """The runs that a results file holds, by label; none where there is no file."""
    if not path.exists():
        return {}
    return {f"{each['row']}-seed{each['seed']}": each for each in runs.read_json(path)["runs"]}


def order(item: tuple[str, dict[str, Any]]) -> tuple[int, int]:
    """The key that sorts results by row, as in the table, and seed."""
    _, result = item
    return list(mnist_sup.ROWS).index(result["row"]), result["seed"]


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, write the table, print it; the exit code."""
    args = parser().parse_args(argv)
    dataset, shared = jobs.shared_arguments(args)
    shared += ["--evaluate-every", str(max(1, args.updates // 50))]
    rows = args.rows or [(row, args.seeds) for row in mnist_sup.ROWS]
    name = "table1"
    if (dataset, args.updates) != ("mnist", UPDATES):
        name += f"-{dataset}-{args.updates}-updates"
    todo = {
        f"{row}-seed{seed}": [*mnist_sup.row_arguments(row), "--seed", str(seed), *shared]
        for row, seeds in rows
        for seed in seeds
    }
    folder = Path(args.runs or Path("runs", name))
    kept = published(args.results / f"{name}.json") if args.add else {}
    todo = {label: arguments for label, arguments in todo.items() if label not in kept}
    results = kept | jobs.run_all("experiments.mnist_sup", todo, folder, args.jobs)
    results = dict(sorted(results.items(), key=order))

    table = jobs.in_folder(args.results / f"{name}.json")
    runs.write_json(table, {"runs": list(results.values())})
    for label in todo:
        metrics = (folder / label / "metrics.csv").read_bytes()
        course = jobs.in_folder(args.results / name / f"{label}.csv")
        runs.replace_file(course, lambda file, metrics=metrics: file.write(metrics))
    text = markdown(list(results.values()))
    runs.replace_file(table.with_suffix(".md"), lambda file: file.write(text.encode()))
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
