"""One update of Conv-Small or Conv-Large in PyTorch: baseline and reference of ``bench-conv``.

Written the way a good PyTorch user writes it, and as fast as eager PyTorch gets on a CPU: images
and weights channels-last, functional layers, leaky ReLU in place, the clean pass of the unlabelled
batch without a graph, the rest as in the peer for MNIST.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.bench.peers import torch as mlp

SLOPE = 0.1
DROPOUT = 0.5
POOLED = (3, 6)  # the convolutions followed by a pool and dropout
VALID = 7  # the convolution without padding


class Peer(mlp.Peer):
    """Convolutions, the dense layer and, for SVHN, batch norm of the logits."""

    momentum = 0.01  # one minus the paper's ratio

    def network(self, x: Tensor, *masks: Tensor, update_statistics: bool = False) -> Tensor:
        """Logits of a batch under its own statistics and the dropout masks of both pools."""
        dense = sum(name.endswith("weight") for name in self.params)
        for i in range(1, dense):
            weight = self.params[f"conv{i}.weight"]
            x = F.conv2d(x, weight, padding=0 if i == VALID else weight.shape[2] // 2)
            x = F.leaky_relu(self.norm(i, x, update_statistics), SLOPE, inplace=True)
            if i in POOLED:
                x = F.max_pool2d(x, 2) * masks[POOLED.index(i)]
        weight, bias = self.params[f"dense{dense}.weight"], self.params[f"dense{dense}.bias"]
        x = F.linear(x.mean((2, 3)), weight, bias)
        return self.norm(dense, x, update_statistics) if f"norm{dense}" in self.running else x

    def objective(self, x: Tensor, labels: Tensor, *more: Tensor) -> Tensor:
        """NLL of x under its masks; where they follow, alpha LDS of others, their masks and d."""
        masks, unlabelled = more[: len(POOLED)], more[len(POOLED) :]
        nll = F.cross_entropy(self.network(x, *masks, update_statistics=True), labels)
        if not unlabelled:
            return nll
        x, *masks, d = unlabelled

        def model(x: Tensor) -> Tensor:
            return self.network(x, *masks)

        with torch.no_grad():
            clean = F.log_softmax(model(x), dim=1)
        return nll + self.task.regularization.alpha * self.lds(model, x, clean, d)

    def batch(self, rows: Tensor, *unlabelled_rows: Tensor) -> list[Tensor]:
        """What `objective` takes."""
        x = mlp.channels_first(self.images[rows])
        batch = [x, self.labels[rows], *self.masks(x)]
        for more in unlabelled_rows:
            x = mlp.channels_first(self.images[more])
            d = torch.empty_like(x).normal_(generator=self.generator)
            batch += [x, *self.masks(x), d]
        return batch

    def masks(self, x: Tensor) -> list[Tensor]:
        """One mask for each pool, shared by the passes of an update."""
        n, _, height, width = x.shape
        masks = []
        for i in POOLED:
            height, width = height // 2, width // 2
            channels = len(self.params[f"conv{i}.weight"])
            mask = torch.empty(n, height, width, channels, dtype=x.dtype, device=x.device)
            mask.bernoulli_(1 - DROPOUT, generator=self.generator).div_(1 - DROPOUT)
            masks.append(mask.permute(0, 3, 1, 2))
        return masks
