"""The benchmark of the spectra: what it prints with and without PyTorch, and a wrong answer."""

import importlib.util
import json
import subprocess

import numpy as np
import pytest

from experiments import bench, bench_curvature, bench_spectrum
from experiments.lab import runs
from minivat import curvature, data

# torch.func compiles some of its rules at its first use by what PyTorch itself deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is:DeprecationWarning")
KEYS = ["seconds_for_10000", "speedup_over_torch_func", "max_relative_eigenvalue_difference"]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """A small network, few images, and no MNIST."""

    def load(data_dir):
        raise data.Unavailable("no MNIST here")

    monkeypatch.setattr(bench_spectrum, "SIZES", {"mnist": [12, 20, 16, 5]})
    monkeypatch.setattr(bench_spectrum, "TRAINING_IMAGES", 200)
    monkeypatch.setattr(bench_spectrum, "JACOBIAN_IMAGES", 20)
    monkeypatch.setattr(data.mnist, "load", load)


@pytest.fixture
def torch():
    """PyTorch with one thread: several wait for each other where other tests run."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(threads)


def measure(capsys):
    bench_spectrum.measure(40, 6, 20, None, as_json=True)
    out, err = capsys.readouterr()
    assert err == "no MNIST here. Going on with random images.\n"
    *lines, last = out.splitlines()
    result = json.loads(last)
    assert list(result) == KEYS
    assert result["seconds_for_10000"] > 0
    return "\n".join(lines), result


def test_without_pytorch_its_numbers_are_null_and_said_to_be_missing(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    text, result = measure(capsys)
    assert "PyTorch is not installed (pip install torch): left out" in text
    assert result["speedup_over_torch_func"] is None
    assert result["max_relative_eigenvalue_difference"] is None


def test_both_of_pytorchs_ways_find_the_same_spectra(capsys, torch):
    from experiments import peer_torch_func

    text, result = measure(capsys)
    assert "torch.func, Hessian" in text and "torch.func, Jacobian" in text
    assert result["speedup_over_torch_func"] > 0
    assert 0 < result["max_relative_eigenvalue_difference"] < bench_spectrum.TOLERANCE

    images, labels, x = (a.astype(float) for a in bench_spectrum.load(8, None))
    network, params, state = bench_spectrum.train(images, labels.astype(int), 20)
    found = curvature.spectrum(lambda x: network(params, x, state, statistics="running")[0], x)
    module = peer_torch_func.module(params, state)
    for way in (peer_torch_func.hessian_spectrum, peer_torch_func.jacobian_spectrum):
        values, u = (a.numpy() for a in way(module, torch.from_numpy(x), chunk=3))
        np.testing.assert_allclose(values, found.eigenvalues, rtol=0, atol=1e-10 * values.max())
        aligned = curvature.alignment(u, found.eigenvectors[:, 0])
        np.testing.assert_allclose(aligned, 1, rtol=1e-6)


def test_a_wrong_spectrum_ends_the_benchmark(torch, monkeypatch):
    right = curvature.spectrum

    def wrong(network, x):
        found = right(network, x)
        return curvature.Spectrum(found.eigenvalues * np.float32(1.001), found.eigenvectors)

    monkeypatch.setattr(curvature, "spectrum", wrong)
    with pytest.raises(runs.RunFailed, match=r"eigenvalues differ from .* by 1.0e-03 λ₁"):
        bench_spectrum.measure(40, 6, 20, None, as_json=False)


def test_the_command_hands_its_arguments_on_with_the_threads_settled(monkeypatch):
    calls = []

    def run(command, env):
        calls.append((command[1:], env))
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(bench_curvature, "limit_threads", lambda threads: {"threads": threads})
    monkeypatch.setattr(bench.subprocess, "run", run)
    arguments = ["--threads", "1", "--images", "9", "--data-dir", "here", "--json"]
    assert bench_curvature.main(arguments) == 3
    command = "-m experiments.bench_spectrum 9 16 200 --data-dir here --json".split()
    assert calls == [(command, {"threads": 1})]


def test_mistakes_take_one_line(capsys):
    for arguments in (["--threads", "0"], ["--images", "many"], ["--jsn"]):
        with pytest.raises(SystemExit) as stop:
            bench_curvature.main(arguments)
        assert stop.value.code == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_too_many_images_take_one_line(capsys, monkeypatch):
    few = data.Dataset("mnist", *[np.zeros((9, 12), np.float32), np.zeros(9, int)] * 2, (3, 4), {})
    monkeypatch.setattr(data.mnist, "load", lambda data_dir: few)
    assert bench_spectrum.main(["10", "1", "1"]) == 2
    assert capsys.readouterr().err == "error: --images 10 is too many: MNIST has 9\n"
