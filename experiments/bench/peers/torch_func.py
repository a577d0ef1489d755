"""The spectra of H in PyTorch by torch.func: baselines and reference of ``bench-curvature``.

``hessian_spectrum`` is what the documentation of torch.func offers for a Hessian per example, with
no insight into H: the second derivative of D, and its eigenvalues. ``jacobian_spectrum`` is the
fairer one, for those who know that H = Jᵀ F J.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import hessian, jacrev, vmap

from experiments.bench.peers import BATCH_NORM_EPSILON


def module(params: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]) -> nn.Sequential:
    """minivat's multilayer perceptron with batch norm in evaluation mode, in the arrays' dtype."""
    layers: list[nn.Module] = []
    count = sum(name.endswith("weight") for name in params)
    for i in range(1, count + 1):
        weight = params[f"dense{i}.weight"]
        dense = nn.Linear(*weight.shape)
        norm = nn.BatchNorm1d(weight.shape[1], eps=BATCH_NORM_EPSILON)
        layers += [dense, norm, nn.ReLU()]
        dense.weight.data = torch.tensor(weight.T.copy())
        dense.bias.data = torch.tensor(params[f"dense{i}.bias"])
        norm.weight.data = torch.tensor(params[f"norm{i}.gamma"])
        norm.bias.data = torch.tensor(params[f"norm{i}.beta"])
        norm.running_mean = torch.tensor(state[f"norm{i}.running_mean"])
        norm.running_var = torch.tensor(state[f"norm{i}.running_var"])
    return nn.Sequential(*layers[:-1]).eval().requires_grad_(False)


def hessian_spectrum(
    network: nn.Module, x: torch.Tensor, chunk: int = 8
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues (N, C), falling, and first eigenvectors (N, D): of D's second derivative."""
    clean = F.log_softmax(network(x), dim=1)

    def divergence(r: torch.Tensor, x: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        perturbed = F.log_softmax(network((x + r)[None])[0], dim=0)
        return F.kl_div(perturbed, clean, reduction="sum", log_target=True)

    h = vmap(hessian(divergence), chunk_size=chunk)(torch.zeros_like(x), x, clean)
    values, vectors = torch.linalg.eigh(h)
    return values[:, -clean.shape[1] :].flip(1), vectors[:, :, -1]


def jacobian_spectrum(
    network: nn.Module, x: torch.Tensor, chunk: int = 256
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from the Jacobian of the logits and the C×C matrix F^½ J Jᵀ F^½."""
    j = vmap(jacrev(lambda x: network(x[None])[0]), chunk_size=chunk)(x)
    p = F.softmax(network(x), dim=1)
    root = torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]
    a = root.mT @ j
    values, w = torch.linalg.eigh(a @ a.mT)
    u = (w[:, None, :, -1] @ a)[:, 0]
    return values.flip(1), F.normalize(u, dim=1, eps=0)
