"""The results page: its numbers are those of the results, and it says what they do not reach."""

from __future__ import annotations

import html
import json
import re

import pytest

from experiments import claims, page, tables
from experiments.claims import CLAIMS, Held
from experiments.lab import figure, results, runs
from experiments.lab.table import Line
from experiments.mnist import MnistSup

PUBLISHED = Held(results.RESULTS)
ROWS = ("update", "error", "r_vadv")


@pytest.fixture(scope="module")
def shown():
    return page.content(PUBLISHED)


def without_pictures(content):
    figures = [{**each, "picture": None} for each in content["figures"]]
    return json.loads(json.dumps({**content, "figures": figures}))


def text_of(markup: str) -> str:
    """What is read, without what is drawn."""
    return html.unescape(re.sub(r'src="data:[^"]*"', "", markup))


# The published page


def test_it_is_that_of_the_published_results(shown):
    """Pictures may differ in their bytes from one version of Matplotlib to another."""
    committed = (page.DOCS / "results.html").read_text(encoding="utf-8")
    assert text_of(committed) == text_of(page.rendered(shown))
    assert runs.read_json(page.DOCS / "results.json") == without_pictures(shown)


def test_every_table_figure_and_claim_is_there_with_its_numbers(shown):
    text = text_of(page.rendered(shown))
    for name in (*tables.TABLES, "figure1", "figure2", "figure7-cifar10", "figure8"):
        assert f'id="{name}"' in text and f'href="#{name}"' in text
    for each in runs.read_json(results.RESULTS / "table3.json")["runs"]:
        assert f"{each['settings']['seed']}: {each['test_error']:.2f}" in text
    for claim in CLAIMS:
        assert claim.says in text
    for section in ("4.1", "4.2", "4.3", "4.4", "4.5"):
        assert any(claim.section.startswith(section) for claim in CLAIMS)


def test_every_picture_has_words_and_lies_in_the_page(shown):
    markup = page.rendered(shown)
    images = re.findall(r"<img [^>]*>", markup)
    assert len(images) == sum(each["picture"] is not None for each in shown["figures"]) > 1
    assert all(re.search(r'alt="[^"]{20,}"', each) for each in images)
    assert all('src="data:image/' in each for each in images)
    assert "<script" not in markup
    assert markup == page.rendered(page.content(PUBLISHED))


def test_its_links_lead_somewhere(shown):
    markup = page.rendered(shown)
    for target in re.findall(r'href="([^"]+)"', markup):
        if target.startswith("#"):
            assert f'id="{target[1:]}"' in markup
        elif not target.startswith("https://arxiv.org/"):
            assert (page.DOCS / target).exists()


# What it says


def of_seeds(*errors):
    return [{"settings": {"seed": i}, "test_error": each} for i, each in enumerate(errors, start=1)]


def test_the_difference_is_in_standard_errors():
    line = Line(MnistSup(), (1.0, 0.3))
    found = page.compared(line, of_seeds(1.0, 2.0, 3.0, 4.0))
    assert found["mean"] == 2.5 and found["deviation"] == pytest.approx((5 / 3) ** 0.5)
    assert found["difference"] == pytest.approx(1.5 / (5 / 12 + 0.09) ** 0.5)
    assert page.compared(line, of_seeds(2.0))["difference"] is None
    assert page.compared(Line(MnistSup()), of_seeds(1.0, 2.0))["paper"] is None


def row(difference=0.0, seeds=2, paper=(1.0, 0.1)):
    return {"seeds": dict.fromkeys(range(seeds), 1.0), "paper": paper, "difference": difference} | {
        "cells": ["VAT", "100"]
    }


@pytest.mark.parametrize(
    ("reduced", "lines", "status", "why"),
    [
        (False, [row(seeds=0)], "not run", "No run at any scale."),
        (True, [row()], "reduced scale", "Not to be put beside the paper's numbers."),
        (
            False,
            [row(), row(-5.0), row(None, seeds=1), row(seeds=0)],
            "reproduced",
            "3 rows run, 1 of the paper's not, 1 of them with one seed, "
            "none worse by more than two standard errors.",
        ),
        (
            False,
            [row(), row(2.1)],
            "differs",
            "2 rows run. Worse than the paper's: VAT, 100.",
        ),
    ],
)
def test_the_status_of_a_table(reduced, lines, status, why):
    assert page.status_of_table(reduced, lines) == {"status": status, "why": why}


