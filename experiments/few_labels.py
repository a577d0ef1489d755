"""scikit-learn's 8x8 digits with five labels of each class: `VATClassifier` and its rivals.

    python -m experiments few-labels --search
    python -m experiments few-labels

1,300 images to learn from, 50 of them with a label, drawn again by every seed; the error is that on
the other 497. The settings are the winners of --search, which never sees those: it holds 300 of the
1,300 out of training and measures the error on them, with seeds of its own. Every method has 12
settings to choose from; all are tried with three seeds, and the best four with seven more.
"""

from __future__ import annotations

import functools
import itertools
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.lab import cli, machine, results, runs
from minivat import backend, data

PER_CLASS = 5
VALIDATION = 300
SEARCH_SEEDS = range(100, 110)
FIRST_SEEDS = 3  # of these for all of a method's settings, the others for the best
FINALISTS = 4
LABEL = "{method} {settings} {seed}"  # of a run of the search
OURS = "VATClassifier"
PUBLISHED = results.RESULTS / "few_labels_search.json"  # whose winners are compared

Settings = Mapping[str, Any]  # of an estimator


def vat(seed: int, **settings: Any) -> Any:
    """Our estimator."""
    from minivat.sklearn import VATClassifier

    return VATClassifier(random_state=seed, **settings)


