"""A run from its command line to its files, on the digits: what is said, refused and gone on with.

mnist-sup stands for all experiments; what each of them trains is tested beside it.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from experiments.lab import loop, machine, plotting, runner, runs, spec
from experiments.mnist import MnistSup
from experiments.registry import EXPERIMENTS
from minivat import backend, data, nn, training
from tests.mnist_files import write_mnist

DIGITS = ["--data", "digits"]
SHORT = [*DIGITS, "--updates", "20", "--device", "cpu"]
BRIEF = ["mnist-sup", *SHORT]
BESIDE = "--device cpu --quiet --out run".split()

CURVES = plotting.curves

pytestmark = pytest.mark.usefixtures("_away_from_here", "figures")


@pytest.fixture
def _as_mnist(monkeypatch):
    """The digits pass for MNIST, before a small network."""
    digits = dataclasses.replace(data.load("digits"), name="mnist")
    monkeypatch.setattr(data, "load", lambda *_: digits)
    monkeypatch.setattr(MnistSup, "build", lambda self: nn.mlp([64, 20, 10]))


def read(file: str = "result.json", run: str = "run") -> dict:
    return runs.read_json(Path(run, file))


# Files and words ---------------------------------------------------------------------------------


def test_the_files_of_a_run(call, capsys, monkeypatch):
    monkeypatch.setattr(plotting, "curves", CURVES)
    assert call(*BRIEF, "--seed", "3", "--quiet", "--out", "run") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert {path.name for path in Path("run").iterdir()} == {*runs.FILES, ".lock"}
    assert Path("run", "curves.png").read_bytes().startswith(b"\x89PNG")

    result, config = read(), read("config.json")
    assert config.items() <= result.items()
    asked = MnistSup(dataset="digits", updates=20, seed=3)
    assert config["settings"] == json.loads(json.dumps(asked.settings()))
    assert config["data"]["name"] == "digits"
    names = {"train_images", "train_labels", "test_images", "test_labels"}
    assert set(config["data"]["checksums"]) == names
    environment = json.loads(json.dumps(machine.environment(backend.select_device("cpu"))))
    assert config["environments"] == [{"from_update": 0, **environment}]

    assert result["experiment"] == "mnist-sup"
    assert result["command"] == (
        "python -m experiments mnist-sup --data digits --updates 20 --device cpu --seed 3 --quiet "
        "--out run"
    )
    assert result["test_set"] == "test images"
    assert result["paper_test_error"] is None
    assert 0 < result["test_error"] < 60  # 90 when guessing
    assert 0 < result["test_error_before_bn_reestimation"] < 80
    assert result["validation_error"] is result["validation_error_before_bn_reestimation"] is None
    assert result["r_vadv_after_bn_reestimation"] > 0
    assert result["updates_per_second"] == pytest.approx(20 / result["seconds"])
    assert result["device"].startswith("cpu")
    assert result["commit"] == environment["commit"]
    assert 10 < result["peak_memory_mib"] < 10_000

    with open("run/metrics.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == runner.COLUMNS
    assert row["update"] == "20" and row["learning_rate"] == "0.002"
    assert 0 < float(row["nll"]) < 2.5
    assert float(row["r_vadv"]) > 0
    assert float(row["error"]) == result["test_error_before_bn_reestimation"]

    header, line = (text.split("  ") for text in out.splitlines())
    assert [cell.strip() for cell in header if cell] == [
        *("data set", "method", "test error (%)", "paper (%)", "R_vadv"),
    ]
    assert [cell.strip() for cell in line if cell.strip()] == [
        *("digits", "VAT, exact", f"{result['test_error']:.2f}", "-"),
        f"{result['r_vadv_after_bn_reestimation']:.2f}",
    ]


def test_without_a_folder_a_run_has_its_own(call):
    assert call(*BRIEF, "--quiet", "--method", "mle", "--updates", "2") == 0
    folder = Path("runs", "mnist_sup", "digits-mle-updates2-seed1")
    assert read(run=folder)["settings"]["method"] == "mle"


def test_the_figure_has_a_title(call, figures):
    assert call(*BRIEF, "--quiet", "--method", "mle", "--seed", "3") == 0
    assert figures == ["digits: MLE, seed 3, 20 updates"]


def test_lines_on_stderr_and_the_result_last_on_stdout(call, capsys):
    assert call(*BRIEF) == 0
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert " 20/20 " in last and ", nll " in last and " R_vadv " in last and "test error" in last
    assert out.splitlines()[-1].startswith("digits")
    assert call(*BRIEF, "--validation", "300") == 0
    assert "validation error" in capsys.readouterr().err


def test_validation_never_touches_the_test_set(call, capsys, monkeypatch):
    without = dataclasses.replace(data.load("digits"), test_images=None, test_labels=None)
    monkeypatch.setattr(data, "load", lambda *_: without)
    assert call(*BRIEF, "--validation", "300", "--out", "run", "--quiet") == 0
    result = read()
    assert result["test_error"] is None and result["test_error_before_bn_reestimation"] is None
    assert 0 < result["validation_error"] < 60
    header, line = capsys.readouterr().out.splitlines()
    assert "validation error (%)" in header and f"{result['validation_error']:.2f}" in line


def test_a_long_run_is_told_what_makes_it_shorter(monkeypatch, call):
    plans = []
    monkeypatch.setattr(loop, "train", lambda *args: plans.append(args[4]) or 1 / 0)
    for flags in ("--updates 20 --evaluate-every 7 --checkpoint-every 3", "--overwrite"):
        with pytest.raises(ZeroDivisionError):
            call("mnist-sup", *DIGITS, *BESIDE, *flags.split())
    first, usual = plans
    assert first.shorten == "--updates or --device cuda"
    assert (first.updates, first.evaluate_every, first.checkpoint_every) == (20, 7, 3)
    assert (usual.updates, usual.evaluate_every, usual.checkpoint_every) == (60_000, 600, 1000)


# Beside the paper's number -----------------------------------------------------------------------


@pytest.mark.usefixtures("_as_mnist")
def test_a_run_shorter_than_the_papers_is_not_put_beside_its_number(call, capsys):
    assert call("mnist-sup", "--method", "mle", "--updates", "300", *BESIDE) == 0
    _, line, note = capsys.readouterr().out.splitlines()
    result = read()
    r_vadv = f"{result['r_vadv_after_bn_reestimation']:.2f}"
    assert line.split() == ["mnist", "MLE", f"{result['test_error']:.2f}", "-", r_vadv]
    assert note.startswith(
        "300 of 60,000 updates: too short to be compared with the paper's 1.11 %"
    )
    assert result["paper_test_error"] is None


@pytest.mark.usefixtures("_as_mnist")
def test_a_run_with_settings_of_its_own_has_no_number_of_the_papers(call, capsys):
    arguments = ["--epsilon", "3.25", "--updates", "2"]
    assert call("mnist-sup", *arguments, *BESIDE) == 0
    _, line = capsys.readouterr().out.splitlines()
    assert line.split()[-2] == "-"


@pytest.mark.parametrize(
    ("flags", "column", "number", "stored"),
    [
        ("", "test error (%)", "7.77", 7.77),
        ("--validation 100", "validation error (%)", "-", 7.77),  # measured on other images
    ],
)
def test_a_run_as_long_as_the_papers_is_beside_its_number(capsys, flags, column, number, stored):
    paper = spec.Paper(7.77, 0.1, 20)
    arguments = [*SHORT, "--method", "mle", "--out", "run", "--quiet", *flags.split()]
    assert runner.main(MnistSup, lambda asked: paper, arguments) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert column in header and line.split()[-2] == number
    assert read()["paper_test_error"] == stored


@pytest.mark.parametrize("quiet", [True, False])
def test_other_files_under_a_data_sets_name_are_not_compared_with_the_paper(
    capsys, monkeypatch, quiet
):
    write_mnist(Path("other"))
    monkeypatch.setattr(MnistSup, "build", lambda self: nn.mlp([784, 20, 10]))
    arguments = ["--method", "mle", "--data-dir", "other", "--updates", "3", "--out", "run"]
    arguments += ["--quiet"] if quiet else []
    assert runner.main(MnistSup, lambda asked: spec.Paper(7.77, 0.1, 3), arguments) == 0
    out, err = capsys.readouterr()
    assert ("these are not mnist's original files" in err) != quiet
    assert out.splitlines()[-1].split()[-2] == "-"
    assert read()["paper_test_error"] is None


# Going on ----------------------------------------------------------------------------------------


def test_an_interrupted_run_says_how_it_goes_on(call, call_interrupted, capsys):
    arguments = [*BRIEF, "--quiet", "--out", "run"]
    assert call_interrupted(*arguments) == 130
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("interrupted after update 10 of 20; ")
    assert err.count("\n") == 1 and "--resume" in err
    assert not Path("run", "result.json").exists()
    assert call(*BRIEF, "--out", "run", "--resume") == 0
    assert "resuming run after update 10" in capsys.readouterr().err
    assert call_interrupted(*arguments, "--overwrite", "--updates", "10") == 0  # it was the last


def test_a_finished_run_shows_its_result_again(call, monkeypatch, capsys):
    assert call(*BRIEF, "--out", "run", "--quiet") == 0
    first = capsys.readouterr().out
    monkeypatch.setattr(training, "Trainer", None)
    assert call(*BRIEF, "--out", "run", "--resume") == 0
    assert capsys.readouterr() == (first, "run holds this run, finished\n")


def test_a_result_of_another_version_is_refused(call, refused, capsys):
    assert call(*BRIEF, "--out", "run", "--quiet") == 0
    Path("run", "result.json").write_text('{"row": "mle"}')
    capsys.readouterr()
    message = refused(*BRIEF, "--out", "run", "--resume", "--quiet")
    assert "run/result.json lacks 'paper_test_error'" in message


def test_a_result_without_r_vadv_is_of_an_earlier_version_and_shown(call, capsys):
    assert call(*BRIEF, "--out", "run", "--quiet") == 0
    earlier = {k: v for k, v in read().items() if k != "r_vadv_after_bn_reestimation"}
    Path("run", "result.json").write_text(json.dumps(earlier))
    capsys.readouterr()
    assert call(*BRIEF, "--out", "run", "--resume", "--quiet") == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.endswith("R_vadv") and line.endswith("  -")


def test_killed_between_the_last_update_and_the_result(call, capsys):
    assert call(*BRIEF, "--out", "run", "--quiet") == 0
    result = read()
    Path("run", "result.json").unlink()
    assert call(*BRIEF, "--out", "run", "--resume") == 0
    assert "resuming run after update 20" in capsys.readouterr().err
    assert read()["test_error"] == result["test_error"]


def test_a_run_is_neither_overwritten_nor_resumed_as_another(call, refused, capsys):
    assert call(*BRIEF, "--out", "run", "--quiet") == 0
    capsys.readouterr()
    assert "run holds a run already" in refused(*BRIEF, "--out", "run")
    again = ["mnist-sup", *DIGITS, "--out", "run", "--resume"]
    longer = refused(*again, "--updates", "30")
    assert "settings.updates was 20 and is now 30" in longer
    other = refused(*again, "--updates", "20", "--method", "rpt")
    assert "settings.method was vat and is now rpt" in other
    assert call(*BRIEF, "--out", "run", "--overwrite", "--quiet", "--updates", "30") == 0
    assert read()["settings"]["updates"] == 30


def test_a_diverging_run_stops(call, capsys):
    assert call(*BRIEF, "--learning-rate", "1e30", "--out", "run") == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: stopped at update ") and err.count("\n") == 1
    assert "nll is nan" in err
    assert not Path("run", "result.json").exists()


# Methods and directions --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "flags", "method"),
    [
        ("mnist-sup", "", "vat-exact"),
        ("mnist-sup", "--method vat", "vat-exact"),
        ("mnist-sup", "--direction finite-difference", "vat-finite-difference"),
        ("mnist-sup", "--method vat --direction exact", "vat-exact"),
        ("mnist-sup", "--method vat-finite-difference", "vat-finite-difference"),
        ("mnist-semisup", "", "vat-finite-difference"),
        ("mnist-semisup", "--direction exact", "vat-exact"),
        ("mnist-semisup", "--method vat-entmin", "vat-entmin"),
        ("mnist-semisup", "--method vat-entmin --direction finite-difference", "vat-entmin"),
        ("mnist-semisup", "--method vat-entmin --direction exact", "vat-entmin-exact"),
        ("cifar10-semisup", "--method vat-entmin-exact", "vat-entmin-exact"),
        ("svhn-semisup", "--method vat", "vat-finite-difference"),
        ("cifar10-sup", "--method mle", "mle"),
    ],
)
def test_one_name_for_a_method_and_vat_with_a_direction(name, flags, method):
    cls = EXPERIMENTS[name]
    asked = runner.spec_of(cls, runner.parser(cls).parse_args(flags.split()))
    assert asked.resolved().method == method


METHOD_FLAGS = {
    **{"epsilon": "1.5", "alpha": "2.0", "samples": "2", "power_iterations": "2"},
    **{"xi": "0.001", "entropy_weight": "0.5", "ramp_up": "7"},
}


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.usefixtures("_no_data")
def test_a_flag_that_means_nothing_is_refused_before_data_is_loaded(refused, tmp_path, name):
    cls = EXPERIMENTS[name]
    known = METHOD_FLAGS.keys() & spec.flags(cls).keys()
    for method in cls.methods:
        title = cls(method=method).resolved().title_of_method
        for flag in known - set(spec.METHODS[method].settings):
            typed = [f"--{flag.replace('_', '-')}", METHOD_FLAGS[flag]]
            message = refused(name, "--method", method, *typed)
            assert message == f"error: {' '.join(typed)} means nothing to {title}: leave it out\n"
        if spec.METHODS[method].direction is None:
            message = refused(name, "--method", method, "--direction", "exact")
            title = spec.METHODS[method].title
            assert f"--direction exact means nothing to {title}: leave it out" in message
    assert not list(tmp_path.iterdir())


# Mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--method vit", "--method"),
        ("--epsilon 0", "--epsilon"),
        ("--epsilon -1", "--epsilon"),
        ("--epsilon nan", "finite number above 0, got 'nan'"),
        ("--epsilon 1e999", "--epsilon"),
        ("--alpha much", "--alpha"),
        ("--xi 0 --direction finite-difference", "--xi"),
        ("--power-iterations -1", "--power-iterations"),
        ("--power-iterations 0.6", "--power-iterations"),
        ("--samples 1.5", "an integer from 1 to 100, got '1.5'"),
        ("--samples 999999999", "an integer from 1 to 100, got '999999999'"),
        ("--seed -1", "--seed"),
        ("--updates 0", "--updates"),
        ("--batch-size 1", "--batch-size"),
        ("--learning-rate 0", "--learning-rate"),
        ("--decay-every 0", "--decay-every"),
        ("--evaluate-every 0", "--evaluate-every"),
        ("--checkpoint-every 0", "--checkpoint-every"),
        ("--validation -1", "--validation"),
        ("--device gpu", "--device"),
        ("--data cifar", "--data"),
        ("--resume --overwrite", "--overwrite"),
        ("--eps 1", "--eps"),
        ("extra", "extra"),
        ("--out=", "--out: must be the name of a folder"),
    ],
)
@pytest.mark.usefixtures("_no_data")
def test_mistakes_are_answered_in_one_line(refused, tmp_path, arguments, named):
    assert named in refused("mnist-sup", *DIGITS, *arguments.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_no_data")
def test_half_an_iteration_needs_the_exact_direction(refused):
    message = refused("mnist-sup", "--power-iterations", "0.5", "--direction", "finite-difference")
    assert "0.5" in message and "exact" in message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--batch-size 1301", "--batch-size 1301 is too many: there are 1300 images"),
        ("--validation 1300", "--validation 1300 is too many: there are 1299 images to hold out"),
        ("--validation 1250", "--batch-size 100 is too many: there are 50 images"),
        ("--data-dir .", "data_dir"),
        ("--out /dev/null/run", "/dev/null/run"),
        ("--out /dev/null", "/dev/null"),
    ],
)
def test_what_does_not_fit_the_data_leaves_no_folder(refused, tmp_path, arguments, named):
    assert named in refused("mnist-sup", *SHORT, *arguments.split())
    assert not list(tmp_path.iterdir())


def test_no_gpu(refused, monkeypatch):
    def missing():
        raise backend.DeviceError("device cuda: there is none")

    monkeypatch.setattr(backend, "_usable_cupy", missing)
    assert "there is none" in refused("mnist-sup", *DIGITS, "--device", "cuda")
