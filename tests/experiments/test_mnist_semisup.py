"""`experiments.mnist_semisup` on the digits: what it trains on, its numbers, its errors.

The manners that it shares with mnist_sup are tested there.
"""

from __future__ import annotations

import csv
import dataclasses
import functools

import numpy as np
import pytest

from experiments import common, mnist_semisup
from experiments.lab import runs
from minivat import backend, data, nn, training
from tests import commands
from tests.commands import arrays_of, call_interrupted
from tests.mnist_files import write_mnist
from tests.strict_device import strict_device

DIGITS = ["--data", "digits"]
BRIEF = [*DIGITS, "--updates", "20", "--device", "cpu", "--quiet"]
ROWS = {row: common.row_arguments(row) for row in mnist_semisup.ROWS}


pytestmark = pytest.mark.usefixtures("_away_from_here")
call = functools.partial(commands.call, mnist_semisup.main)
refused = functools.partial(commands.refused, mnist_semisup.main)


def trained(tmp_path, *arguments: str, out: str = "run") -> tuple[dict, dict]:
    """A brief run's result and final arrays."""
    assert call(*BRIEF, *arguments, "--out", out) == 0
    return runs.read_json(tmp_path / out / "result.json"), arrays_of(tmp_path / out)


# A run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS)
def test_a_run_of_every_row(tmp_path, capsys, row):
    result, _ = trained(tmp_path, *ROWS[row], "--seed", "3")
    out, err = capsys.readouterr()
    assert err == ""
    assert {path.name for path in (tmp_path / "run").iterdir()} == {*runs.FILES, ".lock"}
    assert (result["row"], result["labels"], result["seed"]) == (row, 100, 3)
    assert result["command"].startswith("python -m experiments.mnist_semisup --data digits ")
    method, direction = {
        "vat-exact": ("vat", "exact"),
        "vat-finite-difference": ("vat", "finite-difference"),
        "vat-entmin": ("vat-entmin", "finite-difference"),
    }.get(row, (row, None))
    assert (result["method"], result["direction"]) == (method, direction)
    assert result["paper_test_error"] is None  # never compared with MNIST's numbers
    assert 0 < result["test_error"] < 40  # 90 when guessing
    assert result["validation_error"] is None
    settings = result["settings"]
    assert settings["network"] == [64, 200, 100, 10]
    assert (settings["batch_size"], settings["unlabelled_batch_size"]) == (64, 256)
    assert settings.get("entropy_weight") == (1.0 if method == "vat-entmin" else None)
    assert settings.get("xi") == (1e-6 if direction == "finite-difference" else None)

    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        (measured,) = csv.DictReader(file)
    assert (float(measured["regularizer"]) == 0) == (method == "mle")
    assert ("entropy" in measured) == (method == "vat-entmin")

    header, line = out.splitlines()
    assert header.split() == "data set labels method test error (%) paper (%)".split()
    name = mnist_semisup.ROWS[row].name
    assert line.split() == ["digits", "100", *name.split(), f"{result['test_error']:.2f}", "-"]


def test_the_direction_is_the_papers_unless_told(tmp_path):
    for method in ("vat", "vat-entmin"):
        usual, arrays = trained(tmp_path, "--method", method, out=method)
        assert usual["direction"] == "finite-difference"
        exact, others = trained(
            tmp_path, "--method", method, "--direction", "exact", out=f"{method}-exact"
        )
        assert exact["direction"] == exact["settings"]["direction"] == "exact"
        assert "xi" not in exact["settings"]
        assert arrays != others


@pytest.mark.parametrize(
    ("labels", "row", "others", "paper"),
    [
        ("100", "vat-exact", "", 1.36),
        ("1000", "vat-finite-difference", "--seed 2 --evaluate-every 1", 1.27),
        ("1000", "rpt", "", 1.58),
        ("100", "vat-entmin", "", None),
        ("50", "vat-exact", "", None),
        ("100", "vat-exact", "--epsilon 4", None),
        ("100", "vat-exact", "--power-iterations 0", None),
        ("100", "vat-exact", "--noise 0", None),
        ("100", "vat-exact", "--preset iclr2016", None),
    ],
)
def test_the_papers_number_is_that_of_its_labels_row_and_settings(
    monkeypatch, labels, row, others, paper
):
    digits = data.load("digits")
    monkeypatch.setattr(data, "load", lambda *_: dataclasses.replace(digits, name="mnist"))
    monkeypatch.setitem(mnist_semisup.ASIDE, "mnist", 100)
    usual = mnist_semisup.PRESETS["paper"]
    small = dataclasses.replace(usual, network={"mnist": [64, 20, 10]})
    monkeypatch.setitem(mnist_semisup.PRESETS, "paper", small)
    older = dataclasses.replace(mnist_semisup.PRESETS["iclr2016"], network=small.network)
    monkeypatch.setitem(mnist_semisup.PRESETS, "iclr2016", older)
    arguments = ["--updates", "2", "--quiet", "--labels", labels, *ROWS[row], *others.split()]
    assert call(*arguments, "--device", "cpu", "--out", "run") == 0
    result = runs.read_json(mnist_semisup.Path("run", "result.json"))
    assert result["paper_test_error"] == paper


