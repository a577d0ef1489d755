"""The benchmark of the spectra: what it prints with and without PyTorch, and a wrong answer."""

import json

import numpy as np
import pytest

from experiments.bench import peers, spectrum
from experiments.lab import runs
from minivat import curvature, data
from tests.commands import call

# torch.func compiles some of its rules at its first use by what PyTorch itself deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is:DeprecationWarning")
KEYS = ["seconds_for_10000", "speedup_over_torch_func", "max_relative_eigenvalue_difference"]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """A small network, few images, and no MNIST."""

    def load(data_dir):
        raise data.Unavailable("no MNIST here")

    monkeypatch.setattr(spectrum, "SIZES", (12, 20, 16, 5))
    monkeypatch.setattr(spectrum, "TRAINING_IMAGES", 200)
    monkeypatch.setattr(spectrum, "IMAGES", 40)
    monkeypatch.setattr(spectrum, "HESSIAN_IMAGES", 6)
    monkeypatch.setattr(spectrum, "JACOBIAN_IMAGES", 20)
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
    assert call(spectrum.main, "--updates", 20, "--json") == 0
    out, err = capsys.readouterr()
    assert err == "no MNIST here. Going on with random images.\n"
    *lines, last = out.splitlines()
    result = json.loads(last)
    assert result["seconds_for_10000"] > 0
    return "\n".join(lines), result


@pytest.mark.usefixtures("_no_peers")
def test_without_pytorch_its_numbers_are_null_and_said_to_be_missing(capsys, calls):
    text, result = measure(capsys)
    assert calls == [("times", 2, {"torch": False, "updates": 20, "data_dir": None})]
    assert "torch is not installed (pip install torch): left out" in text
    assert list(result) == KEYS[:1]


def test_both_of_pytorchs_ways_find_the_same_spectra(capsys, torch, calls):
    peer = peers.load("torch_func")
    text, result = measure(capsys)
    assert list(result) == KEYS
    assert "torch.func, Hessian" in text and "torch.func, Jacobian" in text
    assert result["speedup_over_torch_func"] > 0
    assert 0 < result["max_relative_eigenvalue_difference"] < spectrum.TOLERANCE

    images, labels, x = (a.astype(float) for a in spectrum.load(None))
    trainer = spectrum.train(images, labels.astype(int), 20)
    params, state = trainer.params, trainer.state
    found = curvature.spectrum(
        lambda x: trainer.network(params, x, state, statistics="running")[0], x[:8]
    )
    model = peer.model(params, state, float)
    for way in (peer.hessian_spectrum, peer.jacobian_spectrum):
        values, u = way(model, x[:8], chunk=3)
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
        spectrum.times(True, 20, None)
