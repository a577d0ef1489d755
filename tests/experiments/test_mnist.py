"""The experiments on MNIST, run on the digits: what they train, on what, and their numbers.

What is said, refused and gone on with is tested in lab/test_runner.py.
"""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from experiments import mnist
from experiments.lab import runs
from experiments.mnist import MnistSemisup, MnistSup
from experiments.registry import EXPERIMENTS
from minivat import backend, data, nn, targets
from minivat.objective import Regularization
from minivat.vat import PowerIteration
from tests.commands import arrays_of
from tests.mnist_files import write_mnist
from tests.strict_device import strict_device

DIGITS = ["--data", "digits"]
BRIEF = [*DIGITS, "--updates", "20", "--device", "cpu", "--quiet"]
NAMES = ("mnist-sup", "mnist-semisup")
EVERY_METHOD = [(name, method) for name in NAMES for method in EXPERIMENTS[name].methods]
FEW_LABELS = MnistSemisup.methods

pytestmark = pytest.mark.usefixtures("_away_from_here", "figures")


@pytest.fixture
def trained(call):
    """`trained(name, *flags, out=...)`: a brief run's result and the arrays it ended with."""

    def train(name: str, *arguments: str, out: str = "run") -> tuple[dict, dict]:
        assert call(name, *BRIEF, *arguments, "--out", out) == 0
        return runs.read_json(Path(out, "result.json")), arrays_of(Path(out))

    return train


# A run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "method"), EVERY_METHOD)
def test_a_run_of_every_method(trained, capsys, name, method):
    result, _ = trained(name, "--method", method, "--seed", "3")
    out, err = capsys.readouterr()
    assert err == ""
    asked = EXPERIMENTS[name](dataset="digits", method=method, seed=3, updates=20).resolved()
    assert result["experiment"] == name
    assert EXPERIMENTS[name].from_settings(result["settings"], "digits") == asked
    assert result["settings"]["network"] == [64, 200, 100, 10]
    assert result["paper_test_error"] is None  # never compared with MNIST's numbers
    assert 0 < result["test_error"] < 60  # 90 when guessing
    assert result["validation_error"] is None

    with open("run/metrics.csv", newline="") as file:
        (measured,) = csv.DictReader(file)
    its = targets.METHODS
    assert (float(measured["regularizer"]) == 0) == (method == "mle" or method in its)
    assert ("consistency" in measured) == (method in its)
    assert ("entropy" in measured) == method.startswith("vat-entmin")

    header, line = out.splitlines()
    setting = ["100", "labels"] if name == "mnist-semisup" else []
    assert ("setting" in header) == bool(setting)
    numbers = [result[key] for key in ("test_error", "r_vadv_after_bn_reestimation")]
    error, r_vadv = (f"{number:.2f}" for number in numbers)
    assert line.split() == ["digits", *setting, *asked.title_of_method.split(), error, "-", r_vadv]


@pytest.mark.parametrize(("name", "method"), EVERY_METHOD)
def test_every_method_runs_on_a_device_that_refuses_host_arrays(call, monkeypatch, name, method):
    """The loop, the evaluation and the checkpoint too."""
    monkeypatch.setattr(backend, "select_device", lambda *_: strict_device())
    arguments = [name, "--method", method, *DIGITS, "--out", "run", "--quiet"]
    arguments += ["--updates", "4", "--evaluate-every", "2", "--checkpoint-every", "2"]
    assert call(*arguments) == 0
    assert call(*arguments, "--resume") == 0


@pytest.mark.parametrize(("name", "method"), EVERY_METHOD)
def test_interrupted_and_resumed_ends_with_the_same_bits(call, call_interrupted, name, method):
    arguments = [name, *BRIEF, "--method", method, "--checkpoint-every", "4"]
    assert call(*arguments, "--out", "whole") == 0
    assert call_interrupted(*arguments, "--out", "run") == 130
    assert call(*arguments, "--out", "run", "--resume") == 0
    assert arrays_of(Path("run")) == arrays_of(Path("whole"))
    one, other = (runs.read_json(Path(out, "result.json")) for out in ("run", "whole"))
    assert one["test_error"] == other["test_error"]


@pytest.mark.parametrize(
    ("name", "method", "usual", "other"),
    [
        ("mnist-sup", "vat", "exact", "finite-difference"),
        ("mnist-semisup", "vat", "finite-difference", "exact"),
        ("mnist-semisup", "vat-entmin", "finite-difference", "exact"),
    ],
)
def test_the_direction_is_the_experiments_own_unless_told(trained, name, method, usual, other):
    first, arrays = trained(name, "--method", method)
    second, others = trained(name, "--method", method, "--direction", other, out="other")
    for result, direction in ((first, usual), (second, other)):
        assert result["settings"]["direction"] == direction
        assert ("xi" in result["settings"]) == (direction == "finite-difference")
    assert arrays != others


