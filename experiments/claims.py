"""What the paper's section 4 claims, and what the results say of it.

Every claim is answered by a function of the results: a sentence with numbers and whether they
confirm it, or None where what it needs has not been run.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import tables
from experiments.lab import runs, sweep
from experiments.lab.methods import METHODS
from experiments.lab.sweep import Result

Lines = Mapping[str, Sequence[Result]]


class Answer(NamedTuple):
    """What was measured, in a sentence, and whether it confirms the claim."""

    text: str
    confirmed: bool


@dataclasses.dataclass(frozen=True)
class Held:
    """The results in a folder. What is not there is empty."""

    folder: Path

    def path(self, name: str) -> Path:
        """The file of a table or figure: at the paper's scale, else the nearest to it."""
        updates = re.compile(rf"{name}-(?:\w+-)?(\d+)-updates.*")
        others = {p: updates.fullmatch(p.stem) for p in self.folder.glob(f"{name}-*.json")}
        longest = sorted((int(found[1]), p) for p, found in others.items() if found)
        whole = self.folder / f"{name}.json"
        return longest[-1][1] if longest and not whole.exists() else whole

    def reduced(self, name: str) -> bool:
        """Whether there are results of this table or figure, and only at a reduced scale."""
        return self.path(name).exists() and self.path(name).stem != name

    def table(self, name: str) -> Lines:
        """A table's runs, by line."""
        of_line = tables.TABLES[name].key
        found = sweep.published(self.path(name), "table", of_line)
        return sweep.grouped(found.values(), of_line)

    def figure(self, name: str) -> Lines:
        """A figure's runs, by point."""
        path = self.path(name)
        content = runs.read_json(path)["runs"] if path.exists() else []
        return sweep.grouped(content, lambda each: each["point"])

    def figure1(self) -> Mapping[str, Any]:
        """What figure 1 was made of."""
        path = self.folder / "synthetic" / "synthetic.json"
        return runs.read_json(path) if path.exists() else {}

    def audit(self) -> Mapping[str, Any]:
        """The audited networks with VAT and without (vat, mle)."""
        path = self.folder / "audit" / "audit.json"
        return runs.read_json(path)["networks"] if path.exists() else {}


class Claim(NamedTuple):
    """A claim of a section, in our words, and how the results answer it.

    needs: the table or figure whose runs it takes, or the audit.
    """

    section: str
    needs: str
    says: str
    answer: Callable[[Held], Answer | None]


CLAIMS: list[Claim] = []


def claim(section: str, *needs: str) -> Callable[[Any], Any]:
    """Add a function to CLAIMS, whose docstring is the claim that it answers.

    needs: several figures where the claim is made of several data sets; the function then takes
        the figure's name as well.
    """

    def add(answer: Callable[..., Answer | None]) -> Callable[..., Answer | None]:
        for name in needs:
            says = (answer.__doc__ or "") + (" On CIFAR-10." if name.endswith("-cifar10") else "")
            one = functools.partial(answer, name=name) if len(needs) > 1 else answer
            CLAIMS.append(Claim(section, name, says, one))
        return answer

    return add


def mean(found: Sequence[Result], name: str = "test_error") -> float:
    """The mean of a number of the runs."""
    return statistics.mean(each[name] for each in found)


@claim("3.3", "figure1")
def off_the_points(held: Held) -> Answer | None:
    """With eight labels VAT moves the boundary off the unlabelled points."""
    found = held.figure1()
    if not found:
        return None
    error = {
        method: statistics.mean(run["error"] for run in found["runs"] if run["method"] == method)
        for method in ("mle", "vat")
    }
    text = f"On moons and circles {error['vat']:.1f} % of the points end on the wrong side with "
    return Answer(f"{text}VAT, {error['mle']:.1f} % without.", error["vat"] < error["mle"])


@claim("4.1.1", "table1")
def best_on_mnist(held: Held) -> Answer | None:
    """On MNIST VAT's error is below RPT's and adversarial training's."""
    found = held.table("table1")
    if not {"mle", "rpt", "at-l2", "vat-exact"} <= found.keys():
        return None
    error = {key: mean(each) for key, each in found.items()}
    others = {key: error[key] for key in ("mle", "rpt", "at-linf", "at-l2") if key in error}
    listed = ", ".join(f"{METHODS[key].title} at {value:.2f}" for key, value in others.items())
    text = f"VAT, exact, ends at {error['vat-exact']:.2f} % of errors, {listed}."
    return Answer(text, error["vat-exact"] < min(others.values()))


@claim("4.1.1", "figure2")
def smoother(held: Held) -> Answer | None:
    """The network trained with VAT is smoother in terms of the LDS."""
    found = held.figure("figure2")
    if not {"mle", "vat-exact"} <= found.keys():
        return None
    last = {p: statistics.mean(e["rows"][-1]["r_vadv"] for e in found[p]) for p in found}
    text = f"After 60,000 updates R_vadv is {last['vat-exact']:.2f} with VAT, {last['mle']:.2f} "
    return Answer(text + "without.", last["vat-exact"] < last["mle"])


@claim("4.1.2", "table3")
def few_labels(held: Held) -> Answer | None:
    """With few labels VAT is far better than random perturbations."""
    found = held.table("table3")
    vat, rpt = found.get("vat-finite-difference-100"), found.get("rpt-100")
    if not vat or not rpt:
        return None
    errors = [mean(vat), mean(rpt)]
    spread = ", ".join(f"{each['test_error']:.2f}" for each in vat)
    text = f"With 100 labels VAT ends at {errors[0]:.2f} % ({spread}), RPT at {errors[1]:.2f} %."
    return Answer(text, errors[0] < errors[1])


