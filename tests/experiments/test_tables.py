"""Tables 1 to 6: what they hold, which runs they ask for, and when the paper's number applies."""

from __future__ import annotations

import dataclasses

import pytest

from experiments import tables
from experiments.images import NETWORKS, Cifar10Semisup, SvhnSemisup
from experiments.lab import results, runner, runs, sweep, table
from experiments.lab.spec import OWN, Paper, Spec
from experiments.mnist import MnistSup
from experiments.registry import EXPERIMENTS
from minivat import data

LINES = [
    pytest.param(name, key, id=f"{name}-{key}")
    for name, each in tables.TABLES.items()
    for key in each.lines
]
OF_THE_PAPER = [each for each in LINES if tables.TABLES[each.values[0]].lines[each.values[1]].paper]
PUBLISHED = sorted(results.RESULTS.glob("table*.json"))
pytestmark = pytest.mark.usefixtures("_away_from_here")


def line_of(name, key):
    return tables.TABLES[name].lines[key]


def made_up(job: list[str]) -> dict:
    """The result that this job might have had; its error is its seed."""
    experiment, *arguments = job
    cls = EXPERIMENTS[experiment]
    spec = runner.spec_of(cls, runner.parser(cls).parse_args(arguments))
    holdout = getattr(spec, "holdout", None)
    paper = tables.paper_of(spec)
    spec = spec.resolved()
    return {
        "test_error": float(spec.seed),
        "test_set": f"{holdout:,} held-out training images" if holdout else "test images",
        "paper_test_error": paper.error if paper and spec.updates >= paper.updates else None,
        "settings": spec.settings(),
        "data": {"name": spec.dataset, "checksums": {}},
    }


@pytest.fixture
def loaded(monkeypatch):
    """The data sets that were loaded: name, folder and number of held-out images."""
    seen = []
    digits = data.load("digits")

    def load(name, data_dir=None, holdout=0):
        seen.append((name, data_dir, holdout))
        return dataclasses.replace(digits, name="mnist" if name == "auto" else name)

    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(data, "whiten", lambda dataset: dataset)
    return seen


@pytest.fixture
def asked(monkeypatch, loaded):
    """The jobs that would be run, by label."""
    seen = {}

    def run_all(jobs, folder, at_once):
        seen.update(jobs)
        for label in jobs:
            (folder / label).mkdir(parents=True)
            (folder / label / "metrics.csv").write_text(label)
        return {label: made_up(job) for label, job in jobs.items()}

    monkeypatch.setattr(sweep, "run_all", run_all)
    return seen


# The lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tables.TABLES)
def test_every_line_holds_the_runs_of_its_own_spec_and_no_others(name):
    lines = tables.TABLES[name].lines
    for key, line in lines.items():
        spec = line.spec.resolved()
        assert [other for other, each in lines.items() if each.holds(spec)] == [key]
        own = spec.replace(seed=7, updates=spec.updates + 1, epsilon=spec.epsilon and 0.5)
        assert line.holds(own.resolved())
        result = {"settings": spec.settings(), "data": {"name": spec.dataset}}
        assert tables.TABLES[name].key(result) == key


@pytest.mark.parametrize("name", tables.TABLES)
def test_every_line_has_the_tables_columns(name):
    its = tables.TABLES[name]
    assert its.name == name
    cells = {
        tuple(table.COLUMNS[column](line.spec.resolved()) for column in its.columns)
        for line in its.lines.values()
    }
    assert len(cells) == len(its.lines)
    assert all(len(cells) == len(its.columns) + 1 for cells in its.cited)


def test_a_run_of_another_experiment_is_in_no_line():
    spec = MnistSup(method="rpt").resolved()
    with pytest.raises(runs.RunError, match="a run of 'mnist: RPT' is no row of this table"):
        tables.TABLE3.key({"settings": spec.settings(), "data": {"name": "mnist"}})


def test_what_the_paper_cites():
    errors = {cells[:2]: cells[-1] for cells in tables.TABLE3.cited}
    assert len(errors) == 8 + 5
    assert errors[("TSVM", "100")] == "16.81" and errors[("TSVM", "1000")] == "5.38"
    assert errors[("CatGAN", "100")] == "1.91 ± 0.1"
    assert errors[("Ladder networks", "1000")] == "0.84 ± 0.08"
    assert errors[("GAN with feature matching", "100")] == "0.93 ± 0.07"
    assert ("GAN with feature matching", "1000") not in errors


