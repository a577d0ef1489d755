"""`experiments.mnist_sup` on the digits: its files, its numbers, its manners, its errors."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import shlex
import subprocess
import sys

import numpy as np
import pytest

from experiments import common, mnist_sup
from experiments.lab import runs
from minivat import backend, data, training
from tests import commands
from tests.commands import arrays_of, call_interrupted
from tests.mnist_files import write_mnist
from tests.strict_device import strict_device

DIGITS = ["--data", "digits"]
BRIEF = [*DIGITS, "--updates", "20", "--device", "cpu"]


pytestmark = pytest.mark.usefixtures("_away_from_here")
call = functools.partial(commands.call, mnist_sup.main)
refused = functools.partial(commands.refused, mnist_sup.main)


# A run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", mnist_sup.ROWS)
def test_a_run_of_every_method(tmp_path, capsys, row):
    arguments = [*common.row_arguments(row), *BRIEF, "--seed", "3", "--quiet", "--out", "run"]
    assert call(*arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    held = {path.name for path in (tmp_path / "run").iterdir()}
    assert held == {*runs.FILES, ".lock"}
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")

    result = json.loads((tmp_path / "run" / "result.json").read_text())
    method, _, direction = row.partition("-") if row.startswith("vat") else (row, None, None)
    assert (result["row"], result["method"], result["direction"]) == (row, method, direction)
    assert (result["dataset"], result["seed"], result["updates"]) == ("digits", 3, 20)
    assert result["paper_test_error"] is None  # never compared with MNIST's numbers
    assert result["command"] == shlex.join(["python", "-m", "experiments.mnist_sup", *arguments])
    assert 0 < result["test_error"] < 60  # 90 when guessing
    assert 0 < result["test_error_before_bn_reestimation"] < 80
    assert result["validation_error"] is None
    assert result["updates_per_second"] > 0
    assert result["device"].startswith("cpu")
    assert 10 < result["peak_memory_mib"] < 10_000

    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config.items() <= result.items()
    assert config["settings"]["network"] == [64, 200, 100, 10]
    assert set(config["data"]["checksums"]) == {
        "train_images",
        "train_labels",
        "test_images",
        "test_labels",
    }
    assert config["environments"][0]["versions"]["numpy"] == np.__version__

    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        (measured,) = csv.DictReader(file)
    assert measured["update"] == "20" and measured["learning_rate"] == "0.002"
    assert 0 < float(measured["nll"]) < 2.5
    assert float(measured["r_vadv"]) > 0
    assert (float(measured["regularizer"]) == 0) == (row == "mle")
    assert float(measured["error"]) == result["test_error_before_bn_reestimation"]

    header, line = out.splitlines()
    assert header.split() == "data set method test error (%) paper (%)".split()
    assert line.split() == [
        "digits",
        *mnist_sup.ROWS[row].name.split(),
        f"{result['test_error']:.2f}",
        "-",
    ]


def test_the_summary_names_the_papers_number_on_mnist_only():
    result = {"row": "vat-exact", "test_error": 0.66, "validation_error": None}
    on_mnist = mnist_sup.summary({**result, "dataset": "mnist", "paper_test_error": 0.64})
    assert on_mnist.splitlines()[-1].split() == ["mnist", "VAT,", "exact", "0.66", "0.64"]
    held_out = {"dataset": "mnist", "paper_test_error": 0.64, "validation_error": 0.9}
    on_held_out = mnist_sup.summary({**result, **held_out})
    assert on_held_out.splitlines()[-1].split() == ["mnist", "VAT,", "exact", "0.90", "-"]


@pytest.mark.parametrize("row", mnist_sup.ROWS)
def test_every_method_runs_on_a_device_that_refuses_host_arrays(monkeypatch, row):
    """The loop, the evaluation and the checkpoint too; on CUDA where there is a GPU."""
    monkeypatch.setattr(backend, "select_device", lambda *_: strict_device())
    arguments = [*common.row_arguments(row), *DIGITS, "--out", "run", "--quiet"]
    arguments += ["--updates", "4", "--evaluate-every", "2", "--checkpoint-every", "2"]
    assert call(*arguments) == 0
    assert call(*arguments, "--resume") == 0


def test_lines_on_stderr_and_the_result_last_on_stdout(capsys):
    assert call(*BRIEF) == 0
    out, err = capsys.readouterr()
    assert err.startswith("update 20/20, nll ") and " R_vadv " in err and "test error" in err
    assert out.splitlines()[-1].startswith("digits")


def test_the_folder_is_named_after_what_is_not_the_default(tmp_path):
    assert call(*BRIEF, "--quiet", "--method", "rpt", "--epsilon", "2.5") == 0
    assert call(*BRIEF, "--quiet", "--direction", "exact", "--seed", "7") == 0
    names = {path.name for path in (tmp_path / "runs" / "mnist_sup").iterdir()}
    assert names == {
        "digits-rpt-epsilon2.5-updates20-seed1",
        "digits-vat-exact-updates20-seed7",
    }


def test_flags_reach_the_method(monkeypatch):
    seen = []
    monkeypatch.setattr(
        training,
        "Trainer",
        lambda *args, regularization, **kwargs: seen.append((regularization, kwargs)) or 1 / 0,
    )
    flags = "--direction finite-difference --epsilon 2 --alpha 0.5 --power-iterations 3 --xi 1e-3"
    flags += " --samples 2 --batch-size 50 --learning-rate 0.1 --decay-every 10 --seed 9"
    with pytest.raises(ZeroDivisionError):
        call(*BRIEF, *flags.split())
    regularization, kwargs = seen[0]
    assert regularization == training.Regularization("vat", 2, 0.5, 3, "finite-difference", 1e-3, 2)
    assert kwargs["batch_size"] == 50 and kwargs["seed"] == 9
    rates = [kwargs["learning_rate"](update) for update in (0, 9, 10, 29)]
    assert rates == pytest.approx([0.1, 0.1, 0.09, 0.081])


def test_every_row_has_an_epsilon_for_every_data_set():
    rows = set(mnist_sup.ROWS) - {"mle"}
    assert all(set(epsilons) == rows for epsilons in mnist_sup.EPSILON.values())
    assert set(mnist_sup.EPSILON) == set(mnist_sup.SIZES)


def test_validation_never_touches_the_test_set(monkeypatch, capsys):
    digits = data.load("digits")
    without = dataclasses.replace(digits, test_images=None, test_labels=None)
    monkeypatch.setattr(data, "load", lambda *args: without)
    assert call(*BRIEF, "--validation", "300", "--out", "run", "--quiet") == 0
    result = runs.read_json(mnist_sup.Path("run", "result.json"))
    assert result["test_error"] is None and result["test_error_before_bn_reestimation"] is None
    assert 0 < result["validation_error"] < 60
    header, line = capsys.readouterr().out.splitlines()
    assert "validation error (%)" in header and f"{result['validation_error']:.2f}" in line


def test_digits_where_there_is_no_mnist(monkeypatch, capsys):
    def unavailable(data_dir):
        raise data.Unavailable("MNIST is nowhere")

    monkeypatch.setattr(data.mnist, "load", unavailable)
    assert call("--data", "auto", *BRIEF[2:], "--out", "run", "--quiet") == 0
    out, err = capsys.readouterr()
    assert err.count("\n") == 2 and err.startswith("MNIST is nowhere")
    assert out.splitlines()[-1].startswith("digits") and out.splitlines()[-1].endswith(" -")
    assert "MNIST is nowhere" in refused(capsys, "--data", "mnist", "--out", "other")


# Going on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", mnist_sup.ROWS)
def test_interrupted_and_resumed_ends_with_the_same_bits(tmp_path, capsys, monkeypatch, row):
    arguments = [*common.row_arguments(row), *BRIEF, "--quiet", "--checkpoint-every", "4"]
    assert call(*arguments, "--out", "whole") == 0
    assert call_interrupted(monkeypatch, mnist_sup.main, *arguments, "--out", "run") == 130
    err = capsys.readouterr().err
    assert err.startswith("interrupted after update 10 of 20; ") and err.count("\n") == 1
    assert "--resume" in err
    assert not (tmp_path / "run" / "result.json").exists()
    assert call(*arguments, "--out", "run", "--resume") == 0
    assert arrays_of(tmp_path / "run") == arrays_of(tmp_path / "whole")
    one, other = (
        runs.read_json(tmp_path / name / "result.json")["test_error"] for name in ("run", "whole")
    )
    assert one == other


def test_a_finished_run_shows_its_result_again(monkeypatch, capsys):
    assert call(*BRIEF, "--out", "run", "--quiet") == 0
    first = capsys.readouterr().out
    monkeypatch.setattr(training, "Trainer", None)
    assert call(*BRIEF, "--out", "run", "--resume") == 0
    assert capsys.readouterr() == (first, "run holds this run, finished\n")


def test_a_result_of_another_version_is_refused(tmp_path, capsys):
    assert call(*BRIEF, "--out", "run", "--quiet") == 0
    (tmp_path / "run" / "result.json").write_text('{"row": "mle"}')
    capsys.readouterr()
    assert call(*BRIEF, "--out", "run", "--resume") == 2
    assert "run/result.json lacks 'dataset'" in capsys.readouterr().err


def test_files_under_mnists_names_are_not_compared_with_the_paper(tmp_path, monkeypatch, capsys):
    write_mnist(tmp_path / "other")
    monkeypatch.setitem(mnist_sup.SIZES, "mnist", [784, 20, 10])
    assert call("--method", "mle", "--data-dir", "other", "--updates", "3", "--out", "run") == 0
    out, err = capsys.readouterr()
    assert "not mnist's original files" in err
    assert out.split()[-1] == "-"
    assert runs.read_json(tmp_path / "run" / "result.json")["paper_test_error"] is None


def test_killed_between_the_last_update_and_the_result(tmp_path, capsys):
    assert call(*BRIEF, "--out", "run", "--quiet") == 0
    result = runs.read_json(tmp_path / "run" / "result.json")
    (tmp_path / "run" / "result.json").unlink()
    assert call(*BRIEF, "--out", "run", "--resume") == 0
    assert "resuming run after update 20" in capsys.readouterr().err
    assert runs.read_json(tmp_path / "run" / "result.json")["test_error"] == result["test_error"]


def test_a_run_is_neither_overwritten_nor_resumed_as_another(capsys):
    assert call(*BRIEF, "--out", "run", "--quiet") == 0
    capsys.readouterr()
    assert "run holds a run already" in refused(capsys, *BRIEF, "--out", "run")
    again = [*DIGITS, "--out", "run", "--resume"]
    longer = refused(capsys, *again, "--updates", "30")
    assert "settings.updates was 20 and is now 30" in longer
    other = refused(capsys, *again, "--updates", "20", "--method", "rpt")
    assert "settings.method was vat and is now rpt" in other
    assert call(*BRIEF, "--out", "run", "--overwrite", "--quiet") == 0


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
        ("--samples 1.5", "an integer from 1 to 100, got '1.5'"),
        ("--samples 999999999", "an integer from 1 to 100, got '999999999'"),
        ("--seed -1", "--seed"),
        ("--updates 0", "--updates"),
        ("--batch-size 1", "--batch-size"),
        ("--batch-size 1301", "--batch-size 1301 is too many"),
        ("--validation 1300", "--validation 1300 is too many"),
        ("--validation 1250", "--batch-size 100 is too many: there are 50 images"),
        ("--learning-rate 0", "--learning-rate"),
        ("--decay-every 0", "--decay-every"),
        ("--evaluate-every 0", "--evaluate-every"),
        ("--checkpoint-every 0", "--checkpoint-every"),
        ("--device gpu", "--device"),
        ("--data cifar", "--data"),
        ("--data-dir .", "data_dir"),
        ("--resume --overwrite", "--overwrite"),
        ("--eps 1", "--eps"),
        ("extra", "extra"),
        ("--method mle --epsilon 1", "--epsilon 1.0 means nothing to MLE"),
        ("--method mle --alpha 1", "--alpha"),
        ("--method mle --xi 1", "--xi"),
        ("--method rpt --direction exact", "--direction exact means nothing to RPT"),
        ("--method rpt --power-iterations 2", "--power-iterations"),
        ("--power-iterations 0.6", "--power-iterations"),
        (
            "--power-iterations 0.5 --direction finite-difference",
            "--power-iterations 0.5 needs --direction exact",
        ),
        ("--method at-l2 --samples 2", "--samples"),
        ("--xi 1e-6", "--xi 1e-06 needs --direction finite-difference"),
        ("--out /dev/null/run", "/dev/null/run"),
        ("--out /dev/null", "/dev/null"),
    ],
)
def test_mistakes_are_answered_in_one_line(tmp_path, capsys, arguments, named):
    assert named in refused(capsys, *DIGITS, "--updates", "20", *arguments.split())
    assert not list(tmp_path.iterdir())


def test_no_gpu(capsys, monkeypatch):
    def missing():
        raise backend.DeviceError("device cuda: there is none")

    monkeypatch.setattr(backend, "_usable_cupy", missing)
    assert "there is none" in refused(capsys, *DIGITS, "--device", "cuda")


def test_a_diverging_run_stops(tmp_path, capsys):
    arguments = [*BRIEF, "--learning-rate", "1e30", "--out", "run"]
    assert call(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: stopped at update ") and err.count("\n") == 1
    assert "nll is nan" in err
    assert not (tmp_path / "run" / "result.json").exists()


def test_no_traceback_reaches_the_shell():
    command = [sys.executable, "-m", "experiments.mnist_sup", *DIGITS, "--out", "/dev/null"]
    root = mnist_sup.Path(mnist_sup.__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
