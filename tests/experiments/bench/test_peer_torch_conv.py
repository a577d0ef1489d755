"""Conv-Small and Conv-Large beside PyTorch: forward, gradients and a whole VAT update.

From the same weights, masks and random directions, in float64.
"""

from dataclasses import replace

import numpy as np
import pytest

from experiments.bench import harness, peers
from minivat import nn, vat
from minivat.backend import Device
from minivat.objective import Regularization

torch = pytest.importorskip("torch")
torch_conv = peers.load("torch_conv")

TOLERANCE = 1e-8
SIZE = (12, 14, 3)
LABELLED, UNLABELLED = 6, 10
each_network = pytest.mark.parametrize(
    ("make", "dataset", "width"),
    [
        (nn.conv_small, "cifar10", 0.05),
        (nn.conv_small, "svhn", 0.07),
        (nn.conv_large, "cifar10", 0.03),
        (nn.conv_large, "svhn", 0.03),
        # 32 channels or more, as in the paper's: convolutions by Winograd's algorithm.
        (nn.conv_small, "cifar10", 0.35),
        (nn.conv_large, "cifar10", 0.25),
    ],
)


class ExactPeer(torch_conv.Peer):
    """The peer with H d as PyTorch's second derivative of D, in the place of finite differences."""

    def hessian_product(self, model, x, clean, d):
        r = torch.zeros_like(x, requires_grad=True)
        divergence = torch_conv.mlp.kl(clean, model(x + r))
        (slope,) = torch.autograd.grad(divergence, r, create_graph=True)
        (hd,) = torch.autograd.grad(slope, r, d)
        return hd


def make_task(network, method="vat", direction="finite-difference"):
    generator = np.random.default_rng(0)
    images = generator.uniform(-0.5, 0.5, (20, *SIZE))
    labels = generator.integers(0, 10, 20)
    # With ξ = 1e-6 the rounding of q − p is 1e-8 of H d.
    power_iteration = vat.PowerIteration(direction=direction, xi=1e-3)
    regularization = Regularization(method, 2.0, 0.7, power_iteration)
    unlabelled = UNLABELLED if method == "vat" else None
    return harness.Task(
        "torch_conv", network, images, labels, regularization, 0.001, LABELLED, unlabelled
    )


@pytest.mark.parametrize(
    ("method", "direction"), [("mle", "exact"), ("vat", "exact"), ("vat", "finite-difference")]
)
@each_network
def test_an_update_is_pytorchs(make, dataset, width, method, direction):
    network = make(dataset, width, image_shape=SIZE)
    task = make_task(network, method, direction)
    trainer = task.trainer()
    # Scales and shifts away from their first values.
    generator = np.random.default_rng(1)
    for name, array in trainer.params.items():
        if not name.endswith("weight"):
            array += 0.3 * generator.standard_normal(array.shape)
    before = {name: array.copy() for name, array in trainer.params.items()}
    kind = ExactPeer if direction == "exact" else torch_conv.Peer
    peer = kind(before, task)
    loss, gradients = peer.loss_and_gradients(*harness.first_batch(trainer))

    ours, our_gradients = harness.first_update_of(trainer)
    assert ours == pytest.approx(loss, rel=TOLERANCE)
    for name, g in our_gradients.items():
        # A bias before batch norm has no influence: its gradient is that of its weight's rounding.
        scale = np.abs(gradients[name.replace("bias", "weight")]).max()
        assert np.abs(g - gradients[name]).max() <= TOLERANCE * scale, name
    for norm, statistics in peer.running.items():
        for name, array in zip(("mean", "var"), statistics, strict=True):
            np.testing.assert_allclose(
                trainer.state[f"{norm}.running_{name}"], array.numpy(), rtol=1e-10, atol=1e-12
            )


@each_network
def test_the_logits_are_pytorchs(make, dataset, width):
    network = make(dataset, width, image_shape=SIZE)
    params, state = network.init(np.random.default_rng(0), np.float64)
    x = np.random.default_rng(1).uniform(-0.5, 0.5, (5, *SIZE))
    noise = network.draw_noise(Device().random(1, "noise"), 5, np.float64)
    logits, _ = network(params, x, state, noise=noise)
    peer = torch_conv.Peer(params, make_task(network))
    nchw = [torch.from_numpy(a).permute(0, 3, 1, 2) for a in (x, *noise.values())]
    expected = peer.network(*nchw).detach().numpy()
    assert np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_the_peers_own_step_learns():
    task = make_task(nn.conv_small(width=0.1, image_shape=SIZE))
    images = task.images + (task.labels / 10)[:, None, None, None]
    sizes = {"batch_size": 20, "unlabelled_batch_size": 20}
    task = replace(task, images=images.astype(np.float32), learning_rate=0.01, **sizes)
    step = harness.make_step(task)
    losses = [step().item() for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]
