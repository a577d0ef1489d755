"""Figures of many runs: what is run, what is kept, and what is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from experiments import __main__ as entry
from experiments import figure2, figure4, figure6, figure7
from experiments.lab import figure, plotting, results, runs, scene, sweep
from experiments.mnist import MnistSup
from minivat import backend

FIGURES = entry.figures()
drawn = []


def measured(runs_of_seed, place):
    assert place.dataset.name == "digits" and place.device.name == "cpu"
    return {point: {"updates": run.spec.updates} for point, run in runs_of_seed.items()}


TOY = figure.Figure(
    "toy",
    "A toy.\nIt is none of the paper's.",
    "Digits.",
    {
        "long": MnistSup(method="mle", updates=400, decay_every=40, validation=10_000),
        "short": MnistSup(method="rpt", updates=40, validation=10_000),
    },
    lambda canvas, found: drawn.append(found),
    measured,
    seeds=(1,),
)


def args_of(figure_, *arguments):
    return figure.parser(figure_).parse_args(list(arguments))


def test_another_length_stretches_the_schedule():
    specs = figure.specs(TOY, args_of(TOY, "--updates", "200"), "digits")
    long, short = specs["long"].resolved(), specs["short"].resolved()
    assert (long.updates, long.decay_every, long.evaluate_every) == (200, 20, 4)
    assert (short.updates, short.decay_every, short.evaluate_every) == (20, 300, 1)
    assert long.validation == 300  # of the digits
    whole = figure.specs(TOY, args_of(TOY), "mnist")["short"]
    assert whole == TOY.points["short"].replace(dataset="mnist", evaluate_every=1)


@pytest.mark.usefixtures("_away_from_here", "_in_this_process")
def test_what_the_results_hold_is_not_run_again(monkeypatch):
    drawn.clear()
    brief = ["--data", "digits", "--updates", "20", "--device", "cpu"]
    assert figure.make(TOY, brief) == 0
    path = Path("runs/results/toy-digits-20-updates.json")
    content = json.loads(path.read_text())
    found = {each["point"]: each for each in content["runs"]}
    assert found["long"]["measured"] == {"updates": 20}
    assert found["short"]["measured"] == {"updates": 2}
    assert found["long"]["rows"][-1]["update"] == 20
    assert set(found["long"]["rows"][0]) == set(figure.ROW)
    assert found["long"]["environment"]["device"] and found["long"]["command"]
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert list(drawn[0]) == ["long", "short"] and len(drawn[0]["long"]) == 1
    asked = []

    def run_all(jobs, folder, at_once):
        asked.append(list(jobs))
        if jobs:
            raise runs.RunFailed("no")
        return {}

    monkeypatch.setattr(sweep, "run_all", run_all)
    assert figure.make(TOY, brief) == 0
    with pytest.raises(runs.RunFailed):
        figure.make(TOY, [*brief, "--seeds", "1", "2"])
    assert asked == [[], ["long-seed2", "short-seed2"]]
    assert json.loads(path.read_text()) == content


@pytest.mark.parametrize("name", FIGURES)
def test_the_points_are_specs_that_can_be_run(name):
    each = FIGURES[name]
    resolved = [spec.resolved() for spec in each.points.values()]
    assert len(set(resolved)) == len(resolved) and "\n" in each.about
    assert max(spec.updates for spec in resolved) == each.updates


# Pictures


def result(spec, seed, **more):
    rows = [{"update": u, "error": 5.0 / u + seed, "r_vadv": 0.1 * u} for u in (1, 2)]
    settings = spec.replace(seed=seed).settings()
    return {"settings": settings, "rows": rows, "test_error": 1.0 + seed, **more}


def lines_of(axes):
    lines = {line.get_label(): line for line in axes.get_lines()}
    lines |= {bars.get_label(): bars[0] for bars in axes.containers}
    return {name: line.get_xydata().tolist() for name, line in lines.items()}


def test_learning_curves_are_means_in_a_band():
    canvas = Canvas()
    spec = MnistSup(method="mle")
    plotting.learning_curves(canvas, {"MLE": [result(spec, 1), result(spec, 2)]}, "error")
    error, r_vadv = canvas.axes
    np.testing.assert_allclose(lines_of(error)["MLE (2 seeds)"], [[1, 6.5], [2, 4.0]])
    band = error.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose([band.min(), band.max()], [4 - np.sqrt(0.5), 6.5 + np.sqrt(0.5)])
    np.testing.assert_allclose(lines_of(r_vadv)["MLE (2 seeds)"], [[1, 0.1], [2, 0.2]])


def test_figure_2_takes_the_tables_runs(tmp_path):
    spec = MnistSup(method="vat-exact", dataset="mnist")
    found = [{**result(spec, 3), "data": {"name": "mnist"}}]
    runs.write_json(tmp_path / "table1.json", {"runs": found})
    (tmp_path / "table1").mkdir()
    rows = [{"update": 1.0, "error": 2.0, "r_vadv": 3.0}]
    runs.write_metrics(tmp_path / "table1" / "vat-exact-seed3.csv", figure.ROW, rows)
    (label, each), *others = figure2.of_table(tmp_path).items()
    assert (label, each["point"], each["rows"]) == ("vat-exact-seed3", "vat-exact", rows)
    assert not others and figure2.of_table(tmp_path / "none") == {}


@pytest.mark.parametrize("name", ["figure2", "figure8"])
def test_curves_are_drawn_of_every_point(name):
    canvas = Canvas()
    each = FIGURES[name]
    each.draw(canvas, {point: [result(spec, 1)] for point, spec in each.points.items()})
    assert len(canvas.axes[0].get_lines()) == len(each.points)


def test_figure_3_shows_every_error_where_it_belongs():
    canvas = Canvas()
    each = FIGURES["figure3"]

    def error(spec):
        return spec.epsilon + 10 * spec.alpha + (100 if "finite" in spec.method else 0)

    found = {
        point: [result(spec, 1, validation_error=error(spec))]
        for point, spec in each.points.items()
    }
    each.draw(canvas, found)
    by_epsilon, by_alpha, by_product = map(lines_of, canvas.axes)
    assert [y - x for x, y in by_epsilon["exact"]] == pytest.approx([10] * 10)
    assert [y - x for x, y in by_epsilon["finite difference"]] == pytest.approx([110] * 10)
    assert [x for x, _ in by_epsilon["exact"]] == sorted(x for x, _ in by_epsilon["exact"])
    line = by_alpha[r"$\epsilon$ = 2"]
    assert [y - 10 * x for x, y in line] == pytest.approx([2] * 9)
    np.testing.assert_allclose(by_product[r"$\epsilon$ = 2"], [[4 * x, y] for x, y in line])
    assert [x for x, _ in by_product[r"$\alpha$ = 1"]] == pytest.approx(
        [x**2 for x, _ in by_epsilon["exact"]]
    )


def test_figure_4_shows_what_was_measured():
    canvas = Canvas()
    each = FIGURES["figure4"]
    names = ["k0", "k0.5", "k1", "k2", "k4", "k8", figure4.EIGENVECTOR]
    found = {
        point: [
            result(
                spec,
                1,
                measured={
                    "r_vadv": {name: 1 + i + 10 * j for j, name in enumerate(names)},
                    "lambda1_over_lambda2": 3.0,
                },
            )
        ]
        for i, (point, spec) in enumerate(each.points.items())
    }
    each.draw(canvas, found)
    left, right = map(lines_of, canvas.axes)
    order = [list(each.points).index(name) for name in names[:-1]]
    assert [y for _, y in left["u₁, the sign that moves more"]] == [1 + i + 60 for i in order]
    assert [y for _, y in left["after one exact iteration"]] == [1 + i + 20 for i in order]
    assert [y for _, y in left["after the K of training"]] == [
        1 + i + 10 * j for j, i in enumerate(order)
    ]
    one = list(each.points).index("k1")
    assert [y for _, y in right["trained with K = 1"]] == [1 + one + 10 * j for j in range(6)]


def test_figure_5_draws_the_examples_of_three_networks():
    canvas = Canvas()
    each = FIGURES["figure5"]
    found = {}
    for i, (point, spec) in enumerate(each.points.items()):
        pictures = scene.encoded(np.full((2, 4, 3, 3, 3), i / 10))
        measured = {"clean and perturbed": pictures}
        found[point] = [result(spec, 1, measured=measured) | {"test_error": abs(i - 2) + 1.0}]
    each.draw(canvas, found)
    shown = [axes.images[0].get_array()[0, 0, 0] for axes in canvas.axes if axes.images]
    assert shown == [*[0] * 4, *[0] * 4, *[51] * 4, *[76] * 4]  # x, then (1), (2), (3)


def test_figure_6_draws_the_rates_of_both_networks():
    canvas = Canvas()
    each = FIGURES["figure6"]
    count = len(figure6.EPSILONS)
    found = {}
    for i, (point, spec) in enumerate(each.points.items()):
        rates = {
            way: {"vat": [10.0 * i + j] * count, "mle": [10.0 * i + j + 1] * count}
            for j, way in enumerate(figure6.WAYS)
        }
        measured = {
            "misidentified": rates,
            "pictures": scene.encoded(np.zeros((count, 2, 2))),
            "changed": [{"vat": False, "mle": True}] * count,
        }
        found[point] = [result(spec, 1, measured=measured)]
    each.draw(canvas, found)
    of_vat, of_mle = (
        {k: y[0][1] for k, y in lines_of(axes).items()} for axes in canvas.axes if axes.lines
    )
    assert of_vat == {
        "$M_v$": 0,
        "$M_v$, true maximiser": 1,
        "$M_0$": 1,
        "$M_0$, true maximiser": 2,
    }
    assert of_mle == {name: y + 10 for name, y in of_vat.items()}
    assert all("no, yes" in axes.get_title() for axes in canvas.axes if axes.images)


def test_figure_7_draws_a_line_for_every_regularizer():
    canvas = Canvas()
    each = FIGURES["figure7"]
    found = {
        point: [result(spec, 1, measured={name: [i, 0.1] for i, name in enumerate(figure7.TITLES)})]
        for point, spec in each.points.items()
    }
    each.draw(canvas, found)
    lines = canvas.axes[0].containers
    assert [line.get_label() for line in lines] == list(figure7.TITLES.values())
    for i, line in enumerate(lines):
        xy = line[0].get_xydata()
        assert xy[:, 0].tolist() == list(figure7.STAGES) and set(xy[:, 1]) == {i}


# Measures


def test_the_sd_norm_of_a_trainer_is_that_of_its_gradients(digits_trainer):
    """With K = 0 less is certain than with one iteration; each call gives the same number."""
    found = {
        name: figure7.sd_norm(digits_trainer, 0.6, settings, 50, 1)
        for name, settings in figure7.REGULARIZERS.items()
    }
    again = figure7.sd_norm(digits_trainer, 0.6, figure7.REGULARIZERS["rpt"], 50, 1)
    assert again == found["rpt"]
    assert found["rpt"].value > found["vat-exact"].value + 3 * found["vat-exact"].standard_error


@pytest.fixture(scope="module")
def digits_trainer():
    spec = MnistSup(dataset="digits", method="vat-exact").resolved()
    return spec.trainer(spec.split(spec.load(None)), backend.Device())


def test_examples_mislead_the_network_that_made_them_most(digits_trainer):
    network = results.trained_network(digits_trainer, backend.Device())
    x = np.random.default_rng(0).random((20, 64), dtype=np.float32)
    before = figure6.classes(network, x)
    perturbed = figure6.attack(network, x, 0.5)
    for found in perturbed.values():
        assert np.linalg.norm(found - x, axis=1) == pytest.approx(0.5, rel=1e-4)
    changed = {
        way: np.sum(figure6.classes(network, found) != before) for way, found in perturbed.items()
    }
    assert 0 < changed["r_vadv"] <= changed["maximiser"]


def test_pictures_are_the_same_after_json():
    pictures = np.linspace(-0.2, 1.2, 24).reshape(2, 3, 4)
    content = json.loads(json.dumps(scene.encoded(pictures)))
    right = np.round(255 * np.clip(pictures, 0, 1))
    np.testing.assert_array_equal(scene.decoded(content), right)
