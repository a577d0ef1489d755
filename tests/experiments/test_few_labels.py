"""The estimators on the digits: what is written, what is hidden, mistakes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments import few_labels
from minivat import data


class Spy:
    """An estimator that keeps what it is given and predicts the class 0."""

    def __init__(self, seed):
        self.seed = seed

    def fit(self, x, y):
        self.x, self.y = x, y
        return self

    def score(self, x, y):
        self.held = x, y
        return float(np.mean(y == 0))


def spied(validation, seed=3):
    made = []

    def make(seed):
        made.append(Spy(seed))
        return made[-1]

    dataset = data.load("digits")
    found = few_labels.errors(make, dataset, [seed], validation)
    return dataset, made[0], found


def test_five_labels_of_each_class_and_the_test_set():
    dataset, spy, found = spied(0)
    assert np.bincount(spy.y[spy.y >= 0]).tolist() == [5] * 10
    assert len(spy.y) == len(spy.x) == len(dataset.train_labels)
    known = spy.y >= 0
    np.testing.assert_array_equal(spy.y[known], dataset.train_labels[known])
    assert spy.held[0] is dataset.test_images and spy.seed == 3
    assert found == {3: pytest.approx(100 * np.mean(dataset.test_labels != 0), abs=1e-3)}


def test_validation_leaves_the_test_set_alone():
    dataset, spy, _ = spied(300)
    assert len(spy.held[0]) == 300 and len(spy.x) == len(dataset.train_labels) - 300
    rows = {row.tobytes() for row in dataset.test_images}
    assert not any(row.tobytes() in rows for row in spy.held[0])


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(few_labels, "estimators", lambda: {"a": Spy, "b": Spy})
    path = tmp_path / "new" / "few.json"
    assert few_labels.main(["--seeds", "1", "2", "--out", str(path)]) == 0
    content = json.loads(path.read_text())
    assert [(run["estimator"], run["seed"]) for run in content["runs"]] == [
        ("a", 1),
        ("a", 2),
        ("b", 1),
        ("b", 2),
    ]
    assert "scikit-learn" in content["environment"]["versions"]
    assert "test error (%)" in capsys.readouterr().out


def test_all_estimators_can_be_made():
    for make in few_labels.estimators().values():
        assert hasattr(make(1), "fit")


def test_a_mistake_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        few_labels.main(["--validation", "1300"])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "from 0 to 1000" in err and err.count("\n") == 1
