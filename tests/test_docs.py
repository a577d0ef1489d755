"""README and docs/: links lead where they say, code runs, tables are those that were measured."""

import importlib
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys

import numpy as np
import pytest
import scipy.special
import scipy.stats

import minivat
from experiments import soak
from tests import documents, mutation, test_divergence
from tests.documents import DOCUMENTS, RESULTS, ROOT, cells
from tests.ops import primitives, test_primitives

DOCS = ROOT / "docs"
LINKS = [(document, target) for document in DOCUMENTS for target in documents.links(document)]
DEFINITIONS = [each for document in DOCUMENTS for each in documents.definitions(document)]
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=documents.name_of)


def by_document(value):
    return documents.name_of(value) if value in DOCUMENTS else str(value)


# Links and lines


@pytest.mark.parametrize(("document", "target"), LINKS, ids=by_document)
def test_a_link_leads_somewhere(document, target):
    path, _, anchor = target.partition("#")
    place = (document.parent / path).resolve() if path else document
    assert place.exists()
    if place.suffix == ".md" and anchor:
        assert anchor in documents.anchors(place)


@pytest.mark.parametrize(
    "link", DEFINITIONS, ids=lambda link: f"{documents.name_of(link.document)}-{link.name}"
)
def test_a_link_leads_to_the_definition(link):
    assert link.line in documents.lines_that_define(link.name, link.file)
    thing = minivat
    for i, part in enumerate(link.name.split("."), 1):
        module = f"minivat.{'.'.join(link.name.split('.')[:i])}"
        if not hasattr(thing, part):
            importlib.import_module(module)
        thing = getattr(thing, part)


def test_a_definition_is_found_inside_of_its_class(tmp_path):
    file = tmp_path / "code.py"
    file.write_text(
        "def step():\n    pass\n\n\nclass A:\n    x: int = 1\n\n    def step(self): ...\n"
    )
    assert documents.lines_that_define("step", file) == [1]
    assert documents.lines_that_define("code.A.step", file) == [8]
    assert documents.lines_that_define("B.step", file) == []


@each_document
def test_lines_fit(document):
    text = documents.TABLE.sub("", documents.text_of(document))
    long = [line for line in text.splitlines() if len(line) > 100]
    assert [line for line in long if not line.startswith("|") and "](" not in line] == []


def test_every_equation_has_a_place():
    text = documents.text_of(DOCS / "equations.md")
    rows = [cells(line) for line in text.splitlines() if line.startswith("| ")][2:]
    assert all(documents.DEFINITION.fullmatch(row[-1]) for row in rows)
    numbers = {
        int(n) for row in rows for n in re.findall(r"\b\d+\b", row[0]) if "algo" not in row[0]
    }
    assert numbers == {*range(1, 19), 21}


def test_the_tour_has_eight_stops():
    stops = re.findall(r"^## (\d)\. ", documents.text_of(DOCS / "tour.md"), re.MULTILINE)
    assert stops == list("12345678")


# Code


def code_of(name, *needs):
    """The blocks of a document that need nothing, and those that need one of `needs`."""
    return [code for need, code in documents.blocks(DOCS / name) if need in ("", *needs)]


def test_the_librarys_code_runs():
    pytest.importorskip("sklearn")
    names = documents.run(code_of("library.md"), **documents.example_table())
    assert names["probabilities"].shape == (5, 3)
    assert names["R"] > 0
    exact = minivat.vat.hessian_vector_product(names["network"], names["x"])[0](names["d"])
    np.testing.assert_allclose(names["Hd"], exact, rtol=1e-10, atol=1e-14)


def test_the_code_for_pytorch_runs(capsys):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    names = documents.run(code_of("library.md", "torch"), **documents.example_table())
    assert names["eigenvalues"].shape == (8, 2)
    assert (names["share"] <= 1).all()
    assert re.fullmatch(r"λ₂/λ₁ 0\.\d\d, \d+% found\n", capsys.readouterr().out)


def test_the_primitives_of_contributing_pass_the_tests_of_all(monkeypatch, device):
    monkeypatch.setattr(primitives, "TABLE", [])
    names = documents.run(code_of("CONTRIBUTING.md", "tests.ops.primitives"), **vars(primitives))
    text = documents.text_of(DOCS / "CONTRIBUTING.md")
    for name in ("log_cosh", "smooth_relu"):
        monkeypatch.setattr(minivat.ops, name, names[name], raising=False)
    (line,) = re.findall(r"`(unary\(.*?\))`", text, re.DOTALL)
    exec(line, vars(primitives) | {"np": np})
    assert {entry.name for entry in primitives.TABLE} == {"log_cosh", "smooth_relu"}
    for entry in primitives.TABLE:
        for dtype in ("float32", "float64"):
            test_primitives.test_values_are_numpys(entry, dtype, device=device)
        test_primitives.test_derivatives(entry, device=device)


