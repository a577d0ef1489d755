"""Figure 8: VAT against random perturbations with as little noise in their gradient, on MNIST.

VAT has alpha 1 and one perturbation in an update (S = 1), RPT alpha 7 and S = 9, the numbers of the
paper; both have epsilon 2. Test error and R_vadv over training, mean ± standard deviation over
seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.lab import figure
from experiments.lab.sweep import Result
from experiments.mnist import MnistSup

TITLES = {"vat": r"VAT, $\alpha$ = 1, S = 1", "rpt": r"RPT, $\alpha$ = 7, S = 9"}


def draw(canvas: Any, found: Mapping[str, Sequence[Result]]) -> None:
    """The two learning curves."""
    from experiments.lab import plotting

    by_title = {TITLES[point]: each for point, each in found.items()}
    plotting.learning_curves(canvas, by_title, "test error (%)")


FIGURES = (
    figure.Figure(
        "figure8",
        __doc__,
        "MNIST, all labels, 60,000 updates.",
        {
            "vat": MnistSup(method="vat-exact", epsilon=2.0),
            "rpt": MnistSup(method="rpt", epsilon=2.0, alpha=7.0, samples=9),
        },
        draw,
    ),
)
