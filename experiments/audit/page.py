"""The audit's page: the template page.md, filled with the numbers of audit.json.

The template's sentences hold for any numbers; only `change` chooses words by them.
"""

from __future__ import annotations

import dataclasses
import operator
from pathlib import Path
from typing import Any

from experiments.audit import figures, measure
from experiments.audit.numbers import Numbers, stages_of
from experiments.lab import runs

TEMPLATE = Path(__file__).with_name("page.md")
EPSILON = "2"  # of the paper's figure 2, next to that of VAT's training
QUADRATIC_WITHIN = 0.1
CAPTURED_WITHIN = 0.02
K1 = measure.exact(1)


def number(value: float) -> str:
    """Two or three digits, readable; an integer as it is."""
    if isinstance(value, int):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{float(f'{value:.3g}'):g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}·10^{int(exponent)}"


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{number(100 * share)} %"


def change(before: float, after: float) -> str:
    """In words, what has become of a number."""
    if before == after:
        return "leaves it as it is"
    if after > before:
        return f"raises it {number(after / before)} times" if before else "raises it from 0"
    return f"lowers it {number(before / after)} times" if after else "lowers it to 0"


@dataclasses.dataclass(frozen=True)
class Shown:
    """One place in the numbers of several networks, as the template shows it.

    Keys lead to the place, and `form` joins what is there: {both[spectra][lambda1][mean]} gives
    "2.7 without VAT and 0.212 with it". A list is shown with commas; ":%" gives percentages.
    """

    places: list[Any]
    form: str = "{}"

    def __getitem__(self, key: str | int) -> Shown:
        return Shown([place[key] for place in self.places], self.form)

    def __format__(self, spec: str) -> str:
        show = percent if spec == "%" else number

        def text(place: Any) -> str:
            if isinstance(place, list):
                return ", ".join(map(show, place))
            return place if isinstance(place, str) else show(place)

        return self.form.format(*map(text, self.places))


# Derived numbers ---------------------------------------------------------------------------------


def derived(network: Numbers, stages: list[Numbers]) -> Numbers:
    """What the page says of a network and audit.json holds indirectly only.

    stages: of the network's training, the network itself the last.
    """
    exact = network["directions"]["float64"]
    at = network["perturbations"][EPSILON]

    def over_training(name: str, kind: str = "median") -> list[float]:
        return [stage["spectra"][name][kind] for stage in stages]

    return {
        "name": f"{figures.NAMES[network['method']]}, seed {network['seed']}",
        "test_error": f"{network['spectra']['test_error']:.2f} %",
        "at": at,
        "at_smallest": network["perturbations"][min(network["perturbations"], key=float)],
        "ratio": 1 / network["spectra"]["ratio"]["median"],
        "lambda1_over_training": over_training("lambda1"),
        "lambda1_mean_over_training": over_training("lambda1", "mean"),
        "ratio_over_training": over_training("ratio"),
        "effective_rank_over_training": over_training("effective_rank"),
        "captured_by_k": [
            exact[measure.exact(k)]["captured"]["median"] for k in measure.ITERATIONS
        ],
        "half_over_one": exact[measure.exact(0.5)]["captured"]["mean"]
        / exact[K1]["captured"]["mean"],
        "good_xis_float32": good_xis(network["directions"]["float32"]),
        "good_xis_float64": good_xis(exact),
        "quadratic_until": quadratic_until(network["perturbations"]),
        "drawn_by_k": [at["directions"][measure.exact(k)]["drawn"]["mean"] for k in (0, 1, 8)],
        **factors(at),
    }


def good_xis(by_direction: Numbers) -> str:
    """The xi whose direction captures as much as the exact one after K = 1, in the median."""
    least = by_direction[K1]["captured"]["median"] - CAPTURED_WITHIN
    good = [
        f"{xi:g}"
        for xi in measure.xis_of(by_direction)
        if by_direction[measure.finite_difference(xi, 1)]["captured"]["median"] >= least
    ]
    return ", ".join(good) or "none"


def quadratic_until(by_epsilon: Numbers) -> str:
    """The largest ε up to which the median maximum is ½ε²λ₁ within 10 %; "none" if none is."""
    last = "none"
    for epsilon, at in by_epsilon.items():
        if abs(at["maximum_over_quadratic"]["median"] - 1) > QUADRATIC_WITHIN:
            break
        last = epsilon
    return last


def factors(at: Numbers) -> Numbers:
    """How mean D grows from r_vadv (K = 1) to the true maximum, in all and by three steps."""
    drawn = at["directions"][K1]["drawn"]["mean"]
    better = at["directions"][K1]["better"]["mean"]
    first = at["directions"][measure.FIRST]["better"]["mean"]
    maximum = at["maximum"]["mean"]
    return {
        "total": maximum / drawn,
        "sign": better / drawn,
        "direction": first / better,
        "beyond": maximum / first,
        "share_of_means": drawn / maximum,
    }


# The page ----------------------------------------------------------------------------------------


def markdown(audit: Numbers) -> str:
    """The page, in Markdown."""
    networks = {
        label: {**network, "derived": derived(network, stages_of(audit, label))}
        for label, network in audit["networks"].items()
        if network["role"] != "stage"
    }
    mle, vat = networks["mle"], networks["vat"]
    lambda1, lambda1_vat = (each["spectra"]["lambda1"] for each in (mle, vat))
    at = vat["derived"]["at"]
    return TEMPLATE.read_text(encoding="utf-8").format(
        mle=Shown([mle]),
        vat=Shown([vat]),
        both=Shown([mle, vat], "{} without VAT and {} with it"),
        seeds=Shown(list(networks.values()), " | ".join(["{}"] * len(networks))),
        rules=" | ".join(["---"] * len(networks)),
        images=audit["images"],
        dataset=audit["dataset"],
        epsilon=EPSILON,
        smallest=min(vat["perturbations"], key=float),
        iterations=", ".join("½" if k == 0.5 else f"{k:g}" for k in measure.ITERATIONS),
        updates=", ".join(f"{stage['updates']:,}" for stage in stages_of(audit, "vat")),
        lambda1_mean_change=change(lambda1["mean"], lambda1_vat["mean"]),
        lambda1_median_change=change(lambda1["median"], lambda1_vat["median"]),
        larger_percentiles=sum(
            map(operator.lt, lambda1["percentiles"], lambda1_vat["percentiles"])
        ),
        maximum_change=change(mle["derived"]["at"]["maximum"]["mean"], at["maximum"]["mean"]),
        signed=2 * len(at["directions"]),
        float64_epsilons=", ".join(
            epsilon for epsilon, at in vat["perturbations"].items() if at["dtype"] == "float64"
        ),
    )


def write(folder: Path, audit: Numbers) -> Path:
    """Write the page and the figures that it shows into the folder; the path of the page."""
    figures.write(folder, audit)
    text = markdown(audit).encode()
    runs.replace_file(folder / "audit.md", lambda file: file.write(text))
    return folder / "audit.md"
