"""One VAT update of the supervised MNIST task in PyTorch: baseline and reference of ``bench``.

Written the way a good PyTorch user writes it, and as fast as eager PyTorch gets on a CPU: the
paper's finite-difference direction, KL from log-softmax, ``autograd.grad`` for the input gradient
alone, one backward pass for both terms, functional batch norm (no module overhead), fused Adam.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F

from experiments.bench.peers import BATCH_NORM_EPSILON, Settings

BATCH_NORM_MOMENTUM = 0.1  # the weight of the new batch: one minus the paper's ratio


class Peer:
    """The network, its objective and its training step, from minivat's parameters.

    ``params``: per layer, in order, weight (in, out), bias, scale and shift. They are copied;
    arrays of any one float dtype.
    """

    def __init__(self, params: Mapping[str, np.ndarray], settings: Settings):
        self.settings = settings
        self.params = parameters(params)
        arrays = list(self.params.values())
        self.layers = [arrays[i : i + 4] for i in range(0, len(arrays), 4)]
        self.running = [
            (torch.zeros_like(shift.detach()), torch.ones_like(shift.detach()))
            for *_, shift in self.layers
        ]
        self.optimizer = torch.optim.Adam(arrays, lr=settings.learning_rate, fused=True)
        self.generator = torch.Generator().manual_seed(settings.seed)

    def network(self, x: torch.Tensor, running: list | None = None) -> torch.Tensor:
        """Logits of a batch under its own statistics; updates ``running`` if given."""
        for i, (weight, bias, scale, shift) in enumerate(self.layers):
            mean, var = running[i] if running else (None, None)
            x = F.linear(x, weight, bias)
            x = F.batch_norm(
                x, mean, var, scale, shift, True, BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON
            )
            if i < len(self.layers) - 1:
                x = F.relu(x)
        return x

    def objective(self, x: torch.Tensor, labels: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        """NLL + alpha LDS at the perturbation found from the direction d."""
        logits = self.network(x, self.running)
        clean = F.log_softmax(logits.detach(), dim=1)

        d = unit(d).requires_grad_()
        probe = kl(clean, self.network(x + self.settings.xi * d))
        (hd,) = torch.autograd.grad(probe, d)

        lds = kl(clean, self.network(x + self.settings.epsilon * unit(hd)))
        return F.cross_entropy(logits, labels) + self.settings.alpha * lds

    def loss_and_gradients(
        self, x: np.ndarray, labels: np.ndarray, d: np.ndarray
    ) -> tuple[float, dict[str, np.ndarray]]:
        """The objective and its gradients, as NumPy arrays under the given names and shapes."""
        loss = self.objective(*map(torch.from_numpy, (x, labels, d)))
        return loss.item(), gradients(loss, self.params)

    def load(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Set the training set that ``step`` takes its batches from (shared, not copied)."""
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)

    def step(self, rows: np.ndarray) -> torch.Tensor:
        """One Adam step on the given rows of the training set; the loss, still a tensor."""
        rows = torch.from_numpy(rows)
        x = self.images[rows]
        d = torch.randn(x.shape, generator=self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.objective(x, self.labels[rows], d)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def parameters(params: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Copies in PyTorch's layout: weights (out, in) and (out, in, h, w), these channels-last."""

    def copy(value: torch.Tensor) -> torch.Tensor:
        if value.ndim == 4:
            return value.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        return value.T.contiguous() if value.ndim == 2 else value

    return {name: copy(torch.tensor(value)).requires_grad_() for name, value in params.items()}


def gradients(loss: torch.Tensor, params: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The gradients of the loss, as NumPy arrays in minivat's layout."""

    def in_minivats_layout(gradient: torch.Tensor) -> torch.Tensor:
        if gradient.ndim == 4:
            return gradient.permute(2, 3, 1, 0)
        return gradient.T if gradient.ndim == 2 else gradient

    found = torch.autograd.grad(loss, list(params.values()))
    return {
        name: in_minivats_layout(gradient).numpy()
        for name, gradient in zip(params, found, strict=True)
    }


def unit(d: torch.Tensor) -> torch.Tensor:
    """Examples of length one; the division by the largest entry keeps tiny ones from underflow."""
    axes = tuple(range(1, d.ndim))
    d = d / d.abs().amax(dim=axes, keepdim=True)
    return d / torch.linalg.vector_norm(d, dim=axes, keepdim=True)


def kl(clean: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Mean KL(p || q) of a batch from log p and the logits of q."""
    return F.kl_div(F.log_softmax(logits, dim=1), clean, reduction="batchmean", log_target=True)
