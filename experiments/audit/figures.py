"""The audit's figures, from the numbers of audit.json."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from experiments.audit import measure
from experiments.audit.numbers import Numbers, stages_of
from experiments.lab import plotting

NAMES = {"mle": "without VAT", "vat": "with VAT"}
STYLES = {  # markers for prints without colours
    "mle": {"color": plotting.colour("mle"), "marker": "o"},
    "vat": {"color": plotting.colour("vat-exact"), "marker": "s"},
}
GREY = "0.45"  # of what no method does


def _panels(size, *shape, **shared):
    """A figure with a table of axes, all with a grid."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(*shape, **shared)
    for each in axes.flat:
        each.grid(color="0.9")
    return figure, axes


def _band(axes, places, summaries, color, **options):
    """The medians as a line, 5 to 95 % shaded."""
    low, medians, high = ([each[name] for each in summaries] for name in ("p5", "median", "p95"))
    axes.plot(places, medians, markersize=5, color=color, **options)
    axes.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)


def spectra(audit: Numbers) -> Figure:
    """Distributions at the end of training, above; over training, below."""
    figure, axes = _panels((10, 6.4), 2, 3)
    columns = (
        ("lambda1", "$\\lambda_1$ (nats per squared pixel range)", "log"),
        ("ratio", "$\\lambda_2\\,/\\,\\lambda_1$", "linear"),
        ("effective_rank", "effective rank", "linear"),
    )
    for (upper, lower), (name, label, scale) in zip(axes.T, columns, strict=True):
        for method, style in STYLES.items():
            stages = stages_of(audit, method)
            over_training = [stage["spectra"][name] for stage in stages]
            values = over_training[-1]["percentiles"]
            upper.plot(values, range(101), markevery=[50], **style)
            places = range(len(stages))
            _band(lower, places, over_training, label=f"{NAMES[method]}: median", **style)
            lower.set_xticks(places, [f"{stage['updates']:,}" for stage in stages])
        upper.set(xscale=scale, xlabel=label, ylabel="share of images below (%)")
        lower.set(yscale=scale, xlabel="updates", ylabel=label)
    _means(axes[0, 0], axes[1, 0], audit)
    axes[0, 1].set_title("after training")
    axes[1, 1].set_title("over training: median, and 5 to 95 % of the images (shaded)")
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _means(upper, lower, audit):
    """The means of λ₁, which the few images with the largest λ₁ may determine, as stars."""
    last = [audit["networks"][method]["spectra"]["lambda1"] for method in STYLES]
    for (method, style), each in zip(STYLES.items(), last, strict=True):
        means = [stage["spectra"]["lambda1"]["mean"] for stage in stages_of(audit, method)]
        star = {"color": style["color"], "label": f"{NAMES[method]}: mean"}
        below = np.interp(each["mean"], each["percentiles"], range(101))
        upper.plot(each["mean"], below, "*", markersize=11, **star)
        lower.plot(means, "*--", markersize=8, linewidth=1, **star)
    text = "without → with VAT"
    for kind in ("median", "mean"):
        text += f"\n{kind}: {last[0][kind]:.2g} → {last[1][kind]:.2g}"
    upper.text(0.97, 0.08, text, transform=upper.transAxes, ha="right", fontsize="small")


def directions(audit: Numbers) -> Figure:
    """Captured curvature and alignment against K and against xi."""
    figure, axes = _panels((10, 6), 2, 3, sharey=True)
    qualities = {
        "captured": "captured curvature\n$d^T H d\\,/\\,\\lambda_1$",
        "alignment": "alignment $|\\langle d, u_1\\rangle|$",
    }
    places = range(len(measure.ITERATIONS))
    for (first, *others), (quality, name) in zip(axes, qualities.items(), strict=True):
        for method, style in STYLES.items():
            by_dtype = audit["networks"][method]["directions"]
            exact = [by_dtype["float64"][measure.after(k)][quality] for k in measure.ITERATIONS]
            _band(first, places, exact, label=NAMES[method], **style)
            for dtype, line in (("float64", "--"), ("float32", "-")):
                found, label = by_dtype[dtype], f"{NAMES[method]}, {dtype}"
                xis = measure.xis_of(found)
                for panel, k in zip(others, (1, 8), strict=True):
                    medians = [found[measure.after(k, xi)][quality]["median"] for xi in xis]
                    panel.semilogx(xis, medians, line, markersize=4, label=label, **style)
                    panel.axvline(measure.PAPER_XI, color="0.7", linewidth=1, zorder=0)
                    panel.set_xlabel("$\\xi$ (pixels from 0 to 1)")
        first.set_xticks(places, ["½" if k == 0.5 else f"{k:g}" for k in measure.ITERATIONS])
        first.set(xlabel="K", ylabel=name, ylim=(-0.02, 1.02))
    axes[0, 0].set_title("exact: median, 5 to 95 %")
    axes[0, 1].set_title("finite differences, K = 1: median")
    axes[0, 2].set_title("finite differences, K = 8: median")
    axes[0, 0].legend(loc="lower right")
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower right", ncols=4)
    return figure


def epsilon(audit: Numbers) -> Figure:
    """D against epsilon beside the true maximum and ½ε²λ₁, above; changed predictions, below."""
    figure, axes = _panels((9, 7.5), 2, 2, sharex=True, sharey="row")
    blue, orange = plotting.colour("vat-exact"), plotting.colour("rpt")
    lines = (
        ("K=1", "better", "--", blue, "the better of $\\pm r_{vadv}$, K = 1"),
        ("K=1", "drawn", "-", blue, "$r_{vadv}$, K = 1"),
        ("K=0", "drawn", "-", orange, "random, K = 0"),
    )
    for (upper, lower), (method, name) in zip(axes.T, NAMES.items(), strict=True):
        by_epsilon = audit["networks"][method]["perturbations"]
        places = [float(epsilon) for epsilon in by_epsilon]
        at = list(by_epsilon.values())
        label = "true maximum (shaded: 5 to 95 % of images)"
        _band(upper, places, [each["maximum"] for each in at], GREY, label=label, marker=".")
        quadratic = [each["quadratic"]["median"] for each in at]
        upper.plot(places, quadratic, ":", color=GREY, label="$\\epsilon^2 \\lambda_1 / 2$")
        lower.plot(places, [100 * each["maximum_flips"] for each in at], ".-", color=GREY)
        for direction, kind, line, colour, label in lines:
            found = [each["directions"][direction] for each in at]
            medians = [each[kind]["median"] for each in found]
            flips = [100 * each[f"{kind}_flips"] for each in found]
            upper.plot(places, medians, line, marker=".", color=colour, label=label)
            lower.plot(places, flips, line, marker=".", color=colour)
        upper.set(title=f"trained {name}", yscale="log", xscale="log")
        lower.set_xlabel("$\\epsilon$, L2 norm of r (pixels from 0 to 1)")
        for each in (upper, lower):
            each.set_xticks(places, [f"{epsilon:g}" for epsilon in places])
            each.minorticks_off()
    axes[0, 0].set_ylabel("D (nats), median over images")
    axes[1, 0].set_ylabel("predictions that change (%)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


FIGURES = {"spectra": spectra, "directions": directions, "epsilon": epsilon}
