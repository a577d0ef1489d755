"""The experiments on SVHN and CIFAR-10, on small files: what they train, their numbers, mistakes.

The manners that they share with mnist_sup are tested there.
"""

from __future__ import annotations

import csv
import importlib

import numpy as np
import pytest

from experiments import cifar10_semisup, cifar10_sup, common, images, svhn_semisup
from experiments.lab import runs
from minivat import backend, data, nn, training
from minivat.data import whitening
from tests import cifar_files, commands
from tests.commands import arrays_of, call, call_interrupted, refused
from tests.strict_device import strict_device

MODULES = {module.TASK.name: module for module in (cifar10_sup, cifar10_semisup, svhn_semisup)}
SIZES = {
    "cifar10_sup": ["--batch-size", "12"],
    "cifar10_semisup": ["--labels", "20", "--batch-size", "8"],
    "svhn_semisup": ["--labels", "20", "--batch-size", "8"],
}
ROWS = [(name, row) for name, module in MODULES.items() for row in module.TASK.rows]
pytestmark = pytest.mark.usefixtures("_away_from_here", "_small")


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


def brief(name: str, row: str, updates: int = 3) -> list[str]:
    """A small run of an experiment."""
    second = "unlabelled_batch_size" in MODULES[name].TASK.rows[row].settings
    return [
        *common.row_arguments(row),
        *("--width", "0.05", "--updates", str(updates), "--device", "cpu", "--quiet"),
        *SIZES[name],
        *(["--unlabelled-batch-size", "12"] if second else []),
    ]


def trained(tmp_path, name: str, row: str, *arguments, out: str = "run", **options) -> dict:
    """A brief run's result."""
    arguments = [*brief(name, row, **options), *arguments, "--out", out]
    assert call(MODULES[name].main, *arguments) == 0
    return runs.read_json(tmp_path / out / "result.json")


# A run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_a_run_of_every_row(tmp_path, capsys, name, row):
    task = MODULES[name].TASK
    result = trained(tmp_path, name, row, "--seed", "3")
    out, err = capsys.readouterr()
    assert err == ""
    assert {path.name for path in (tmp_path / "run").iterdir()} == {*runs.FILES, ".lock"}
    assert (result["experiment"], result["row"], result["seed"]) == (name, row, 3)
    assert result["command"].startswith(f"python -m experiments.{name} ")
    assert (result["dataset"], result["model"]) == (task.dataset, task.model)
    assert result["labels"] == (20 if task.labels else 100)
    assert result["test_set"] == "test images"
    assert result["paper_test_error"] is None  # other files, and another width
    assert 0 <= result["test_error"] <= 100
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        (measured,) = csv.DictReader(file)
    assert (float(measured["regularizer"]) == 0) == (row == "mle")
    assert ("entropy" in measured) == (row == "vat-entmin")
    _, line = out.splitlines()
    assert line.startswith(task.dataset) and line.endswith(" -")
    assert f"{task.model} x 0.05" in line and task.rows[row].name in line


@pytest.mark.parametrize("name", MODULES)
def test_the_classes_are_learnt(tmp_path, name):
    """In 20 updates, where 90 % is guessing."""
    arguments = ["--learning-rate", "0.03", "--epsilon", "0.5", "--width", "0.1"]
    result = trained(tmp_path, name, "vat-exact", *arguments, updates=20)
    assert result["test_error"] < 70


def test_a_test_set_of_held_out_training_images_is_named_everywhere(
    tmp_path, capsys, monkeypatch, places
):
    monkeypatch.setenv("MINIVAT_DATA", str(places[1]))
    run = brief("cifar10_semisup", "mle")
    message = refused(cifar10_semisup.main, capsys, *run)
    assert "lacks test_batch.bin; --holdout" in message
    titles = []
    monkeypatch.setattr("experiments.plots.curves", lambda *args: titles.append(args[2]))
    assert call(cifar10_semisup.main, *run, "--holdout", "30") == 0
    (folder,) = (tmp_path / "runs" / "cifar10_semisup").iterdir()
    assert "-holdout30-" in folder.name
    result = runs.read_json(folder / "result.json")
    assert result["test_set"] == "30 held-out training images"
    assert result["settings"]["holdout"] == 30
    assert "test set: 30 held-out training images" in titles[0]
    out = capsys.readouterr().out
    assert "Test set: 30 held-out training images, not the official test batch." in out

    assert call(cifar10_semisup.main, *run, "--holdout", "30", "--validation", "20") == 0
    assert "Test set" not in capsys.readouterr().out  # it was not looked at