@pytest.fixture
def poisson(monkeypatch):
    """The divergence of CONTRIBUTING, as it says that it is tested."""
    names = documents.run(code_of("CONTRIBUTING.md"))
    (line,) = re.findall(r"`(LARGEST\[.*?)`", documents.text_of(DOCS / "CONTRIBUTING.md"))
    monkeypatch.setattr(test_divergence, "LARGEST", test_divergence.LARGEST.copy())
    exec(line, {**names, **vars(test_divergence)})
    return names["poisson"]


OF_ALL = [
    *("at_q_equal_to_p_the_divergence_and_its_gradient_are_exactly_zero",),
    *("fisher_is_the_hessian_in_q_at_q_equal_to_p", "the_root_times_its_transpose_is_fisher"),
    *("in_float32_the_root_is_right_entry_by_entry_however_close_to_1_p_is",),
    *("never_negative_but_for_rounding",),
]


def test_the_divergence_of_contributing_passes_the_tests_of_all(poisson, device):
    for name in OF_ALL:
        getattr(test_divergence, f"test_{name}")(poisson)
    for dtype in (np.float32, np.float64):
        test_divergence.test_finite_and_of_one_dtype_for_saturated_distributions(poisson, dtype)
    test_divergence.test_on_every_device(poisson, device)


def test_the_divergence_of_contributing_is_scipys(poisson):
    rng = np.random.default_rng(0)
    p, q = rng.uniform(-5, 5, (2, 40, 3))
    counts = rng.poisson(3.0, p.shape).astype(float)
    expected = scipy.special.kl_div(np.exp(p), np.exp(q)).sum(axis=1)
    np.testing.assert_allclose(poisson(p, q), expected, rtol=1e-12)
    # Where the difference of rates would have lost all digits: D = eᵖ d²/2.
    np.testing.assert_allclose(poisson(p, p + 1e-9), np.exp(p).sum(axis=1) * 5e-19, rtol=1e-6)
    log_p = scipy.stats.poisson.logpmf(counts, np.exp(p)) + scipy.special.gammaln(counts + 1)
    np.testing.assert_allclose(poisson.nll(p, counts), -log_p.sum(axis=1), rtol=1e-10)
    single = poisson.nll(p[:, :1], counts[:, 0])
    np.testing.assert_array_equal(single, poisson.nll(p[:, :1], counts[:, :1]))


@pytest.mark.parametrize("wrong", [-1.0, 0.5, np.nan, np.inf])
def test_the_divergence_of_contributing_refuses_what_is_no_count(poisson, wrong):
    poisson.check_labels(np.array([[0.0, 3.0]]), 1, 2)
    poisson.check_labels(np.array([0.0, 3.0]), 2, 1)
    message = f"counts.* got {wrong}$" if np.isfinite(wrong) else "got NaN or infinity"
    with pytest.raises(ValueError, match=message):
        poisson.check_labels(np.array([0.0, wrong]), 2, 1)


def test_the_experiment_of_contributing_passes_its_test(tmp_path):
    """In a copy of this tree, to which is added what the document says."""
    without = shutil.ignore_patterns("results", "__pycache__")
    for folder in ("experiments", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=without)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "minivat").symlink_to(ROOT / "minivat")
    files = {need: code for need, code in documents.blocks(DOCS / "CONTRIBUTING.md") if "/" in need}
    for name, code in files.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    text = documents.text_of(DOCS / "CONTRIBUTING.md")
    (line,) = re.findall(r"has the line\s+`(.*?)`", text)
    registry = tmp_path / "experiments" / "registry.py"
    changed = registry.read_text().replace("import images", "import fashion, images")
    registry.write_text(changed.replace("images.SvhnSemisup,", f"images.SvhnSemisup, {line}"))
    tests = [f"tests/experiments/{name}" for name in ("test_fashion.py", "test_entry.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "fashion"]
    done = subprocess.run([*command, *tests], cwd=tmp_path, capture_output=True, text=True)
    # Its own, and those that every experiment has: of its name, of its --help.
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)[1]) >= 5
    spec = documents.run([files["experiments/fashion.py"]])["Fashion"](method="rpt")
    assert f"`{spec.folder().as_posix()}` is its folder" in text


