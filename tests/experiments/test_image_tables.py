"""Tables 2, 4, 5 and 6: which runs they ask for, and what they make of the results."""

from __future__ import annotations

import importlib

import pytest

from experiments import (
    common,
    image_tables,
    images,
    jobs,
    table2,
    table4,
    table5,
    table6,
    tables,
)
from experiments.lab import runs
from tests.commands import call, refused

TABLES = {module.TABLE.name: module for module in (table2, table4, table5, table6)}
pytestmark = pytest.mark.usefixtures("_away_from_here")


def made_up(job: list[str]) -> dict:
    """The result that this job might have had; its error is its seed."""
    module, *arguments = job
    task = importlib.import_module(module).TASK
    args = images.parser(task).parse_args(arguments)
    row = common.row_of(args, images.DIRECTION)
    settings = images.all_settings(task, args, row)
    holdout = settings.get("holdout", 0)
    return {
        "dataset": task.dataset,
        "model": args.model,
        "row": row,
        "seed": args.seed,
        "updates": args.updates,
        "epsilon": settings.get("epsilon"),
        "test_error": float(args.seed),
        "test_set": f"{holdout:,} held-out training images" if holdout else "test images",
        "paper_test_error": images.paper_error(task, settings, row),
        "settings": settings,
    }


@pytest.fixture
def loaded(monkeypatch):
    """The data sets that were loaded, with folder and number of held-out images."""
    seen = []
    monkeypatch.setattr(images, "load", lambda *arguments: seen.append(arguments))
    return seen


@pytest.fixture
def asked(monkeypatch, loaded):
    """The jobs that would be run, by label."""
    seen = {}

    def run_all(todo, folder, at_once):
        seen.update(todo)
        for label in todo:
            (folder / label).mkdir(parents=True)
            (folder / label / "metrics.csv").write_text(label)
        return {label: made_up(job) for label, job in todo.items()}

    monkeypatch.setattr(jobs, "run_all", run_all)
    return seen


@pytest.mark.parametrize("name", TABLES)
def test_every_line_is_that_of_its_own_results(name):
    table = TABLES[name].TABLE
    for key, line in table.lines.items():
        result = made_up([line.module, *line.arguments])
        assert table.key(result) == key
        assert result["paper_test_error"] == (line.paper[0] if line.paper else None)
        assert len(line.cells) == len(table.columns)
    assert all(len(cells) == len(table.columns) + 1 for cells in table.cited)


