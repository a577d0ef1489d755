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
    axes = dict(zip("abc", canvas.subplots(1, 3, sharey=True), strict=True))
    errors = {
        (each[0]["settings"]["epsilon"], each[0]["settings"]["alpha"], point.rpartition("-e")[0]): [
            one["validation_error"] for one in each
        ]
        for point, each in found.items()
    }
    for method in (EXACT, FINITE):
        line = {e: v for (e, alpha, m), v in sorted(errors.items()) if (alpha, m) == (1, method)}
        label = "exact" if method == EXACT else "finite difference"
        plotting.spread(axes["a"], line, label, plotting.colour(method))
    for epsilon, style in zip(EPSILONS_OF_ALPHAS, plotting.LINES, strict=False):
        line = {a: v for (e, a, m), v in sorted(errors.items()) if (e, m) == (epsilon, EXACT)}
        label, shade = (
            rf"$\epsilon$ = {epsilon:g}",
            plotting.SHADES[EPSILONS_OF_ALPHAS.index(epsilon)],
        )
        plotting.spread(axes["b"], line, label, shade, style)
        by_product = {alpha * epsilon**2: v for alpha, v in line.items()}
        plotting.spread(axes["c"], by_product, label, shade, style)
    small = {e**2: v for (e, a, m), v in sorted(errors.items()) if (a, m) == (1, EXACT)}
    plotting.spread(axes["c"], small, r"$\alpha$ = 1", plotting.colour(EXACT), ":")
    for name, label in {
        "a": r"$\epsilon$  ($\alpha$ = 1)",
        "b": r"$\alpha$",
        "c": r"$\alpha\,\epsilon^2$  (eq. 20)",
    }.items():
        axes[name].set(xlabel=label, xscale="log", yscale="log")
        axes[name].grid(color="0.9", which="both")
        if axes[name].lines:
            axes[name].legend(fontsize="small")
    ticks = EPSILONS[::2] + EPSILONS[-1:]
    axes["a"].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes["a"].set_xticks([], minor=True)
    axes["a"].set_ylabel("validation error (%)")
    low, high = axes["a"].get_ylim()
    ticks = [tick for tick in (0.5, 1, 2, 5, 10, 20, 50) if low <= tick <= high]
    axes["a"].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes["a"].set_yticks([], minor=True)


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
