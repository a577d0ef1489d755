"""The audit's figures and its page, from audit.json alone.

    python -m experiments.audit_page --results experiments/results/audit

Every number of a sentence is read from the JSON, and where a finding could turn out either way, its
words are chosen by the number.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments import audit_parts, common, jobs
from experiments.lab import runs

Numbers = dict[str, Any]
Show = Callable[[float], str]

NAMES = {"mle": "without VAT", "vat": "with VAT"}
COLOURS = {"mle": "tab:red", "vat": "tab:blue"}
MARKERS = {"mle": "o", "vat": "s"}  # for prints without colours
MAXIMUM = "true maximum (shaded: 5 to 95 % of images)"
TRAINED_AT = "2"  # the epsilon of figure 2, next to that of VAT's training
QUADRATIC_WITHIN = 0.1
SAME_CAPTURE = 0.02
LARGE_RATIO = 10  # from which λ₁/λ₂ is called very large
K1 = audit_parts.exact(1)
PAPER = audit_parts.finite_difference(audit_parts.PAPER_XI, 1)


# Words -------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Two or three digits, readable."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{float(f'{value:.3g}'):g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}·10^{int(exponent)}"


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{number(100 * share)} %"


def both(audit: Numbers, value: Callable[[Numbers], Any], show: Show = number) -> str:
    """The value of the network without VAT and of that with it; words are taken as they are."""
    found = [value(audit["networks"][method]) for method in NAMES]
    mle, vat = (each if isinstance(each, str) else show(each) for each in found)
    return f"{mle} without VAT and {vat} with it"


def change(before: float, after: float) -> str:
    """In words, what has become of a number."""
    if before == after:
        return "leaves it as it is"
    if after > before:
        return f"raises it {number(after / before)} times"
    return f"lowers it {number(before / after)} times" if after else "lowers it to 0"


# What the numbers say ----------------------------------------------------------------------------


def stages_of(audit: Numbers, method: str) -> list[Numbers]:
    """The networks of one training, from the first stage to the last."""
    return sorted(
        (n for n in audit["networks"].values() if n["method"] == method and n["role"] != "again"),
        key=lambda n: n["updates"],
    )


def quadratic_until(network: Numbers) -> str | None:
    """The largest ε up to which the median maximum is ½ε²λ₁ within 10 %; None where none is."""
    last = None
    for epsilon, found in network["perturbations"].items():
        if abs(found["maximum_over_quadratic"]["median"] - 1) > QUADRATIC_WITHIN:
            break
        last = epsilon
    return last


def measured_xis(found: Numbers) -> list[float]:
    """The xi of the finite differences among these directions, rising."""
    names = (name.split() for name in found if name.startswith("xi="))
    return sorted({float(xi.removeprefix("xi=")) for xi, _ in names})


def good_xis(network: Numbers, dtype: str) -> list[str]:
    """The xi whose direction captures as much as the exact one after K = 1, in the median."""
    found = network["directions"][dtype]
    least = found[K1]["captured"]["median"] - SAME_CAPTURE
    return [
        f"{xi:g}"
        for xi in measured_xis(found)
        if found[audit_parts.finite_difference(xi, 1)]["captured"]["median"] >= least
    ]


def factors(found: Numbers) -> tuple[float, float, float, float]:
    """How mean D grows from r_vadv (K = 1) to the true maximum, in all and by three steps:
    to the better sign, to u₁ in place of K = 1, and away from the line of u₁."""
    drawn = found["directions"][K1]["drawn"]["mean"]
    better = found["directions"][K1]["better"]["mean"]
    first = found["directions"][audit_parts.FIRST]["better"]["mean"]
    most = found["maximum"]["mean"]
    return most / drawn, better / drawn, first / better, most / first


def spectra_findings(audit: Numbers) -> Iterator[str]:
    """λ₁, its ratio to λ₂, and the effective rank."""
    mle, vat = (audit["networks"][method]["spectra"] for method in NAMES)
    yield (
        f"**λ₁.** The mean over the images is "
        f"{both(audit, lambda n: n['spectra']['lambda1']['mean'])}: VAT "
        f"{change(mle['lambda1']['mean'], vat['lambda1']['mean'])}. The median is "
        f"{both(audit, lambda n: n['spectra']['lambda1']['median'])}: there VAT "
        f"{change(mle['lambda1']['median'], vat['lambda1']['median'])}. "
        f"{percent(mle['share_of_largest'])} and {percent(vat['share_of_largest'])} of the sum are "
        f"those of the 5 % of images with the largest λ₁. λ₁ goes with the network's doubt, "
        f"1 − max p: their rank correlation is "
        f"{both(audit, lambda n: n['spectra']['rank_correlation_of_lambda1_with_doubt'])}."
    )
    ratios = [1 / s["ratio"]["median"] for s in (mle, vat)]
    verdict = (
        "It is not"
        if max(ratios) < LARGE_RATIO
        else "It is"
        if min(ratios) >= LARGE_RATIO
        else "It is in one of the two networks only"
    )
    captured = both(audit, lambda n: n["directions"]["float64"][K1]["captured"]["median"], percent)
    random = both(
        audit,
        lambda n: n["directions"]["float64"][audit_parts.exact(0)]["captured"]["median"],
        percent,
    )
    yield (
        f"**λ₁/λ₂.** From K = 1 sufficing the paper infers that λ₁/λ₂ is very large (section 4.3). "
        f"{verdict}: its median is {number(ratios[0])} without VAT and {number(ratios[1])} with "
        f"it, and it exceeds {LARGE_RATIO} for {percent(mle['share_of_large_ratios'])} and "
        f"{percent(vat['share_of_large_ratios'])} of the images. One iteration needs no such "
        f"ratio, because H has no more than {mle['rank']['p95']:g} eigenvalues that are not 0: "
        f"H d lies in the few directions that matter whatever their order. In the median it "
        f"captures {captured} of λ₁ (a random d: {random})."
    )
    yield (
        f"**Effective rank** (exp of the eigenvalues' entropy): its median is "
        f"{both(audit, lambda n: n['spectra']['effective_rank']['median'])}, of at most "
        f"{mle['rank']['p95']:g}."
    )

    def course(name: str) -> str:
        return both(
            audit,
            lambda n: ", ".join(
                number(stage["spectra"][name]["median"]) for stage in stages_of(audit, n["method"])
            ),
        )

    updates = ", ".join(f"{stage['updates']:,}" for stage in stages_of(audit, "vat"))
    yield (
        f"**Over training**, after {updates} updates, the median λ₁ is {course('lambda1')}; that "
        f"of λ₂/λ₁ is {course('ratio')}; the median effective rank is {course('effective_rank')}."
    )


def directions_findings(audit: Numbers) -> Iterator[str]:
    """What K iterations capture, exact and by finite differences."""

    def course(n: Numbers) -> str:
        found = n["directions"]["float64"]
        return ", ".join(
            percent(found[audit_parts.exact(k)]["captured"]["median"])
            for k in sorted(audit_parts.ITERATIONS)
        )

    iterations = ", ".join("½" if k == 0.5 else f"{k:g}" for k in sorted(audit_parts.ITERATIONS))
    yield (
        f"**K.** In the median over the images, dᵀHd/λ₁ after K = {iterations} exact iterations is "
        f"{both(audit, course)}. The median alignment |⟨d, u₁⟩| of K = 1 is "
        f"{both(audit, lambda n: n['directions']['float64'][K1]['alignment']['median'])}."
    )
    half = audit_parts.exact(0.5)

    def of_first(n: Numbers) -> float:
        found = n["directions"]["float64"]
        return found[half]["captured"]["mean"] / found[K1]["captured"]["mean"]

    yield (
        f"**Half an iteration**, Jᵀ F^½ z for one product with Jᵀ, captures "
        f"{both(audit, of_first, percent)} of what K = 1 does (means)."
    )
    for dtype in ("float32", "float64"):

        def good(n: Numbers, dtype: str = dtype) -> str:
            xis = good_xis(n, dtype)
            return f"{xis[0]} to {xis[-1]}" if len(xis) > 1 else xis[0] if xis else "none"

        def paper(n: Numbers, dtype: str = dtype) -> float:
            return n["directions"][dtype][PAPER]["captured"]["median"]

        yield (
            f"**ξ in {dtype}.** Among ξ = 1e-8, 1e-7, …, 10, those whose direction captures, after "
            f"K = 1, as much of λ₁ as the exact one (median, within {SAME_CAPTURE:g}) are "
            f"{both(audit, good)}. The paper's 1e-6 captures {both(audit, paper, percent)}."
        )


def perturbations_findings(audit: Numbers) -> Iterator[str]:
    """Where the quadratic picture ends, what K = 1 loses there, and whose fault it is."""

    def at(n: Numbers, epsilon: str = TRAINED_AT) -> Numbers:
        return n["perturbations"][epsilon]

    def until(n: Numbers) -> str:
        last = quadratic_until(n)
        return f"up to ε = {last}" if last else "for no ε"

    yield (
        f"**Where the quadratic picture ends.** The true maximum of D on the ball over ½ε²λ₁ has a "
        f"median within {percent(QUADRATIC_WITHIN)} of 1 {both(audit, until)}. At "
        f"ε = {TRAINED_AT} its median is "
        f"{both(audit, lambda n: at(n)['maximum_over_quadratic']['median'])}."
    )
    smallest = min(audit["networks"]["vat"]["perturbations"], key=float)

    def share(epsilon: str) -> Callable[[Numbers], float]:
        return lambda n: at(n, epsilon)["directions"][K1]["drawn_over_maximum"]["median"]

    def share_of_means(n: Numbers) -> float:
        return 1 / factors(at(n))[0]

    yield (
        f"**What K = 1 loses.** D at r_vadv is {both(audit, share(smallest), percent)} of the true "
        f"maximum at ε = {smallest} (median), and {both(audit, share(TRAINED_AT), percent)} at "
        f"ε = {TRAINED_AT}; the ratio of the means there is "
        f"{both(audit, share_of_means, percent)}."
    )

    def steps(n: Numbers) -> str:
        total, sign, direction, beyond = factors(at(n))
        return (
            f"{number(total)} = {number(sign)} (the better of ±r) × {number(direction)} "
            f"(u₁ in place of K = 1) × {number(beyond)} (away from the line of u₁)"
        )

    causes = {_cause(factors(at(audit["networks"][method]))) for method in NAMES}
    yield (
        f"**Sign, direction, or neither?** At ε = {TRAINED_AT} the mean D at the true maximum is "
        f"so many times that at r_vadv: {both(audit, steps)}. What costs most is "
        f"{' or '.join(sorted(causes))}."
    )
    yield (
        f"**The sign** is free to second order only: at ε = {TRAINED_AT}, D at the worse of ±r is "
        f"{both(audit, lambda n: at(n)['directions'][K1]['sign_ratio']['median'], percent)} of D "
        f"at the better one (median, K = 1)."
    )

    def growth(n: Numbers) -> str:
        found = at(n)["directions"]
        means = [found[audit_parts.exact(k)]["drawn"]["mean"] for k in (0, 1, 8)]
        return ", ".join(map(number, means))

    yield (
        f"**R_vadv against K** (figure 4): the mean D at r_vadv for K = 0, 1, 8 at "
        f"ε = {TRAINED_AT} is {both(audit, growth)}. That of K = 1 by finite differences with the "
        f"paper's ξ = 1e-6, in {at(audit['networks']['vat'])['dtype']}, is "
        f"{both(audit, lambda n: at(n)['directions'][PAPER]['drawn']['mean'])}."
    )
    yield (
        f"**Towards a class.** The best of the directions that raise one class's logit most over "
        f"the likeliest one's (C products with Jᵀ, C passes) reaches "
        f"{both(audit, lambda n: at(n)['towards_a_class_over_maximum']['median'], percent)} of the "
        f"true maximum at ε = {TRAINED_AT} (median)."
    )

    def flips(n: Numbers) -> str:
        found = at(n)
        kinds = (found["directions"][K1]["drawn_flips"], found["maximum_flips"])
        return " and ".join(map(percent, kinds))

    yield (
        f"**Flips.** Of the predictions, r_vadv (K = 1) and the true maximiser of norm "
        f"{TRAINED_AT} change {both(audit, flips)}."
    )
    mle, vat = (at(audit["networks"][method])["maximum"]["mean"] for method in NAMES)
    yield (
        f"**What VAT is worth.** At ε = {TRAINED_AT} the mean true maximum is "
        f"{both(audit, lambda n: at(n)['maximum']['mean'])}: training against r_vadv alone "
        f"{change(mle, vat)}."
    )


def _cause(parts: tuple[float, float, float, float]) -> str:
    """Which of the three steps of `factors` is the largest."""
    names = ("the sign", "K = 1 not being u₁", "the maximum not being on the line of u₁")
    return max(zip(parts[1:], names, strict=True))[1]


def again(audit: Numbers) -> list[str]:
    """The same numbers on the other seeds, as a table; nothing where there are none."""
    others = {label: n for label, n in audit["networks"].items() if n["role"] == "again"}
    if not others:
        return []
    columns = {method: audit["networks"][method] for method in NAMES} | others
    header = [f"{NAMES[n['method']]}, seed {n['seed']}" for n in columns.values()]

    def row(what: str, value: Callable[[Numbers], float], show: Show = number) -> str:
        return f"| {what} | " + " | ".join(show(value(n)) for n in columns.values()) + " |"

    def at(n: Numbers) -> Numbers:
        return n["perturbations"][TRAINED_AT]

    return [
        "## On other seeds",
        "",
        "| | " + " | ".join(header) + " |",
        "| --- " * (1 + len(columns)) + "|",
        row("test error (%)", lambda n: n["spectra"]["test_error"]),
        row("λ₁, median", lambda n: n["spectra"]["lambda1"]["median"]),
        row("λ₁, mean", lambda n: n["spectra"]["lambda1"]["mean"]),
        row("λ₁/λ₂, median", lambda n: 1 / n["spectra"]["ratio"]["median"]),
        row("effective rank, median", lambda n: n["spectra"]["effective_rank"]["median"]),
        row(
            "captured by K = 1, median",
            lambda n: n["directions"]["float64"][K1]["captured"]["median"],
            percent,
        ),
        row(
            f"maximum / ½ε²λ₁ at ε = {TRAINED_AT}, median",
            lambda n: at(n)["maximum_over_quadratic"]["median"],
        ),
        row(
            f"D(r_vadv) / maximum at ε = {TRAINED_AT}, median",
            lambda n: at(n)["directions"][K1]["drawn_over_maximum"]["median"],
            percent,
        ),
        row(f"mean maximum at ε = {TRAINED_AT}", lambda n: at(n)["maximum"]["mean"]),
        row(
            f"flips by the maximiser at ε = {TRAINED_AT}", lambda n: at(n)["maximum_flips"], percent
        ),
        "",
    ]


def how(audit: Numbers) -> Iterator[str]:
    """How it was measured: what a reader must know to judge the numbers."""
    yield (
        f"{audit['images']} test images of {audit['dataset']}, batch norm with running statistics "
        "estimated once more over the training images, as at the end of every run: a run's last "
        "checkpoint is of before that. Test error of the networks: "
        + both(audit, lambda n: f"{n['spectra']['test_error']:.2f} %")
        + f", after {audit['networks']['vat']['updates']} updates."
    )
    yield (
        "The stages of training are runs of their own with the same settings and fewer updates: "
        "what a run does at an update depends on nothing but the update's number."
    )
    precise = sorted(
        (
            e
            for e, f in audit["networks"]["vat"]["perturbations"].items()
            if f["dtype"] == "float64"
        ),
        key=float,
    )
    yield (
        f"Spectra are computed in float64, and so is everything for ε ≤ {precise[-1]}: D below "
        "about 1e-4 is rounding noise in float32."
        if precise
        else "Spectra are computed in float64."
    )
    found = audit["networks"]["vat"]["perturbations"][TRAINED_AT]
    yield (
        "The true maximum is the best end of projected gradient ascent from εu₁, −εu₁, the best of "
        f"the directions towards a class, and the best of the {2 * (len(found['directions']))} "
        "perturbations ±r measured here; it is a lower bound. At "
        f"ε = {TRAINED_AT} ({found['steps']} steps, network with VAT) all four ends are within "
        f"1 % of each other for {percent(found['reached_from_all_starts'])} of the images, and one "
        f"of ±u₁ leads there for {percent(found['reached_from_u1'])}: D has many local maxima on "
        "the ball."
    )


def page(audit: Numbers) -> str:
    """The page, in Markdown."""
    sections = {
        "The spectrum of H": (spectra_findings, "spectra.png", "Spectra over training"),
        "What power iterations capture": (directions_findings, "directions.png", "Captured"),
        "At the ε of training": (perturbations_findings, "epsilon.png", "D and flips against ε"),
    }
    lines = [
        "# What one power iteration really finds",
        "",
        "Measured by `make audit`; every number below is in [`audit.json`](audit.json), from which "
        "this page is written. D is in nats, ε and λ₁ are in units of pixels from 0 to 1.",
        "",
    ]
    for title, (findings, figure, caption) in sections.items():
        lines += [f"## {title}", "", *(f"- {each}" for each in findings(audit)), ""]
        lines += [f"![{caption}]({figure})", ""]
    lines += again(audit)
    lines += ["## How it was measured", "", *(f"- {each}" for each in how(audit)), ""]
    return "\n".join(lines)


# Figures -----------------------------------------------------------------------------------------


def spectra_figure(audit: Numbers) -> Figure:
    """Distributions at the end of training, above; their medians over training, below."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots(2, 3)
    columns = (
        ("lambda1", "$\\lambda_1$ (nats per squared pixel range)", "log"),
        ("ratio", "$\\lambda_2\\,/\\,\\lambda_1$", "linear"),
        ("effective_rank", "effective rank", "linear"),
    )
    for (upper, lower), (name, label, scale) in zip(axes.T, columns, strict=True):
        for method, colour in COLOURS.items():
            values = audit["networks"][method]["spectra"][name]["percentiles"]
            upper.plot(values, range(101), color=colour, label=NAMES[method])
            course = stages_of(audit, method)
            places = range(len(course))
            found = [stage["spectra"][name] for stage in course]
            _band(lower, places, found, colour, NAMES[method], MARKERS[method])
            lower.set_xticks(places, [f"{stage['updates']:,}" for stage in course])
        upper.set_xscale(scale)
        lower.set_yscale(scale)
        upper.set_xlabel(label)
        upper.set_ylabel("share of images below (%)")
        lower.set_xlabel("updates")
        lower.set_ylabel(label)
        upper.grid(color="0.9")
        lower.grid(color="0.9")
    axes[0, 0].legend()
    axes[0, 1].set_title("after training")
    axes[1, 1].set_title("over training: median, and 5 to 95 % of the images")
    return figure


