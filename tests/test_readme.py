"""The README is short, its code runs, and its numbers are those that were measured."""

import re

import pytest

from tests import documents
from tests.documents import README, cells

LINES = documents.text_of(README).splitlines()


def test_it_fits_on_a_page():
    assert len(LINES) <= 150


def test_the_loop_trains():
    (loop,) = (code for _, code in documents.blocks(README) if "value_and_grad" in code)
    names = documents.run([loop.replace("range(10)", "range(1)")])
    first, names = names["loss"], documents.run([loop])
    assert names["gradient"].keys() == names["params"].keys()
    assert 0 < names["loss"] < first


def test_the_estimator_predicts():
    pytest.importorskip("sklearn")
    (three_lines,) = (code for _, code in documents.blocks(README) if "VATClassifier" in code)
    names = documents.run([three_lines], **documents.example_table())
    assert set(names["predicted"]) <= {0, 1, 2}


def test_every_row_is_one_that_was_measured():
    start = LINES.index("| method | labels | ε | test error (%) | seeds | paper (%) |")
    shown = []
    for line in LINES[start + 2 :]:
        if not line.startswith("|"):
            break
        shown.append(cells(line))
    found = []
    for line in documents.measured("table1.md").splitlines()[2:]:
        if line.startswith("|") and "(cited" not in line:
            method, epsilon, error, seeds, paper = cells(line)
            found.append([method, "60,000", epsilon, error, str(seeds.count(":")), paper])
    for line in documents.measured("table3.md").splitlines()[2:]:
        if line.startswith("|") and "(cited" not in line:
            method, labels, _, epsilon, error, seeds, paper = cells(line)
            labels = f"{int(labels):,}"
            found.append([method, labels, epsilon, error, str(seeds.count(":")), paper])
    assert len(shown) == 10
    for row in shown:
        assert row in found


def test_the_findings_are_among_the_results():
    findings = "\n".join(LINES).split("Three findings matter most")[1].split("[All results]")[0]
    results = documents.text_of(documents.ROOT / "docs" / "results.md")
    numbers = re.findall(r"\d+(?:\.\d+)?", re.sub(r"^\d\. ", "", findings, flags=re.MULTILINE))
    assert len(numbers) > 10
    assert [number for number in numbers if number not in results] == []
