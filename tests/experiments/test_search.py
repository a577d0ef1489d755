"""The searches: what they compare, choose and keep, and their answers to mistakes."""

from __future__ import annotations

import json
import shutil

import pytest

from experiments import search
from experiments.lab import results, runner, runs, sweep
from experiments.mnist import MnistSemisup, MnistSup
from minivat import targets

BRIEF = ["--data", "digits", "--updates", "20", "--device", "cpu"]
PLACES = ["--runs", "runs", "--results", "results"]
SHORT = [*BRIEF, *PLACES, "--validation", "300"]
SEARCH = "search-digits-20-updates-300-held-out.json"
SEMISUP = "search_semisup-digits-{}-labels-20-updates-300-held-out.json"


def epsilons(written: dict) -> list[tuple[str, float, int]]:
    """(method, epsilon, seed) of every run in the results."""
    specs = [results.spec_of(each) for each in written["runs"]]
    return [(spec.method, spec.epsilon, spec.seed) for spec in specs]


# The choice --------------------------------------------------------------------------------------


def test_the_mean_is_over_seeds():
    found = [{"seed": seed, "r_vadv": r_vadv} for seed, r_vadv in ((1, 2.0), (2, 3.0), (3, 1.0))]
    assert search.mean(found, "r_vadv") == 2.0


def test_the_largest_of_equals_is_chosen():
    errors = {1.0: 1.22, 2.0: 1.13, 3.0: 1.11, 4.0: 1.20, 5.0: 1.22}
    assert search.chosen(errors, 10_000) == 4.0  # 1.11 % has a standard error of 0.10
    assert search.chosen({1.0: 1.22, 2.0: 1.13}, 10_000) == 2.0
    assert search.chosen({1.0: 1.0, 2.0: 1.3}, 10_000) == 1.0


@pytest.mark.parametrize(
    ("method", "epsilon", "regularizer", "leaks"),
    [
        ("vat-exact", 4.0, 2.1, False),
        ("vat-exact", 4.0, 1.9, True),
        ("vat-finite-difference", 4.0, 1.9, True),
        ("vat-finite-difference", 2.0, 0.51, False),
        ("at-l2", 4.0, 1.9, False),
    ],
)
def test_leakage_through_batch_norm_is_noticed(method, epsilon, regularizer, leaks):
    spec = MnistSup(method=method, epsilon=epsilon)
    run = {"settings": spec.settings(), "data": {"name": "mnist"}}
    assert search.leaks({**run, "r_vadv": 1.0, "regularizer": regularizer}) == leaks


def test_the_default_grids_are_within_the_papers_ranges():
    ranges = {"rpt": (1, 50), "at-linf": (0.05, 0.1)}
    assert set(search.GRIDS) == set(MnistSup.methods) - {"mle"}
    for row, sizes in search.GRIDS.items():
        low, high = ranges.get(row, (0.05, 5))
        assert low <= min(sizes) and max(sizes) <= high


def test_every_variant_changes_one_thing():
    given = {name: spec.given() for name, spec in search.VARIANTS.items()}
    for name in given.keys() - search.LONG.keys() - search.WEIGHTS.keys():
        mine = given[name]
        stem = name.rpartition("-weight")[0]
        other = given[stem or ("exact" if name.startswith("exact-") else "usual")]
        changed = {key for key in mine | other if mine.get(key) != other.get(key)}
        changed -= {"method"} if name.startswith(("rpt-", "vat-entmin-")) else set()
        assert len(changed) == (name != "usual"), name


def test_the_weights_of_targets_are_the_papers_and_smaller_ones():
    for name, kind in targets.METHODS.items():
        specs = [search.VARIANTS[each] for each in search.WEIGHTS if each.startswith(f"{name}-")]
        assert [spec.alpha / kind().alpha for spec in specs] == pytest.approx([0.01, 0.1, 1])
        assert {(spec.method, spec.preset) for spec in specs} == {(name, "tuned")}