@pytest.mark.parametrize(
    ("name", "papers"),
    [
        ("table2", [6.67, 6.30, 5.81]),
        ("table4", [8.41, 6.83, 5.77, 4.28, 18.56, 14.87, 14.18, 13.15]),
        ("table5", [5.42, 3.86, 11.36, 10.55]),
        ("table6", [14.18, 14.19, 14.25]),
    ],
)
def test_by_default_the_papers_rows_are_run(tmp_path, capsys, asked, name, papers):
    arguments = ["--seeds", "1", "2", "--results", "results"]
    assert call(TABLES[name].main, *arguments) == 0
    assert len(asked) == 2 * len(papers)
    assert not any("vat-exact" in label for label in asked)
    written = runs.read_json(tmp_path / "results" / f"{name}.json")["runs"]
    assert [each["paper_test_error"] for each in written[::2]] == papers
    text = (tmp_path / "results" / f"{name}.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == text
    lines = text.splitlines()
    assert "test error (%)" in lines[0] and lines[0].endswith("| paper (%) |")
    assert {line.count("|") for line in lines if line.startswith("|")} == {lines[0].count("|")}
    for paper, line in zip(papers, lines[2:], strict=False):
        assert "| 1.50 ± 0.71 | 1: 1.00, 2: 2.00 |" in line and f"| {paper:.2f} ± " in line
    assert sum("cited" in line for line in lines) == len(TABLES[name].TABLE.cited)
    assert len(list((tmp_path / "results" / name).iterdir())) == len(asked)


def test_a_table_of_two_data_sets_names_both(asked, capsys):
    rows = ["svhn-conv-small-rpt:1", "cifar10-conv-small-rpt:1"]
    assert call(table4.main, "--rows", *rows, "--results", "results") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| RPT | SVHN | conv-small | 2.5 | 1.00 | 1: 1.00 | 8.41 ± 0.24 |" in lines
    assert "| RPT | CIFAR-10 | conv-small | 10 | 1.00 | 1: 1.00 | 18.56 ± 0.29 |" in lines
    assert "| CatGAN (cited by the paper) | CIFAR-10 |  | | | | 19.58 ± 0.58 |" in lines
    assert lines[-1].startswith("Data set: svhn, 48000 updates; cifar10, 200000 updates; ± is")


def test_a_test_set_of_held_out_images_is_named_and_only_cifar10_has_one(tmp_path, asked, capsys):
    rows = ["svhn-conv-small-rpt:1", "cifar10-conv-small-rpt:1"]
    arguments = ["--rows", *rows, "--holdout", "10000", "--results", "results"]
    assert call(table4.main, *arguments) == 0
    assert {label: "--holdout" in job for label, job in asked.items()} == {
        "svhn-conv-small-rpt-seed1": False,
        "cifar10-conv-small-rpt-seed1": True,
    }
    assert (tmp_path / "results" / "table4-10000-held-out.md").exists()
    lines = capsys.readouterr().out.splitlines()
    assert "error (%)" in lines[0] and "test error" not in lines[0]
    assert "paper, official test set (%)" in lines[0]
    assert "cifar10, tested on 10,000 held-out training images, 200000 updates" in lines[-2]
    assert "no measure of ours" in lines[-1]


def test_smaller_runs_are_not_taken_for_the_papers(tmp_path, asked, capsys):
    arguments = "--rows cifar10-conv-large-vat-finite-difference-k4:3 --width 0.25 --updates 600"
    arguments += " --decay-updates 200"
    arguments += " --device cpu --data-dir data --results results --holdout 10000"
    assert call(table6.main, *arguments.split()) == 0
    ((label, job),) = asked.items()
    assert label == "cifar10-conv-large-vat-finite-difference-k4-seed3"
    module, *rest = job
    assert module == "experiments.cifar10_semisup"
    args = images.parser(importlib.import_module(module).TASK).parse_args(rest)
    assert (args.width, args.updates, args.device, args.data_dir) == (0.25, 600, "cpu", "data")
    assert (args.decay_updates, args.evaluate_every) == (200, 50)
    assert (args.seed, args.power_iterations, args.model, args.holdout) == (
        3,
        4,
        "conv-large",
        10_000,
    )
    name = "table6-600-updates-200-decay-updates-width0.25-10000-held-out"
    assert (tmp_path / "results" / f"{name}.json").exists()
    assert (tmp_path / "runs" / name / label).exists()
    text = capsys.readouterr().out
    assert "14.25" not in text and "no measure" not in text
    assert "tested on 10,000 held-out training images, 600 updates, width 0.25; ±" in text


def test_the_data_sets_that_are_needed_are_loaded_once_and_first(asked, loaded):
    rows = ["svhn-conv-small-rpt:1,2", "svhn-conv-large-mle:1"]
    assert call(table4.main, "--rows", *rows, "--data-dir", "d", "--results", "results") == 0
    assert loaded == [("svhn", "d", 0)]
    assert call(table4.main, "--holdout", "9", "--results", "results") == 0
    assert loaded[1:] == [("cifar10", None, 9), ("svhn", None, 0)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--data-dir nowhere", "nowhere"),
        ("--width 1e17", "--width 1e+17: no more than 9"),
        ("--updates 9 --decay-updates 10", "--decay-updates 10 is too many: there are 9 updates"),
    ],
)
def test_what_no_run_could_do_is_said_before_any_is_started(
    tmp_path, capsys, monkeypatch, arguments, named
):
    def narrow(dataset, width):
        if width > 9:
            raise ValueError("no more than 9")

    monkeypatch.setitem(images.MODELS, "conv-large", narrow)
    monkeypatch.setattr(jobs, "run_all", lambda *_: pytest.fail("a run was started"))
    arguments = [*arguments.split(), "--rows", "svhn-conv-large-mle:1"]
    assert named in refused(table4.main, capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_published_tables_are_those_of_the_published_runs():
    for name, module in TABLES.items():
        for path in jobs.RESULTS.glob(f"{name}*.json"):
            text = tables.markdown(module.TABLE, runs.read_json(path)["runs"])
            assert path.with_suffix(".md").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--rows vat:1", "must be ROW:SEED,... with ROW one of cifar10-conv-large-mle, "),
        ("--width 0", "--width"),
        ("--holdout x", "--holdout"),
        ("--data cifar10", "--data"),
        ("--updates 0", "--updates"),
    ],
)
def test_mistakes_are_answered_in_one_line(capsys, arguments, named):
    assert named in refused(table2.main, capsys, *arguments.split())


def test_keys_tell_the_number_of_iterations():
    result = {"dataset": "svhn", "model": "conv-small", "row": "mle", "settings": {}}
    assert image_tables.key(result) == "svhn-conv-small-mle"
    result["settings"]["power_iterations"] = 2
    assert image_tables.key(result) == "svhn-conv-small-mle-k2"