def test_files_under_mnists_names_are_not_compared_with_the_paper(tmp_path, monkeypatch, capsys):
    write_mnist(tmp_path / "other")
    monkeypatch.setitem(mnist_semisup.ASIDE, "mnist", 2)
    arguments = "--data-dir other --labels 10 --unlabelled-batch-size 5 --updates 2 --out run"
    assert call(*arguments.split()) == 0
    assert "not mnist's original files" in capsys.readouterr().err
    assert runs.read_json(tmp_path / "run" / "result.json")["paper_test_error"] is None


@pytest.mark.parametrize("row", ROWS)
def test_every_row_runs_on_a_device_that_refuses_host_arrays(monkeypatch, row):
    monkeypatch.setattr(backend, "select_device", lambda *_: strict_device())
    arguments = [*ROWS[row], *DIGITS, "--out", "run", "--quiet"]
    arguments += ["--updates", "4", "--evaluate-every", "2", "--checkpoint-every", "2"]
    assert call(*arguments) == 0
    assert call(*arguments, "--resume") == 0


def test_the_folder_is_named_after_what_is_not_the_default(tmp_path):
    assert call(*BRIEF, "--method", "rpt", "--epsilon", "2.5") == 0
    assert call(*BRIEF, "--labels", "50", "--output-norm", "no", "--seed", "7") == 0
    assert call(*BRIEF, "--preset", "iclr2016", "--noise", "0") == 0
    assert call(*BRIEF, "--direction", "finite-difference", "--xi", "1e-3") == 0
    assert call(*BRIEF, "--direction", "exact") == 0
    assert call(*BRIEF, "--method", "vat-entmin", "--direction", "exact") == 0
    names = {path.name for path in (tmp_path / "runs" / "mnist_semisup").iterdir()}
    assert names == {
        "digits-rpt-100labels-epsilon2.5-updates20-seed1",
        "digits-vat-finite-difference-50labels-output-normno-updates20-seed7",
        "digits-vat-finite-difference-100labels-iclr2016-updates20-seed1",
        "digits-vat-finite-difference-100labels-xi0.001-updates20-seed1",
        "digits-vat-exact-100labels-updates20-seed1",
        "digits-vat-entmin-100labels-directionexact-updates20-seed1",
    }


def given(monkeypatch, *arguments: str) -> dict:
    """What the trainer is given."""
    return commands.given(monkeypatch, mnist_semisup.main, *BRIEF, "--overwrite", *arguments)


def test_flags_reach_the_method(monkeypatch):
    flags = "--direction finite-difference --epsilon 2 --alpha 0.5 --power-iterations 3 --xi 1e-3"
    flags += " --samples 2 --batch-size 50 --unlabelled-batch-size 70 --learning-rate 0.1"
    flags += " --decay-every 10 --seed 9 --noise 0.25 --output-norm no"
    flags += " --method vat-entmin --entropy-weight 0.3"
    seen = given(monkeypatch, *flags.split())
    assert seen["regularization"] == training.Regularization(
        "vat", 2, 0.5, 3, "finite-difference", 1e-3, 2, 0.3
    )
    assert (seen["batch_size"], seen["unlabelled_batch_size"], seen["seed"]) == (50, 70, 9)
    assert seen["network"] == nn.mlp([64, 200, 100, 10], noise=0.25, output_norm=False)
    rates = [seen["learning_rate"](update) for update in (0, 9, 10, 29)]
    assert rates == pytest.approx([0.1, 0.1, 0.09, 0.081])