def self_training(seed: int, C: float, threshold: float) -> Any:
    """scikit-learn's self-training around logistic regression; nothing in it is random."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.semi_supervised import SelfTrainingClassifier

    return SelfTrainingClassifier(LogisticRegression(C=C, max_iter=2000), threshold=threshold)


class LabelSpreading:
    """scikit-learn's, and for rows that no label reaches the nearest labelled row's class.

    Such a row's neighbours have no class themselves, and its probabilities are 0/0: scikit-learn
    warns and predicts the first class. Nothing in it is random.
    """

    def __init__(self, seed: int, **settings: Any):
        from sklearn.semi_supervised import LabelSpreading

        self.model = LabelSpreading(max_iter=1000, **settings)

    def fit(self, x: np.ndarray, y: np.ndarray) -> LabelSpreading:
        self.x, self.y = x[y >= 0], y[y >= 0]
        self.model.fit(x, y)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        from sklearn.metrics import pairwise_distances_argmin

        with np.errstate(invalid="ignore"):
            p = self.model.predict_proba(x)
        nearest = self.y[pairwise_distances_argmin(x, self.x)]
        return np.where(np.isnan(p).any(axis=1), nearest, self.model.classes_[p.argmax(axis=1)])


def grid(**values: Sequence[Any]) -> list[Settings]:
    """All combinations of the values, in order."""
    return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


class Method(NamedTuple):
    """A row of the table: an estimator made from a seed and settings, and what --search tries."""

    make: Callable[..., Any]
    grid: Sequence[Settings] = ()


METHODS = {
    "MLE, the same kind of network": Method(
        vat,
        grid(
            method=["mle"],
            standardize=[False, True],
            batch_norm=[False, True],
            learning_rate=[0.001, 0.005, 0.01],
        ),
    ),
    OURS: Method(
        vat,
        grid(
            standardize=[False],  # pixels are all on one scale already
            batch_norm=[False, True],
            epsilon=[0.04, 0.06, 0.09],
            alpha=[1.0, 4.0],
            learning_rate=[0.01],
        ),
    ),
    OURS + ", its defaults": Method(vat),
    "SelfTraining, logistic regression": Method(
        self_training, grid(C=[3, 10, 30, 100], threshold=[0.8, 0.9, 0.95])
    ),
    "LabelSpreading, nearest neighbours": Method(
        LabelSpreading, grid(kernel=["knn"], n_neighbors=[4, 5, 6, 7, 8, 10], alpha=[0.2, 0.8])
    ),
    "LabelSpreading, Gaussian kernel": Method(
        LabelSpreading, grid(kernel=["rbf"], gamma=[2, 3, 5, 10], alpha=[0.5, 0.8, 0.9])
    ),
}


def error(
    method: Method, settings: Settings, dataset: data.Dataset, seed: int, validation: int = 0
) -> float:
    """The error in percent on the test set, or on as many images held out of training."""
    x, y = dataset.train_images, dataset.train_labels
    held_x, held_y = dataset.test_images, dataset.test_labels
    if validation:
        kept, held_out = data.hold_out(y, validation, seed)
        held_x, held_y = x[held_out], y[held_out]
        x, y = x[kept], y[kept]
    known = np.full_like(y, -1)
    labelled = data.draw_labels(y, PER_CLASS * 10, seed)
    known[labelled] = y[labelled]
    model = method.make(seed, **settings).fit(x, known)
    return round(100 * float(np.mean(model.predict(held_x) != held_y)), 3)


def winner(grid: Sequence[Settings], measure: Callable[[Settings, int], float]) -> Settings:
    """The settings of least mean error: the best with the first seeds, then the best with all."""

    def mean(seeds: Sequence[int]) -> Callable[[Settings], float]:
        return lambda settings: statistics.mean(measure(settings, seed) for seed in seeds)

    best = sorted(grid, key=mean(SEARCH_SEEDS[:FIRST_SEEDS]))[:FINALISTS]
    return min(best, key=mean(SEARCH_SEEDS))


def search(dataset: data.Dataset, path: Path, commit: str | None) -> tuple[dict[str, Any], str]:
    """The winner for every method that has a grid, and all runs; a table of the winners.

    The file is written after every run, with the commit, that of this code. The runs that it holds
    are not repeated.
    """
    found = results.published(path, "search", LABEL.format_map, ("validation_error", "commit"))

    def measure(name: str, settings: Settings, seed: int) -> float:
        run = {"method": name, "settings": settings, "seed": seed}
        label = LABEL.format_map(run)
        if label not in found:
            run["validation_error"] = error(METHODS[name], settings, dataset, seed, VALIDATION)
            found[label] = {**run, "commit": commit}
            runs.write_json(path, {"runs": list(found.values())})
        return found[label]["validation_error"]

    winners, lines = [], []
    for name, method in METHODS.items():
        if method.grid:
            settings = winner(method.grid, functools.partial(measure, name))
            errors = [measure(name, settings, seed) for seed in SEARCH_SEEDS]
            mean = round(statistics.mean(errors), 3)
            winners.append({"method": name, "settings": settings, "mean": mean})
            lines.append([name, json.dumps(settings), *spread(errors)])
    table = cli.table(["method", "settings", "validation error (%)", "by seed"], lines)
    return {"held_out": VALIDATION, "winners": winners, "runs": list(found.values())}, table


def spread(errors: Sequence[float]) -> list[str]:
    """Mean and standard deviation, and the errors one by one, for a table."""
    mean = f"{statistics.mean(errors):.2f}"
    if len(errors) > 1:
        mean += f" ± {statistics.stdev(errors):.2f}"
    return [mean, " ".join(f"{error:.1f}" for error in errors)]


def compare(dataset: data.Dataset, seeds: Sequence[int]) -> tuple[dict[str, Any], str]:
    """All methods' errors on the test set, and each rival's minus ours, seed by seed; a table."""
    published = runs.read_json(PUBLISHED)
    if "winners" not in published:
        raise runs.RunError(f"{PUBLISHED} holds a search cut short: go on with it first")
    chosen = {each["method"]: each["settings"] for each in published["winners"]}
    errors = {
        name: [error(method, chosen.get(name, {}), dataset, seed) for seed in seeds]
        for name, method in METHODS.items()
    }
    methods, lines = [], []
    for name, mine in errors.items():
        differences = [round(a - b, 3) for a, b in zip(mine, errors[OURS], strict=True)]
        row = {"method": name, "settings": chosen.get(name, {}), "test_errors": mine}
        methods.append({**row, f"minus_{OURS}": differences})
        mean, by_seed = spread(mine)
        worse = f"{sum(each > 0 for each in differences)} of {len(seeds)}"
        paired = ["", ""] if name == OURS else [spread(differences)[0], worse]
        lines.append([name, mean, *paired, by_seed])
    header = [f"digits, {PER_CLASS} labels of each", "test error (%)", f"minus {OURS}", "worse"]
    table = cli.table([*header, "by seed"], lines)
    return {"seeds": list(seeds), "methods": methods}, table


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Search, or fit all estimators with all seeds; write and print the errors; the exit code."""
    parser = cli.Parser(__doc__, "few-labels")
    parser.add_argument(
        "--search",
        action="store_true",
        help=f"choose the settings: errors on {VALIDATION} held-out images, none on the test set; "
        "continues a search cut short",
    )
    text = "of labels and networks (default: 1 to 10; the search has its own)"
    cli.add_seeds(parser, None, text)
    parser.add_argument(
        "--out",
        type=cli.folder_name,
        default="runs/few_labels",
        metavar="DIR",
        help="folder for few_labels.json or few_labels_search.json (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if args.search and args.seeds:
        raise runs.RunError("--seeds means nothing to --search, which has its own: leave it out")
    name = f"few_labels{'_search' if args.search else ''}.json"
    path = results.writable(Path(args.out, name))
    dataset = data.load("digits")
    import sklearn

    environment = machine.environment(backend.Device())
    environment["versions"]["scikit-learn"] = sklearn.__version__
    if args.search:
        found, table = search(dataset, path, environment["commit"])
    else:
        found, table = compare(dataset, args.seeds or range(1, 11))
    content = {
        "command": cli.command_line("few-labels", args),
        "dataset": dataset.name,
        "labels": PER_CLASS * 10,
        **found,
        "environment": environment,
    }
    runs.write_json(path, content)
    print(table)
    return 0
