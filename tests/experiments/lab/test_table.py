"""A table: its text, the names of its files, which runs it makes, and its answers to mistakes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shutil

import pytest

from experiments import mnist, tables
from experiments.lab import results, runs, sweep, table
from experiments.lab.spec import Spec
from experiments.mnist import MnistSemisup, MnistSup
from experiments.tables import TABLE1, TABLE3
from minivat import data

ROOT = results.RESULTS.parents[1]
BRIEF = ["--data", "digits", "--updates", "20", "--device", "cpu"]
DIGITS = "table1-digits-20-updates"
PLACES = ["--runs", "runs", "--results", "results"]


# The text ----------------------------------------------------------------------------------------


def result(spec: Spec, error: float) -> dict:
    """A result that a run might have had."""
    spec = spec.resolved()
    paper = tables.paper_of(spec)
    return {
        "test_error": error,
        "paper_test_error": paper.error if paper else None,
        "settings": spec.settings(),
        "data": {"name": spec.dataset, "checksums": {}},
    }


def test_the_table_has_mean_deviation_seeds_and_the_papers_numbers():
    vat = MnistSup(method="vat-exact")
    found = [result(vat.replace(seed=s), error) for s, error in ((2, 0.60), (1, 0.66), (3, 0.63))]
    found.append(result(MnistSup(method="mle"), 1.16))
    lines = table.markdown(TABLE1, found).splitlines()
    assert lines[0] == "| method | ε | test error (%) | by seed | paper (%) |"
    assert lines[2] == "| MLE |  | 1.16 | 1: 1.16 | 1.11 ± 0.06 |"
    assert lines[3] == (
        "| VAT, exact | 2.1 | 0.63 ± 0.03 | 1: 0.66, 2: 0.60, 3: 0.63 | 0.64 ± 0.05 |"
    )
    assert "| Ladder networks (cited by the paper) | | | | 0.57 ± 0.02 |" in lines
    assert not any(line.startswith("| RPT") for line in lines)
    assert lines[-1] == "Data set: mnist, 60000 updates; ± is the standard deviation over seeds."


def test_other_data_are_never_compared_with_the_paper():
    text = table.markdown(TABLE1, [result(MnistSup(method="mle", dataset="digits"), 2.5)])
    assert "| MLE |  | 2.50 | 1: 2.50 | - |" in text.splitlines()
    assert "1.11" not in text and "cited" not in text and "Data set: digits" in text


def test_table_3_has_a_line_for_each_method_and_number_of_labels():
    vat = MnistSemisup(method="vat-finite-difference", labels=100)
    paper = vat.replace(preset="paper")
    found = [
        result(vat.replace(seed=2), 2.0),
        result(MnistSemisup(method="vat-exact", labels=1000), 1.3),
        result(vat, 1.0),
        result(paper, 5.0),
        result(MnistSemisup(method="mle", labels=100), 20.0),
    ]
    lines = table.markdown(TABLE3, found).splitlines()
    vat_alone = "VAT, finite differences | 100"
    assert lines[0] == "| method | labels | setting | ε | test error (%) | by seed | paper (%) |"
    assert lines[2:7] == [
        "| MLE | 100 | tuned |  | 20.00 | 1: 20.00 | - |",
        f"| {vat_alone} | tuned | 5 | 1.50 ± 0.71 | 1: 1.00, 2: 2.00 | 1.36 ± 0.03 |",
        "| VAT, exact | 1000 | tuned | 2.1 | 1.30 | 1: 1.30 | 1.27 ± 0.11 |",
        f"| {vat_alone} | paper | 5 | 5.00 | 1: 5.00 | 1.36 ± 0.03 |",
        "| TSVM (cited by the paper) | 100 |  | | | | 16.81 |",
    ]
    assert "| Ladder networks (cited by the paper) | 1000 |  | | | | 0.84 ± 0.08 |" in lines
    assert sum("cited" in line for line in lines) == 8 + 5
    other = result(MnistSemisup(method="vat-exact", labels=100), 2.0) | {"paper_test_error": None}
    assert "cited" not in table.markdown(TABLE3, [other])


# Names and runs ----------------------------------------------------------------------------------

DIGITS_DATA = data.load("digits")
MNIST = dataclasses.replace(DIGITS_DATA, name="mnist")
OTHER_FILES = dataclasses.replace(MNIST, original=False)
IMAGES = dataclasses.replace(DIGITS_DATA, name="svhn")


def parsed(name: str, arguments: str) -> argparse.Namespace:
    return table.parser(tables.TABLES[name]).parse_args(arguments.split())


@pytest.mark.parametrize(
    ("dataset", "command", "expected"),
    [
        (MNIST, "table1", "table1"),
        (MNIST, "table1 --updates 60000", "table1"),
        (MNIST, "table1 --rows mle:9 --seeds 4", "table1"),
        (MNIST, "table1 --updates 20", "table1-mnist-20-updates"),
        (MNIST, "table1 --updates 1", "table1-mnist-1-updates"),
        (DIGITS_DATA, "table1", "table1-digits-60000-updates"),
        (DIGITS_DATA, "table1 --updates 20", "table1-digits-20-updates"),
        (OTHER_FILES, "table1", "table1-mnist-of-other-files-60000-updates"),
        (OTHER_FILES, "table1 --updates 20", "table1-mnist-of-other-files-20-updates"),
        (MNIST, "table3", "table3"),
        (MNIST, "table3 --updates 30000", "table3"),
        (MNIST, "table3 --updates 60000", "table3-mnist-60000-updates"),
        (DIGITS_DATA, "table3", "table3-digits-30000-updates"),
        (IMAGES, "table2", "table2"),
        (IMAGES, "table4 --width 1 --device cpu --data-dir d", "table4"),
        (IMAGES, "table5 --width 1e-1", "table5-width0.1"),
        (IMAGES, "table6 --updates 200000", "table6-200000-updates"),
        (IMAGES, "table6 --decay-updates 9", "table6-9-decay-updates"),
        (IMAGES, "table6 --holdout 1", "table6-1-held-out"),
        (IMAGES, "table4 --holdout 9 --rows svhn-conv-small-mle:1", "table4-9-held-out"),
        (
            IMAGES,
            "table4 --holdout 10000 --width 0.25 --decay-updates 2000 --updates 6000",
            "table4-6000-updates-2000-decay-updates-width0.25-10000-held-out",
        ),
    ],
)
def test_the_files_name_says_what_is_not_the_papers(dataset, command, expected):
    name, _, arguments = command.partition(" ")
    args = parsed(name, arguments)
    assert table.name_of(tables.TABLES[name], args, dataset) == expected


@pytest.mark.parametrize(
    ("command", "updates", "evaluate_every"),
    [
        ("table1 --rows mle:1", 60_000, 1200),
        ("table1 --rows mle:1 --updates 20", 20, 1),
        ("table3 --rows rpt-100:1", 30_000, 600),
        ("table3 --rows rpt-100:1 --updates 1", 1, 1),
        ("table6 --rows cifar10-conv-large-vat-exact:1", 200_000, 2000),
        ("table6 --rows cifar10-conv-large-vat-exact:1 --updates 600", 600, 50),
        ("table4 --rows svhn-conv-small-rpt:1 --updates 5 --decay-updates 1", 5, 1),
        ("table4 --rows svhn-conv-small-rpt:1 --width 0.1", 48_000, 480),
    ],
)
def test_every_run_is_evaluated_a_few_times(command, updates, evaluate_every):
    name, _, arguments = command.partition(" ")
    (spec,) = table.specs(tables.TABLES[name], parsed(name, arguments)).values()
    spec = spec.resolved()
    assert (spec.updates, spec.evaluate_every) == (updates, evaluate_every)


@pytest.mark.parametrize(
    "path", sorted(results.RESULTS.glob("table*.json")), ids=lambda path: path.stem
)
def test_the_same_command_asks_for_the_published_runs_once_more(path):
    """Their folders are resumed only with the very same settings."""
    its = tables.TABLES[path.stem.partition("-")[0]]
    kept = sweep.published(path, "table", its.key)
    flags = {"updates": r"-(\d+)-updates", "decay-updates": r"-(\d+)-decay-updates"}
    flags |= {"width": r"-width([\d.]+)", "holdout": r"-(\d+)-held-out"}
    arguments = [
        part
        for flag, pattern in flags.items()
        for value in re.findall(pattern, path.stem)
        for part in (f"--{flag}", value)
    ]
    rows = [label.replace("-seed", ":") for label in kept]
    args = table.parser(its).parse_args([*arguments, "--rows", *rows])
    specs = table.specs(its, args)
    assert table.name_of(its, args, MNIST) == path.stem
    for label, each in kept.items():
        spec = specs[label].replace(dataset=each["data"]["name"])
        assert json.loads(json.dumps(spec.settings())) == each["settings"]


def test_a_run_is_given_its_data_set_and_what_the_line_says(call, monkeypatch):
    seen = {}

    def run_all(jobs, folder, at_once):
        seen.update(jobs)
        raise runs.RunFailed("seen")

    monkeypatch.setattr(sweep, "run_all", run_all)
    arguments = ["--data", "digits", "--device", "cpu", "--tf32", "--rows", "rpt-1000:3"]
    assert call("table3", *arguments) == 1
    expected = "mnist-semisup --method rpt --data digits --seed 3 --evaluate-every 600"
    expected += " --labels 1000 --preset tuned --device cpu --tf32"
    assert seen == {"rpt-1000-seed3": expected.split()}


# The command -------------------------------------------------------------------------------------


def test_runs_are_made_skipped_and_written(call, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    arguments = [*BRIEF, *PLACES, "--rows", "mle:1", "vat-finite-difference:5", "--jobs", "2"]
    assert call("table1", *arguments) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.count("/2] ") == 2
    # Neither MNIST nor official: not to be taken for Table 1.
    written = runs.read_json(tmp_path / "results" / f"{DIGITS}.json")["runs"]
    labels = [f"{TABLE1.key(each)}-seed{each['settings']['seed']}" for each in written]
    assert labels == ["mle-seed1", "vat-finite-difference-seed5"]
    text = (tmp_path / "results" / f"{DIGITS}.md").read_text(encoding="utf-8")
    assert out.endswith(text) and text == table.markdown(TABLE1, written)
    assert all({"settings", "commit", "device", "data"} <= each.keys() for each in written)
    curves = tmp_path / "results" / DIGITS
    assert sorted(each.stem for each in curves.iterdir()) == sorted(labels)
    finished = tmp_path / "runs" / "mle-seed1"
    assert (curves / "mle-seed1.csv").read_bytes() == (finished / "metrics.csv").read_bytes()

    before = (finished / "checkpoint.npz").stat().st_mtime_ns
    assert call("table1", *arguments) == 0
    assert capsys.readouterr().out.endswith(text)
    assert (finished / "checkpoint.npz").stat().st_mtime_ns == before


@pytest.mark.usefixtures("_in_this_process")
def test_table3_runs_the_papers_rows_by_default(call, tmp_path, capsys):
    assert call("table3", *BRIEF, *PLACES, "--seeds", "4") == 0
    name = "table3-digits-20-updates"
    written = runs.read_json(tmp_path / "results" / f"{name}.json")["runs"]
    rows = ("rpt", "vat-exact", "vat-finite-difference")
    expected = [f"{row}-{labels}" for labels in (100, 1000) for row in rows]
    assert [TABLE3.key(each) for each in written] == expected
    assert {each["settings"]["seed"] for each in written} == {4}
    assert {each["settings"]["updates"] for each in written} == {20}
    assert capsys.readouterr().out.endswith((tmp_path / "results" / f"{name}.md").read_text())
    assert (tmp_path / "results" / name / "rpt-1000-seed4.csv").exists()


@pytest.mark.usefixtures("_in_this_process")
def test_add_keeps_what_the_results_hold(call, tmp_path):
    asked = [*BRIEF, *PLACES]
    assert call("table1", *asked, "--rows", "rpt:2") == 0
    shutil.rmtree(tmp_path / "runs")
    assert call("table1", *asked, "--rows", "rpt:2", "mle:1", "--add") == 0
    assert [each.name for each in (tmp_path / "runs").iterdir()] == ["mle-seed1"]
    written = runs.read_json(tmp_path / "results" / f"{DIGITS}.json")["runs"]
    assert [TABLE1.key(each) for each in written] == ["mle", "rpt"]
    assert [each["settings"]["seed"] for each in written] == [1, 2]


@pytest.mark.usefixtures("_in_this_process")
def test_runs_with_other_settings_are_no_line_of_the_table(call, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(mnist.EPSILON["digits"], "rpt", 1.0)
    assert call("table1", *BRIEF, *PLACES, "--rows", "rpt:1") == 0
    monkeypatch.setitem(mnist.EPSILON["digits"], "rpt", 2.0)
    before = (tmp_path / "results" / f"{DIGITS}.json").read_bytes()
    assert call("table1", *BRIEF, *PLACES, "--rows", "rpt:2", "--add") == 2
    assert "error: rpt: runs with epsilon 1.0 and 2.0 are not" in capsys.readouterr().err
    assert (tmp_path / "results" / f"{DIGITS}.json").read_bytes() == before


SETTINGS = json.dumps(MnistSemisup(method="mle", dataset="digits").settings())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "holds no runs of this table ('runs')"),
        ("[]", "holds list, not a JSON object"),
        ('{"runs": 1}', "holds no runs of this table"),
        ('{"runs": [1]}', "holds no runs of this table"),
        ('{"runs": [{"settings": [], "data": {}}]}', "holds no runs of this table"),
        ('{"runs": [{"settings": {}, "data": {"name": "digits"}}]}', "of no experiment"),
        (
            f'{{"runs": [{{"settings": {SETTINGS}, "data": {{"name": "digits"}}}}]}}',
            "a run of 'digits, 100 labels: MLE' is no row of this table",
        ),
    ],
)
def test_results_that_are_not_the_tables_are_refused(tmp_path, refused, content, message):
    (tmp_path / f"{DIGITS}.json").write_text(content)
    error = refused("table1", *BRIEF, "--add", "--results", ".", "--runs", "runs")
    assert f"{DIGITS}.json" in error and message in error
    assert not (tmp_path / "runs").exists()


def test_a_run_whose_metrics_are_gone_is_named(call, capsys, monkeypatch, tmp_path):
    found = result(MnistSup(method="mle", dataset="digits"), 1.0)
    monkeypatch.setattr(sweep, "run_all", lambda jobs, *_: dict.fromkeys(jobs, found))
    assert call("table1", *BRIEF, *PLACES, "--rows", "mle:1") == 1
    assert "mle-seed1/metrics.csv: No such file" in capsys.readouterr().err
    assert not (tmp_path / "results" / f"{DIGITS}.md").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--rows vit:1", "must be ROW:SEED,... with ROW one of mle, rpt, "),
        ("--rows mle", "got 'mle'"),
        ("--rows mle:x", "must be an integer from 0, got 'x'"),
        ("--seeds -1", "--seeds"),
        ("--jobs 0", "--jobs"),
        ("--updates 0", "--updates"),
        ("--data-dir nowhere --data mnist", "nowhere"),
        ("--data-dir nowhere", "data_dir must be None for digits"),
        ("--width 0.5", "--width"),
    ],
)
def test_mistakes_are_answered_in_one_line(refused, arguments, named):
    assert named in refused("table1", *BRIEF, "--rows", "mle:1", *arguments.split())
