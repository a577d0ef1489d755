"""scikit-learn's 8x8 digits with five labels of each class: `VATClassifier` and its rivals.

    python -m experiments.few_labels

1,300 images to learn from, 50 of them with a label, drawn anew by every seed; the error is that on
the other 497. All settings were chosen by --validation 300 with the seeds 100 to 109: the error on
300 of the 1,300, which are then left out of training, so that no test image had a part in it.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import common, jobs
from minivat import backend, data, runs

PER_CLASS = 5


def vat(method: str) -> Callable[[int], Any]:
    """Our estimator; pixels are all on one scale already."""
    from minivat.sklearn import VATClassifier

    return lambda seed: VATClassifier(
        method=method,
        standardize=False,
        epsilon=0.06,
        batch_norm=True,
        learning_rate=0.01,
        random_state=seed,
    )


def self_training(seed: int) -> Any:
    """scikit-learn's self-training around logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.semi_supervised import SelfTrainingClassifier

    return SelfTrainingClassifier(LogisticRegression(C=30, max_iter=2000), threshold=0.9)


def label_spreading(**options: Any) -> Callable[[int], Any]:
    """scikit-learn's label spreading."""
    from sklearn.semi_supervised import LabelSpreading

    return lambda seed: LabelSpreading(max_iter=200, **options)


def estimators() -> dict[str, Callable[[int], Any]]:
    """A fresh estimator for a seed, by name."""
    return {
        "the same network, MLE": vat("mle"),
        "VATClassifier": vat("vat"),
        "SelfTraining, logistic regression": self_training,
        "LabelSpreading, nearest neighbours": label_spreading(kernel="knn", n_neighbors=6),
        "LabelSpreading, Gaussian kernel": label_spreading(kernel="rbf", gamma=10, alpha=0.5),
    }


def parser() -> common.Parser:
    """The command line."""
    parser = common.Parser(__doc__)
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=common.integer(0),
        default=list(range(1, 11)),
        metavar="N",
        help="of labels and networks (default: 1 to 10)",
    )
    parser.add_argument(
        "--validation",
        type=common.integer(0, 1000),
        default=0,
        metavar="N",
        help="hold out N training images, report the error on them and leave the test set alone",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/few_labels.json"),
        metavar="FILE",
        help="default: runs/few_labels.json",
    )
    return parser


def errors(
    make: Callable[[int], Any], dataset: data.Dataset, seeds: Sequence[int], validation: int
) -> dict[int, float]:
    """Errors in percent on the test set, or on the images held out, by seed."""
    found = {}
    for seed in seeds:
        x, y, held, _ = common.hold_out(dataset, validation, seed)
        known = np.full_like(y, -1)
        labelled = data.draw_labels(y, PER_CLASS * 10, seed)
        known[labelled] = y[labelled]
        found[seed] = round(100 * (1 - make(seed).fit(x, known).score(*held)), 3)
    return found


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Fit all estimators with all seeds, write and print their errors; the exit code."""
    args = parser().parse_args(argv)
    dataset = data.load("digits")
    import sklearn

    kind = "validation" if args.validation else "test"
    results, lines = [], []
    for name, make in estimators().items():
        found = errors(make, dataset, args.seeds, args.validation)
        results += [
            {"estimator": name, "seed": seed, f"{kind}_error": error}
            for seed, error in found.items()
        ]
        mean = f"{statistics.mean(found.values()):.2f}"
        if len(found) > 1:
            mean += f" ± {statistics.stdev(found.values()):.2f}"
        lines.append([name, mean, " ".join(f"{error:.1f}" for error in found.values())])
    environment = common.environment(backend.Device())
    environment["versions"]["scikit-learn"] = sklearn.__version__
    runs.write_json(
        jobs.in_folder(args.out),
        {
            "command": "python -m experiments.few_labels",
            "dataset": dataset.name,
            "labels": PER_CLASS * 10,
            "validation": args.validation,
            "estimators": {name: repr(make(0)) for name, make in estimators().items()},
            "runs": results,
            "environment": environment,
        },
    )
    print(common.table(["digits, 5 labels of each", f"{kind} error (%)", "by seed"], lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
