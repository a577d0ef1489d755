"""The audit's figures, from the numbers of audit.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.audit import measure
from experiments.audit.numbers import Numbers, stages_of
from experiments.lab import plotting

NAMES = {"mle": "without VAT", "vat": "with VAT"}
COLOURS = {"mle": plotting.colour("mle"), "vat": plotting.colour("vat-exact")}
MARKERS = {"mle": "o", "vat": "s"}  # for prints without colours
GREY = "0.45"  # of what no method does
K1 = measure.exact(1)


def spectra(audit: Numbers) -> Figure:
    """Distributions at the end of training, above; over training, below.

    Of λ₁ the mean is drawn, too: the few images with the largest λ₁ make it.
    """
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    axes = figure.subplots(2, 3)
    columns = (
        ("lambda1", "$\\lambda_1$ (nats per squared pixel range)", "log"),
        ("ratio", "$\\lambda_2\\,/\\,\\lambda_1$", "linear"),
        ("effective_rank", "effective rank", "linear"),
    )
    for (upper, lower), (name, label, scale) in zip(axes.T, columns, strict=True):
        for method, colour in COLOURS.items():
            values = audit["networks"][method]["spectra"][name]["percentiles"]
            upper.plot(values, range(101), color=colour)
            upper.plot(values[50], 50, MARKERS[method], color=colour)
            stages = stages_of(audit, method)
            places = range(len(stages))
            over_training = [stage["spectra"][name] for stage in stages]
            _band(lower, places, over_training, colour, f"{NAMES[method]}: median", MARKERS[method])
            lower.set_xticks(places, [f"{stage['updates']:,}" for stage in stages])
        upper.set_xscale(scale)
        lower.set_yscale(scale)
        upper.set_xlabel(label)
        upper.set_ylabel("share of images below (%)")
        lower.set_xlabel("updates")
        lower.set_ylabel(label)
        upper.grid(color="0.9")
        lower.grid(color="0.9")
    _means(axes[0, 0], axes[1, 0], audit)
    axes[0, 1].set_title("after training")
    axes[1, 1].set_title("over training: median, and 5 to 95 % of the images (shaded)")
    lines, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=4)
    return figure


def _means(upper: Axes, lower: Axes, audit: Numbers) -> None:
    """The means of λ₁, which the few images with the largest λ₁ may determine, as stars."""
    summaries = []
    for method, colour in COLOURS.items():
        over_training = [stage["spectra"]["lambda1"] for stage in stages_of(audit, method)]
        last = over_training[-1]
        below = np.interp(last["mean"], last["percentiles"], range(101))
        upper.plot(last["mean"], below, "*", markersize=11, color=colour)
        means = [each["mean"] for each in over_training]
        label = f"{NAMES[method]}: mean"
        lower.plot(means, "*--", markersize=8, linewidth=1, color=colour, label=label)
        summaries.append(last)
    mean, median = ([f"{each[kind]:.2g}" for each in summaries] for kind in ("mean", "median"))
    text = f"without → with VAT\nmedian: {' → '.join(median)}\nmean: {' → '.join(mean)}"
    upper.text(0.97, 0.08, text, transform=upper.transAxes, ha="right", fontsize="small")


def directions(audit: Numbers) -> Figure:
    """Captured curvature and alignment against K and against xi."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots(2, 3, sharey=True)
    qualities = {
        "captured": "captured curvature\n$d^T H d\\,/\\,\\lambda_1$",
        "alignment": "alignment $|\\langle d, u_1\\rangle|$",
    }
    for row, (quality, label) in zip(axes, qualities.items(), strict=True):
        for method in NAMES:
            by_dtype = audit["networks"][method]["directions"]
            _against_k(row[0], by_dtype["float64"], quality, method)
            for axes_of_k, k in ((row[1], 1), (row[2], 8)):
                for dtype, style in (("float64", "--"), ("float32", "-")):
                    _against_xi(axes_of_k, by_dtype[dtype], quality, method, k, style, dtype)
        row[0].set_ylabel(label)
        for each in row:
            each.set_ylim(-0.02, 1.02)
            each.grid(color="0.9")
    axes[0, 0].set_title("exact: median, 5 to 95 %")
    axes[0, 1].set_title("finite differences, K = 1: median")
    axes[0, 2].set_title("finite differences, K = 8: median")
    axes[0, 0].legend(loc="lower right")
    lines, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower right", ncols=4)
    return figure


