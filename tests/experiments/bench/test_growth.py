"""The benchmark of growth: what it varies, its exponents, and its picture."""

import json

import numpy as np
import pytest

from experiments.bench import growth, harness


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(growth, "AXES", {"batch": (4, 8), "width": (16, 32), "K": (0, 1)})
    monkeypatch.setattr(growth, "IMAGES", 120)


@pytest.mark.usefixtures("_no_peers")
def test_every_value_is_measured_and_drawn(capsys, calls, tmp_path, monkeypatch):
    def peak_memory(module, axis, value):  # such small updates need less than their images
        assert harness.peak_memory(growth.task(module, axis, value), 1)[0] > 0
        return 20.0 + value, 10.0

    monkeypatch.setattr(growth, "peak_memory", peak_memory)
    path = tmp_path / "growth.png"
    assert growth.main(["--rounds", "2", "--json", "--picture", str(path)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    for quantity in ("time", "memory"):
        values = {axis: [int(v) for v in each] for axis, each in found[quantity].items()}
        assert values == {axis: list(each) for axis, each in growth.AXES.items()}
    assert found["time"]["K"]["0"]["minivat"] > 0
    assert [name for name, *_ in calls] == ["times"] + ["peak_memory"] * 6
    assert path.read_bytes().startswith(b"\x89PNG")


def test_an_exponent_is_the_power():
    assert growth.exponent({x: 3 * x**1.5 for x in (1.0, 2.0, 7.0)}) == pytest.approx(1.5)
    assert growth.exponent({1.0: 0.0, 2.0: 4.0, 4.0: 8.0}) == pytest.approx(1.0)
    assert np.isnan(growth.exponent({1.0: 0.0, 2.0: 4.0}))


def test_the_arithmetic_is_that_of_the_products():
    weights = 784 * 1200 + 1200 * 600 + 600 * 300 + 300 * 150 + 150 * 10
    assert growth.arithmetic("batch", 7) == 8 * 7 * weights
    assert growth.arithmetic("K", 4) == 14 * 100 * weights
    assert growth.sizes("depth", 3) == [784, 600, 600, 600, 10]
    assert growth.task("minivat", "K", 4).regularization.power_iteration.iterations == 4
    assert growth.task("minivat", "batch", 7).batch_size == 7


def test_the_table_has_the_exponents(capsys):
    found = {"batch": {v: {"minivat": 2.0 * v, "torch": 1.0 * np.sqrt(v)} for v in (1, 4, 16)}}
    growth.show("time", found)
    out = capsys.readouterr().out
    assert "time, ms, by batch" in out
    lines = {line.split("  ")[0]: line.split()[-2:] for line in out.splitlines() if line}
    assert lines["exponent"] == ["1.00", "0.50"]
    assert lines["exponent of the arithmetic"] == ["1.00", "1.00"]