def test_digits_where_there_is_no_mnist(call, refused, capsys, monkeypatch):
    def unavailable(data_dir):
        raise data.Unavailable("MNIST is nowhere")

    monkeypatch.setattr(data.mnist, "load", unavailable)
    assert call("mnist-sup", "--data", "auto", *BRIEF[2:], "--out", "run") == 0
    out, err = capsys.readouterr()
    assert err.count("\n") == 2 and err.startswith("MNIST is nowhere")
    cells = out.splitlines()[-1].split()
    assert cells[0] == "digits" and cells[-2] == "-"
    assert "MNIST is nowhere" in refused("mnist-sup", "--data", "mnist", "--out", "other")


# The paper's settings ----------------------------------------------------------------------------


def test_files_under_mnists_names_are_not_compared_with_the_paper(call, capsys):
    write_mnist(Path("other"), train=1050)  # of which 1,000 are set aside
    arguments = "--data-dir other --labels 10 --unlabelled-batch-size 5 --updates 2 --out run"
    assert call("mnist-semisup", *arguments.split()) == 0
    assert "not mnist's original files" in capsys.readouterr().err
    assert runs.read_json(Path("run", "result.json"))["paper_test_error"] is None


@pytest.mark.parametrize(
    ("method", "epsilon"),
    [("rpt", 10.0), ("at-linf", 0.05), ("at-l2", 3.0), ("vat-exact", 2.1), (None, 2.1)],
)
def test_the_settings_are_those_of_the_authors_code(method, epsilon):
    asked = MnistSup(method=method).resolved()
    assert asked.network == (784, 1200, 600, 300, 150, 10)
    assert (asked.epsilon, asked.alpha, asked.batch_size) == (epsilon, 1, 100)
    assert (asked.learning_rate, asked.decay_every, asked.updates) == (0.002, 600, 60_000)


@pytest.mark.parametrize(
    ("preset", "labels", "expected"),
    [
        ("tuned", 100, ("784-1200-600-300-150-10", 5.0, 0.5, 64, 256, 30_000, 0.002, 500)),
        ("tuned", 1000, ("784-1200-600-300-150-10", 2.1, 0.5, 64, 256, 30_000, 0.002, 500)),
        ("paper", 100, ("784-1200-600-300-150-10", 5.0, 0.5, 64, 256, 30_000, 0.002, 500)),
        ("paper", 20, ("784-1200-600-300-150-10", 5.0, 0.5, 20, 256, 30_000, 0.002, 500)),
        ("paper", 1000, ("784-1200-600-300-150-10", 2.1, 0.5, 64, 256, 30_000, 0.002, 500)),
        ("iclr2016", 1000, ("784-1200-1200-10", 0.3, 0.0, 100, 250, 50_000, 0.002, 500)),
        ("iclr2016", 100, ("784-1200-1200-10", 0.3, 0.0, 100, 250, 50_000, 0.002, 500)),
    ],
)
@pytest.mark.parametrize("method", [None, "vat-exact", "vat-entmin", "vat-entmin-exact"])
def test_the_settings_are_those_of_the_papers(preset, labels, expected, method):
    network, epsilon, *others = expected
    if preset != "iclr2016" and method in ("vat-entmin", "vat-entmin-exact"):
        epsilon = 1.5  # which the paper does not name
    settings = MnistSemisup(method=method, preset=preset, labels=labels).settings()
    assert "-".join(map(str, settings["network"])) == network
    assert settings["epsilon"] == epsilon
    names = "noise batch_size unlabelled_batch_size updates learning_rate decay_every"
    assert [settings[name] for name in names.split()] == others
    assert (settings["alpha"], settings["power_iterations"], settings["samples"]) == (1, 1, 1)
    shared = "no" if preset == "tuned" else "yes"
    assert (settings["shared_noise"], settings["output_norm"]) == (shared, "yes")
    assert settings["aside"] == 1000


def test_every_method_has_an_epsilon_with_every_preset_and_data_set():
    for preset in mnist.PRESETS:
        for method in set(FEW_LABELS) - {"mle", *targets.METHODS}:
            for dataset in MnistSemisup.datasets:
                asked = MnistSemisup(method=method, preset=preset, dataset=dataset).resolved()
                assert asked.epsilon > 0


# What the trainer is given -----------------------------------------------------------------------


METHOD = "--epsilon 2 --alpha 0.5 --power-iterations 3 --xi 1e-3 --samples 2 --batch-size 50 "
METHOD += "--learning-rate 0.1 --decay-every 10 --seed 9"