# The paper's numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "key"), LINES)
def test_the_papers_number_is_that_of_the_tables_lines(name, key):
    line = line_of(name, key)
    usual = line.spec.resolved()
    expected = None if line.paper is None else Paper(*line.paper, usual.updates)
    assert tables.paper_of(line.spec) == tables.paper_of(usual) == expected
    short = line.spec.replace(updates=100)
    assert tables.paper_of(short) == tables.paper_of(short.resolved()) == expected


def changed(line: table.Line, field: dataclasses.Field) -> list[Spec]:
    """Resolved specs that differ from a line's in this field; another method has its defaults."""
    spec = line.spec.resolved()
    value = getattr(spec, field.name)
    if field.name == "method":
        plain = line.spec.replace(power_iterations=None)
        others = [plain.replace(method=method) for method in spec.methods if method != value]
        return [other.resolved() for other in others]
    if field.name == "dataset":
        values = spec.datasets
    elif field.metadata.get("flag", {}).get("choices"):
        values = field.metadata["flag"]["choices"]
    elif isinstance(value, tuple):
        values = [(value[0], 7, value[-1])]
    elif isinstance(value, int):
        values = [value + 1]
    else:
        values = [] if value is None else [1.5 * value + 0.1]
    if field.name == "schedule":  # only one of the two has these
        spec = spec.replace(decay_updates=None)
    return [spec.replace(**{field.name: other}).resolved() for other in values if other != value]


def comparable(spec: Spec) -> dict:
    """A spec's settings without those that a run may have of its own."""
    return {name: value for name, value in spec.settings().items() if name not in OWN}


EVERY_PAPER = [
    (comparable(line.spec.resolved()), line.spec.resolved().dataset, type(line.spec), line.paper)
    for each in tables.TABLES.values()
    for line in each.lines.values()
    if line.paper is not None
]


@pytest.mark.parametrize(("name", "key"), OF_THE_PAPER)
def test_with_any_other_setting_the_paper_has_no_number(name, key):
    line = line_of(name, key)
    spec = line.spec.resolved()
    tried = 0
    for field in dataclasses.fields(spec):
        for other in changed(line, field):
            tried += 1
            found = tables.paper_of(other)
            if field.name in OWN:
                assert found == Paper(*line.paper, spec.updates), field.name
            else:
                assert (comparable(other), other.dataset) != (comparable(spec), spec.dataset)
                # Another method, network or number of iterations may be another line's.
                theirs = (comparable(other), other.dataset, type(other))
                numbers = {paper for *same, paper in EVERY_PAPER if tuple(same) == theirs}
                assert ({found[:2]} if found else set()) == numbers, field.name
    assert tried >= 12


def test_a_run_longer_than_the_papers_may_have_a_decay_of_its_own():
    spec = SvhnSemisup(method="vat-finite-difference", updates=100_000)
    assert tables.paper_of(spec) == Paper(6.83, 0.24, 48_000)
    assert tables.paper_of(spec.replace(decay_updates=60_000)) is None


# The runs they ask for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "papers"),
    [
        ("table1", [1.11, 0.84, 0.79, 0.71, 0.64, 0.64]),
        ("table2", [6.67, 6.30, 5.81]),
        ("table3", [6.81, 1.36, 1.36, 1.58, 1.27, 1.27]),
        ("table4", [8.41, 6.83, 5.77, 4.28, 18.56, 14.87, 14.18, 13.15]),
        ("table5", [5.42, 3.86, 11.36, 10.55]),
        ("table6", [14.18, 14.19, 14.25]),
    ],
)
def test_by_default_the_papers_rows_are_run(call, tmp_path, capsys, asked, name, papers):
    assert call(name, "--seeds", "1", "2", "--results", "results") == 0
    assert len(asked) == 2 * len(papers)
    if name not in ("table1", "table3"):
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
    assert sum("cited" in line for line in lines) == len(tables.TABLES[name].cited)
    assert len(list((tmp_path / "results" / name).iterdir())) == len(asked)


def test_a_table_of_two_data_sets_names_both(call, asked, capsys):
    rows = ["svhn-conv-small-rpt:1", "cifar10-conv-small-rpt:1"]
    assert call("table4", "--rows", *rows, "--results", "results") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| RPT | SVHN | conv-small | 2.5 | 1.00 | 1: 1.00 | 8.41 ± 0.24 |" in lines
    assert "| RPT | CIFAR-10 | conv-small | 10 | 1.00 | 1: 1.00 | 18.56 ± 0.29 |" in lines
    assert "| CatGAN (cited by the paper) | CIFAR-10 |  | | | | 19.58 ± 0.58 |" in lines
    assert lines[-1].startswith("Data set: svhn, 48000 updates; cifar10, 200000 updates; ± is")


