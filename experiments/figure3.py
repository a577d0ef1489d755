"""Figure 3: the validation error on MNIST by epsilon at alpha = 1, and by alpha at three epsilons.

The paper's grids can only be read off its plots; these are ours. VAT by the exact direction and by
the paper's finite difference, on 50,000 images; the error is that on the other 10,000. A third
panel tests eq. 20: for small epsilon the error depends on alpha · epsilon² alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.lab import figure
from experiments.lab.sweep import Result
from experiments.mnist import MnistSup

EPSILONS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
ALPHAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
EPSILONS_OF_ALPHAS = (1.0, 2.0, 3.0)
EXACT, FINITE = "vat-exact", "vat-finite-difference"
GRID = [
    *((method, epsilon, 1.0) for method in (EXACT, FINITE) for epsilon in EPSILONS),
    *((EXACT, epsilon, alpha) for epsilon in EPSILONS_OF_ALPHAS for alpha in ALPHAS),
]


def draw(canvas: Any, found: Mapping[str, Sequence[Result]]) -> None:
    """Three panels: the error by epsilon, by alpha, and by alpha · epsilon²."""
    from experiments.lab import plotting

    canvas.set_size_inches(12, 3.8)
    by_epsilon, by_alpha, by_product = canvas.subplots(1, 3, sharey=True)
    for method in (EXACT, FINITE):
        label = "exact" if method == EXACT else "finite difference"
        line = errors(found, "epsilon", method, alpha=1.0)
        plotting.spread(by_epsilon, line, label, plotting.colour(method))
    for i, epsilon in enumerate(EPSILONS_OF_ALPHAS):
        look = rf"$\epsilon$ = {epsilon:g}", plotting.SHADES[i], plotting.LINES[i]
        line = errors(found, "alpha", EXACT, epsilon=epsilon)
        plotting.spread(by_alpha, line, *look)
        line = {alpha * epsilon**2: each for alpha, each in line.items()}
        plotting.spread(by_product, line, *look)
    small = {e**2: each for e, each in errors(found, "epsilon", EXACT, alpha=1.0).items()}
    plotting.spread(by_product, small, r"$\alpha$ = 1", plotting.colour(EXACT), ":")
    by_epsilon.set(xlabel=r"$\epsilon$  ($\alpha$ = 1)", ylabel="validation error (%)")
    by_alpha.set(xlabel=r"$\alpha$")
    by_product.set(xlabel=r"$\alpha\,\epsilon^2$  (eq. 20)")
    for axes in (by_epsilon, by_alpha, by_product):
        axes.set(xscale="log", yscale="log")
        axes.grid(color="0.9", which="both")
        if axes.lines:
            axes.legend(fontsize="small")
    low, high = by_epsilon.get_ylim()
    _tick(by_epsilon.xaxis, EPSILONS[::2] + EPSILONS[-1:])
    _tick(by_epsilon.yaxis, [each for each in (0.5, 1, 2, 5, 10, 20, 50) if low <= each <= high])


def errors(
    found: Mapping[str, Sequence[Result]], by: str, method: str, **others: float
) -> dict[float, list[float]]:
    """The validation errors of a method by one setting, at all points that have the others."""
    line = {
        each[0]["settings"][by]: [one["validation_error"] for one in each]
        for point, each in found.items()
        if point.startswith(f"{method}-") and others.items() <= each[0]["settings"].items()
    }
    return dict(sorted(line.items()))


def _tick(axis: Any, ticks: Sequence[float]) -> None:
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


FIGURES = (
    figure.Figure(
        "figure3",
        __doc__,
        "MNIST, 50,000 labelled images, 60,000 updates.",
        {
            f"{method}-epsilon{epsilon:g}-alpha{alpha:g}": MnistSup(
                method=method, epsilon=epsilon, alpha=alpha, validation=10_000
            )
            for method, epsilon, alpha in GRID
        },
        draw,
    ),
)
