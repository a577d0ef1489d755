"""The audit's page and figures, from the published audit.json."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments import audit as command
from experiments.audit import figures, measure, page
from experiments.lab import results, runs
from tests import commands

FOLDER = results.RESULTS / "audit"


@pytest.fixture(scope="module")
def audit() -> dict[str, Any]:
    """The published numbers."""
    return runs.read_json(FOLDER / "audit.json")


def section(text, title):
    return text.split(f"**{title}**")[1].split("\n")[0]


def test_words_follow_their_numbers(audit):
    changed = copy.deepcopy(audit)
    mle, vat = (changed["networks"][label]["spectra"] for label in ("mle", "vat"))
    mle["lambda1"].update(mean=2.0, median=0.25)
    vat["lambda1"].update(mean=0.5, median=0.5)
    mle["lambda1"]["percentiles"] = [0.0] * 100 + [9.0]
    vat["lambda1"]["percentiles"] = [1.0] * 101
    text = section(page.markdown(changed), "λ₁.")
    assert "is 2 without VAT and 0.5 with it: VAT lowers it 4 times" in text
    assert "is 0.25 without VAT and 0.5 with it: VAT raises it 2 times" in text
    assert "the largest λ₁ 9 without VAT and 1 with it" in text
    assert "from 0 to 100, 100 are larger with VAT" in text


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (2.0, 2.0, "leaves it as it is"),
        (2.0, 3.0, "raises it 1.5 times"),
        (0.0, 3.0, "raises it from 0"),
        (3.0, 2.0, "lowers it 1.5 times"),
        (3.0, 0.0, "lowers it to 0"),
    ],
)
def test_changes_in_words(before, after, words):
    assert page.change(before, after) == words


def test_a_place_is_shown_of_one_network_of_both_and_of_all():
    places = [{"a": [0.5, {"b": 0.25}], "n": 3}, {"a": [1.0, {"b": "none"}], "n": 4}]
    one, both = page.Shown(places[:1]), page.Shown(places, "{} and {}")
    assert f"{one['a'][1]['b']} {one['a'][0]:%} {one['n']}" == "0.25 50 % 3"
    assert f"{both['a'][1]['b']:%}; {both['n']}" == "25 % and none; 3 and 4"
    assert f"{page.Shown([[0.5, 1.0]]):%}" == "50 %, 100 %"
    assert f"{one['n & n']} {page.Shown([places])['n']}" == "3, 3 3, 4"
    assert "{one[2]}".format(one=page.Shown([{"2": 0.5}])) == "0.5"
    assert f"{both['n']:inverse} {both['n']:change}" == "0.333 and 0.25 raises it 1.33 times"
    with pytest.raises(KeyError):
        f"{one['c']}"


def test_where_the_quadratic_picture_ends(audit):
    changed = copy.deepcopy(audit)
    for label, medians in (("mle", {"0.3": 0.91, "1": 1.2, "2": 1.0}), ("vat", {"0.01": 0.8})):
        for epsilon, at in changed["networks"][label]["perturbations"].items():
            at["maximum_over_quadratic"]["median"] = medians.get(epsilon, 1.05)
    text = section(page.markdown(changed), "Where the quadratic picture ends.")
    assert "ε = 0.3 without VAT and none with it. At ε = 2 its median is 1 without" in text


def test_the_xi_that_do_as_well_as_the_exact_product():
    captured = {"K=1": 0.9, "xi=1e-08 K=1": 0.1, "xi=10 K=1": 0.85, "xi=0.1 K=1": 0.89}
    by_direction = {name: {"captured": {"median": value}} for name, value in captured.items()}
    assert measure.xis_of(by_direction) == [1e-8, 0.1, 10.0]
    assert page.good_xis(by_direction) == "0.1"
    assert page.good_xis({"K=1": by_direction["K=1"]}) == "none"


def test_the_factors_multiply_to_the_whole(audit):
    for label in ("mle", "vat"):
        found = page.derived(audit["networks"][label])
        product = found["sign"] * found["direction"] * found["beyond"]
        np.testing.assert_allclose([product, 1 / found["share_of_means"]], found["total"])
        assert found["total"] >= 1


def test_every_derived_number_is_shown(audit):
    template = page.TEMPLATE.read_text(encoding="utf-8")
    for name in page.derived(audit["networks"]["vat"]):
        assert f"[derived][{name}]" in template


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (0.12345, "0.123"), (12.0, "12"), (98765.0, "9.9·10^4"), (3e-7, "3.0·10^-7"),
        (60000, "60000"),
    ],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert page.number(value) == text


def test_the_page_alone_is_written_again_with_its_figures(tmp_path, audit, capsys):
    runs.write_json(tmp_path / "audit.json", audit)
    assert commands.call(command.main, "--page", tmp_path) == 0
    text = (tmp_path / "audit.md").read_text()
    assert text == page.markdown(audit)
    for name in figures.FIGURES:
        assert f"({name}.png)" in text
        drawn, published = (Image.open(folder / f"{name}.png") for folder in (tmp_path, FOLDER))
        assert drawn.format == "PNG"
        if drawn.info["Software"] == published.info["Software"]:  # of the same matplotlib
            np.testing.assert_array_equal(drawn, published)
    assert commands.call(command.main, "--page", tmp_path / "none") == 2
    assert "audit.json cannot be read" in capsys.readouterr().err


def test_the_published_page_is_that_of_its_json(audit):
    assert (FOLDER / "audit.md").read_text(encoding="utf-8") == page.markdown(audit)