def directions_figure(audit: Numbers) -> Figure:
    """Captured curvature and alignment against K and against xi."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots(2, 3, sharey=True)
    ks = sorted(audit_parts.ITERATIONS)
    for row, (quality, label) in enumerate(
        (
            ("captured", "captured curvature\n$d^T H d\\,/\\,\\lambda_1$"),
            ("alignment", "alignment $|\\langle d, u_1\\rangle|$"),
        )
    ):
        for method, colour in COLOURS.items():
            found = audit["networks"][method]["directions"]
            exact = [found["float64"][audit_parts.exact(k)][quality] for k in ks]
            _band(axes[row, 0], range(len(ks)), exact, colour, NAMES[method], MARKERS[method])
            for dtype, style in (("float64", "--"), ("float32", "-")):
                xis = measured_xis(found[dtype])
                for column, k in ((1, 1), (2, 8)):
                    by_xi = [
                        found[dtype][audit_parts.finite_difference(xi, k)][quality]["median"]
                        for xi in xis
                    ]
                    axes[row, column].semilogx(
                        xis,
                        by_xi,
                        style,
                        marker=MARKERS[method],
                        markersize=4,
                        color=colour,
                        label=f"{NAMES[method]}, {dtype}",
                    )
        axes[row, 0].set_ylabel(label)
        axes[row, 0].set_xticks(range(len(ks)), ["½" if k == 0.5 else f"{k:g}" for k in ks])
        axes[row, 0].set_xlabel("K")
        for each in axes[row, 1:]:
            each.set_xlabel("$\\xi$ (pixels from 0 to 1)")
            each.axvline(audit_parts.PAPER_XI, color="0.7", linewidth=1, zorder=0)
    axes[0, 0].set_title("exact: median, 5 to 95 %")
    axes[0, 1].set_title("finite differences, K = 1: median")
    axes[0, 2].set_title("finite differences, K = 8: median")
    axes[0, 0].legend(loc="lower right")
    lines, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower right", ncols=4)
    for each in axes.flat:
        each.set_ylim(-0.02, 1.02)
        each.grid(color="0.9")
    return figure


def epsilon_figure(audit: Numbers) -> Figure:
    """D against epsilon beside the true maximum and the quadratic picture, above; flips, below."""
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, (method, name) in enumerate(NAMES.items()):
        found = audit["networks"][method]["perturbations"]
        epsilons = [float(epsilon) for epsilon in found]
        upper, lower = axes[:, column]

        def of(direction: str, kind: str, found: Numbers = found) -> list[Any]:  # of every epsilon
            return [each["directions"][direction][kind] for each in found.values()]

        _band(upper, epsilons, [f["maximum"] for f in found.values()], "black", MAXIMUM)
        upper.plot(
            epsilons,
            [f["quadratic"]["median"] for f in found.values()],
            "--",
            color="black",
            label="$\\epsilon^2 \\lambda_1 / 2$",
        )
        for direction, kind, colour, label in (
            (K1, "better", "tab:green", "the better of $\\pm r_{vadv}$, K = 1"),
            (K1, "drawn", "tab:orange", "$r_{vadv}$, K = 1"),
            (audit_parts.exact(0), "drawn", "tab:purple", "random, K = 0"),
        ):
            values = [each["median"] for each in of(direction, kind)]
            upper.plot(epsilons, values, ".-", color=colour, label=label)
            flips = [100 * each for each in of(direction, f"{kind}_flips")]
            lower.plot(epsilons, flips, ".-", color=colour)
        flips = [100 * each["maximum_flips"] for each in found.values()]
        lower.plot(epsilons, flips, ".-", color="black")
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
    lines, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=3)
    return figure


def _band(
    axes: Any,
    places: Sequence[float],
    found: Sequence[Numbers],
    colour: str,
    label: str,
    marker: str = ".",
) -> None:
    """The medians as a line, 5 to 95 % shaded."""
    medians = [f["median"] for f in found]
    axes.plot(places, medians, marker=marker, markersize=5, color=colour, label=label)
    low, high = ([f[name] for f in found] for name in ("p5", "p95"))
    axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)


# Writing -----------------------------------------------------------------------------------------

FIGURES = {
    "spectra": spectra_figure,
    "directions": directions_figure,
    "epsilon": epsilon_figure,
}


def write(folder: Path, audit: Numbers) -> Path:
    """Write the page and the figures that it shows into the folder; the path of the page."""
    for name, draw in FIGURES.items():
        figure = draw(audit)
        runs.replace_file(
            folder / f"{name}.png",
            lambda file, figure=figure: figure.savefig(file, dpi=150, format="png"),
        )
    text = page(audit)
    runs.replace_file(folder / "audit.md", lambda file: file.write(text.encode()))
    return folder / "audit.md"


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of an audit.json anew; the exit code."""
    parser = common.Parser(__doc__)
    parser.add_argument(
        "--results", type=Path, default=jobs.RESULTS / "audit", metavar="DIR", help="its folder"
    )
    args = parser.parse_args(argv)
    print(write(args.results, runs.read_json(args.results / "audit.json")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