@claim("4.2", "figure3")
def by_product(held: Held) -> Answer | None:
    """For small ε the strength is that of α ε² alone (eq. 20)."""
    found = held.figure("figure3")
    if not found:
        return None
    settings = {point: each[0]["settings"] for point, each in found.items()}
    exact = [p for p in found if settings[p].get("direction") == "exact"]
    error = {p: mean(found[p], "validation_error") for p in exact}

    def line(name: str, value: float) -> tuple[np.ndarray, np.ndarray]:
        points = [p for p in exact if settings[p][name] == value]
        products = [settings[p]["alpha"] * settings[p]["epsilon"] ** 2 for p in points]
        order = np.argsort(products)
        return np.array(products)[order], np.array([error[p] for p in points])[order]

    products, errors = line("epsilon", 1.0)
    others, by_epsilon = line("alpha", 1.0)
    inside = (products >= others[0]) & (products <= 1)
    there = np.interp(np.log(products[inside]), np.log(others), by_epsilon)
    most = float(np.max(np.abs(there - errors[inside])))
    text = f"Up to α ε² = 1 the errors by α (at ε = 1) and by ε (at α = 1) differ by {most:.2f} "
    return Answer(text + "percentage points at most.", most < 0.25)


@claim("4.2", "figure3")
def epsilon_suffices(held: Held) -> Answer | None:
    """Tuning ε alone, with α = 1, suffices."""
    found = held.figure("figure3")
    if not found:
        return None
    error = {p: mean(each, "validation_error") for p, each in found.items()}
    alone = min(e for p, e in error.items() if found[p][0]["settings"]["alpha"] == 1)
    both = min(error.values())
    text = f"The best error at α = 1 is {alone:.2f} %, the best of the whole grid {both:.2f} %."
    return Answer(text, alone - both < 0.1)


@claim("4.3", "figure4", "figure4-cifar10")
def saturates(held: Held, name: str) -> Answer | None:
    """R_vadv rises from K = 0 to K = 1 and saturates there."""
    found = held.figure(name)
    if "k1" not in found:
        return None
    by = {
        k: statistics.mean(each["measured"]["r_vadv"][k] for each in found["k1"])
        for k in ("k0", "k1", "k4", "k8")
    }
    text = "Of the network trained with K = 1, R_vadv is {k0:.4f} by K = 0, {k1:.3f} by K = 1, "
    text += "{k4:.3f} by K = 4, where the paper ends, and {k8:.3f} by K = 8."
    return Answer(text.format_map(by), by["k1"] > 2 * by["k0"] and by["k1"] > 0.8 * by["k4"])


@claim("4.3", "audit")
def skew(held: Held) -> Answer | None:
    """The ratio λ₁/λ₂ is very large."""
    audited = held.audit()
    if not audited:
        return None
    ratio = {name: 1 / audited[name]["spectra"]["ratio"]["median"] for name in ("mle", "vat")}
    text = f"The median of λ₁/λ₂ is {ratio['vat']:.1f} with VAT and {ratio['mle']:.1f} without: "
    text += "K = 1 suffices because H has nine eigenvalues at most, not because one dominates."
    return Answer(text, ratio["vat"] > 10)


@claim("4.4.1", "figure5")
def best_between(held: Held) -> Answer | None:
    """An ε between the too small and the too large has the lowest error. On CIFAR-10."""
    found = held.figure("figure5")
    if not found:
        return None
    error = {each[0]["settings"]["epsilon"]: mean(each) for each in found.values()}
    best = min(error, key=error.__getitem__)
    listed = ", ".join(f"{error[epsilon]:.1f} % at ε = {epsilon:g}" for epsilon in sorted(error))
    return Answer(f"The error is {listed}.", min(error) < best < max(error))


@claim("4.4.2", "figure6", "figure6-cifar10")
def robust(held: Held, name: str) -> Answer | None:
    """For ε around 1 the network with VAT misidentifies much less."""
    found = held.figure(name)
    if not found:
        return None
    first = next(iter(found.values()))[0]["measured"]["epsilons"]
    at = first.index(1.0)

    def rate(examples: str, network: str, place: int) -> float:
        each = [one["measured"]["misidentified"]["r_vadv"][network] for one in found[examples]]
        return statistics.mean(one[place] for one in each)

    own, others = rate("vat", "vat", at), rate("mle", "mle", at)
    text = f"At ε = 1 the network with VAT misidentifies {own:.1f} % of its own examples, the one "
    text += f"without {others:.1f} % of its own."
    return Answer(text, own < others)


@claim("4.5", "figure7", "figure7-cifar10")
def less_noise(held: Held, name: str) -> Answer | None:
    """One power iteration lowers the noise of the gradient, early on."""
    found = held.figure(name)
    if not found:
        return None
    early = [each[0] for point, each in found.items() if int(point) <= 3000]  # of the full length
    last = max(one["settings"]["updates"] for one in early)
    norms = [(one["measured"]["rpt"][0], one["measured"]["vat-exact"][0]) for one in early]
    ratios = [rpt / vat for rpt, vat in norms if rpt is not None and vat is not None]
    text = f"Up to {last:,} updates the normalized SD norm of R⁽⁰⁾ is {min(ratios):.1f} to "
    return Answer(text + f"{max(ratios):.1f} times that of R⁽¹⁾.", min(ratios) > 1)


@claim("4.5", "figure8")
def more_than_noise(held: Held) -> Answer | None:
    """RPT with as little noise still falls behind VAT."""
    found = held.figure("figure8")
    if not found:
        return None
    vat, rpt = mean(found["vat"]), mean(found["rpt"])
    text = f"VAT (α = 1, S = 1) ends at {vat:.2f} %, RPT (α = 7, S = 9) at {rpt:.2f} %."
    return Answer(text, vat < rpt)