def test_a_trained_network_predicts(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    (code,) = code_of("running.md", "a finished run")
    folder = re.search(r'Run\("(.*?)"\)', code)[1]
    flags = "--method vat-exact --data digits --updates 20 --quiet --device cpu --out"
    command = [sys.executable, "-m", "experiments", "mnist-sup", *flags.split(), folder]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    names = documents.run([code.replace('data.load("mnist")', 'data.load("digits")')])
    assert names["predicted"].shape == (100,)
    result = json.loads((tmp_path / folder / "result.json").read_text())
    assert names["error"] == result["test_error"]
    held = {path.name for path in (tmp_path / folder).iterdir() if not path.name.startswith(".")}
    listed = re.findall(
        r"^\| `(\S+)` \|",
        text_between("## What a run's folder holds", "## Interrupting"),
        re.MULTILINE,
    )
    assert held == set(listed)


def test_every_variable_of_make_is_explained():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", "")
    assigned = dict(re.findall(r"^(one_value|variables) := (.*)$", makefile, re.MULTILINE))
    known = assigned["variables"].replace("$(one_value)", assigned["one_value"]).split()
    table = [line for line in text_between("## Variables", "## Data").splitlines() if "|" in line]
    shown = [name for line in table for name in re.findall(r"`([A-Z_]+)`", cells(line)[0])]
    assert sorted(shown) == sorted(known)


@pytest.mark.parametrize(
    ("typed", "environment", "flags"),
    [
        ("mnist-sup", {"SEED": "7", "DATA": "/mine"}, ["--resume"]),
        ("mnist-sup SEED=3", {"SEED": "7"}, ["--seed", "3", "--resume"]),
        ("table1", {"JOBS": "5"}, ["--jobs", "2"]),
        ("table1 JOBS=1", {}, ["--jobs", "1"]),
    ],
)
def test_make_passes_on_what_is_typed_and_nothing_of_the_environment(typed, environment, flags):
    known = {name: each for name, each in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", *typed.split()],
        cwd=ROOT,
        env={**known, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = (line for line in done.stdout.splitlines() if "-m experiments" in line)
    assert shlex.split(line)[4:] == flags


def text_between(first, second):
    return documents.text_of(DOCS / "running.md").split(first)[1].split(second)[0]


# Numbers


def embedded():
    return [
        (document, *found)
        for document in DOCUMENTS
        for found in documents.TABLE.findall(documents.text_of(document))
    ]


def test_the_tables_are_those_that_were_measured():
    tables = embedded()
    assert len(tables) == 5
    for _, name, text in tables:
        assert text == documents.measured(name)


def test_the_soak_kept_every_promise():
    rows = runs_of("soak.json")["runs"]
    assert {row["check"] for row in rows} == set(soak.CHECKS)
    assert [row["failures"] for row in rows] == [[]] * len(rows)
    assert documents.measured("soak.md") == soak.markdown(rows)


def test_the_tests_notice_nine_mutants_in_ten():
    mutants = runs_of("mutation.json")["mutants"]
    survivors = [mutant for mutant in mutants if mutant["outcome"] == "survived"]
    assert len(survivors) <= 0.1 * len(mutants)
    assert all(mutant["reason"] for mutant in survivors)
    assert documents.measured("mutation.md") == mutation.page(mutants)


def rows_after(heading):
    """The cells of the first table below a heading of results.md, without its header."""
    below = documents.text_of(DOCS / "results.md").split(f"{heading}\n")[1]
    return [cells(line) for line in below.split("|", 1)[1].split("\n\n")[0].splitlines()[2:]]


def runs_of(name):
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def test_figure_1_has_the_errors_that_were_measured():
    expected = []
    runs = runs_of("synthetic/synthetic.json")["runs"]
    for name, method in dict.fromkeys((run["set"], run["method"]) for run in runs):
        those = [run for run in runs if (run["set"], run["method"]) == (name, method)]
        errors = [run["error"] for run in those]
        early = statistics.mean(run["early_error"] for run in those)
        numbers = f"{early:.2f}", f"{statistics.mean(errors):.2f}", f"{max(errors):.1f}"
        expected.append([name, method.upper(), *numbers])
    assert rows_after("### 0.91 and 0.21 % with VAT, 11.73 and 5.25 % without") == expected


def test_the_digits_have_the_errors_that_were_measured():
    def mean_and_deviation(values):
        text = f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
        return text.replace("-", "\N{MINUS SIGN}")

    heading = "### 5.45 %: `VATClassifier` is second to label spreading with a Gaussian kernel"
    methods = runs_of("few_labels.json")["methods"]
    rows = rows_after(heading)
    assert len(rows) == len(methods)
    for (_, error, difference, worse), method in zip(rows, methods, strict=True):
        assert error == mean_and_deviation(method["test_errors"])
        if difference:
            differences = method["minus_VATClassifier"]
            assert difference == mean_and_deviation(differences)
            assert worse == f"{sum(each > 0 for each in differences)} of {len(differences)}"


@pytest.mark.parametrize("table", ["table1", "table3"])
def test_the_times_are_those_that_runs_recorded(table):
    found = runs_of(f"{table}.json")["runs"]
    seconds = [run["seconds"] for run in found if not run["device"].startswith("cuda")]
    low, high = (round(value / 60) for value in (min(seconds), max(seconds)))
    row = f"{len(seconds)} | {low} to {high} minutes | {sum(seconds) / 3600:.1f} hours |"
    where = ", on the CPU" if len(seconds) < len(found) else ""
    text = text_between("How long", "Loading")
    assert f"| Table {table[-1]}, as published{where} | {row}" in text
    if where:
        others = [run["seconds"] for run in found if run["device"].startswith("cuda")]
        low, high = round(min(others)), round(max(others))
        words = f"other {len(others)} runs of Table {table[-1]} took {low} to {high} seconds"
        assert words in text.replace("\n", " ")


# Metadata


def test_the_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", text, re.MULTILINE)[1] == minivat.__version__
    assert f"## {minivat.__version__}" in documents.text_of(DOCS / "CHANGELOG.md")
