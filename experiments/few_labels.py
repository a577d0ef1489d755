"""scikit-learn's 8x8 digits with five labels of each class: `VATClassifier` and its rivals.

    python -m experiments.few_labels --search
    python -m experiments.few_labels

1,300 images to learn from, 50 of them with a label, drawn anew by every seed; the error is that on
the other 497. The settings are the winners of --search, which never sees those: it holds 300 of the
1,300 out of training and measures the error on them, with seeds of its own. Every method has 12
settings to choose from; all are tried with three seeds, and the best four with seven more.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common, jobs
from experiments.lab import runs
from minivat import backend, data

PER_CLASS = 5
VALIDATION = 300
SEARCH_SEEDS = range(100, 110)
FIRST_SEEDS = 3  # of these for all of a method's settings, the others for the best
FINALISTS = 4
OURS = "VATClassifier"


def grid(**values: Sequence[Any]) -> list[dict[str, Any]]:
    """All combinations of the values, in order."""
    return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the table.

    make    gives a fresh estimator from a seed and settings
    grid    all settings that --search tries
    chosen  its winner
    """

    make: Callable[..., Any]
    grid: Sequence[Mapping[str, Any]] = ()
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def vat(seed: int, **settings: Any) -> Any:
    """Our estimator."""
    from minivat.sklearn import VATClassifier

    return VATClassifier(random_state=seed, **settings)


def self_training(seed: int, C: float, threshold: float) -> Any:
    """scikit-learn's self-training around logistic regression; nothing in it is random."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.semi_supervised import SelfTrainingClassifier

    return SelfTrainingClassifier(LogisticRegression(C=C, max_iter=2000), threshold=threshold)


def label_spreading(seed: int, **settings: Any) -> Any:
    """scikit-learn's label spreading; nothing in it is random."""
    from sklearn.semi_supervised import LabelSpreading

    return WithFallback(LabelSpreading(max_iter=1000, **settings))


class WithFallback:
    """LabelSpreading, and for the rows that no label reaches the nearest labelled row's class.

    Such a row's neighbours have no class themselves, and its probabilities are 0/0: scikit-learn
    warns and predicts the first class.
    """

    def __init__(self, model: Any):
        self.model = model

    def fit(self, x: np.ndarray, y: np.ndarray) -> WithFallback:
        self.x, self.y = x[y >= 0], y[y >= 0]
        self.model.fit(x, y)
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        from sklearn.metrics import pairwise_distances_argmin

        with np.errstate(invalid="ignore"):
            p = self.model.predict_proba(x)
        predicted = self.model.classes_[p.argmax(axis=1)]
        unreached = np.isnan(p).any(axis=1)
        if unreached.any():
            predicted[unreached] = self.y[pairwise_distances_argmin(x[unreached], self.x)]
        return predicted

    def score(self, x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean(self.predict(x) == y))


# Pixels are all on one scale already.
METHODS = {
    "MLE, the same kind of network": Method(
        vat,
        grid(
            method=["mle"],
            standardize=[False, True],
            batch_norm=[False, True],
            learning_rate=[0.001, 0.005, 0.01],
        ),
        {"method": "mle", "standardize": False, "batch_norm": True, "learning_rate": 0.01},
    ),
    OURS: Method(
        vat,
        grid(
            standardize=[False],
            batch_norm=[False, True],
            epsilon=[0.04, 0.06, 0.09],
            alpha=[1.0, 4.0],
            learning_rate=[0.01],
        ),
        {
            "standardize": False,
            "batch_norm": True,
            "epsilon": 0.06,
            "alpha": 4.0,
            "learning_rate": 0.01,
        },
    ),
    OURS + ", its defaults": Method(vat),
    "SelfTraining, logistic regression": Method(
        self_training,
        grid(C=[3, 10, 30, 100], threshold=[0.8, 0.9, 0.95]),
        {"C": 3, "threshold": 0.8},
    ),
    "LabelSpreading, nearest neighbours": Method(
        label_spreading,
        grid(kernel=["knn"], n_neighbors=[4, 5, 6, 7, 8, 10], alpha=[0.2, 0.8]),
        {"kernel": "knn", "n_neighbors": 6, "alpha": 0.2},
    ),
    "LabelSpreading, Gaussian kernel": Method(
        label_spreading,
        grid(kernel=["rbf"], gamma=[2, 3, 5, 10], alpha=[0.5, 0.8, 0.9]),
        {"kernel": "rbf", "gamma": 3, "alpha": 0.9},
    ),
}


def parser() -> common.Parser:
    """The command line."""
    parser = common.Parser(__doc__)
    parser.add_argument(
        "--search",
        action="store_true",
        help=f"choose the settings: errors on {VALIDATION} held-out images, none on the test set; "
        "continues a search cut short",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=common.integer(0),
        metavar="N",
        help="of labels and networks (default: 1 to 10; the search has its own)",
    )
    parser.add_argument(
        "--out",
        type=common.folder_name,
        default="runs/few_labels",
        metavar="DIR",
        help="folder for few_labels.json or few_labels_search.json (default: runs/few_labels)",
    )
    return parser