def test_flags_reach_the_trainer(given):
    seen = given("mnist-sup", *BRIEF, *METHOD.split(), "--direction", "finite-difference")
    assert seen["regularization"] == Regularization(
        "vat",
        epsilon=2,
        alpha=0.5,
        power_iteration=PowerIteration(3, "finite-difference", 1e-3),
        samples=2,
    )
    assert (seen["batch_size"], seen["seed"], seen["unlabelled"]) == (50, 9, None)
    assert seen["network"] == nn.mlp([64, 200, 100, 10])
    rates = [seen["learning_rate"](update) for update in (0, 9, 10, 29)]
    assert rates == pytest.approx([0.1, 0.1, 0.09, 0.081])
    assert len(seen["images"]) == 1300
    assert len(given("mnist-sup", *BRIEF, "--validation", "300")["images"]) == 1000


def test_flags_of_few_labels_reach_the_trainer(given):
    flags = "--unlabelled-batch-size 70 --noise 0.25 --output-norm no --noise-place after"
    flags += " --activation leaky_relu --method vat-entmin --entropy-weight 0.3 --preset paper"
    seen = given("mnist-semisup", *BRIEF, *METHOD.split(), *flags.split())
    assert seen["regularization"] == Regularization(
        "vat",
        epsilon=2,
        alpha=0.5,
        power_iteration=PowerIteration(3, "finite-difference", 1e-3),
        samples=2,
        entropy_weight=0.3,
    )
    assert (seen["batch_size"], seen["unlabelled_batch_size"], seen["seed"]) == (50, 70, 9)
    assert seen["network"] == nn.mlp(
        [64, 200, 100, 10],
        noise=0.25,
        noise_place="after",
        activation="leaky_relu",
        output_norm=False,
    )
    rates = [seen["learning_rate"](update) for update in (0, 9, 10, 29)]
    assert rates == pytest.approx([0.1, 0.1, 0.09, 0.081])


