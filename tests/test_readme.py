"""The README's code runs, and its table of equations points at the code it names."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
LINKS = re.findall(r"\[`([\w.]+)`\]\((minivat/[\w/]+\.py)#L(\d+)\)", README)


def run(blocks):
    table = np.random.default_rng(0).standard_normal((60, 3))
    names = {"X": table, "y": np.arange(60) % 4 - 1, "X_new": table[:5]}
    for block in blocks:
        exec(block, names)  # one after the other, as a reader would
    return names


def test_the_code_runs():
    sklearn = importlib.util.find_spec("sklearn")
    optional = ["import torch"] if sklearn else ["import torch", "sklearn"]
    names = run(block for block in BLOCKS if not any(word in block for word in optional))
    assert names["gradient"].keys() == names["params"].keys()
    assert names["loss"] > 0
    assert names["Hd"].shape == names["x"].shape
    if sklearn:
        assert set(names["predicted"]) <= {0, 1, 2}


def test_the_code_for_pytorch_runs(capsys):
    pytest.importorskip("torch")
    names = run(block for block in BLOCKS if "sklearn" not in block)
    assert names["eigenvalues"].shape == (8, 2)
    assert (names["share"] <= 1).all()
    assert re.fullmatch(r"λ₂/λ₁ 0\.\d\d, \d+% found\n", capsys.readouterr().out)


def test_every_equation_has_a_place():
    table = README.split("## Where each equation is")[1].split("##")[0]
    assert len(LINKS) == sum(line.startswith("| ") for line in table.splitlines()) - 2


@pytest.mark.parametrize(("name", "path", "line"), LINKS)
def test_a_link_leads_to_the_definition(name, path, line):
    definition = (ROOT / path).read_text(encoding="utf-8").splitlines()[int(line) - 1]
    assert re.match(rf"\s*(def|class) {name.split('.')[-1]}\b", definition)
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    inside = name.removeprefix(module.__name__.removeprefix("minivat.")).lstrip(".").split(".")
    thing = module
    for part in inside:
        thing = getattr(thing, part)


def test_every_picture_is_there():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / path).is_file(), path


def test_the_table_is_the_one_that_was_measured():
    short = "table4-8000-updates-2500-decay-updates-width0.25-10000-held-out.md"
    for name in ("table1.md", "table3.md", short):
        table = (ROOT / "experiments/results" / name).read_text(encoding="utf-8").strip()
        assert f"<!-- {name} -->\n{table}\n<!-- end -->" in README