def test_the_long_variants_are_all_combinations_of_four_changes():
    usual = search.VARIANTS["usual"].given()
    changes = [
        {
            key: value
            for key, value in search.VARIANTS[name].given().items()
            if usual.get(key) != value
        }
        for name in search.LONG
    ]
    assert len(search.CHANGES) == 4
    assert len(changes) == len({tuple(sorted(each)) for each in changes}) == 2**4 - 1
    settings = [key for change in search.CHANGES.values() for key in change]
    assert len(settings) == len(set(settings))  # no two change the same
    one, two, three, four = search.CHANGES.values()
    assert changes[-1] == one | two | three | four


# The search for the size -------------------------------------------------------------------------


@pytest.mark.usefixtures("_in_this_process")
def test_search_compares_on_held_out_images(call, tmp_path, capsys):
    assert call("search", *SHORT, "--grid", "rpt:1,2", "at-linf:0.1", "--seeds", "1", "2") == 0
    (path,) = (tmp_path / "results").iterdir()
    assert path.name == SEARCH
    written = runs.read_json(path)
    assert [(method, epsilon, seed) for method, epsilon, seed in epsilons(written)] == [
        *(("rpt", 1.0, 1), ("rpt", 1.0, 2), ("rpt", 2.0, 1), ("rpt", 2.0, 2)),
        *(("at-linf", 0.1, 1), ("at-linf", 0.1, 2)),
    ]
    assert all(each["test_error"] is None for each in written["runs"])
    assert {each["settings"]["decay_every"] for each in written["runs"]} == {1}
    assert {each["settings"]["evaluate_every"] for each in written["runs"]} == {4}
    errors = {
        epsilon: search.mean(written["runs"][2 * i : 2 * i + 2], "validation_error")
        for i, epsilon in enumerate((1.0, 2.0))
    }
    assert written["chosen"] == {"rpt": search.chosen(errors, 300), "at-linf": 0.1}
    header, *lines = capsys.readouterr().out.splitlines()[-4:]
    assert header.startswith("digits: method") and sum("chosen" in line for line in lines) == 2
    assert [line.split()[:3] for line in lines[:2]] == [
        ["rpt", f"{epsilon:g}", f"{error:.2f}"] for epsilon, error in errors.items()
    ]


def test_a_size_that_leaks_is_not_chosen(call, tmp_path, capsys, monkeypatch):
    """The second has the better error, and loses."""

    def run_all(jobs, folder, at_once):
        found = {}
        for label, (_, *job) in jobs.items():
            spec = runner.spec_of(MnistSup, runner.parser(MnistSup).parse_args(job))
            r_vadv = 1.0 if spec.epsilon == 2.0 else 3.0
            (folder / label).mkdir(parents=True)
            (folder / label / "metrics.csv").write_text(f"r_vadv,regularizer\n{r_vadv},1\n")
            found[label] = {
                "validation_error": 2.0 if spec.epsilon == 2.0 else 1.0,
                "settings": spec.settings(),
                "data": {"name": "digits"},
            }
        return found

    monkeypatch.setattr(sweep, "run_all", run_all)
    assert call("search", *SHORT, "--grid", "vat-exact:2,3") == 0
    assert runs.read_json(tmp_path / "results" / SEARCH)["chosen"] == {"vat-exact": 2.0}
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["vat-exact", "2", "2.00", "1.00", "chosen"]
    assert lines[2].split() == ["vat-exact", "3", "1.00", "3.00", "leaks"]