@pytest.mark.parametrize(
    ("name", "flags", "paper"),
    [
        ("cifar10_semisup", "--method vat", 14.87),
        ("cifar10_semisup", "--method vat --direction exact", 14.87),
        ("cifar10_semisup", "--method vat --model conv-large", 14.18),
        ("cifar10_semisup", "--method vat --model conv-large --power-iterations 4", 14.25),
        ("cifar10_semisup", "--method vat --model conv-large --augment yes", 11.36),
        ("cifar10_semisup", "--method vat-entmin --model conv-large --augment yes", 10.55),
        ("cifar10_semisup", "--method vat-entmin", None),
        ("cifar10_semisup", "--method vat --labels 1000", None),
        ("cifar10_semisup", "--method vat --width 0.5", None),
        ("cifar10_semisup", "--method vat --power-iterations 2", None),
        ("cifar10_semisup", "--method mle", None),
        ("cifar10_semisup", "--method vat --holdout 10000 --validation 5000 --seed 2", 14.87),
        ("cifar10_semisup", "--method vat --updates 1000 --checkpoint-every 9", 14.87),
        ("cifar10_semisup", "--method vat --epsilon 0.01", None),
        ("cifar10_semisup", "--method vat --epsilon 10", 14.87),
        ("cifar10_semisup", "--method vat --alpha 2", None),
        ("cifar10_semisup", "--method vat --xi 0.1", None),
        ("cifar10_semisup", "--method vat --samples 2", None),
        ("cifar10_semisup", "--method vat --learning-rate 0.01", None),
        ("cifar10_semisup", "--method vat --batch-size 31", None),
        ("cifar10_semisup", "--method vat --unlabelled-batch-size 127", None),
        ("cifar10_semisup", "--method vat --decay-updates 1", None),
        ("cifar10_semisup", "--method vat --direction exact --power-iterations 0.5", None),
        (
            "cifar10_semisup",
            "--method vat-entmin --model conv-large --direction exact",
            13.15,
        ),
        (
            "cifar10_semisup",
            "--method vat-entmin --model conv-large --direction exact --power-iterations 0.5",
            None,
        ),
        (
            "cifar10_semisup",
            "--method vat-entmin --model conv-large --augment yes --entropy-weight 2",
            None,
        ),
        ("svhn_semisup", "--method rpt", 8.41),
        ("svhn_semisup", "--method vat-entmin --model conv-large", 4.28),
        ("cifar10_sup", "--method mle", 6.67),
        ("cifar10_sup", "--method vat", 5.81),
        ("cifar10_sup", "--method vat --augment no", None),
        ("cifar10_sup", "--method vat --model conv-small", None),
    ],
)
def test_the_papers_number_is_that_of_its_network_and_row(name, flags, paper):
    task = MODULES[name].TASK
    args = images.parser(task).parse_args(flags.split())
    row = common.row_of(args, images.DIRECTION)
    assert images.paper_error(task, images.all_settings(task, args, row), row) == paper


@pytest.mark.parametrize("name", MODULES)
def test_runs_on_a_device_that_refuses_host_arrays(monkeypatch, name):
    monkeypatch.setattr(backend, "select_device", lambda *_: strict_device())
    arguments = [*brief(name, "vat-finite-difference", 2), "--augment", "yes", "--out", "run"]
    assert call(MODULES[name].main, *arguments, "--checkpoint-every", "1") == 0
    assert call(MODULES[name].main, *arguments, "--checkpoint-every", "1", "--resume") == 0


def test_the_folder_is_named_after_what_is_not_the_default(tmp_path):
    run = brief("cifar10_semisup", "mle", 2)
    assert call(cifar10_semisup.main, *run, "--seed", "7") == 0
    assert call(cifar10_semisup.main, *run, "--augment", "yes", "--decay-updates", "2") == 0
    assert call(cifar10_sup.main, *brief("cifar10_sup", "mle", 2)) == 0
    names = {path.name for path in (tmp_path / "runs").glob("*/*")}
    assert names == {
        "cifar10-conv-small-mle-20labels-width0.05-updates2-batch-size8-seed7",
        "cifar10-conv-small-mle-20labels-width0.05-augmentyes-updates2-batch-size8"
        "-decay-updates2-seed1",
        "cifar10-conv-large-mle-width0.05-updates2-batch-size12-seed1",
    }


# What the trainer is given -----------------------------------------------------------------------


def given(monkeypatch, name: str, *arguments: str) -> dict:
    """What the trainer is given."""
    usual = ["--device", "cpu", "--quiet", "--out", "run"]
    return commands.given(monkeypatch, MODULES[name].main, *usual, *arguments)


