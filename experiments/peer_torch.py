"""One VAT update of the supervised MNIST task in PyTorch: the opponent and witness of ``bench``.

Written the way a good PyTorch user writes it, and as fast as eager PyTorch gets on a CPU: the
paper's finite-difference direction, KL from log-softmax, ``autograd.grad`` for the input gradient
alone, one backward pass for both terms, functional batch norm (no module overhead), fused Adam.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F

BATCH_NORM_EPSILON = 1e-6
BATCH_NORM_MOMENTUM = 0.1  # the weight of the new batch: one minus the paper's ratio


class TorchPeer:
    """The network, its objective and its training step, from minivat's parameters.

    ``params`` are minivat's: per layer, in order, weight (in, out), bias, scale and shift. They
    are copied; arrays of any one float dtype. K is 1.
    """

    def __init__(
        self,
        params: Mapping[str, np.ndarray],
        *,
        epsilon: float = 2.1,
        alpha: float = 1.0,
        xi: float = 1e-6,
        learning_rate: float = 0.002,
        seed: int = 1,
    ):
        self.epsilon, self.alpha, self.xi = epsilon, alpha, xi
        # nn.Linear keeps its weight as (out, in), and BLAS is fed accordingly.
        self.params = {
            name: torch.tensor(value.T if value.ndim == 2 else value).contiguous().requires_grad_()
            for name, value in params.items()
        }
        arrays = list(self.params.values())
        self.layers = [arrays[i : i + 4] for i in range(0, len(arrays), 4)]
        self.running = [
            (torch.zeros_like(shift.detach()), torch.ones_like(shift.detach()))
            for *_, shift in self.layers
        ]
        self.optimizer = torch.optim.Adam(arrays, lr=learning_rate, fused=True)
        self.generator = torch.Generator().manual_seed(seed)

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
        probe = kl(clean, self.network(x + self.xi * d))
        (hd,) = torch.autograd.grad(probe, d)

        lds = kl(clean, self.network(x + self.epsilon * unit(hd)))
        return F.cross_entropy(logits, labels) + self.alpha * lds

    def loss_and_gradients(
        self, x: np.ndarray, labels: np.ndarray, d: np.ndarray
    ) -> tuple[float, dict[str, np.ndarray]]:
        """The objective and its gradients, as NumPy arrays under the given names and shapes."""
        loss = self.objective(*map(torch.from_numpy, (x, labels, d)))
        gradients = torch.autograd.grad(loss, list(self.params.values()))
        return loss.item(), {
            name: gradient.T.numpy() if gradient.ndim == 2 else gradient.numpy()
            for name, gradient in zip(self.params, gradients, strict=True)
        }

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

    def wait(self) -> None:
        """Nothing to wait for: eager PyTorch on the CPU has finished when it returns."""


def unit(d: torch.Tensor) -> torch.Tensor:
    """Rows of length one; the division by the largest entry keeps tiny rows from underflowing."""
    d = d / d.abs().amax(dim=1, keepdim=True)
    return d / torch.linalg.vector_norm(d, dim=1, keepdim=True)


def kl(clean: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Mean KL(p || q) of a batch from log p and the logits of q."""
    return F.kl_div(F.log_softmax(logits, dim=1), clean, reduction="batchmean", log_target=True)