def _against_k(axes: Axes, by_direction: Numbers, quality: str, method: str) -> None:
    places = range(len(measure.ITERATIONS))
    exact = [by_direction[measure.exact(k)][quality] for k in measure.ITERATIONS]
    _band(axes, places, exact, COLOURS[method], NAMES[method], MARKERS[method])
    axes.set_xticks(places, ["½" if k == 0.5 else f"{k:g}" for k in measure.ITERATIONS])
    axes.set_xlabel("K")


def _against_xi(
    axes: Axes, by_direction: Numbers, quality: str, method: str, k: int, style: str, dtype: str
) -> None:
    xis = measure.xis_of(by_direction)
    axes.semilogx(
        xis,
        [by_direction[measure.finite_difference(xi, k)][quality]["median"] for xi in xis],
        style,
        marker=MARKERS[method],
        markersize=4,
        color=COLOURS[method],
        label=f"{NAMES[method]}, {dtype}",
    )
    axes.axvline(measure.PAPER_XI, color="0.7", linewidth=1, zorder=0)
    axes.set_xlabel("$\\xi$ (pixels from 0 to 1)")


def epsilon(audit: Numbers) -> Figure:
    """D against epsilon beside the true maximum and ½ε²λ₁, above; changed predictions, below."""
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    lines = (
        (K1, "better", "--", plotting.colour("vat-exact"), "the better of $\\pm r_{vadv}$, K = 1"),
        (K1, "drawn", "-", plotting.colour("vat-exact"), "$r_{vadv}$, K = 1"),
        (measure.exact(0), "drawn", "-", plotting.colour("rpt"), "random, K = 0"),
    )
    for (upper, lower), (method, name) in zip(axes.T, NAMES.items(), strict=True):
        by_epsilon = audit["networks"][method]["perturbations"]
        epsilons = [float(epsilon) for epsilon in by_epsilon]
        at = list(by_epsilon.values())
        maximum = "true maximum (shaded: 5 to 95 % of images)"
        _band(upper, epsilons, [each["maximum"] for each in at], GREY, maximum)
        quadratic = [each["quadratic"]["median"] for each in at]
        upper.plot(epsilons, quadratic, ":", color=GREY, label="$\\epsilon^2 \\lambda_1 / 2$")
        lower.plot(epsilons, [100 * each["maximum_flips"] for each in at], ".-", color=GREY)
        for direction, kind, style, colour, label in lines:
            found = [each["directions"][direction] for each in at]
            medians = [each[kind]["median"] for each in found]
            flips = [100 * each[f"{kind}_flips"] for each in found]
            upper.plot(epsilons, medians, style, marker=".", color=colour, label=label)
            lower.plot(epsilons, flips, style, marker=".", color=colour)
        upper.set_title(f"trained {name}")
        upper.set_yscale("log")
        upper.set_xscale("log")
        lower.set_xlabel("$\\epsilon$, L2 norm of r (pixels from 0 to 1)")
        for each in (upper, lower):
            each.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
            each.minorticks_off()
            each.grid(color="0.9")
    axes[0, 0].set_ylabel("D (nats), median over images")
    axes[1, 0].set_ylabel("predictions that change (%)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _band(
    axes: Axes,
    places: Sequence[float],
    summaries: Sequence[Numbers],
    colour: str,
    label: str,
    marker: str = ".",
) -> None:
    """The medians as a line, 5 to 95 % shaded."""
    medians = [each["median"] for each in summaries]
    axes.plot(places, medians, marker=marker, markersize=5, color=colour, label=label)
    low, high = ([each[name] for each in summaries] for name in ("p5", "p95"))
    axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)


FIGURES = {"spectra": spectra, "directions": directions, "epsilon": epsilon}


def write(folder: Path, audit: Numbers) -> None:
    """Write all figures into the folder, as PNG."""
    for name, draw in FIGURES.items():
        plotting.save(draw(audit), folder / f"{name}.png")