def test_results_of_a_reduced_scale_are_called_so(tmp_path):
    held = Held(tmp_path)
    assert not held.reduced("figure3") and held.figure("figure3") == {}
    names = ["figure3-mnist-300-updates", "figure3-mnist-6000-updates", "figure4-mnist-900-updates"]
    names += ["figure4-cifar10-cifar10-1000-updates"]  # of another figure, and longer
    for name in names:
        content = {"runs": [{"point": name, "settings": {"seed": 1}}]}
        runs.write_json(tmp_path / f"{name}.json", content)
    assert held.reduced("figure3")
    assert list(held.figure("figure3")) == ["figure3-mnist-6000-updates"]
    assert list(held.figure("figure4")) == ["figure4-mnist-900-updates"]
    assert list(held.figure("figure4-cifar10")) == names[-1:]
    runs.write_json(tmp_path / "figure3.json", {"runs": []})
    assert not held.reduced("figure3") and held.figure("figure3") == {}


# Claims


def test_a_claim_without_results_is_open(tmp_path):
    assert [claim.answer(Held(tmp_path)) for claim in CLAIMS] == [None] * len(CLAIMS)
    assert page.verdict(None) == "open"


def figure_of(tmp_path, name, points, **each):
    """Results of a figure whose runs have the numbers that `points` gives."""
    specs = page.entry.figures()[name].points
    content = [
        {
            "point": point,
            "settings": specs[point].settings(),
            "rows": [dict.fromkeys(figure.ROW, 1.0)],
            **numbers,
            **each,
        }
        for point, numbers in points.items()
    ]
    runs.write_json(tmp_path / f"{name}.json", {"runs": content})
    return Held(tmp_path)


def answers(held, name):
    return [claim.answer(held) for claim in CLAIMS if claim.needs == name]


@pytest.mark.parametrize("bent", [False, True])
def test_errors_by_the_product_of_alpha_and_epsilon_squared(tmp_path, bent):
    specs = page.entry.figures()["figure3"].points
    points = {}
    for point, spec in specs.items():
        product = spec.alpha * spec.epsilon**2
        error = 1 + product + (0.5 if bent and spec.alpha != 1 else 0)
        points[point] = {"validation_error": error}
    product, alone = answers(figure_of(tmp_path, "figure3", points), "figure3")
    assert product.confirmed is not bent
    assert alone.confirmed is True  # the least error is that of ε = 0.25 or α = 0.01


@pytest.mark.parametrize("name", ["figure4", "figure4-cifar10"])
@pytest.mark.parametrize(("k1", "confirmed"), [(0.9, True), (0.02, False)])
def test_saturation(tmp_path, name, k1, confirmed):
    r_vadv = {"k0": 0.01, "k1": k1, "k4": 1.0, "k8": 1.0}
    held = figure_of(tmp_path, name, {"k1": {"measured": {"r_vadv": r_vadv}}})
    ((text, found),) = answers(held, name)
    assert found is confirmed and f"{k1:.3f} by K = 1" in text


def test_noise_and_more_than_noise(tmp_path):
    measured = {"rpt": [3.0, 0.1], "vat-exact": [1.5, 0.1]}
    unknown = {"measured": measured | {"rpt": [None, None]}}  # too noisy to tell
    points = {"00010": {"measured": measured}, "00030": unknown, "60000": {"measured": {}}}
    ((text, found),) = answers(figure_of(tmp_path, "figure7", points), "figure7")
    assert found and "2.0 to 2.0 times" in text
    points = {"vat": {"test_error": 0.6}, "rpt": {"test_error": 0.7}}
    ((text, found),) = answers(figure_of(tmp_path, "figure8", points), "figure8")
    assert found and "0.60 %" in text and "0.70 %" in text


@pytest.mark.parametrize(("errors", "confirmed"), [((4, 3, 1, 2), True), ((1, 2, 3, 4), False)])
def test_the_best_epsilon_lies_between(tmp_path, errors, confirmed):
    points = page.entry.figures()["figure5"].points
    found = {point: {"test_error": e} for point, e in zip(points, errors, strict=True)}
    ((text, verdict),) = answers(figure_of(tmp_path, "figure5", found), "figure5")
    assert verdict is confirmed
    assert text.startswith(f"The error is {errors[0]:.1f} % at ε = 1, {errors[1]:.1f} % at ε = 3")


def test_robustness_is_that_at_epsilon_1(tmp_path):
    def measured(vat, mle):
        rates = {"r_vadv": {"vat": [0.0, vat], "mle": [0.0, mle]}}
        return {"measured": {"epsilons": [0.1, 1.0], "misidentified": rates}}

    points = {"vat": measured(10.0, 99.0), "mle": measured(0.0, 40.0)}
    ((text, found),) = answers(figure_of(tmp_path, "figure6", points), "figure6")
    assert found and "10.0 % of its own" in text and "40.0 % of its own" in text


def test_the_published_results_answer_some():
    found = {claim.says: claim.answer(PUBLISHED) for claim in CLAIMS}
    assert found[claims.smoother.__doc__].confirmed
    assert (
        not found[claims.skew.__doc__].confirmed
        and "3.4 with VAT" in found[claims.skew.__doc__].text
    )
