"""The experiments on SVHN and CIFAR-10, on small files: what they train, their numbers, mistakes.

What is said, refused and gone on with is tested in lab/test_runner.py.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from experiments.lab import runs
from experiments.registry import EXPERIMENTS
from minivat import backend, data, nn, targets
from minivat.data import whitening
from minivat.objective import Regularization
from minivat.vat import PowerIteration
from tests import cifar_files
from tests.commands import arrays_of
from tests.strict_device import strict_device

SIZES = {
    "cifar10-sup": ["--batch-size", "12"],
    "cifar10-semisup": ["--labels", "20", "--batch-size", "8"],
    "svhn-semisup": ["--labels", "20", "--batch-size", "8"],
}
EVERY_METHOD = [(name, method) for name in SIZES for method in EXPERIMENTS[name].methods]
pytestmark = pytest.mark.usefixtures("_away_from_here", "_small", "figures")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder with all files, and one whose CIFAR-10 lacks the test batch."""
    whole, without = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("without")
    cifar_files.write_cifar10(whole / "cifar10")
    cifar_files.write_svhn(whole / "svhn")
    cifar_files.write_cifar10(without / "cifar10", test=False)
    return whole, without


@pytest.fixture
def _small(places, monkeypatch):
    """The small files, tiny networks; whitening that takes no time, a shift and a factor."""
    cifar_files.accept_small_files(monkeypatch)
    monkeypatch.setenv("MINIVAT_DATA", str(places[0]))
    zca = whitening.ZCA(np.full(3072, 0.1, np.float32), 5 * np.eye(3072, dtype=np.float32))
    monkeypatch.setattr(whitening, "cached_zca", lambda images, epsilon: zca)


def brief(name: str, method: str, updates: int = 3) -> list[str]:
    """The command line of a small run."""
    unlabelled = name.endswith("semisup") and method != "mle"
    return [
        *(name, "--method", method, "--width", "0.05", "--updates", str(updates)),
        *("--device", "cpu", "--quiet", *SIZES[name]),
        *(["--unlabelled-batch-size", "12"] if unlabelled else []),
    ]


@pytest.fixture
def trained(call):
    """`trained(name, method, *flags)`: a brief run's result."""

    def train(name: str, method: str, *arguments: str, updates: int = 3) -> dict:
        assert call(*brief(name, method, updates), *arguments, "--out", "run") == 0
        return runs.read_json(Path("run", "result.json"))

    return train


# A run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "method"), EVERY_METHOD)
def test_a_run_of_every_method(trained, capsys, name, method):
    result = trained(name, method, "--seed", "3")
    out, err = capsys.readouterr()
    assert err == ""
    asked = EXPERIMENTS[name].from_settings(result["settings"], result["data"]["name"])
    assert (asked.method, asked.seed, asked.width, asked.updates) == (method, 3, 0.05, 3)
    assert result["experiment"] == name
    assert result["command"].startswith(f"python -m experiments {name} --method {method} ")
    assert result["test_set"] == "test images"
    assert result["paper_test_error"] is None  # other files, and another width
    assert 0 <= result["test_error"] <= 100
    with open("run/metrics.csv", newline="") as file:
        (measured,) = csv.DictReader(file)
    its = targets.METHODS
    assert (float(measured["regularizer"]) == 0) == (method == "mle" or method in its)
    assert ("consistency" in measured) == (method in its)
    assert ("entropy" in measured) == method.startswith("vat-entmin")
    _, line = out.splitlines()
    cells = [cell.strip() for cell in line.split("  ") if cell]
    labels, augmented = ("20 labels, ", "") if name.endswith("semisup") else ("", ", augmented")
    setting = f"{labels}{asked.model} x 0.05{augmented}"
    assert cells[:3] == [asked.datasets[0], setting, asked.title_of_method]
    assert cells[4] == "-"


@pytest.mark.parametrize("name", SIZES)
def test_the_classes_are_learnt(trained, name):
    """In 20 updates, where 90 % is guessing."""
    arguments = ["--learning-rate", "0.03", "--epsilon", "0.5", "--width", "0.1"]
    assert trained(name, "vat-exact", *arguments, updates=20)["test_error"] < 70


def test_a_test_set_of_held_out_training_images_is_named_everywhere(
    call, refused, capsys, monkeypatch, places, figures
):
    monkeypatch.setenv("MINIVAT_DATA", str(places[1]))
    run = brief("cifar10-semisup", "mle")
    assert "lacks test_batch.bin; --holdout" in refused(*run)
    assert call(*run, "--holdout", "30") == 0
    (folder,) = Path("runs", "cifar10_semisup").iterdir()
    assert "-holdout30-" in folder.name
    result = runs.read_json(folder / "result.json")
    assert result["test_set"] == "30 held-out training images"
    assert result["settings"]["holdout"] == 30
    assert "test set: 30 held-out training images" in figures[-1]
    out = capsys.readouterr().out
    assert "Test set: 30 held-out training images, not the official test batch." in out

    assert call(*run, "--holdout", "30", "--validation", "20") == 0
    assert "Test set" not in capsys.readouterr().out  # it was not looked at
    assert "test set" not in figures[-1]