# Few labels --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_in_this_process")
def test_the_search_of_the_semisupervised_setting(call, tmp_path, capsys):
    names = ["noise-of-each-pass", "exact-half-iteration", "rpt-epsilon5"]
    arguments = ["--variants", *names, "--seeds", "1", "2", "--labels", "50"]
    assert call("search-semisup", *SHORT, *arguments) == 0
    (path,) = (tmp_path / "results").iterdir()
    assert path.name == SEMISUP.format(50)
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
    assert {each["labels"] for each in settings.values()} == {50}
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4].startswith("digits, 50 labels: variant")
    assert [line.split()[0] for line in lines[-3:]] == names
    for column, name in enumerate(search.MEASURED.values(), start=1):
        mean = sum(each[name] for each in written[:2]) / 2
        assert lines[-3].split()[column] == f"{mean:.2f}"
    # R_vadv, too, has moved with the statistics.
    assert all(each["r_vadv"] != each["r_vadv_after_bn_reestimation"] > 0 for each in written)


# The results -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_in_this_process")
def test_a_search_keeps_the_other_runs_that_its_results_hold(call, tmp_path, capsys):
    path = tmp_path / "results" / SEARCH
    assert call("search", *SHORT, "--grid", "rpt:1", "at-linf:0.1") == 0
    shutil.rmtree(tmp_path / "runs")
    capsys.readouterr()
    assert call("search", *SHORT, "--grid", "rpt:2,1") == 0
    written = runs.read_json(path)
    assert epsilons(written) == [("rpt", 1.0, 1), ("at-linf", 0.1, 1), ("rpt", 2.0, 1)]
    assert set(written["chosen"]) == {"rpt", "at-linf"}
    assert sum(line.startswith("rpt ") for line in capsys.readouterr().out.splitlines()) == 2

    # Runs with other settings would be taken for the same line.
    written["runs"][0]["settings"]["batch_size"] = 7
    runs.write_json(path, written)
    before = path.read_bytes()
    assert call("search", *SHORT, "--grid", "rpt:2") == 2
    error = capsys.readouterr().err
    assert "error: rpt: runs with batch_size 7 and 100 are not one line" in error
    assert path.read_bytes() == before


@pytest.mark.usefixtures("_in_this_process")
def test_a_search_of_few_labels_keeps_the_other_seeds(call, tmp_path, capsys):
    names = ["--variants", "no-noise", "--labels", "50"]
    assert call("search-semisup", *SHORT, *names, "--seeds", "1") == 0
    assert call("search-semisup", *SHORT, *names, "--seeds", "2") == 0
    written = runs.read_json(tmp_path / "results" / SEMISUP.format(50))["runs"]
    found = [(each["variant"], each["settings"]["seed"]) for each in written]
    assert found == [("no-noise", 1), ("no-noise", 2)]
    last = capsys.readouterr().out.splitlines()[-1]
    assert "1: " in last and "2: " in last


SETTINGS = json.dumps(MnistSup(method="rpt").settings())
WITHOUT_ERROR = f'{{"settings": {SETTINGS}, "data": {{"name": "mnist"}}}}'
OF_NO_EXPERIMENT = (
    '{"settings": {}, "data": {"name": "mnist"}, "validation_error": 1, "r_vadv": 1, '
    '"regularizer": 1}'
)


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        '{"runs": 1}',
        '{"runs": [1]}',
        f'{{"runs": [{WITHOUT_ERROR}]}}',
        f'{{"runs": [{OF_NO_EXPERIMENT}]}}',
    ],
)
@pytest.mark.parametrize(
    ("name", "file"), [("search", SEARCH), ("search-semisup", SEMISUP.format(100))]
)
def test_results_that_are_not_the_searchs_are_refused(
    refused, tmp_path, monkeypatch, name, file, content
):
    monkeypatch.setattr(sweep, "run_all", lambda *_: pytest.fail("a run was started"))
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / file).write_text(content)
    assert file in refused(name, *SHORT)


