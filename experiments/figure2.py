"""Figure 2: error and R_vadv (epsilon = 2) over training on MNIST, with and without VAT.

Those of Table 1's runs, which `table1` left among the results. Mean ± standard deviation over the
seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.lab import figure, results
from experiments.lab.sweep import Result
from experiments.mnist import MnistSup

TITLES = {
    "mle": "without VAT",
    "vat-exact": "VAT, exact",
    "vat-finite-difference": "VAT, finite difference",
}


def of_table(folder: Path) -> dict[str, Any]:
    """Table 1's runs in a folder of results, with their metrics."""

    def label(result: Result) -> str:
        return f"{results.spec_of(result).method}-seed{result['settings']['seed']}"

    def complete(name: str, result: Result) -> Result:
        rows = results.rows(folder / "table1" / f"{name}.csv", figure.ROW)
        return {**result, "point": name.rpartition("-seed")[0], "rows": rows, "measured": None}

    found = results.published(folder / "table1.json", "table", label)
    return {
        name: complete(name, result)
        for name, result in found.items()
        if name.rpartition("-seed")[0] in TITLES
    }


def draw(canvas: Any, found: Mapping[str, Sequence[Result]]) -> None:
    """The learning curves."""
    from experiments.lab import plotting

    by_title = {TITLES[point]: each for point, each in found.items()}
    plotting.learning_curves(canvas, by_title, "test error (%)")


FIGURES = (
    figure.Figure(
        "figure2",
        __doc__,
        "MNIST, all labels, 60,000 updates.",
        {method: MnistSup(method=method) for method in TITLES},
        draw,
        held=of_table,
    ),
)
