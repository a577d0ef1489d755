"""One update of a multilayer perceptron in PyTorch: baseline and reference of ``bench``.

MLE, L2 adversarial training, or VAT with K iterations, on the labelled batch or a second one.
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

EVALUATED = 1000  # images at once

Model = Callable[[Tensor], Tensor]


class Peer:
    """The network, its objective and its training step, from a copy of minivat's parameters."""

    momentum = 0.1  # of running statistics, the new batch's weight: one minus the paper's ratio

    def __init__(self, params: Mapping[str, np.ndarray], task: Task):
        self.task = task
        self.device = torch.device(task.device)
        self.params = {name: self.parameter(a) for name, a in params.items()}
        self.running = {
            name.removesuffix(".gamma"): (torch.zeros_like(a.detach()), torch.ones_like(a.detach()))
            for name, a in self.params.items()
            if name.endswith(".gamma")
        }
        self.optimizer = torch.optim.Adam(self.params.values(), lr=task.learning_rate, fused=True)
        self.generator = torch.Generator(self.device).manual_seed(task.seed)
        self.images, self.labels = map(self.tensor, (task.images, task.labels))

    def tensor(self, array: np.ndarray) -> Tensor:
        """On the device; on the CPU around the same memory."""
        return torch.from_numpy(array).to(self.device)

    def parameter(self, array: np.ndarray) -> Tensor:
        """In PyTorch's layout: weights (out, in) and (out, in, h, w), these channels-last."""
        value = torch.tensor(array, device=self.device)
        if value.ndim == 4:
            value = value.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        return (value.T.contiguous() if value.ndim == 2 else value).requires_grad_()

    def network(self, x: Tensor, update_statistics: bool = False) -> Tensor:
        """Logits of a batch under its own statistics."""
        last = sum(name.endswith("weight") for name in self.params)
        for i in range(1, last + 1):
            x = F.linear(x, self.params[f"dense{i}.weight"], self.params[f"dense{i}.bias"])
            if f"norm{i}" in self.running:
                x = self.norm(i, x, update_statistics)
            if i < last:
                x = F.relu(x)
        return x

    def norm(self, i: int, x: Tensor, update_statistics: bool) -> Tensor:
        """Batch norm of layer i."""
        mean, var = self.running[f"norm{i}"] if update_statistics else (None, None)
        scale, shift = self.params[f"norm{i}.gamma"], self.params[f"norm{i}.beta"]
        return F.batch_norm(x, mean, var, scale, shift, True, self.momentum, BATCH_NORM_EPSILON)

    def objective(self, x: Tensor, labels: Tensor, *more: Tensor) -> Tensor:
        """NLL + alpha times the method's term; more: for VAT a second batch, if any, and d."""
        regularization = self.task.regularization
        if regularization.method == "at-l2":
            x.requires_grad_()
        logits = self.network(x, update_statistics=True)
        nll = F.cross_entropy(logits, labels)
        if regularization.method == "mle":
            return nll
        if regularization.method == "at-l2":
            g = unit(torch.autograd.grad(nll, x, retain_graph=True)[0])
            worse = self.network(x.detach() + regularization.epsilon * g)
            return nll + regularization.alpha * F.cross_entropy(worse, labels)
        *second, d = more
        if second:
            (x,) = second
            with torch.no_grad():
                logits = self.network(x)
        clean = F.log_softmax(logits.detach(), dim=1)
        return nll + regularization.alpha * self.lds(self.network, x, clean, d)

    def lds(self, model: Model, x: Tensor, clean: Tensor, d: Tensor) -> Tensor:
        """The mean LDS at the perturbation found from the direction d; clean: log p."""
        regularization = self.task.regularization
        for _ in range(int(regularization.power_iteration.iterations)):
            d = self.hessian_product(model, x, clean, unit(d).requires_grad_())
        return kl(clean, model(x + regularization.epsilon * unit(d)))

    def hessian_product(self, model: Model, x: Tensor, clean: Tensor, d: Tensor) -> Tensor:
        """The gradient of D at xi d, about xi H d."""
        xi = self.task.regularization.power_iteration.xi
        return torch.autograd.grad(kl(clean, model(x + xi * d)), d)[0]

    def loss_and_gradients(self, *batch: np.ndarray) -> Result:
        """The objective and its gradients, under minivat's names and in its shapes."""
        loss = self.objective(*(channels_first(self.tensor(array)) for array in batch))
        found = torch.autograd.grad(loss, list(self.params.values()))
        return loss.item(), {
            name: (g.permute(2, 3, 1, 0) if g.ndim == 4 else g.T if g.ndim == 2 else g)
            .cpu()
            .numpy()
            for name, g in zip(self.params, found, strict=True)
        }

    def step(self, *rows: np.ndarray) -> Tensor:
        """One Adam step on the given rows of the images; the loss, still a tensor."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.objective(*self.batch(*map(self.tensor, rows)))
        loss.backward(inputs=list(self.params.values()))
        self.optimizer.step()
        return loss.detach()

    def batch(self, rows: Tensor, *unlabelled_rows: Tensor) -> list[Tensor]:
        """What `objective` takes."""
        batch = [self.images[rows], self.labels[rows]]
        batch += [self.images[more] for more in unlabelled_rows]
        if self.task.regularization.random_directions:
            seen = batch[2] if unlabelled_rows else batch[0]
            batch.append(torch.randn(seen.shape, generator=self.generator, device=self.device))
        return batch

    @torch.inference_mode()
    def error(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Percentage of wrong predictions, with the running statistics."""
        wrong = 0
        parts = (self.tensor(array).split(EVALUATED) for array in (images, labels))
        for x, y in zip(*parts, strict=True):
            wrong += (self.evaluate(x).argmax(1) != y).sum().item()
        return 100.0 * wrong / len(images)

    def evaluate(self, x: Tensor) -> Tensor:
        """Logits under the running statistics."""
        last = len(self.running)
        for i in range(1, last + 1):
            x = F.linear(x, self.params[f"dense{i}.weight"], self.params[f"dense{i}.bias"])
            moments, affine = self.running[f"norm{i}"], ("gamma", "beta")
            affine = (self.params[f"norm{i}.{name}"] for name in affine)
            x = F.batch_norm(x, *moments, *affine, False, eps=BATCH_NORM_EPSILON)
            if i < last:
                x = F.relu(x)
        return x


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


def multiplied(x: np.ndarray, factors: np.ndarray, times: int) -> Callable[[], None]:
    """The gradient of the sum of x times the factors, so many times."""
    constants = torch.from_numpy(factors)

    def compute() -> None:
        variable = torch.tensor(x, requires_grad=True)
        y = variable
        for _ in range(times):
            y = y * constants
        y.sum().backward()

    return compute