@pytest.mark.parametrize(("flags", "start"), [("", 80), ("--decay-updates 40", 60)])
def test_a_learning_rate_that_is_constant_and_then_falls_to_0(given, flags, start):
    arguments = ["--schedule", "constant-then-linear", "--updates", "100", *flags.split()]
    rate = given("mnist-semisup", *BRIEF, *arguments)["learning_rate"]
    assert rate(0) == rate(start) == 0.002
    assert rate((start + 100) // 2) == pytest.approx(0.001)
    assert rate(100) == 0 < rate(99)


def test_presets(given):
    seen = given("mnist-semisup", *BRIEF, "--preset", "iclr2016")
    assert seen["network"] == nn.mlp([64, 200, 200, 10])
    assert (seen["batch_size"], seen["unlabelled_batch_size"]) == (100, 250)
    assert seen["regularization"].epsilon == 0.09
    seen = given("mnist-semisup", *BRIEF, "--labels", "50", "--overwrite")  # fewer than the batch:
    assert seen["batch_size"] == 50  # one batch


def test_the_labelled_ones_are_balanced_and_among_the_unlabelled(given):
    few = ["mnist-semisup", *BRIEF, "--labels", "40", "--overwrite"]
    seen = given(*few, "--seed", "5")
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
    other = given(*few, "--seed", "6")
    assert not np.array_equal(other["images"], seen["images"])


def test_images_and_labels_of_one_seed_weights_of_another(given):
    arguments = ["mnist-semisup", *BRIEF, "--overwrite", "--seed"]
    seen = given(*arguments, "6", "--data-seed", "5")
    assert seen["seed"] == 6
    five, six = (given(*arguments, seed) for seed in "56")
    for name in ("images", "labels", "unlabelled"):
        np.testing.assert_array_equal(seen[name], five[name])
    assert not np.array_equal(seen["images"], six["images"])
    assert not np.array_equal(seen["unlabelled"], six["unlabelled"])


def test_a_run_on_the_validation_images_trains_as_one_on_the_test_images(trained):
    one, arrays = trained("mnist-semisup")
    other, again = trained("mnist-semisup", "--validation", "100", out="other")
    assert arrays == again
    assert one["test_error"] is not None and other["test_error"] is None
    assert other["validation_error"] is not None


@pytest.mark.parametrize("name", NAMES)
def test_validation_never_touches_the_test_set(trained, monkeypatch, name):
    without = dataclasses.replace(data.load("digits"), test_images=None, test_labels=None)
    monkeypatch.setattr(data, "load", lambda *args: without)
    result, _ = trained(name, "--validation", "300")
    assert result["test_error"] is None and 0 < result["validation_error"] < 60


@pytest.mark.parametrize("method", FEW_LABELS)
def test_labels_that_were_not_drawn_are_never_read(trained, monkeypatch, method):
    """Poisoned once the labelled examples are drawn, they change nothing."""
    arguments = ["mnist-semisup", "--method", method]
    _, arrays = trained(*arguments)
    draw = data.draw_labels

    def draw_and_poison(labels, *options):
        drawn = draw(labels, *options)
        others = np.setdiff1d(np.arange(len(labels)), drawn)
        labels[others] = -(10**9)
        return drawn

    def draw_one_wrong(labels, *options):
        drawn = draw(labels, *options)
        labels[drawn[0]] = (labels[drawn[0]] + 1) % 10
        return drawn

    monkeypatch.setattr(data, "draw_labels", draw_and_poison)
    assert trained(*arguments, out="poisoned")[1] == arrays
    # And the poison would have been tasted: one drawn label changes all.
    monkeypatch.setattr(data, "draw_labels", draw_one_wrong)
    assert trained(*arguments, out="wrong")[1] != arrays


# The ablation ------------------------------------------------------------------------------------


def test_every_pass_can_have_noise_of_its_own(trained):
    _, shared = trained("mnist-semisup", "--shared-noise", "yes")
    result, own = trained("mnist-semisup", "--shared-noise", "no", out="own")
    _, again = trained("mnist-semisup", "--shared-noise", "no", out="again")
    assert shared != own == again

    asked = MnistSemisup.from_settings(result["settings"], "digits")
    network = asked.build()
    layers = [layer for layer in network.layers if isinstance(layer, mnist.NoiseOfEachPass)]
    assert [layer.std for layer in layers] == [0.5, 0.5]  # of both hidden layers
    params, state = network.init(np.random.default_rng(0))
    x = data.load("digits").test_images[:9]
    stream = backend.select_device("cpu").random(1, "noise")
    noise = network.draw_noise(stream, 9)
    one, other = (network(params, x, state, noise=noise)[0] for _ in range(2))
    assert not np.array_equal(one, other)
    plain = asked.replace(shared_noise="yes").build()
    noise = plain.draw_noise(stream, 9)
    one, other = (plain(params, x, state, noise=noise)[0] for _ in range(2))
    np.testing.assert_array_equal(one, other)
    evaluated = [each(params, x, state, statistics="running")[0] for each in (network, plain)]
    np.testing.assert_array_equal(*evaluated)


# Mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--method at-l2", "--method"),
        ("--preset icml", "--preset"),
        ("--labels 0", "--labels"),
        ("--unlabelled-batch-size 1", "--unlabelled-batch-size"),
        ("--noise -0.5", "--noise"),
        ("--noise inf", "a finite number from 0, got 'inf'"),
        ("--output-norm maybe", "--output-norm"),
        ("--shared-noise 1", "--shared-noise"),
        ("--noise-place between", "--noise-place"),
        ("--activation tanh", "--activation"),
        ("--schedule cosine", "--schedule"),
        ("--data-seed -1", "--data-seed"),
        ("--power-iterations -1", "--power-iterations"),
        ("--method vat-entmin --entropy-weight 0", "--entropy-weight"),
        (
            "--preset paper --decay-updates 5",
            "--decay-updates 5 means nothing to --schedule exponential",
        ),
        (
            "--schedule constant-then-linear --decay-updates 21",
            "--decay-updates 21 is too many: there are 20 updates",
        ),
        ("--power-iterations 0.5", "0.5"),
        (
            "--method vat-entmin --direction exact --xi 1e-6",
            "--xi 1e-06 means nothing to VAT+EntMin, exact",
        ),
    ],
)
@pytest.mark.usefixtures("_no_data")
def test_mistakes_are_answered_in_one_line(refused, tmp_path, arguments, named):
    assert named in refused("mnist-semisup", *DIGITS, "--updates", "20", *arguments.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--labels 7", "--labels 7: count must be 10 or more, one for each class, got 7"),
        ("--labels 1201", "--labels 1201: count must lie in [1, 1200], got 1201"),
        ("--labels 1190", "--labels 1190: count must be smaller: 119 examples of"),
        ("--labels 50 --batch-size 64", "--batch-size 64 is too many: there are 50 images with a"),
        ("--unlabelled-batch-size 1201", "--unlabelled-batch-size 1201 is too many"),
        ("--validation 1300", "--validation 1300 is too many"),
        ("--validation 1250", "is too many: there are 50 images to train on"),
        ("--out /dev/null/run", "/dev/null/run"),
    ],
)
def test_what_does_not_fit_the_data_leaves_no_folder(refused, tmp_path, arguments, named):
    assert named in refused("mnist-semisup", *DIGITS, "--updates", "20", *arguments.split())
    assert not list(tmp_path.iterdir())