def test_a_test_set_of_held_out_images_is_named_and_only_cifar10_has_one(
    call, tmp_path, asked, capsys
):
    rows = ["svhn-conv-small-rpt:1", "cifar10-conv-small-rpt:1"]
    arguments = ["--rows", *rows, "--holdout", "10000", "--results", "results"]
    assert call("table4", *arguments) == 0
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


def test_smaller_runs_are_not_taken_for_the_papers(call, tmp_path, asked, capsys):
    arguments = "--rows cifar10-conv-large-vat-finite-difference-k4:3 --width 0.25 --updates 600"
    arguments += " --decay-updates 200"
    arguments += " --device cpu --data-dir data --results results --holdout 10000"
    assert call("table6", *arguments.split()) == 0
    ((label, job),) = asked.items()
    assert label == "cifar10-conv-large-vat-finite-difference-k4-seed3"
    experiment, *rest = job
    assert experiment == "cifar10-semisup"
    args = runner.parser(Cifar10Semisup).parse_args(rest)
    assert (args.device, args.data_dir) == ("cpu", "data")
    assert runner.spec_of(Cifar10Semisup, args) == Cifar10Semisup(
        dataset="cifar10",
        method="vat-finite-difference",
        model="conv-large",
        augment="no",
        power_iterations=4,
        seed=3,
        width=0.25,
        updates=600,
        decay_updates=200,
        evaluate_every=50,
        holdout=10_000,
    )
    name = "table6-600-updates-200-decay-updates-width0.25-10000-held-out"
    assert (tmp_path / "results" / f"{name}.json").exists()
    assert (tmp_path / "runs" / name / label).exists()
    text = capsys.readouterr().out
    assert "14.25" not in text and "no measure" not in text
    assert "tested on 10,000 held-out training images, 600 updates, width 0.25; ±" in text


def test_the_data_sets_that_are_needed_are_loaded_once_and_first(call, asked, loaded):
    rows = ["svhn-conv-small-rpt:1,2", "svhn-conv-large-mle:1"]
    assert call("table4", "--rows", *rows, "--data-dir", "d", "--results", "results") == 0
    assert loaded == [("svhn", "d", 0)]
    assert call("table4", "--holdout", "9", "--results", "results") == 0
    assert sorted(loaded[1:]) == [("cifar10", None, 9), ("svhn", None, 0)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--width 1e17", "--width 1e+17: no more than 9"),
        ("--updates 9 --decay-updates 10", "--decay-updates 10 is too many: there are 9 updates"),
    ],
)
@pytest.mark.parametrize("place", ["", "--data-dir nowhere"])
def test_wrong_settings_are_refused_before_data_are_loaded_or_a_run_is_started(
    tmp_path, refused, monkeypatch, arguments, named, place
):
    def narrow(dataset, width):
        if width > 9:
            raise ValueError("no more than 9")

    monkeypatch.setitem(NETWORKS, "conv-large", narrow)
    monkeypatch.setattr(data, "load", lambda *_: pytest.fail("data were loaded"))
    monkeypatch.setattr(sweep, "run_all", lambda *_: pytest.fail("a run was started"))
    # A row that is in order comes first.
    rows = ["--rows", "svhn-conv-small-mle:1", "svhn-conv-large-mle:1"]
    if "width" in arguments:
        del rows[1]
    assert named in refused("table4", *arguments.split(), *place.split(), *rows)
    assert not list(tmp_path.iterdir())


def test_missing_data_are_named_before_a_run_is_started(tmp_path, refused, monkeypatch):
    monkeypatch.setattr(sweep, "run_all", lambda *_: pytest.fail("a run was started"))
    rows = ["--rows", "svhn-conv-large-mle:1"]
    assert "nowhere" in refused("table4", "--data-dir", "nowhere", *rows)
    assert not list(tmp_path.iterdir())


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
def test_mistakes_are_answered_in_one_line(refused, arguments, named):
    assert named in refused("table2", *arguments.split())


# What is published -------------------------------------------------------------------------------


def table_of(path):
    return tables.TABLES[path.stem.partition("-")[0]]


def test_tables_are_published():
    assert {table_of(path).name for path in PUBLISHED} >= {"table1", "table3", "table4"}


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_the_published_table_is_that_of_the_published_runs(path):
    text = table.markdown(table_of(path), runs.read_json(path)["runs"])
    assert path.with_suffix(".md").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_the_published_runs_can_be_added_to(path):
    kept = sweep.published(path, "table", table_of(path).key)
    assert len(kept) == len(runs.read_json(path)["runs"])
    # The curves of every run lie beside them, under the labels that --add knows them by.
    assert {each.stem for each in path.with_suffix("").iterdir()} == set(kept)
