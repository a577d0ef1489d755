"""One VAT update of the supervised MNIST task in PyTorch: baseline and reference of ``bench``.

Written the way a good PyTorch user writes it, and as fast as eager PyTorch gets on a CPU: the
paper's finite-difference direction, KL from log-softmax, ``autograd.grad`` for the input gradient
alone, one backward pass for both terms, functional batch norm (no module overhead), fused Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.bench.harness import Result, Task
from experiments.bench.peers import BATCH_NORM_EPSILON

Model = Callable[[Tensor], Tensor]


class Peer:
    """The network, its objective and its training step, from a copy of minivat's parameters."""

    momentum = 0.1  # of running statistics, the new batch's weight: one minus the paper's ratio

    def __init__(self, params: Mapping[str, np.ndarray], task: Task):
        self.task = task
        self.params = {name: parameter(torch.tensor(a)) for name, a in params.items()}
        self.running = {
            name.removesuffix(".gamma"): (torch.zeros_like(a.detach()), torch.ones_like(a.detach()))
            for name, a in self.params.items()
            if name.endswith(".gamma")
        }
        self.optimizer = torch.optim.Adam(self.params.values(), lr=task.learning_rate, fused=True)
        self.generator = torch.Generator().manual_seed(task.seed)
        self.images, self.labels = torch.from_numpy(task.images), torch.from_numpy(task.labels)

    def network(self, x: Tensor, update_statistics: bool = False) -> Tensor:
        """Logits of a batch under its own statistics."""
        last = len(self.running)
        for i in range(1, last + 1):
            x = F.linear(x, self.params[f"dense{i}.weight"], self.params[f"dense{i}.bias"])
            x = self.norm(i, x, update_statistics)
            if i < last:
                x = F.relu(x)
        return x

    def norm(self, i: int, x: Tensor, update_statistics: bool) -> Tensor:
        """Batch norm of layer i."""
        mean, var = self.running[f"norm{i}"] if update_statistics else (None, None)
        scale, shift = self.params[f"norm{i}.gamma"], self.params[f"norm{i}.beta"]
        return F.batch_norm(x, mean, var, scale, shift, True, self.momentum, BATCH_NORM_EPSILON)

    def objective(self, x: Tensor, labels: Tensor, d: Tensor) -> Tensor:
        """NLL + alpha LDS at the perturbation found from the direction d."""
        logits = self.network(x, update_statistics=True)
        clean = F.log_softmax(logits.detach(), dim=1)
        lds = self.lds(self.network, x, clean, d)
        return F.cross_entropy(logits, labels) + self.task.regularization.alpha * lds

    def lds(self, model: Model, x: Tensor, clean: Tensor, d: Tensor) -> Tensor:
        """The mean LDS at the perturbation found from the direction d; clean: log p."""
        hd = self.hessian_product(model, x, clean, unit(d).requires_grad_())
        return kl(clean, model(x + self.task.regularization.epsilon * unit(hd)))

    def hessian_product(self, model: Model, x: Tensor, clean: Tensor, d: Tensor) -> Tensor:
        """The gradient of D at xi d, about xi H d."""
        xi = self.task.regularization.power_iteration.xi
        return torch.autograd.grad(kl(clean, model(x + xi * d)), d)[0]

    def loss_and_gradients(self, *batch: np.ndarray) -> Result:
        """The objective and its gradients, under minivat's names and in its shapes."""
        loss = self.objective(*(channels_first(torch.from_numpy(array)) for array in batch))
        found = torch.autograd.grad(loss, list(self.params.values()))
        return loss.item(), {
            name: (g.permute(2, 3, 1, 0) if g.ndim == 4 else g.T if g.ndim == 2 else g).numpy()
            for name, g in zip(self.params, found, strict=True)
        }

    def step(self, *rows: np.ndarray) -> Tensor:
        """One Adam step on the given rows of the images; the loss, still a tensor."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.objective(*self.batch(*map(torch.from_numpy, rows)))
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def batch(self, rows: Tensor) -> tuple[Tensor, ...]:
        """What `objective` takes."""
        x = self.images[rows]
        return x, self.labels[rows], torch.randn(x.shape, generator=self.generator)


def parameter(value: Tensor) -> Tensor:
    """In PyTorch's layout: weights (out, in) and (out, in, h, w), these channels-last."""
    if value.ndim == 4:
        value = value.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    return (value.T.contiguous() if value.ndim == 2 else value).requires_grad_()


def channels_first(x: Tensor) -> Tensor:
    """Images (N, H, W, channels) as (N, channels, H, W) around the same memory: channels-last."""
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


def unit(d: Tensor) -> Tensor:
    """Examples of length one; the division by the largest entry keeps tiny ones from underflow."""
    axes = tuple(range(1, d.ndim))
    d = d / d.abs().amax(dim=axes, keepdim=True)
    return d / torch.linalg.vector_norm(d, dim=axes, keepdim=True)


def kl(clean: Tensor, logits: Tensor) -> Tensor:
    """Mean KL(p || q) of a batch from log p and the logits of q."""
    return F.kl_div(F.log_softmax(logits, dim=1), clean, reduction="batchmean", log_target=True)
