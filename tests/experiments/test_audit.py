"""`experiments.audit`: its measures, its files, its answers to mistakes."""

from __future__ import annotations

import functools
import json
import os
import shutil

import numpy as np
import pytest

from experiments import __main__, audit
from experiments.audit import figures, measure, networks, numbers, page
from experiments.lab import runs, sweep
from experiments.lab.results import Run
from experiments.mnist import MnistSup
from minivat import backend, curvature, data, ops, vat
from tests import commands
from tests.mnist_files import write_mnist

DIGITS = ["--data", "digits", "--device", "cpu"]
RNG = np.random.default_rng(0)
W = RNG.standard_normal((16, 5)) * 0.6
X, D, Z = (RNG.standard_normal((7, size)) for size in (16, 16, 5))


@pytest.fixture(autouse=True)
def _small(tmp_path, monkeypatch):
    """Few epsilons, small chunks, no figures, an empty folder, runs trained in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(figures, "FIGURES", {})
    monkeypatch.setattr(measure, "EPSILONS", (0.01, 2.0))
    monkeypatch.setattr(measure, "EPSILONS_AGAIN", (2.0,))
    monkeypatch.setattr(measure, "CHUNK", 10)
    monkeypatch.setattr(measure, "XIS", (1e-6, 1e-3))

    def run_all(todo, folder, at_once):
        for label, arguments in todo.items():
            arguments = [*arguments, "--out", str(folder / label), "--resume", "--quiet"]
            assert __main__.main(arguments) == 0

    monkeypatch.setattr(sweep, "run_all", run_all)


def train(folder, method, *more):
    arguments = ["mnist-sup", "--method", method, *DIGITS, "--quiet", "--out", folder, *more]
    if "--updates" not in more:
        arguments += ["--updates", 30]
    assert __main__.main([str(argument) for argument in arguments]) == 0
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Finished runs by label."""
    top = tmp_path_factory.mktemp("runs")
    return {
        "mle": train(top / "mle", "mle"),
        "vat": train(top / "vat", "vat-exact"),
        "vat-seed2": train(top / "vat2", "vat-exact", "--seed", 2),
    }


call = functools.partial(commands.call, audit.main)


def arguments_of(finished, *more):
    given = ["--mle", finished["mle"], "--vat", finished["vat"], finished["vat-seed2"]]
    given += [*DIGITS, "--images", 24, "--stages", 0, 10, "--work", "work", "--out", "out"]
    return [*given, "--quiet", *more]


# What is measured --------------------------------------------------------------------------------


def on(device, array, dtype=np.float64):
    return device.asarray(array, dtype)


def test_parts_measure_what_they_say(device):
    w = on(device, W)
    network = lambda x: ops.tanh(x @ w) * 3.0  # noqa: E731
    x, d, z = (on(device, a) for a in (X, D, Z))
    found = curvature.spectrum(network, x)

    spectra = measure.spectra(network, x)
    np.testing.assert_allclose(spectra["eigenvalues"][0], device.to_host(found.eigenvalues[:, 0]))
    p = device.to_host(ops.softmax(network(x)))
    np.testing.assert_allclose(spectra["doubt"], 1 - p.max(axis=1))

    captured = measure.directions(network, x, d, z, measure.XIS)
    names = [measure.after(k) for k in measure.ITERATIONS]
    finite = [measure.after(k, 1e-6) for k in (1, 2, 4, 8)]
    assert captured.keys() >= {*names, *finite}
    for name in finite:
        exact = captured[name.partition(" ")[2]]
        np.testing.assert_allclose(captured[name], exact, rtol=1e-3)
    captured_by_k = [captured[measure.after(k)][0] for k in (0, 1, 2, 4, 8)]
    assert (np.diff(captured_by_k, axis=0) > -1e-12).all()

    at = measure.perturbations(network, x, d, z, 0.7, 8)
    product = curvature.hessian(network, x)
    r = 0.7 * vat.power_iteration(product, d, 2)
    value = vat.lds(network, x, -r, network(x))
    np.testing.assert_allclose(at["K=2"][1, 0], device.to_host(value))
    flipped = device.to_host(network(x - r)).argmax(1) != device.to_host(network(x)).argmax(1)
    np.testing.assert_array_equal(at["K=2"][1, 1], flipped)
    for name in (*names, measure.FIRST):
        assert (at[measure.TRUE][0] >= at[name][:, 0] - 1e-12).all(), name
    assert (at[measure.TRUE][0] >= at[measure.CLASS][0] - 1e-12).all()
    np.testing.assert_allclose(at["starts"].max(axis=0), at[measure.TRUE][0])