def test_presets(monkeypatch):
    seen = given(monkeypatch, "--preset", "iclr2016")
    assert seen["network"] == nn.mlp([64, 200, 200, 10])
    assert (seen["batch_size"], seen["unlabelled_batch_size"]) == (100, 250)
    seen = given(monkeypatch, "--labels", "50")  # fewer than the batch: one batch
    assert seen["batch_size"] == 50
    for preset in mnist_semisup.PRESETS.values():
        assert set(preset.epsilon) == set(preset.network) == set(mnist_semisup.ASIDE)
        assert all(set(by_row) >= set(ROWS) - {"mle"} for by_row in preset.epsilon.values())


# What it is trained on ---------------------------------------------------------------------------


def test_the_labelled_ones_are_balanced_and_among_the_unlabelled(monkeypatch):
    seen = given(monkeypatch, "--labels", "40", "--seed", "5")
    np.testing.assert_array_equal(np.bincount(seen["labels"]), np.full(10, 4))
    assert len(seen["unlabelled"]) == 1200  # of 1,300, 100 are set aside
    pool = {image.tobytes() for image in seen["unlabelled"]}
    assert all(image.tobytes() in pool for image in seen["images"])
    digits = data.load("digits")
    label_of = {
        image.tobytes(): label
        for image, label in zip(digits.train_images, digits.train_labels, strict=True)
    }
    assert [label_of[image.tobytes()] for image in seen["images"]] == seen["labels"].tolist()
    other = given(monkeypatch, "--labels", "40", "--seed", "6")
    assert not np.array_equal(other["images"], seen["images"])


def test_images_and_labels_of_one_seed_weights_of_another(monkeypatch):
    seen = given(monkeypatch, "--seed", "6", "--data-seed", "5")
    assert seen["seed"] == 6
    five, six = (given(monkeypatch, "--seed", seed) for seed in "56")
    for name in ("images", "labels", "unlabelled"):
        np.testing.assert_array_equal(seen[name], five[name])
    assert not np.array_equal(seen["images"], six["images"])
    assert not np.array_equal(seen["unlabelled"], six["unlabelled"])


def test_a_run_on_the_validation_images_trains_as_one_on_the_test_images(tmp_path):
    one, arrays = trained(tmp_path)
    other, again = trained(tmp_path, "--validation", "100", out="other")
    assert arrays == again
    assert one["test_error"] is not None and other["test_error"] is None
    assert other["validation_error"] is not None


def test_validation_never_touches_the_test_set(tmp_path, monkeypatch):
    without = dataclasses.replace(data.load("digits"), test_images=None, test_labels=None)
    monkeypatch.setattr(data, "load", lambda *args: without)
    result, _ = trained(tmp_path, "--validation", "300")
    assert result["test_error"] is None and 0 < result["validation_error"] < 40


@pytest.mark.parametrize("row", ROWS)
def test_labels_that_were_not_drawn_are_never_read(tmp_path, monkeypatch, row):
    """Poisoned once the labelled examples are drawn, they change nothing."""
    _, arrays = trained(tmp_path, *ROWS[row])
    draw = data.draw_labels

    def draw_and_poison(labels, *options):
        drawn = draw(labels, *options)
        others = np.setdiff1d(np.arange(len(labels)), drawn)
        labels[others] = -(10**9)
        return drawn

    monkeypatch.setattr(data, "draw_labels", draw_and_poison)
    assert trained(tmp_path, *ROWS[row], out="poisoned")[1] == arrays
    # And the poison would have been tasted: one drawn label changes all.
    monkeypatch.setattr(data, "draw_labels", functools.partial(draw_one_wrong, draw))
    assert trained(tmp_path, *ROWS[row], out="wrong")[1] != arrays


def draw_one_wrong(draw, labels, *options):
    drawn = draw(labels, *options)
    labels[drawn] = (labels[drawn] + 1) % 10
    return drawn


# The ablation ------------------------------------------------------------------------------------


def test_every_pass_can_have_noise_of_its_own(tmp_path):
    _, shared = trained(tmp_path)
    _, own = trained(tmp_path, "--shared-noise", "no", out="own")
    _, again = trained(tmp_path, "--shared-noise", "no", out="again")
    assert shared != own == again

    settings = runs.read_json(tmp_path / "own" / "config.json")["settings"]
    network = mnist_semisup.build(settings)
    params, state = network.init(np.random.default_rng(0))
    x = data.load("digits").test_images[:9]
    stream = backend.select_device("cpu").random(1, "noise")
    noise = network.draw_noise(stream, 9)
    one, other = (network(params, x, state, noise=noise)[0] for _ in range(2))
    assert not np.array_equal(one, other)
    plain = mnist_semisup.build({**settings, "shared_noise": "yes"})
    evaluated = [each(params, x, state, statistics="running")[0] for each in (network, plain)]
    np.testing.assert_array_equal(*evaluated)