def error(
    make: Callable[[int], Any], dataset: data.Dataset, seed: int, validation: int = 0
) -> float:
    """The error in percent on the test set, or on as many images held out."""
    x, y, held, _ = common.hold_out(dataset, validation, seed)
    known = np.full_like(y, -1)
    labelled = data.draw_labels(y, PER_CLASS * 10, seed)
    known[labelled] = y[labelled]
    return round(100 * (1 - make(seed).fit(x, known).score(*held)), 3)


def winner(
    grid: Sequence[Mapping[str, Any]], measure: Callable[[Mapping[str, Any], int], float]
) -> Mapping[str, Any]:
    """The settings of least mean error: the best with the first seeds, then the best with all."""

    def mean(seeds: Sequence[int]) -> Callable[[Mapping[str, Any]], float]:
        return lambda settings: statistics.mean(measure(settings, seed) for seed in seeds)

    best = sorted(grid, key=mean(SEARCH_SEEDS[:FIRST_SEEDS]))[:FINALISTS]
    return min(best, key=mean(SEARCH_SEEDS))


RUN = ("method", "settings", "seed", "validation_error", "commit")


def measured(path: Path) -> list[dict[str, Any]]:
    """The runs that a search's file holds, none where there is no file; RunError where it holds
    something else. Runs that do not say by which commit they were made are of the file's."""
    if not path.exists():
        return []
    content = runs.read_json(path)
    try:
        commit = content["environment"]["commit"] if "environment" in content else None
        found = [{"commit": commit, **each} for each in content["runs"]]
        return [{name: each[name] for name in RUN} for each in found]
    except (KeyError, TypeError) as error:
        raise runs.RunError(f"{path}: holds no runs of this search ({error})") from error


def search(
    dataset: data.Dataset, path: Path, commit: str | None
) -> tuple[dict[str, Any], list[list[str]]]:
    """The winner for every method that has a grid, and all that was run; a table of the winners.

    The file is written after every run, with the commit, that of this code; the runs that it holds
    are not repeated.
    """
    found = measured(path)
    known = {
        (each["method"], json.dumps(each["settings"]), each["seed"]): each["validation_error"]
        for each in found
    }
    winners, lines = [], []
    for name, method in METHODS.items():
        if not method.grid:
            continue

        def measure(
            settings: Mapping[str, Any], seed: int, name: str = name, method: Method = method
        ) -> float:
            key = (name, json.dumps(settings), seed)
            if key not in known:
                make = functools.partial(method.make, **settings)
                known[key] = error(make, dataset, seed, VALIDATION)
                run = {"method": name, "settings": settings, "seed": seed}
                found.append(run | {"validation_error": known[key], "commit": commit})
                runs.write_json(path, {"runs": found})
            return known[key]

        settings = winner(method.grid, measure)
        errors = [measure(settings, seed) for seed in SEARCH_SEEDS]
        winners.append(
            {"method": name, "settings": settings, "mean": round(statistics.mean(errors), 3)}
        )
        lines.append([name, json.dumps(settings), *spread(errors)])
    return {"held_out": VALIDATION, "winners": winners, "runs": found}, lines


def spread(errors: Sequence[float]) -> list[str]:
    """Mean and standard deviation, and the errors one by one, for a table."""
    mean = f"{statistics.mean(errors):.2f}"
    if len(errors) > 1:
        mean += f" ± {statistics.stdev(errors):.2f}"
    return [mean, " ".join(f"{error:.1f}" for error in errors)]


def compare(dataset: data.Dataset, seeds: Sequence[int]) -> tuple[dict[str, Any], list[list[str]]]:
    """All methods' errors on the test set, and each rival's minus ours, seed by seed; a table."""
    errors = {
        name: [
            error(functools.partial(method.make, **method.chosen), dataset, seed) for seed in seeds
        ]
        for name, method in METHODS.items()
    }
    methods, lines = [], []
    for name, mine in errors.items():
        differences = [round(a - b, 3) for a, b in zip(mine, errors[OURS], strict=True)]
        methods.append(
            {
                "method": name,
                "settings": METHODS[name].chosen,
                "test_errors": mine,
                f"minus_{OURS}": differences,
            }
        )
        mean, by_seed = spread(mine)
        worse = sum(each > 0 for each in differences)
        paired = [] if name == OURS else [spread(differences)[0], f"{worse} of {len(seeds)}"]
        lines.append([name, mean, *(paired or ["", ""]), by_seed])
    return {"seeds": list(seeds), "methods": methods}, lines


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Search, or fit all estimators with all seeds; write and print the errors; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(argv)
    if args.search and args.seeds:
        raise runs.RunError("--seeds means nothing to --search, which has its own: leave it out")
    path = jobs.writable(Path(args.out, f"few_labels{'_search' if args.search else ''}.json"))
    dataset = data.load("digits")
    import sklearn

    environment = common.environment(backend.Device())
    environment["versions"]["scikit-learn"] = sklearn.__version__
    if args.search:
        content, lines = search(dataset, path, environment["commit"])
        header = ["method", "settings", "validation error (%)", "by seed"]
    else:
        content, lines = compare(dataset, args.seeds or range(1, 11))
        title = f"digits, {PER_CLASS} labels of each"
        header = [title, "test error (%)", f"minus {OURS}", "worse", "by seed"]
    runs.write_json(
        path,
        {
            "command": shlex.join(["python", "-m", "experiments.few_labels", *argv]),
            "dataset": dataset.name,
            "labels": PER_CLASS * 10,
            **content,
            "environment": environment,
        },
    )
    print(common.table(header, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