def test_the_best_direction_towards_a_class_is_best():
    network = lambda x: x @ W  # noqa: E731
    at = measure.perturbations(network, X, D, Z, 0.7, 0)
    top = network(X).argmax(axis=1)
    best = np.zeros(len(X))
    for c in range(5):
        r = 0.7 * vat.unit(W[:, c] - W[:, top].T)
        best = np.maximum(best, vat.lds(network, X, r, network(X)))
    np.testing.assert_allclose(at[measure.CLASS][0], best)


def test_the_largest_outcome_of_each_image_is_chosen():
    directions = [np.full((2, 3), k) for k in range(3)]
    outcomes = [np.array([d, [k, k]]) for k, d in enumerate(([1.0, 5.0], [3.0, 4.0], [2.0, 0.0]))]
    best, most = measure._largest(list(zip(directions, outcomes, strict=True)))
    np.testing.assert_array_equal(best[:, 0], [1, 0])
    np.testing.assert_array_equal(most, [[3, 5], [1, 0]])


def test_numbers_of_perturbations():
    # Two images: D of the drawn and of the other sign, with their flips.
    found = {
        "lambda1": np.array([1.0, 2.0]),
        "K=1": np.array([[[4.0, 1.0], [1.0, 0.0]], [[2.0, 6.0], [0.0, 1.0]]]),
        measure.CLASS: np.array([[5.0, 5.0], [1.0, 1.0]]),
        measure.TRUE: np.array([[8.0, 12.0], [1.0, 1.0]]),
        "starts": np.array([[8.0, 3.0], [1.0, 3.0], [8.0, 12.0]]),
    }
    of_all = numbers.perturbations_numbers(found, 2.0)
    assert of_all["quadratic"]["mean"] == 3  # ½ · 4 · λ₁ is 2 and 4
    assert of_all["maximum_over_quadratic"]["median"] == 3.5
    assert (of_all["maximum"]["mean"], of_all["maximum_flips"]) == (10, 1)
    assert (of_all["reached_from_u1"], of_all["reached_from_all_starts"]) == (0.5, 0)
    one = of_all["directions"]["K=1"]
    assert (one["drawn"]["mean"], one["better"]["mean"]) == (2.5, 5)
    assert (one["drawn_flips"], one["better_flips"]) == (0.5, 1)
    assert one["drawn_over_maximum"]["p95"] > one["drawn_over_maximum"]["p5"] > 1 / 12
    np.testing.assert_allclose(one["sign_ratio"]["mean"], (2 / 4 + 1 / 6) / 2)
    np.testing.assert_allclose(one["better_over_quadratic"]["mean"], (4 / 2 + 6 / 4) / 2)


def test_the_effective_rank_counts_equal_eigenvalues():
    eigenvalues = np.array([[3.0, 1.0, 5.0], [3.0, 0.0, 5.0], [0.0, 0.0, 5.0]])
    np.testing.assert_allclose(numbers.effective_rank(eigenvalues), [2, 1, 3])


def test_saturated_images_give_numbers_all_the_same():
    found = measure.perturbations(lambda x: 1e6 * (x @ W), X, D, Z, 0.1, 2)
    spectra = measure.spectra(lambda x: 50 * (x @ W), X) | {"test_error": np.array(0.0)}
    for each in (numbers.perturbations_numbers(found, 0.1), numbers.spectra_numbers(spectra)):
        json.dumps(each, allow_nan=False)


# The command -------------------------------------------------------------------------------------


