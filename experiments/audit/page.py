"""The audit's page: the template page.md, filled with the numbers of audit.json.

The template's sentences hold for any numbers; only `change` chooses words by them.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

from experiments.audit import figures, measure
from experiments.audit.numbers import Numbers, stages_of
from experiments.lab import plotting, runs

TEMPLATE = Path(__file__).with_name("page.md")


def number(value: float) -> str:
    """Two or three digits, readable; an integer as it is."""
    if isinstance(value, int):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{float(f'{value:.3g}'):g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}·10^{int(exponent)}"


def change(before: float, after: float) -> str:
    """In words, what has become of a number."""
    if before == after:
        return "leaves it as it is"
    if after > before:
        return f"raises it {number(after / before)} times" if before else "raises it from 0"
    return f"lowers it {number(before / after)} times" if after else "lowers it to 0"


def good_xis(by_direction: Numbers) -> str:
    """The xi whose direction captures as much as the exact one, K = 1, median, within 0.02."""
    medians = {name: each["captured"]["median"] for name, each in by_direction.items()}
    least = medians["K=1"] - 0.02
    good = [xi for xi in measure.xis_of(medians) if medians[measure.after(1, xi)] >= least]
    return ", ".join(f"{xi:g}" for xi in good) or "none"


def quadratic_until(by_epsilon: Numbers) -> str:
    """The largest ε up to which the median maximum is ½ε²λ₁ within 10 %; "none" if none is."""
    medians = {name: at["maximum_over_quadratic"]["median"] for name, at in by_epsilon.items()}
    until = itertools.takewhile(lambda name: abs(medians[name] - 1) <= 0.1, medians)
    return ["none", *until][-1]


FORMS = {
    "": number,
    "%": lambda value: f"{number(100 * value)} %",
    "inverse": lambda value: number(1 / value),
    "error": lambda value: f"{value:.2f} %",
    ",": lambda value: f"{value:,}",
    "good-xis": good_xis,
    "quadratic-until": quadratic_until,
}


@dataclasses.dataclass(frozen=True)
class Shown:
    """One place in the numbers of several networks, as the template shows it.

    Keys lead to the place, and `joint` joins what is there: {both[spectra][lambda1][mean]} gives
    "2.7 without VAT and 0.212 with it". Several keys in one, [K=0 & K=1], make a list; a list takes
    a key for each of its items, and is shown with commas. After the colon comes the form.
    """

    places: list[Any]
    joint: str = "{}"

    def __getitem__(self, key: str | int) -> Shown:
        return Shown([_at(place, key) for place in self.places], self.joint)

    def __format__(self, form: str) -> str:
        if form == "change":
            return change(*self.places)

        def text(place: Any) -> str:
            if isinstance(place, list):
                return ", ".join(map(text, place))
            return place if isinstance(place, str) else FORMS[form](place)

        return self.joint.format(*map(text, self.places))


def _at(place: Any, key: str | int) -> Any:
    if isinstance(place, list):
        return place[key] if isinstance(key, int) else [_at(each, key) for each in place]
    # str.format takes the key of [2] for an integer.
    found = [place[each] for each in str(key).split(" & ")]
    return found if len(found) > 1 else found[0]


def derived(network: Numbers) -> Numbers:
    """What the page says of a network and audit.json holds indirectly only.

    Among it: how mean D grows from r_vadv (K = 1) to the true maximum, in all and by three steps.
    """
    # The ε of the paper's figure 2, next to that of VAT's training; page.md names it, too.
    at = network["perturbations"]["2"]
    half, one = (network["directions"]["float64"][name] for name in ("K=0.5", "K=1"))
    drawn, better = (at["directions"]["K=1"][kind]["mean"] for kind in ("drawn", "better"))
    first = at["directions"][measure.FIRST]["better"]["mean"]
    maximum = at["maximum"]["mean"]
    return {
        "name": f"{figures.NAMES[network['method']]}, seed {network['seed']}",
        "half_over_one": half["captured"]["mean"] / one["captured"]["mean"],
        "total": maximum / drawn,
        "sign": better / drawn,
        "direction": first / better,
        "beyond": maximum / first,
        "share_of_means": drawn / maximum,
    }


def markdown(audit: Numbers) -> str:
    """The page, in Markdown."""
    networks = {
        label: {**network, "stages": stages_of(audit, label), "derived": derived(network)}
        for label, network in audit["networks"].items()
        if network["role"] != "stage"
    }
    mle, vat = networks["mle"], networks["vat"]
    percentiles = (each["spectra"]["lambda1"]["percentiles"] for each in (mle, vat))
    by_epsilon = vat["perturbations"]
    return TEMPLATE.read_text(encoding="utf-8").format(
        audit=Shown([audit]),
        mle=Shown([mle]),
        vat=Shown([vat]),
        both=Shown([mle, vat], "{} without VAT and {} with it"),
        seeds=Shown(list(networks.values()), " | ".join(["{}"] * len(networks))),
        rules=" | ".join(["---"] * len(networks)),
        larger_percentiles=sum(a < b for a, b in zip(*percentiles, strict=True)),
        signed=2 * len(by_epsilon["2"]["directions"]),
        float64=", ".join(name for name, at in by_epsilon.items() if at["dtype"] == "float64"),
    )


def write(folder: Path) -> Path:
    """Write page and figures of the folder's audit.json beside it; the path of the page."""
    audit = runs.read_json(folder / "audit.json")
    for name, draw in figures.FIGURES.items():
        plotting.save(draw(audit), folder / f"{name}.png")
    text = markdown(audit).encode()
    runs.replace_file(folder / "audit.md", lambda file: file.write(text))
    return folder / "audit.md"
