"""One update of Conv-Small or Conv-Large in PyTorch: baseline and reference of ``bench-conv``.

Written the way a good PyTorch user writes it, and as fast as eager PyTorch gets on a CPU: images
and weights channels-last, functional layers, leaky ReLU in place, the clean pass of the unlabelled
batch without a graph, the paper's finite-difference direction with ``autograd.grad`` for the input
gradient alone, one backward pass for both terms, fused Adam.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from experiments.bench.peers import BATCH_NORM_EPSILON, Settings
from experiments.bench.peers.torch import gradients, kl, parameters, unit

BATCH_NORM_MOMENTUM = 0.01  # the weight of the new batch: one minus the paper's ratio
SLOPE = 0.1
DROPOUT = 0.5
POOLED = (3, 6)  # the convolutions followed by a pool and dropout
VALID = 7  # the convolution without padding


class Peer:
    """The network, its objectives and its training step, from minivat's parameters.

    ``params``: for each convolution, in order, its weight (h, w, in, out), scale and shift, then
    the dense layer's weight (in, out) and bias, and for SVHN scale and shift. They are copied;
    arrays of any one float dtype.
    """

    def __init__(self, params: Mapping[str, np.ndarray], settings: Settings):
        self.settings = settings
        self.params = parameters(params)
        self.norms = {
            name.removesuffix(".gamma"): (torch.zeros_like(a.detach()), torch.ones_like(a.detach()))
            for name, a in self.params.items()
            if name.endswith("gamma")
        }
        self.convolutions = sum(name.startswith("conv") for name in params)
        self.optimizer = torch.optim.Adam(
            list(self.params.values()), lr=settings.learning_rate, fused=True
        )
        self.generator = torch.Generator().manual_seed(settings.seed)

    def network(
        self, x: torch.Tensor, masks: Sequence[torch.Tensor], update_statistics: bool = False
    ) -> torch.Tensor:
        """Logits of a batch under its own statistics and the dropout masks of both pools."""
        masks = iter(masks)
        for i in range(1, self.convolutions + 1):
            weight = self.params[f"conv{i}.weight"]
            x = F.conv2d(x, weight, padding=0 if i == VALID else weight.shape[2] // 2)
            x = F.leaky_relu(self.norm(i, x, update_statistics), SLOPE, inplace=True)
            if i in POOLED:
                x = F.max_pool2d(x, 2) * next(masks)
        i = self.convolutions + 1
        x = F.linear(x.mean((2, 3)), self.params[f"dense{i}.weight"], self.params[f"dense{i}.bias"])
        return self.norm(i, x, update_statistics) if f"norm{i}" in self.norms else x

    def norm(self, i: int, x: torch.Tensor, update_statistics: bool) -> torch.Tensor:
        """Batch norm of layer i."""
        mean, var = self.norms[f"norm{i}"] if update_statistics else (None, None)
        scale, shift = self.params[f"norm{i}.gamma"], self.params[f"norm{i}.beta"]
        return F.batch_norm(
            x, mean, var, scale, shift, True, BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON
        )

    def nll(
        self, x: torch.Tensor, labels: torch.Tensor, masks: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """The objective of supervised training."""
        return F.cross_entropy(self.network(x, masks, update_statistics=True), labels)

    def lds(self, x: torch.Tensor, masks: Sequence[torch.Tensor], d: torch.Tensor) -> torch.Tensor:
        """The mean LDS at the perturbation found from the direction d."""
        with torch.no_grad():
            clean = F.log_softmax(self.network(x, masks), dim=1)
        r = self.settings.epsilon * unit(self.hessian_product(x, masks, clean, unit(d)))
        return kl(clean, self.network(x + r, masks))

    def hessian_product(
        self, x: torch.Tensor, masks: Sequence[torch.Tensor], clean: torch.Tensor, d: torch.Tensor
    ) -> torch.Tensor:
        """The gradient of D at xi d, about xi H d."""
        d = d.requires_grad_()
        (hd,) = torch.autograd.grad(kl(clean, self.network(x + self.settings.xi * d, masks)), d)
        return hd

    def loss_and_gradients(
        self,
        labelled: tuple[np.ndarray, np.ndarray, Sequence[np.ndarray]],
        unlabelled: tuple[np.ndarray, Sequence[np.ndarray], np.ndarray] | None = None,
    ) -> tuple[float, dict[str, np.ndarray]]:
        """The objective and its gradients, as NumPy arrays under the given names and shapes.

        labelled: images (N, H, W, channels), labels and masks; unlabelled: images, masks and d.
        """
        x, labels, masks = labelled
        loss = self.nll(_to_nchw(x), torch.from_numpy(labels), list(map(_to_nchw, masks)))
        if unlabelled is not None:
            x, masks, d = unlabelled
            loss = loss + self.settings.alpha * self.lds(
                _to_nchw(x), list(map(_to_nchw, masks)), _to_nchw(d)
            )
        return loss.item(), gradients(loss, self.params)

    def load(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Set the training set that ``step`` takes its batches from (shared, not copied)."""
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)

    def step(self, rows: np.ndarray, unlabelled_rows: np.ndarray | None = None) -> torch.Tensor:
        """One Adam step on rows of the training set; the loss, still a tensor.

        With ``unlabelled_rows`` the LDS on these is added.
        """
        self.optimizer.zero_grad(set_to_none=True)
        x, labels = self.batch(rows), self.labels[torch.from_numpy(rows)]
        loss = self.nll(x, labels, self.draw_masks(x))
        if unlabelled_rows is not None:
            x = self.batch(unlabelled_rows)
            d = torch.empty_like(x).normal_(generator=self.generator)
            loss = loss + self.settings.alpha * self.lds(x, self.draw_masks(x), d)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def batch(self, rows: np.ndarray) -> torch.Tensor:
        """Images (N, channels, H, W), channels-last."""
        return self.images[torch.from_numpy(rows)].permute(0, 3, 1, 2)

    def draw_masks(self, x: torch.Tensor) -> list[torch.Tensor]:
        """One mask for each pool, shared by the passes of an update."""
        n, _, height, width = x.shape
        masks = []
        for i in POOLED:
            height, width = height // 2, width // 2
            channels = len(self.params[f"conv{i}.weight"])
            mask = torch.empty(n, height, width, channels, dtype=x.dtype)
            mask.bernoulli_(1 - DROPOUT, generator=self.generator).div_(1 - DROPOUT)
            masks.append(mask.permute(0, 3, 1, 2))
        return masks


def _to_nchw(images: np.ndarray) -> torch.Tensor:
    """(N, H, W, channels) as (N, channels, H, W) around the same memory: that is channels-last."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)