def test_an_audit(tmp_path, finished, capsys):
    assert call(*arguments_of(finished)) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.endswith("out/audit.md\n")
    written = runs.read_json(tmp_path / "out" / "audit.json")
    labels = {"mle-0", "mle-10", "mle", "vat-0", "vat-10", "vat", "vat-seed2"}
    assert set(written["networks"]) == labels
    assert written["images"] == 24
    assert {"commit", "device", "data", "environment", "seed"} <= written.keys()

    dataset = data.load("digits")
    for label, folder in finished.items():
        result = runs.read_json(folder / "result.json")
        entry = written["networks"][label]
        assert entry["settings"] == result["settings"]
        # Only with statistics estimated once more are these the networks of the results.
        assert entry["spectra"]["test_error"] == result["test_error"]
    images = dataset.test_images[:: len(dataset.test_images) // 24][:24]
    network = Run(finished["vat"]).network(dataset, backend.Device(), np.float64)
    found = curvature.spectrum(network, images.astype(np.float64)).eigenvalues
    spectra = written["networks"]["vat"]["spectra"]
    # The statistics are float32, and the audit estimates them on one thread.
    np.testing.assert_allclose(spectra["lambda1"]["mean"], found[:, 0].mean(), rtol=1e-6)
    ratio = np.median(found[:, 1] / found[:, 0])
    np.testing.assert_allclose(spectra["ratio"]["median"], ratio, rtol=1e-6)

    assert (tmp_path / "out" / "audit.md").read_text() == page.markdown(written)


def test_stages_are_what_the_run_was_then(tmp_path, finished):
    assert call(*arguments_of(finished)) == 0
    stage = runs.read_checkpoint(
        tmp_path / "work" / "networks" / "digits-vat-seed1-10-updates" / "checkpoint.npz"
    )
    whole = train(tmp_path / "whole", "vat-exact", "--updates", 10)
    there = runs.read_checkpoint(whole / "checkpoint.npz")
    for name, array in there.arrays.items():
        np.testing.assert_array_equal(stage.arrays[name], array)
    written = runs.read_json(tmp_path / "out" / "audit.json")["networks"]
    first = {name: written[name]["spectra"] for name in ("mle-0", "vat-0")}
    assert first["mle-0"] == first["vat-0"]  # one seed, one initial network


def test_an_interrupted_audit_goes_on(tmp_path, finished, monkeypatch, capsys):
    assert call(*arguments_of(finished)) == 0
    whole = runs.read_json(tmp_path / "out" / "audit.json")
    uninterrupted, calls = measure.perturbations, []

    def interrupted(*arguments, **more):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return uninterrupted(*arguments, **more)

    monkeypatch.setattr(measure, "perturbations", interrupted)
    again = arguments_of(finished, "--overwrite")
    assert call(*again) == 130
    assert capsys.readouterr().err == "interrupted\n"
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*/*.npz")}
    assert 0 < len(parts) < 20
    assert call(*arguments_of(finished, "--jobs", 1)) == 0
    for path, before in parts.items():
        assert path.stat().st_mtime_ns == before
    resumed = runs.read_json(tmp_path / "out" / "audit.json")
    assert resumed["networks"] == whole["networks"]


def test_other_settings_are_refused(finished, capsys):
    assert call(*arguments_of(finished)) == 0
    capsys.readouterr()
    assert call(*arguments_of(finished), "--vat", finished["vat-seed2"]) == 2
    err = capsys.readouterr().err
    assert "networks.vat.seed was 1 and is now 2" in err and err.count("\n") == 1


def test_without_finished_runs_shorter_ones_are_trained(tmp_path, capsys):
    arguments = [*DIGITS, "--images", 10, "--updates", 20, "--stages", 0, "--out", "out"]
    assert call(*arguments) == 0
    assert "no finished run of mle and vat: training for 20 updates" in capsys.readouterr().err
    written = runs.read_json(tmp_path / "out" / "audit.json")["networks"]
    assert {name: n["updates"] for name, n in written.items()} == {
        "mle-0": 0, "mle": 20, "vat-0": 0, "vat": 20
    }  # fmt: skip
    assert (tmp_path / "runs" / "audit" / "audit-digits-20-updates-10-images").is_dir()


def test_one_network_alone_is_refused(tmp_path, capsys):
    assert call(*DIGITS, "--mle", tmp_path / "none") == 2
    assert capsys.readouterr().err == "error: --mle and --vat go together: give both or neither\n"


def test_finished_runs_are_found(tmp_path):
    def write(name, done=True, **settings):
        spec = MnistSup(**{"dataset": "digits", "method": "mle", **settings})
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        config = {"settings": spec.settings(), "data": {"name": spec.dataset, "checksums": {}}}
        runs.write_json(folder / "config.json", config)
        (folder / "metrics.csv").write_text("update\n7\n")
        for file in ("checkpoint.npz", *(["result.json"] if done else [])):
            (folder / file).write_text("{}")

    write("mnist_sup/of-1", seed=1, evaluate_every=7)
    write("mnist_sup/of-2", seed=2, done=False)
    write("mnist_sup/short", seed=2, updates=20)
    write("search/held-out", seed=2, validation=100)
    write("mnist_sup/of-3", seed=3)
    write("mnist_sup/of-4", seed=4)
    write("table1/of-5", seed=5, dataset="mnist")
    write("table1/newest", seed=4)
    os.utime(tmp_path / "runs" / "mnist_sup" / "of-4" / "metrics.csv", (0, 0))

    def found(dataset):
        specs = [MnistSup(dataset=dataset, method="mle", seed=seed) for seed in range(1, 6)]
        return [[run.folder.name for run in networks.finished(spec)] for spec in specs]

    assert found("digits") == [["of-1"], [], ["of-3", "newest"], ["newest"], []]
    assert found("mnist") == [[], [], [], [], ["of-5"]]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--images", "0"], "--images"),
        (["--images", "100000"], "--images 100000 is too many: digits has"),
        (["--mle", "nowhere"], "nowhere holds no finished run"),
        (["--jobs", "0"], "--jobs"),
        (["--seed", "-1"], "--seed"),
        (["--device", "tpu"], "--device"),
    ],
)
def test_mistakes_are_answered_with_one_line(finished, capsys, more, named):
    assert call(*arguments_of(finished), *more) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and named in err


def test_runs_of_another_kind_are_refused(tmp_path, finished, capsys):
    swapped = {**finished, "mle": finished["vat"]}
    assert call(*arguments_of(swapped)) == 2
    assert (
        "holds a run of mnist-sup with vat-exact, not of mnist-sup with mle"
        in capsys.readouterr().err
    )
    twice = {**finished, "vat-seed2": finished["vat"]}
    assert call(*arguments_of(twice)) == 2
    assert "different seeds" in capsys.readouterr().err
    config = runs.read_json(finished["vat"] / "config.json")
    config["data"]["checksums"]["test_images"] = "of others"
    changed = tmp_path / "changed"
    shutil.copytree(finished["vat"], changed)
    runs.write_json(changed / "config.json", config)
    assert call(*arguments_of({**finished, "vat": changed})) == 2
    assert "changed: the run was on another test_images" in capsys.readouterr().err
    write_mnist(tmp_path / "mnist")
    other = ["--data", "mnist", "--data-dir", tmp_path / "mnist"]
    assert call(*arguments_of(finished), *other, "--images", 2) == 2
    err = capsys.readouterr().err
    assert "mle: the run was on another" in err and err.count("\n") == 1


def test_a_damaged_part_is_named(tmp_path, finished, capsys):
    assert call(*arguments_of(finished)) == 0
    (part,) = (tmp_path / "work").glob("*/vat-spectra-float64.npz")
    part.write_text("damaged")
    assert call(*arguments_of(finished)) == 2
    err = capsys.readouterr().err
    assert "vat-spectra-float64.npz is damaged: remove it" in err and err.count("\n") == 1
    part.unlink()
    assert call(*arguments_of(finished)) == 0
