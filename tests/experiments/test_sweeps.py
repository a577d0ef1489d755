"""Many runs: tables and searches, and the processes that they start."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import (
    jobs,
    mnist_semisup,
    mnist_sup,
    search,
    search_semisup,
    table1,
    table3,
    tables,
)
from experiments.lab import runs
from minivat import data
from tests.commands import call

ROOT = Path(mnist_sup.__file__).parents[1]
BRIEF = ["--data", "digits", "--updates", "20", "--device", "cpu"]


@pytest.fixture
def _in_this_process(monkeypatch):
    """Runs one after another in this process: the same runs, without the start of each."""

    def run_all(todo, folder, at_once):
        for label, (module, *arguments) in todo.items():
            arguments = [*arguments, "--out", str(folder / label), "--resume", "--quiet"]
            assert importlib.import_module(module).main(arguments) == 0
        return {label: runs.read_json(folder / label / "result.json") for label in todo}

    monkeypatch.setattr(jobs, "run_all", run_all)


# Table 1 -----------------------------------------------------------------------------------------


def result(row, seed, error, dataset="mnist"):
    return {
        "row": row,
        "seed": seed,
        "test_error": error,
        "dataset": dataset,
        "updates": 60_000,
        "epsilon": None if row == "mle" else 2.1,
        "settings": {},
        "paper_test_error": 1.11 if dataset == "mnist" else None,
    }


def test_the_table_has_mean_deviation_seeds_and_the_papers_numbers():
    results = [
        result("vat-exact", 2, 0.60),
        result("vat-exact", 1, 0.66),
        result("vat-exact", 3, 0.63),
        result("mle", 1, 1.16),
    ]
    lines = tables.markdown(table1.TABLE, results).splitlines()
    assert "| MLE |  | 1.16 | 1: 1.16 | 1.11 ± 0.06 |" in lines
    assert "| VAT, exact | 2.1 | 0.63 ± 0.03 | 1: 0.66, 2: 0.60, 3: 0.63 | 0.64 ± 0.05 |" in lines
    assert "| Ladder networks (cited by the paper) | | | | 0.57 ± 0.02 |" in lines
    assert not any(line.startswith("| RPT") for line in lines)
    assert lines[-1] == "Data set: mnist, 60000 updates; ± is the standard deviation over seeds."


def test_other_data_are_never_compared_with_the_paper():
    text = tables.markdown(table1.TABLE, [result("mle", 1, 2.5, dataset="digits")])
    assert "| MLE |  | 2.50 | 1: 2.50 | - |" in text.splitlines()
    assert "1.11" not in text and "cited" not in text and "Data set: digits" in text


def test_table1_runs_skips_and_writes(tmp_path, capsys):
    arguments = [*BRIEF, "--rows", "mle:1", "vat-finite-difference:5", "--jobs", "2"]
    arguments += ["--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    assert call(table1.main, *arguments) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.count("/2] ") == 2
    name = "table1-digits-20-updates"  # neither MNIST nor official: not to be taken for Table 1
    written = runs.read_json(tmp_path / "results" / f"{name}.json")
    found = {(each["row"], each["seed"]): each["test_error"] for each in written["runs"]}
    assert set(found) == {("mle", 1), ("vat-finite-difference", 5)}
    assert out.endswith((tmp_path / "results" / f"{name}.md").read_text())
    assert all({"settings", "commit", "device", "data"} <= each.keys() for each in written["runs"])

    finished = tmp_path / "runs" / "mle-seed1" / "checkpoint.npz"
    before = finished.stat().st_mtime_ns
    assert call(table1.main, *arguments) == 0
    assert capsys.readouterr().out.endswith((tmp_path / "results" / f"{name}.md").read_text())
    assert finished.stat().st_mtime_ns == before


def test_add_keeps_what_the_results_hold(tmp_path, capsys):
    places = ["--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    assert call(table1.main, *BRIEF, "--rows", "rpt:2", *places) == 0
    shutil.rmtree(tmp_path / "runs")
    capsys.readouterr()
    assert call(table1.main, *BRIEF, "--rows", "rpt:2", "mle:1", "--add", *places) == 0
    assert "[1/1] mle-seed1" in capsys.readouterr().out
    written = runs.read_json(tmp_path / "results" / "table1-digits-20-updates.json")["runs"]
    assert [(each["row"], each["seed"]) for each in written] == [("mle", 1), ("rpt", 2)]


@pytest.mark.usefixtures("_in_this_process")
def test_runs_with_other_settings_are_no_line_of_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(mnist_sup.EPSILON["digits"], "rpt", 1.0)
    places = ["--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    assert call(table1.main, *BRIEF, "--rows", "rpt:1", *places) == 0
    monkeypatch.setitem(mnist_sup.EPSILON["digits"], "rpt", 2.0)
    before = (tmp_path / "results" / "table1-digits-20-updates.json").read_bytes()
    assert call(table1.main, *BRIEF, "--rows", "rpt:2", "--add", *places) == 2
    assert "error: rpt: runs with epsilon 1.0 and 2.0 are not" in capsys.readouterr().err
    assert (tmp_path / "results" / "table1-digits-20-updates.json").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "holds no runs of this table ('runs')"),
        ("[]", "holds list, not a JSON object"),
        ('{"runs": [1]}', "holds no runs of this table"),
        ('{"runs": [{"row": "zzz", "seed": 1}]}', "'zzz' is no row of this table"),
    ],
)
def test_results_that_are_not_the_tables_are_refused(tmp_path, capsys, content, message):
    (tmp_path / "table1-digits-20-updates.json").write_text(content)
    assert call(table1.main, *BRIEF, "--add", "--results", tmp_path, "--runs", tmp_path) == 2
    assert message in capsys.readouterr().err


def test_files_under_mnists_names_do_not_replace_the_published_table(tmp_path, monkeypatch):
    digits = data.load("digits")
    other = dataclasses.replace(digits, name="mnist", original=False)
    monkeypatch.setattr(data, "load", lambda *_: other)
    args = tables.parser("", table1.TABLE, seeds=[1]).parse_args(["--updates", "60000"])
    assert jobs.shared_arguments(args)[0] == "mnist-of-other-files"


def test_what_the_paper_cites():
    errors = {cells[:-1]: cells[-1] for cells in table3.TABLE.cited}
    assert errors[("TSVM", "100")] == "16.81" and errors[("TSVM", "1000")] == "5.38"
    assert errors[("CatGAN", "100")] == "1.91 ± 0.1"
    assert errors[("Ladder networks", "1000")] == "0.84 ± 0.08"
    assert errors[("GAN with feature matching", "100")] == "0.93 ± 0.07"
    assert ("GAN with feature matching", "1000") not in errors


def test_tf32_is_asked_of_every_run():
    args = tables.parser("", table1.TABLE, seeds=[1]).parse_args(
        ["--data", "digits", "--device", "cpu", "--tf32"]
    )
    _, shared = jobs.shared_arguments(args)
    assert mnist_sup.parser().parse_args(shared).tf32
    assert not mnist_sup.parser().parse_args([]).tf32


@pytest.mark.parametrize(("at_once", "threads"), [(1, "7"), (2, "1")])
def test_runs_beside_others_have_one_thread(tmp_path, monkeypatch, at_once, threads):
    class Refused(Exception):
        pass

    def popen(command, env, **options):
        assert env["OPENBLAS_NUM_THREADS"] == env["OMP_NUM_THREADS"] == threads
        raise Refused

    for name in jobs.ONE_THREAD:
        monkeypatch.setenv(name, "7")
    monkeypatch.setattr(jobs.subprocess, "Popen", popen)
    with pytest.raises(Refused):
        jobs.run_all({"run": ["module"]}, tmp_path, at_once)


def test_the_published_table_is_that_of_the_published_runs():
    for table in (table1.TABLE, table3.TABLE):
        path = jobs.RESULTS / f"{table.name}.json"
        if path.exists():
            text = tables.markdown(table, runs.read_json(path)["runs"])
            assert path.with_suffix(".md").read_text(encoding="utf-8") == text


# Table 3 -----------------------------------------------------------------------------------------


def few(row, labels, seed, error):
    paper = mnist_semisup.ROWS[row].paper.get(labels, (None,))[0]
    return {**result(row, seed, error), "labels": labels, "paper_test_error": paper}


def test_table_3_has_a_line_for_each_method_and_number_of_labels():
    results = [
        few("vat-finite-difference", 100, 2, 2.0),
        few("vat-exact", 1000, 1, 1.3),
        few("vat-finite-difference", 100, 1, 1.0),
        few("mle", 100, 1, 20.0),
    ]
    lines = tables.markdown(table3.TABLE, results).splitlines()
    assert lines[0] == "| method | labels | ε | test error (%) | by seed | paper (%) |"
    assert lines[2:6] == [
        "| MLE | 100 |  | 20.00 | 1: 20.00 | - |",
        "| VAT, finite differences | 100 | 2.1 | 1.50 ± 0.71 | 1: 1.00, 2: 2.00 | 1.36 ± 0.03 |",
        "| VAT, exact | 1000 | 2.1 | 1.30 | 1: 1.30 | 1.27 ± 0.11 |",
        "| TSVM (cited by the paper) | 100 | | | | 16.81 |",
    ]
    assert "| Ladder networks (cited by the paper) | 1000 | | | | 0.84 ± 0.08 |" in lines
    assert sum("cited" in line for line in lines) == 8 + 5
    other = [few("vat-exact", 100, 1, 2.0) | {"paper_test_error": None}]
    assert "cited" not in tables.markdown(table3.TABLE, other)


@pytest.mark.usefixtures("_in_this_process")
def test_table3_runs_the_papers_rows_by_default(tmp_path, capsys):
    places = ["--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    assert call(table3.main, *BRIEF, "--seeds", "4", *places) == 0
    name = "table3-digits-20-updates"
    written = runs.read_json(tmp_path / "results" / f"{name}.json")["runs"]
    found = [(each["row"], each["labels"], each["seed"]) for each in written]
    rows = ("rpt", "vat-exact", "vat-finite-difference")
    assert found == [(row, labels, 4) for labels in (100, 1000) for row in rows]
    assert all(each["row"].endswith(each["direction"] or "rpt") for each in written)
    assert all({"test_error", "settings", "commit", "data"} <= each.keys() for each in written)
    assert capsys.readouterr().out.endswith((tmp_path / "results" / f"{name}.md").read_text())
    assert (tmp_path / "results" / name / "rpt-1000-seed4.csv").exists()


# The processes -----------------------------------------------------------------------------------


def test_a_failing_run_is_named_and_the_others_are_finished(tmp_path, capsys):
    (tmp_path / "mle-seed1").mkdir()
    (tmp_path / "mle-seed1" / "checkpoint.npz").write_text("damaged")
    arguments = [*BRIEF, "--rows", "mle:1,2", "--runs", tmp_path, "--results", tmp_path / "results"]
    assert call(table1.main, *arguments) == 1
    out, err = capsys.readouterr()
    assert "mle-seed1: error: " in out and "checkpoint.npz is damaged" in out
    assert err.startswith("error: failed: mle-seed1; see log.txt")
    assert (tmp_path / "mle-seed2" / "result.json").exists()
    assert not (tmp_path / "results").exists()


def test_interrupted_runs_write_their_checkpoints(tmp_path):
    command = [sys.executable, "-m", "experiments.table1", "--data", "digits", "--device", "cpu"]
    command += ["--rows", "mle:1,2,3", "--updates", "1000000", "--jobs", "2"]
    command += ["--runs", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        under_way = [tmp_path / f"mle-seed{seed}" / "metrics.csv" for seed in (1, 2)]
        while process.poll() is None and not all(path.exists() for path in under_way):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert err == "interrupted; the same command goes on from here\n"
    for path in under_way:
        assert runs.read_checkpoint(path.with_name("checkpoint.npz")).update > 0
        assert "interrupted after update" in path.with_name("log.txt").read_text()
    assert not (tmp_path / "mle-seed3").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--rows vit:1", "must be ROW:SEED,... with ROW one of mle, rpt, "),
        ("--rows mle", "got 'mle'"),
        ("--rows mle:x", "must be an integer from 0, got 'x'"),
        ("--seeds -1", "--seeds"),
        ("--jobs 0", "--jobs"),
        ("--updates 0", "--updates"),
        ("--data-dir nowhere", "data_dir"),
        ("--runs /dev/null", "/dev/null"),
    ],
)
def test_mistakes_are_answered_in_one_line(capsys, arguments, named):
    assert call(table1.main, *BRIEF, "--rows", "mle:1", *arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and named in err


# The search --------------------------------------------------------------------------------------


def test_means_over_seeds():
    results = [
        {"row": "rpt", "epsilon": epsilon, "validation_error": error}
        for epsilon, error in ((10.0, 2.0), (2.0, 3.0), (10.0, 1.0))
    ]
    assert search.means(results, "validation_error") == {"rpt": {2.0: 3.0, 10.0: 1.5}}


def test_the_largest_of_equals_is_chosen():
    errors = {1.0: 1.22, 2.0: 1.13, 3.0: 1.11, 4.0: 1.20, 5.0: 1.22}
    assert search.chosen(errors, list(errors), 10_000) == 4.0  # 1.11 % has a standard error of 0.10
    assert search.chosen(errors, [1.0, 2.0], 10_000) == 1.0 + 1.0
    assert search.chosen({1.0: 1.0, 2.0: 1.3}, [1.0, 2.0], 10_000) == 1.0


def test_a_regularizer_without_hold_is_noticed():
    run = {"method": "vat", "epsilon": 4.0, "r_vadv": 1.0, "regularizer": 2.1}
    assert not search.escaped(run)
    assert search.escaped(run | {"regularizer": 1.9})
    assert not search.escaped(run | {"regularizer": 1.9, "method": "at-l2"})


@pytest.mark.usefixtures("_in_this_process")
def test_search_compares_on_held_out_images(tmp_path, capsys):
    arguments = [*BRIEF, "--grid", "rpt:1,2", "at-linf:0.1", "--seeds", "1", "2"]
    arguments += ["--validation", "300", "--runs", tmp_path, "--results", tmp_path / "results"]
    assert call(search.main, *arguments) == 0
    (path,) = (tmp_path / "results").iterdir()
    assert path.name == "search-digits-20-updates-300-held-out.json"
    written = runs.read_json(path)
    assert len(written["runs"]) == 6
    assert all(each["test_error"] is None for each in written["runs"])
    assert {each["settings"]["decay_every"] for each in written["runs"]} == {1}
    errors = search.means(written["runs"], "validation_error")["rpt"]
    assert written["chosen"] == {"rpt": search.chosen(errors, [1.0, 2.0], 300), "at-linf": 0.1}
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert lines[0].startswith("digits: method") and sum("chosen" in line for line in lines) == 2


@pytest.mark.usefixtures("_in_this_process")
def test_the_search_of_the_semisupervised_setting(tmp_path, capsys):
    names = ["noise-of-each-pass", "exact-half-iteration", "rpt-epsilon5"]
    arguments = [*BRIEF, "--variants", *names, "--seeds", "1", "2", "--labels", "50"]
    arguments += ["--validation", "300", "--runs", tmp_path, "--results", tmp_path / "results"]
    assert call(search_semisup.main, *arguments) == 0
    (path,) = (tmp_path / "results").iterdir()
    assert path.name == "search_semisup-digits-50-labels-20-updates-300-held-out.json"
    written = runs.read_json(path)["runs"]
    assert [each["variant"] for each in written] == [name for name in names for _ in range(2)]
    assert all(each["test_error"] is None for each in written)
    settings = {each["variant"]: each["settings"] for each in written}
    assert settings["noise-of-each-pass"]["shared_noise"] == "no"
    half = settings["exact-half-iteration"]
    assert (half["direction"], half["power_iterations"]) == ("exact", 0.5)
    assert (settings["rpt-epsilon5"]["method"], settings["rpt-epsilon5"]["epsilon"]) == ("rpt", 5)
    # Cut short, not compressed.
    assert {each["updates"] for each in settings.values()} == {20}
    assert {each["decay_every"] for each in settings.values()} == {500}
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == names
    for column, name in enumerate(search_semisup.MEASURED.values(), start=1):
        mean = sum(each[name] for each in written[:2]) / 2
        assert lines[-3].split()[column] == f"{mean:.2f}"
    # The yardstick, too, has moved with the statistics.
    assert all(each["r_vadv"] != each["r_vadv_after_bn_reestimation"] > 0 for each in written)


@pytest.mark.usefixtures("_in_this_process")
def test_a_search_keeps_the_other_runs_that_its_results_hold(tmp_path, capsys):
    places = ["--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    shared = [*BRIEF, "--validation", "300", *places]

    def runs_after(main, *flags):
        assert call(main, *shared, *flags) == 0
        (path,) = (tmp_path / "results").glob(f"{main.__module__.split('.')[1]}-*.json")
        return path, [
            (each.get("variant", each["row"]), each["epsilon"], each["seed"])
            for each in runs.read_json(path)["runs"]
        ]

    runs_after(search.main, "--grid", "rpt:1", "at-linf:0.1")
    shutil.rmtree(tmp_path / "runs")
    capsys.readouterr()
    path, found = runs_after(search.main, "--grid", "rpt:2,1")
    assert found == [("rpt", 1.0, 1), ("at-linf", 0.1, 1), ("rpt", 2.0, 1)]
    assert set(runs.read_json(path)["chosen"]) == {"rpt", "at-linf"}
    assert sum(line.startswith("rpt ") for line in capsys.readouterr().out.splitlines()) == 2

    names = ["--variants", "no-noise", "--labels", "50"]
    runs_after(search_semisup.main, *names, "--seeds", "1")
    _, found = runs_after(search_semisup.main, *names, "--seeds", "2")
    assert [(variant, seed) for variant, _, seed in found] == [("no-noise", 1), ("no-noise", 2)]
    assert "1: " in capsys.readouterr().out.splitlines()[-1]

    # Runs with other settings would be taken for the same line.
    content = runs.read_json(path)
    content["runs"][0]["settings"]["batch_size"] = 7
    runs.write_json(path, content)
    before = path.read_bytes()
    assert call(search.main, *shared, "--grid", "rpt:2") == 2
    assert "error: rpt: the results hold a run with batch_size 7" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["{}", "[]", '{"runs": 1}', '{"runs": [{"row": "rpt"}]}'])
@pytest.mark.parametrize("main", [search.main, search_semisup.main])
def test_results_that_are_not_the_searchs_are_refused(tmp_path, capsys, main, content):
    name = "search-digits-20-updates-300-held-out.json"
    if main is search_semisup.main:
        name = "search_semisup-digits-100-labels-20-updates-300-held-out.json"
    (tmp_path / name).write_text(content)
    places = ["--runs", tmp_path / "runs", "--results", tmp_path]
    assert call(main, *BRIEF, "--validation", "300", *places) == 2
    error = capsys.readouterr().err
    assert name in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_the_searches_in_the_repository_can_be_added_to():
    for path in jobs.RESULTS.glob("search*.json"):
        module = search_semisup if "semisup" in path.name else search
        assert jobs.published(path, "search", module.LABEL.format_map, module.HELD)


@pytest.mark.parametrize(
    ("main", "flags"),
    [(search.main, ["--grid", "rpt:1"]), (search_semisup.main, ["--variants", "no-noise"])],
)
@pytest.mark.parametrize("metrics", [None, "", "update,r_vadv\n1,2\n", "r_vadv,regularizer\n1,x\n"])
def test_metrics_that_are_none_are_refused(tmp_path, capsys, monkeypatch, main, flags, metrics):
    def run_all(todo, folder, at_once):
        for label in todo:
            (folder / label).mkdir(parents=True)
            if metrics is not None:
                (folder / label / "metrics.csv").write_text(metrics)
        return {label: {} for label in todo}

    monkeypatch.setattr(jobs, "run_all", run_all)
    places = ["--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    assert call(main, *BRIEF, *flags, "--seeds", "1", *places) == 2
    error = capsys.readouterr().err
    assert "metrics.csv" in error and error.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_every_variant_changes_one_thing():
    parsed = {
        name: vars(mnist_semisup.parser().parse_args(flags))
        for name, flags in search_semisup.VARIANTS.items()
    }
    for name, args in parsed.items():
        stem = name.rpartition("-weight")[0]
        other = parsed[stem or ("exact" if name.startswith("exact-") else "usual")]
        changed = {key for key, value in other.items() if args[key] != value} - {"argv"}
        changed -= {"method"} if name.startswith(("rpt-", "vat-entmin-")) else set()
        assert len(changed) == (name != "usual"), name


def test_the_default_grids_are_within_the_papers_ranges():
    ranges = {"rpt": (1, 50), "at-linf": (0.05, 0.1)}
    assert set(search.GRIDS) == set(mnist_sup.ROWS) - {"mle"}
    for row, epsilons in search.GRIDS.items():
        low, high = ranges.get(row, (0.05, 5))
        assert low <= min(epsilons) and max(epsilons) <= high