@pytest.mark.parametrize(
    "path", sorted(results.RESULTS.glob("search*.json")), ids=lambda path: path.stem
)
def test_the_searches_in_the_repository_can_be_added_to(path):
    kept = sweep.published(path, "search", search.variant_of, search.NEEDED)
    assert len(kept) == len(runs.read_json(path)["runs"]) > 0
    for label, each in kept.items():
        spec = results.spec_of(each)
        if "semisup" not in path.name:
            assert label == f"{spec.method}-epsilon{spec.epsilon:g}-seed{spec.seed}"
            continue
        assert label == f"{each['variant']}-seed{spec.seed}"
        # What the variant says is what was run: the same command would ask for it once more.
        variant = search.VARIANTS[each["variant"]].replace(dataset=spec.dataset, seed=spec.seed)
        own = ("labels", "updates", "validation", "evaluate_every", "batch_size")
        variant = variant.replace(**{name: getattr(spec, name) for name in own})
        assert variant.resolved() == spec


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("search", "search"),
        ("search --updates 9", "search-mnist-9-updates-10000-held-out"),
        ("search --validation 9", "search-mnist-6000-updates-9-held-out"),
        ("search-semisup --seeds 9", "search_semisup"),
        (
            "search-semisup --labels 10",
            "search_semisup-mnist-10-labels-6000-updates-10000-held-out",
        ),
    ],
)
def test_the_files_name_says_what_is_unusual(call, monkeypatch, command, expected):
    class Digits:
        name, original = "mnist", True

    seen = []

    def run_all(jobs, folder, at_once):
        seen.append(str(folder))
        raise runs.RunFailed("seen")

    monkeypatch.setattr(search.data, "load", lambda *_: Digits)
    for spec in (MnistSup, MnistSemisup):
        monkeypatch.setattr(spec, "split", lambda *_: None)
    monkeypatch.setattr(sweep, "run_all", run_all)
    name, *flags = command.split()
    assert call(name, *flags, "--results", "results") == 1
    Digits.original = False
    assert call(name, *flags, "--results", "results") == 1
    assert seen[0] == f"runs/{expected}"
    assert "-mnist-of-other-files-" in seen[1]


@pytest.mark.parametrize(
    ("name", "flags"),
    [("search", ["--grid", "rpt:1"]), ("search-semisup", ["--variants", "no-noise"])],
)
@pytest.mark.parametrize("metrics", [None, "", "update,r_vadv\n1,2\n", "r_vadv,regularizer\n1,x\n"])
def test_metrics_that_are_none_are_refused(refused, tmp_path, monkeypatch, name, flags, metrics):
    def run_all(jobs, folder, at_once):
        for label in jobs:
            (folder / label).mkdir(parents=True)
            if metrics is not None:
                (folder / label / "metrics.csv").write_text(metrics)
        return {label: {} for label in jobs}

    monkeypatch.setattr(sweep, "run_all", run_all)
    assert "metrics.csv" in refused(name, *BRIEF, *PLACES, *flags, "--seeds", "1")
    assert not list((tmp_path / "results").iterdir())


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("search --grid mle:1", "must be ROW:EPSILON,... with ROW one of rpt, "),
        ("search --grid rpt:0", "a finite number above 0, got '0'"),
        ("search --validation 0", "--validation"),
        ("search-semisup --variants none", "--variants"),
        ("search-semisup --labels 0", "--labels"),
        ("search-semisup --data-dir nowhere --data mnist", "nowhere"),
        ("search --grid rpt:1.00000001,1.00000002", "too close to tell apart"),
        ("search --seeds 1 1", "one is given twice: 1 1"),
        ("search --data digits --validation 10000", "--validation 10000 is too many"),
        ("search-semisup --data digits --labels 50 --variants 100-250", "--batch-size 100"),
    ],
)
def test_mistakes_are_answered_in_one_line(refused, monkeypatch, command, named):
    monkeypatch.setattr(sweep, "run_all", lambda *_: pytest.fail("a run was started"))
    name, *flags = command.split()
    assert named in refused(name, *flags)


def test_few_labels_mean_a_small_batch():
    assert search.VARIANTS["usual"].replace(labels=50).resolved().batch_size == 50
    assert type(search.VARIANTS["usual"]) is MnistSemisup
