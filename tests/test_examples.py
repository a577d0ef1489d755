"""The examples run, and what they print is what they are meant to show."""

import ast
import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


def percentages(name, capsys):
    """The percentages that an example prints, in order."""
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return [float(number) for number in re.findall(r"([\d.]+)%", capsys.readouterr().out)]


def test_a_loop_without_trainer_learns_more_with_vat(capsys):
    pytest.importorskip("sklearn")
    without, with_vat = percentages("vat_loop.py", capsys)
    assert with_vat < 0.75 * without
    assert without < 20  # of ten classes; the labels alone teach something, too


def test_a_model_of_ones_own_finds_the_gap_with_vat(capsys):
    without, with_vat = percentages("own_model.py", capsys)
    assert with_vat < 1 < without


def test_an_audit_of_a_pytorch_model_tells_directions_apart(capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("torch")
    wrong, random, exact, differences, reached = percentages("audit_torch.py", capsys)
    assert wrong < 10
    assert random < 5 < differences < exact - 10
    assert exact > 90
    assert 0 < reached < 100


def test_every_example_says_first_what_it_shows_and_is_run_here():
    examples = {path.name: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py")}
    assert set(examples) == set(re.findall(r'percentages\("(.+?)"', Path(__file__).read_text()))
    for name, source in examples.items():
        assert f"python docs/examples/{name}" in ast.get_docstring(ast.parse(source))
