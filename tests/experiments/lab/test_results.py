"""What is read back of runs: their specs, rows, networks, and which are the newest."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.lab import results, runner, runs
from experiments.lab.results import Run
from experiments.mnist import MnistSemisup, MnistSup
from experiments.registry import EXPERIMENTS
from minivat import backend, data
from minivat.data import whitening
from tests import cifar_files, commands
from tests.mnist_files import write_mnist

CPU = backend.select_device("cpu")


# Specs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_configuration_gives_its_spec_back(name):
    for method in EXPERIMENTS[name].methods:
        spec = EXPERIMENTS[name](method=method, seed=3).resolved()
        config = {"settings": spec.settings(), "data": {"name": spec.dataset}}
        assert results.spec_of(json.loads(json.dumps(config))) == spec


@pytest.mark.parametrize("settings", [[], 3, None])
def test_a_configuration_that_is_none(settings):
    for config in ({"settings": settings, "data": {"name": "mnist"}}, {}, {"settings": {}}, []):
        with pytest.raises(
            runs.RunError, match="no configuration of a run: it needs 'settings' and"
        ):
            results.spec_of(config)


@pytest.mark.parametrize(
    ("dataset", "settings"),
    [
        ("mnist", {}),
        ("imagenet", MnistSup().settings()),
        ("svhn", MnistSup().settings()),
        ("mnist", MnistSup().settings() | {"new": 1}),
        ("mnist", MnistSup().settings() | {"method": "new"}),
        ("mnist", MnistSup().settings() | {"direction": "new"}),
        ("mnist", {k: v for k, v in MnistSemisup().settings().items() if k != "output_norm"}),
    ],
)
def test_settings_of_no_experiment(dataset, settings):
    with pytest.raises(runs.RunError, match=f"settings on {dataset} of no experiment"):
        results.spec_of({"settings": settings, "data": {"name": dataset}})


# The folder of a run -----------------------------------------------------------------------------


def test_a_run_without_files(tmp_path):
    run = Run(tmp_path / "run")
    with pytest.raises(runs.RunError, match=r"run/config\.json cannot be read"):
        _ = run.spec
    with pytest.raises(runs.RunError, match=r"run/metrics\.csv cannot be read"):
        run.rows()
    with pytest.raises(runs.RunError, match=r"run holds no run: there is no checkpoint\.npz$"):
        run.checkpoint()
    assert run.result is None


def test_the_rows_of_a_run(make_run):
    run = make_run("run", MnistSup())
    assert run.rows(("update", "error")) == [{"update": 5.0, "error": 40.5, "r_vadv": 0.1}]
    with pytest.raises(runs.RunError, match=r"metrics\.csv holds no row of a run's metrics"):
        run.rows(("update", "entropy"))


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("", "holds no row"),
        ("update,error\n", "holds no row"),
        ("update,error\n5,x\n", "cannot be read"),
        ("update,error\n5\n", "cannot be read"),
        ("update\n" + "5" * 200_000, "cannot be read"),
        ("update\n\0\n", "cannot be read"),
    ],
)
def test_metrics_that_are_none(make_run, metrics, message):
    run = make_run("run", MnistSup(), metrics)
    with pytest.raises(runs.RunError, match=rf"run/metrics\.csv {message}"):
        run.rows()


@pytest.mark.parametrize(
    "config", ["{}", "[]", '{"settings": {}, "data": {"name": "mnist"}}', '{"settings": 3}', "{"]
)
def test_a_config_that_is_none(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(runs.RunError, match=r"config\.json (is not that of a run|holds|cannot)"):
        _ = Run(tmp_path).spec


def test_a_config_of_another_version_names_its_file(tmp_path, make_run):
    run = make_run("run", MnistSup())
    config = runs.read_json(tmp_path / "run" / "config.json")
    runs.write_json(tmp_path / "run" / "config.json", {**config, "settings": {"seed": 1}})
    with pytest.raises(runs.RunError, match=r"run/config\.json is not that .* on mnist of no exp"):
        _ = run.spec


def test_a_config_without_checksums_is_refused_and_no_newest_run(tmp_path, make_run):
    run = make_run("runs/a/run", MnistSup())
    config = runs.read_json(run.folder / "config.json")
    runs.write_json(run.folder / "config.json", {**config, "data": {"name": "mnist"}})
    with pytest.raises(runs.RunError, match=r"config\.json is not that of a run: its data have no"):
        run.check_files(SimpleNamespace(checksums={"images": "1"}))
    make_run("runs/a/whole", MnistSup())
    assert [each.folder.name for each in results.newest(tmp_path / "runs")] == ["whole"]


def test_the_files_of_a_run_are_compared(make_run):
    checksums = {"images": "1", "labels": "2", "zca.matrix": "3"}
    run = make_run("run", MnistSup(), checksums=checksums)
    run.check_files(SimpleNamespace(checksums=checksums))
    # Another machine's whitening differs in its last bits.
    run.check_files(SimpleNamespace(checksums={**checksums, "zca.matrix": "4"}))
    with pytest.raises(runs.RunError, match="run: the run was on another labels than the one"):
        run.check_files(SimpleNamespace(checksums={**checksums, "labels": "0"}))


# Networks ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_digits(tmp_path_factory):
    """A finished run on the digits."""
    folder = tmp_path_factory.mktemp("run")
    brief = "--updates 60 --evaluate-every 20 --seed 4 --device cpu --quiet --data digits"
    assert commands.call("mnist-sup", *brief.split(), "--out", folder) == 0
    return Run(folder)


def test_a_finished_run_is_read_back(on_digits):
    assert (
        on_digits.spec
        == MnistSup(dataset="digits", updates=60, evaluate_every=20, seed=4).resolved()
    )
    assert on_digits.config["settings"] == on_digits.result["settings"]
    assert [row["update"] for row in on_digits.rows()] == [20, 40, 60]
    assert on_digits.rows(("error",))[-1] == on_digits.checkpoint().rows[-1]
    assert on_digits.checkpoint().update == 60


def test_the_trainer_restores_the_runs_errors(on_digits):
    dataset = data.load("digits")
    trainer = on_digits.trainer(dataset, CPU)
    images, labels = on_digits.spec.split(dataset).held_out
    assert trainer.error(images, labels) == on_digits.result["test_error"]
    r_vadv = trainer.r_vadv(images, runner.R_VADV_EPSILON)
    assert r_vadv == on_digits.result["r_vadv_after_bn_reestimation"]
    network = on_digits.network(dataset, CPU)
    wrong = network(images).argmax(axis=1) != labels
    assert 100 * wrong.mean() == pytest.approx(on_digits.result["test_error"])
    exact = on_digits.network(dataset, CPU, np.float64)(images.astype(np.float64))
    assert exact.dtype == np.float64
    np.testing.assert_allclose(network(images), exact, rtol=1e-3, atol=1e-4)


def test_the_trainer_refuses_other_files_and_other_networks(on_digits, tmp_path):
    dataset = data.load("digits")
    other = Run(tmp_path)
    checkpoint = on_digits.checkpoint()
    name = next(iter(on_digits.config["data"]["checksums"]))
    config = json.loads(json.dumps(on_digits.config))
    config["data"]["checksums"][name] = "0"
    runs.write_json(tmp_path / "config.json", config)
    runs.write_checkpoint(tmp_path / "checkpoint.npz", checkpoint)
    with pytest.raises(runs.RunError, match=f"the run was on another {name} than the one found"):
        other.trainer(dataset, CPU)
    config = json.loads(json.dumps(on_digits.config))
    config["settings"]["network"] = [64, 30, 10]
    runs.write_json(tmp_path / "config.json", config)
    with pytest.raises(runs.RunError, match=r"npz does not fit: array .* \(.* is now float32 \("):
        Run(tmp_path).trainer(dataset, CPU)
    runs.write_json(tmp_path / "config.json", on_digits.config)
    del checkpoint.arrays["params"]
    runs.write_checkpoint(tmp_path / "checkpoint.npz", checkpoint)
    with pytest.raises(runs.RunError, match="npz does not fit: array params was None and"):
        Run(tmp_path).trainer(dataset, CPU)


@pytest.fixture
def _small_data(tmp_path, monkeypatch):
    """Small files of all three data sets, and a whitening that takes no time."""
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "data" / "mnist", train=1200)  # 1,000 are set aside
    cifar_files.accept_small_files(monkeypatch)
    cifar_files.write_cifar10(tmp_path / "data" / "cifar10")
    cifar_files.write_svhn(tmp_path / "data" / "svhn")
    monkeypatch.setenv("MINIVAT_DATA", str(tmp_path / "data"))
    zca = whitening.ZCA(np.full(3072, 0.1, np.float32), 5 * np.eye(3072, dtype=np.float32))
    monkeypatch.setattr(whitening, "cached_zca", lambda images, *_: zca)
    monkeypatch.setattr("experiments.lab.plotting.curves", lambda *_: None)


ON_MNIST = "--data mnist --batch-size 30"
FEW_LABELS = f"{ON_MNIST} --labels 50 --unlabelled-batch-size 60"
IN_COLOUR = "--width 0.05 --batch-size 8"


@pytest.mark.usefixtures("_small_data")
@pytest.mark.parametrize(
    "command",
    [
        f"mnist-sup {ON_MNIST} --validation 40 --seed 2",
        f"mnist-semisup {FEW_LABELS} --method mle --output-norm no",
        f"mnist-semisup {FEW_LABELS} --shared-noise no",
        f"mnist-semisup {FEW_LABELS} --method mean-teacher",
        f"mnist-semisup {FEW_LABELS} --preset iclr2016 --data-seed 3 --validation 40",
        f"cifar10-sup {IN_COLOUR} --method mle",
        f"cifar10-semisup {IN_COLOUR} --method mle --labels 40 --holdout 20",
        f"cifar10-semisup {IN_COLOUR} --labels 20 --unlabelled-batch-size 12 --validation 30",
        f"svhn-semisup {IN_COLOUR} --method mle --labels 23",
    ],
)
def test_a_network_is_the_one_that_the_runs_result_was_measured_with(command):
    """Of every experiment, with its statistics estimated once more, and over the same images."""
    brief = "--updates 2 --device cpu --quiet --out run"
    assert commands.call(*command.split(), *brief.split()) == 0
    run = Run("run")
    assert run.spec.experiment == command.split()[0]
    dataset = run.spec.load(None)
    trainer = run.trainer(dataset, CPU)
    images, labels = run.spec.split(dataset).held_out
    kind = "validation" if run.spec.validation else "test"
    assert trainer.error(images, labels) == run.result[f"{kind}_error"]
    r_vadv = trainer.r_vadv(images, runner.R_VADV_EPSILON)
    assert r_vadv == pytest.approx(run.result["r_vadv_after_bn_reestimation"], rel=1e-5)
    x = images[:30]
    after = run.network(dataset, CPU)(x)
    params, state = trainer.predictor
    np.testing.assert_array_equal(after, trainer.network(params, x, state, statistics="running")[0])
    for name, array in trainer.arrays.items():
        array[...] = run.checkpoint().arrays[name]
    before = results.trained_network(trainer, CPU)(x)
    assert np.abs(after - before).max() > 0.01  # the checkpoint's statistics are others


# The newest --------------------------------------------------------------------------------------


def test_the_newest_runs_come_first(tmp_path, make_run):
    for name in ("a/one", "b/two", "a/three"):
        make_run(name, MnistSup())
    found = [run.folder.name for run in results.newest(tmp_path)]
    assert found == ["three", "two", "one"]
    assert results.newest(tmp_path / "nowhere") == []


def test_what_is_not_a_run_that_can_be_drawn_is_left_out(tmp_path, make_run):
    good = make_run("a/good", MnistSup())
    (make_run("a/unsaved", MnistSup()).folder / "checkpoint.npz").unlink()
    (make_run("a/no-config", MnistSup()).folder / "config.json").unlink()
    other = make_run("a/other-version", MnistSup()).folder
    (other / "config.json").write_text('{"settings": {}}')
    make_run("a/not-evaluated", MnistSup(), metrics="update,error,r_vadv\n")
    make_run("a/torn", MnistSup(), metrics="update,error,r_vadv\n5,")
    make_run("too-high", MnistSup())
    make_run("a/b/too-deep", MnistSup())
    assert [run.folder for run in results.newest(tmp_path)] == [good.folder]


# Results files -----------------------------------------------------------------------------------


def test_published_runs_have_labels(tmp_path):
    path = tmp_path / "results.json"
    assert results.published(path, "kind", lambda each: each["name"]) == {}
    each = {"name": "a", "error": 1.0}
    runs.write_json(path, {"runs": [each]})
    assert results.published(path, "kind", lambda each: each["name"], ["error"]) == {"a": each}
    with pytest.raises(runs.RunError, match=r"holds no runs of this kind \('seed'\)"):
        results.published(path, "kind", lambda each: each["name"], ["error", "seed"])
    with pytest.raises(runs.RunError, match=r"holds no runs of this kind \('label'\)"):
        results.published(path, "kind", lambda each: each["label"])


@pytest.mark.parametrize("out", ["a folder", "file/picture.png", "/dev/null/picture.png"])
def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    Path("a folder").mkdir()
    Path("file").write_bytes(b"")
    with pytest.raises(runs.RunFailed, match=r"^cannot write [^\n]*$"):
        results.writable(Path(out))


def test_a_folder_that_is_missing_is_made(tmp_path):
    path = tmp_path / "new" / "er" / "file"
    assert results.writable(path) == path
    assert list(path.parent.iterdir()) == []
    assert results.in_folder(path) == path