@pytest.mark.parametrize(
    ("name", "epsilon", "augmented", "decay"),
    [("cifar10_semisup", 10.0, 8.0, 16_000), ("svhn_semisup", 2.5, 3.5, 16_000)],
)
def test_the_papers_recipe(monkeypatch, name, epsilon, augmented, decay):
    task = MODULES[name].TASK
    labels = ["--labels", "40", "--unlabelled-batch-size", "60"]
    seen = given(monkeypatch, name, *labels)
    assert seen["network"] == nn.conv_small(task.dataset)
    assert seen["regularization"] == training.Regularization(
        "vat", epsilon, 1.0, 1, "finite-difference", 1e-6, 1, 0.0
    )
    assert seen["batch_size"] == 32 and seen["augment"] is None
    rate, beta1 = seen["learning_rate"], seen["beta1"]
    start = task.updates - decay
    for update, expected, momentum in (
        (0, 0.001, 0.9),
        (start - 1, 0.001, 0.9),
        (start, 0.001, 0.5),
        (start + decay // 2, 0.0005, 0.5),
        (task.updates - 1, 0.001 / decay, 0.5),
    ):
        assert rate(update) == pytest.approx(expected) and beta1(update) == momentum
    seen = given(
        monkeypatch, name, *labels, "--augment", "yes", "--method", "vat-entmin", "--overwrite"
    )
    assert seen["regularization"].epsilon == augmented
    assert seen["regularization"].entropy_weight == 1
    assert seen["augment"].keywords == {"max_shift": 2, "flip": task.dataset == "cifar10"}
    usual = images.parser(task).parse_args([])
    settings = images.all_settings(task, usual, "vat-finite-difference")
    assert settings["unlabelled_batch_size"] == 128


def test_the_decay_keeps_its_share_unless_told(monkeypatch):
    for flags, start in (("--updates 1000", 920), ("--updates 1000 --decay-updates 300", 700)):
        arguments = [*flags.split(), "--labels", "40", "--method", "mle", "--overwrite"]
        beta1 = given(monkeypatch, "cifar10_semisup", *arguments)["beta1"]
        assert (beta1(start - 1), beta1(start)) == (0.9, 0.5)


def test_cifar10_is_whitened_and_svhn_is_not(monkeypatch):
    for name in ("cifar10", "svhn"):
        arguments = ["--method", "mle", "--labels", "20", "--overwrite"]
        seen = given(monkeypatch, f"{name}_semisup", *arguments)
        images = data.load(name).train_images
        images = 5 * (images - np.float32(0.1)) if name == "cifar10" else images
        pool = {image.tobytes() for image in images}
        assert all(image.tobytes() in pool for image in seen["images"])


def test_the_labelled_ones_are_balanced_and_among_the_unlabelled(monkeypatch):
    small = ["--unlabelled-batch-size", "12", "--overwrite"]
    seen = given(monkeypatch, "cifar10_semisup", "--labels", "40", *small)
    np.testing.assert_array_equal(np.bincount(seen["labels"]), np.full(10, 4))
    assert len(seen["unlabelled"]) == 100
    pool = {image.tobytes() for image in seen["unlabelled"]}
    assert all(image.tobytes() in pool for image in seen["images"])
    alone = given(monkeypatch, "cifar10_semisup", "--labels", "40", "--method", "mle", *small[2:])
    assert alone["unlabelled"] is None
    np.testing.assert_array_equal(alone["images"], seen["images"])
    held = ["--labels", "40", "--holdout", "30", *small]
    assert len(given(monkeypatch, "cifar10_semisup", *held)["unlabelled"]) == 70
    validation = ["--labels", "20", "--validation", "40", *small]
    assert len(given(monkeypatch, "cifar10_semisup", *validation)["unlabelled"]) == 60


def test_svhns_labels_are_drawn_whatever_their_class(monkeypatch):
    seen = given(monkeypatch, "svhn_semisup", "--labels", "40", "--method", "mle", "--overwrite")
    labels = data.load("svhn").train_labels
    drawn = data.draw_labels(labels, 40, 1, balanced=False)
    np.testing.assert_array_equal(seen["labels"], labels[drawn])
    assert len(set(np.bincount(seen["labels"], minlength=10))) > 1


def test_the_whitening_is_recorded_and_a_run_goes_on_with_no_other(tmp_path, capsys, monkeypatch):
    result = trained(tmp_path, "cifar10_semisup", "mle")
    assert result["data"]["checksums"].keys() == {*cifar_files.BATCHES, "zca.matrix"}
    zca = whitening.ZCA(np.zeros(3072, np.float32), 6 * np.eye(3072, dtype=np.float32))
    monkeypatch.setattr(whitening, "cached_zca", lambda images, epsilon: zca)
    capsys.readouterr()
    arguments = [*brief("cifar10_semisup", "mle"), "--out", "run", "--resume"]
    message = refused(cifar10_semisup.main, capsys, *arguments)
    assert "the configuration has changed: data.checksums.zca.matrix was " in message
    svhn = trained(tmp_path, "svhn_semisup", "mle", out="svhn")
    assert svhn["data"]["checksums"].keys() == cifar_files.COUNTS.keys()


# Going on, and mistakes --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10_semisup", "cifar10_sup"])
def test_interrupted_and_resumed_ends_with_the_same_bits(tmp_path, monkeypatch, name):
    """With augmentation, two batches of which one crosses epochs, dropout and both values of β₁."""
    row = "vat-entmin" if name == "cifar10_semisup" else "vat-finite-difference"
    arguments = [*brief(name, row, 12), "--augment", "yes", "--decay-updates", "4"]
    arguments += ["--checkpoint-every", "3"]
    main = MODULES[name].main
    assert call(main, *arguments, "--out", "whole") == 0
    assert call_interrupted(monkeypatch, main, *arguments, "--out", "run") == 130
    assert call(main, *arguments, "--out", "run", "--resume") == 0
    assert arrays_of(tmp_path / "run") == arrays_of(tmp_path / "whole")
    one, other = (runs.read_json(tmp_path / out / "result.json") for out in ("run", "whole"))
    assert one["test_error"] == other["test_error"]


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("cifar10_sup", "--method vat-entmin", "--method"),
        ("cifar10_sup", "--labels 100", "--labels"),
        ("cifar10_sup", "--unlabelled-batch-size 12", "--unlabelled-batch-size"),
        ("cifar10_sup", "--batch-size 101", "--batch-size 101 is too many"),
        ("cifar10_semisup", "--method at-l2", "--method"),
        ("cifar10_semisup", "--model conv-medium", "--model"),
        ("cifar10_semisup", "--width 0", "--width"),
        ("cifar10_semisup", "--width inf", "--width"),
        ("cifar10_semisup", "--augment maybe", "--augment"),
        ("cifar10_semisup", "--labels 9", "--labels 9: count: 9 for 10 classes"),
        ("cifar10_semisup", "--labels 101", "--labels 101: count: 101 of 100"),
        ("cifar10_semisup", "--holdout -1", "--holdout"),
        ("cifar10_semisup", "--holdout 100", "holdout: 100 of 100 training images"),
        ("cifar10_semisup", "--labels 20 --batch-size 21", "--batch-size 21 is too many"),
        (
            "cifar10_semisup",
            "--labels 20 --unlabelled-batch-size 101",
            "--unlabelled-batch-size 101 is too many",
        ),
        (
            "cifar10_semisup",
            "--method mle --unlabelled-batch-size 12",
            "--unlabelled-batch-size 12 means nothing to labels alone",
        ),
        ("cifar10_semisup", "--method mle --epsilon 1", "--epsilon 1.0 means nothing to labels"),
        ("cifar10_semisup", "--entropy-weight 1", "--entropy-weight 1.0 means nothing to VAT"),
        ("cifar10_semisup", "--decay-updates 21", "--decay-updates 21 is too many: there are 20"),
        ("cifar10_semisup", "--data-dir nowhere", "nowhere"),
        ("cifar10_semisup", "--data mnist", "--data"),
        ("svhn_semisup", "--holdout 10", "--holdout"),
        ("svhn_semisup", "--validation 60", "--validation 60 is too many"),
        ("svhn_semisup", "--labels 20 --unlabelled-batch-size 12 --out /dev/null/run", "/dev/null"),
    ],
)
def test_mistakes_are_answered_in_one_line(tmp_path, capsys, name, arguments, named):
    main = MODULES[name].main
    assert named in refused(main, capsys, "--quiet", "--updates", "20", *arguments.split())
    assert not list(tmp_path.iterdir())


def test_a_width_that_the_network_refuses_is_a_mistake_in_one_line(tmp_path, capsys, monkeypatch):
    def too_wide(dataset, width):
        raise ValueError(f"width must be less, got {width}")

    monkeypatch.setitem(images.MODELS, "conv-small", too_wide)
    message = refused(svhn_semisup.main, capsys, "--width", "1e17", "--data-dir", "nowhere")
    assert message == "error: --width 1e+17: width must be less, got 1e+17\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", MODULES)
def test_help_names_the_flags(capsys, name):
    assert call(MODULES[name].main, "--help") == 0
    out = capsys.readouterr().out
    assert all(flag in out for flag in ("--width", "--model", "--augment", "--decay-updates"))
    assert ("--holdout" in out) == name.startswith("cifar10")
    assert importlib.import_module(f"experiments.{name}").TASK.name == name