# Going on, and mistakes --------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS)
def test_interrupted_and_resumed_ends_with_the_same_bits(tmp_path, monkeypatch, row):
    arguments = [*BRIEF, *ROWS[row], "--checkpoint-every", "4"]
    assert call(*arguments, "--out", "whole") == 0
    assert call_interrupted(monkeypatch, mnist_semisup.main, *arguments, "--out", "run") == 130
    assert call(*arguments, "--out", "run", "--resume") == 0
    assert arrays_of(tmp_path / "run") == arrays_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--method at-l2", "--method"),
        ("--preset icml", "--preset"),
        ("--labels 0", "--labels"),
        ("--labels 9", "--labels 9: count: 9 for 10 classes"),
        ("--labels 1201", "--labels 1201: count: 1201 of 1200"),
        ("--labels 1190", "--labels 1190: count: 1190 needs 119 examples of class"),
        ("--labels 50 --batch-size 64", "--batch-size 64 is too many: there are 50 images with a"),
        ("--unlabelled-batch-size 1", "--unlabelled-batch-size"),
        ("--unlabelled-batch-size 1201", "--unlabelled-batch-size 1201 is too many"),
        ("--validation 1300", "--validation 1300 is too many"),
        ("--validation 1250", "--labels 100: count: 100 of 50"),
        ("--noise -0.5", "--noise"),
        ("--noise inf", "a finite number from 0, got 'inf'"),
        ("--output-norm maybe", "--output-norm"),
        ("--shared-noise 1", "--shared-noise"),
        ("--power-iterations -1", "--power-iterations"),
        ("--entropy-weight 1", "--entropy-weight 1.0 means nothing to VAT, finite differences"),
        ("--method vat-entmin --entropy-weight 0", "--entropy-weight"),
        ("--power-iterations 0.5", "--power-iterations 0.5 needs --direction exact"),
        (
            "--method vat-entmin --direction exact --xi 1e-6",
            "--xi 1e-06 needs --direction finite-difference",
        ),
        ("--method mle --epsilon 1", "--epsilon 1.0 means nothing to MLE"),
        ("--method rpt --direction exact", "--direction exact means nothing to RPT"),
        ("--out /dev/null/run", "/dev/null/run"),
    ],
)
def test_mistakes_are_answered_in_one_line(tmp_path, capsys, arguments, named):
    assert named in refused(capsys, *DIGITS, "--updates", "20", *arguments.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("preset", "labels", "expected"),
    [
        ("paper", 100, ("784-1200-600-300-150-10", 5.0, 0.5, 64, 256, 30_000, 0.002, 500)),
        ("paper", 20, ("784-1200-600-300-150-10", 5.0, 0.5, 20, 256, 30_000, 0.002, 500)),
        ("paper", 1000, ("784-1200-600-300-150-10", 2.1, 0.5, 64, 256, 30_000, 0.002, 500)),
        ("iclr2016", 1000, ("784-1200-1200-10", 0.3, 0.0, 100, 250, 50_000, 0.002, 500)),
        ("iclr2016", 100, ("784-1200-1200-10", 0.3, 0.0, 100, 250, 50_000, 0.002, 500)),
    ],
)
@pytest.mark.parametrize("row", ["vat-exact", "vat-finite-difference", "vat-entmin"])
def test_the_settings_are_those_of_the_papers(preset, labels, expected, row):
    settings = mnist_semisup.usual_settings(preset, labels, row, "mnist")
    if (preset, row) == ("paper", "vat-entmin"):  # which the paper does not name
        assert settings.pop("epsilon") == 1.5
        settings["epsilon"] = expected[1]
    names = "epsilon noise batch_size unlabelled_batch_size updates learning_rate decay_every"
    network = "-".join(map(str, settings["network"]))
    assert (network, *(settings[name] for name in names.split())) == expected
    assert (settings["alpha"], settings["power_iterations"], settings["samples"]) == (1, 1, 1)
    assert (settings["shared_noise"], settings["output_norm"], settings["aside"]) == (
        "yes",
        "yes",
        1000,
    )