@pytest.mark.parametrize("name", SIZES)
def test_runs_on_a_device_that_refuses_host_arrays(call, monkeypatch, name):
    monkeypatch.setattr(backend, "select_device", lambda *_: strict_device())
    arguments = [*brief(name, "vat-finite-difference", 2), "--augment", "yes", "--out", "run"]
    assert call(*arguments, "--checkpoint-every", "1") == 0
    assert call(*arguments, "--checkpoint-every", "1", "--resume") == 0


# What the trainer is given -----------------------------------------------------------------------


BESIDE = ["--device", "cpu", "--quiet", "--out", "run", "--overwrite"]


@pytest.mark.parametrize(
    ("name", "epsilon", "augmented", "updates"),
    [("cifar10-semisup", 10.0, 8.0, 200_000), ("svhn-semisup", 2.5, 3.5, 48_000)],
)
def test_the_papers_recipe(given, name, epsilon, augmented, updates):
    dataset, _, _ = name.partition("-")
    few = [name, *BESIDE, "--labels", "40", "--unlabelled-batch-size", "60"]
    seen = given(*few)
    assert seen["network"] == nn.conv_small(dataset)
    assert seen["regularization"] == Regularization(
        "vat", epsilon=epsilon, power_iteration=PowerIteration(1, "finite-difference", 1e-6)
    )
    assert seen["batch_size"] == 32 and seen["augment"] is None
    rate, beta1, decay = seen["learning_rate"], seen["beta1"], 16_000
    start = updates - decay
    for update, expected, momentum in (
        (0, 0.001, 0.9),
        (start - 1, 0.001, 0.9),
        (start, 0.001, 0.5),
        (start + decay // 2, 0.0005, 0.5),
        (updates - 1, 0.001 / decay, 0.5),
    ):
        assert rate(update) == pytest.approx(expected) and beta1(update) == momentum
    seen = given(*few, "--augment", "yes", "--method", "vat-entmin")
    assert seen["regularization"].epsilon == augmented
    assert seen["regularization"].entropy_weight == 1
    assert seen["augment"].keywords == {"max_shift": 2, "flip": dataset == "cifar10"}
    assert EXPERIMENTS[name]().settings()["unlabelled_batch_size"] == 128


def test_our_recipe_for_all_labels(given):
    seen = given("cifar10-sup", *BESIDE)
    assert seen["network"] == nn.conv_large("cifar10")
    assert seen["regularization"] == Regularization(
        "vat", epsilon=8.0, power_iteration=PowerIteration(1, "finite-difference", 1e-6)
    )
    assert (seen["batch_size"], seen["unlabelled"], len(seen["images"])) == (100, None, 100)
    assert seen["augment"].keywords == {"max_shift": 2, "flip": True}
    assert (seen["beta1"](99_999), seen["beta1"](100_000)) == (0.9, 0.5)
    plain = given("cifar10-sup", *BESIDE, "--augment", "no", "--model", "conv-small")
    assert plain["augment"] is None and plain["network"] == nn.conv_small("cifar10")
    assert plain["regularization"].epsilon == 10.0


def test_the_decay_keeps_its_share_unless_told(given):
    for flags, start in (("--updates 1000", 920), ("--updates 1000 --decay-updates 300", 700)):
        arguments = [*BESIDE, *flags.split(), "--labels", "40", "--method", "mle"]
        beta1 = given("cifar10-semisup", *arguments)["beta1"]
        assert (beta1(start - 1), beta1(start)) == (0.9, 0.5)


def test_cifar10_is_whitened_and_svhn_is_not(given):
    for name in ("cifar10", "svhn"):
        seen = given(f"{name}-semisup", *BESIDE, "--method", "mle", "--labels", "20")
        images = data.load(name).train_images
        images = 5 * (images - np.float32(0.1)) if name == "cifar10" else images
        pool = {image.tobytes() for image in images}
        assert all(image.tobytes() in pool for image in seen["images"])


def test_the_labelled_ones_are_balanced_and_among_the_unlabelled(given):
    usual = ["cifar10-semisup", *BESIDE, "--labels", "40"]
    small = ["--unlabelled-batch-size", "12"]
    seen = given(*usual, *small)
    np.testing.assert_array_equal(np.bincount(seen["labels"]), np.full(10, 4))
    assert len(seen["unlabelled"]) == 100
    pool = {image.tobytes() for image in seen["unlabelled"]}
    assert all(image.tobytes() in pool for image in seen["images"])
    alone = given(*usual, "--method", "mle")
    assert alone["unlabelled"] is None
    np.testing.assert_array_equal(alone["images"], seen["images"])
    assert len(given(*usual, *small, "--holdout", "30")["unlabelled"]) == 70
    validation = ["--labels", "20", "--validation", "40"]
    assert len(given(*usual, *small, *validation)["unlabelled"]) == 60


def test_svhns_labels_are_drawn_whatever_their_class(given):
    seen = given("svhn-semisup", *BESIDE, "--labels", "40", "--method", "mle")
    labels = data.load("svhn").train_labels
    drawn = data.draw_labels(labels, 40, 1, balanced=False)
    np.testing.assert_array_equal(seen["labels"], labels[drawn])
    assert len(set(np.bincount(seen["labels"], minlength=10))) > 1


def test_the_whitening_is_recorded_and_a_run_goes_on_with_no_other(
    trained, refused, capsys, monkeypatch
):
    result = trained("cifar10-semisup", "mle")
    assert result["data"]["checksums"].keys() == {*cifar_files.BATCHES, "zca.matrix"}
    zca = whitening.ZCA(np.zeros(3072, np.float32), 6 * np.eye(3072, dtype=np.float32))
    monkeypatch.setattr(whitening, "cached_zca", lambda images, epsilon: zca)
    capsys.readouterr()
    message = refused(*brief("cifar10-semisup", "mle"), "--out", "run", "--resume")
    assert "the configuration has changed: data.checksums.zca.matrix was " in message
    svhn = trained("svhn-semisup", "mle", "--overwrite")
    assert svhn["data"]["checksums"].keys() == cifar_files.COUNTS.keys()


# Going on, and mistakes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("cifar10-semisup", "vat-entmin"),
        ("cifar10-sup", "vat-finite-difference"),
        ("svhn-semisup", "mle"),
        ("svhn-semisup", "pi-model"),
        ("cifar10-semisup", "temporal-ensembling"),
        ("cifar10-semisup", "mean-teacher"),
    ],
)
def test_interrupted_and_resumed_ends_with_the_same_bits(call, call_interrupted, name, method):
    """With augmentation, two batches of which one crosses epochs, dropout and both values of β₁."""
    arguments = [*brief(name, method, 12), "--augment", "yes", "--decay-updates", "4"]
    arguments += ["--checkpoint-every", "3"]
    assert call(*arguments, "--out", "whole") == 0
    assert call_interrupted(*arguments, "--out", "run") == 130
    assert call(*arguments, "--out", "run", "--resume") == 0
    assert arrays_of(Path("run")) == arrays_of(Path("whole"))
    one, other = (runs.read_json(Path(out, "result.json")) for out in ("run", "whole"))
    assert one["test_error"] == other["test_error"]


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("cifar10-sup", "--method vat-entmin", "--method"),
        ("cifar10-sup", "--labels 100", "--labels"),
        ("cifar10-sup", "--unlabelled-batch-size 12", "--unlabelled-batch-size"),
        ("cifar10-sup", "--entropy-weight 1", "--entropy-weight"),
        ("cifar10-semisup", "--method at-l2", "--method"),
        ("cifar10-semisup", "--model conv-medium", "--model"),
        ("cifar10-semisup", "--width 0", "--width"),
        ("cifar10-semisup", "--width inf", "--width"),
        ("svhn-semisup", "--width 1e17", "--width 1e+17: width must"),
        ("cifar10-semisup", "--augment maybe", "--augment"),
        ("cifar10-semisup", "--holdout -1", "--holdout"),
        (
            "cifar10-semisup",
            "--method mle --unlabelled-batch-size 12",
            "--unlabelled-batch-size 12 means nothing to labels alone",
        ),
        ("cifar10-semisup", "--method mle --epsilon 1", "--epsilon 1.0 means nothing to labels"),
        ("cifar10-semisup", "--entropy-weight 1", "--entropy-weight 1.0 means nothing to VAT"),
        ("cifar10-semisup", "--decay-updates 21", "--decay-updates 21 is too many: there are 20"),
        ("cifar10-semisup", "--data mnist", "--data"),
        ("svhn-semisup", "--holdout 10", "--holdout"),
        ("svhn-semisup", "--labels 1", "--labels"),
    ],
)
@pytest.mark.usefixtures("_no_data")
def test_mistakes_are_answered_in_one_line(refused, tmp_path, name, arguments, named):
    assert named in refused(name, "--quiet", "--updates", "20", *arguments.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("cifar10-sup", "--batch-size 101", "--batch-size 101 is too many"),
        ("cifar10-semisup", "--labels 9", "--labels 9: count must be 10 or more"),
        ("cifar10-semisup", "--labels 101", "--labels 101: count must lie in [1, 100], got 101"),
        ("cifar10-semisup", "--holdout 100", "holdout must lie in [0, 99], got 100"),
        ("cifar10-semisup", "--labels 20 --batch-size 21", "--batch-size 21 is too many"),
        (
            "cifar10-semisup",
            "--labels 20 --unlabelled-batch-size 101",
            "--unlabelled-batch-size 101 is too many",
        ),
        ("cifar10-semisup", "--data-dir nowhere", "nowhere"),
        ("svhn-semisup", "--validation 60", "--validation 60 is too many"),
        ("svhn-semisup", "--labels 20 --unlabelled-batch-size 12 --out /dev/null/run", "/dev/null"),
    ],
)
def test_what_does_not_fit_the_data_leaves_no_folder(refused, tmp_path, name, arguments, named):
    assert named in refused(name, "--quiet", "--updates", "20", *arguments.split())
    assert not list(tmp_path.iterdir())
