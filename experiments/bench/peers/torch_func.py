"""The spectra of H in PyTorch by torch.func: baselines and reference of ``bench-curvature``.

``hessian_spectrum`` is what the documentation of torch.func offers for a Hessian per example, with
no insight into H: the second derivative of D, and its eigenvalues. ``jacobian_spectrum`` is the
fairer one, for those who know that H = Jᵀ F J.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import hessian, jacrev, vmap

from experiments.bench.peers import BATCH_NORM_EPSILON

Arrays = Mapping[str, np.ndarray]
Model = Callable[[Tensor], Tensor]
Spectra = tuple[np.ndarray, np.ndarray]


def model(params: Arrays, state: Arrays, dtype: Any = np.float32) -> Model:
    """minivat's multilayer perceptron with running statistics."""
    arrays = {n: torch.from_numpy(a.astype(dtype)) for n, a in {**params, **state}.items()}
    last = sum(name.endswith("weight") for name in params)

    def logits(x: Tensor) -> Tensor:
        for i in range(1, last + 1):
            x = F.linear(x, arrays[f"dense{i}.weight"].T, arrays[f"dense{i}.bias"])
            names = ("running_mean", "running_var", "gamma", "beta")
            x = F.batch_norm(x, *(arrays[f"norm{i}.{n}"] for n in names), eps=BATCH_NORM_EPSILON)
            x = F.relu(x) if i < last else x
        return x

    return logits


def hessian_spectrum(network: Model, x: np.ndarray, chunk: int = 8) -> Spectra:
    """Eigenvalues (N, C), falling, and first eigenvectors (N, D): of D's second derivative."""
    x = torch.from_numpy(x)
    clean = F.log_softmax(network(x), dim=1)

    def divergence(r: Tensor, x: Tensor, clean: Tensor) -> Tensor:
        perturbed = F.log_softmax(network((x + r)[None])[0], dim=0)
        return F.kl_div(perturbed, clean, reduction="sum", log_target=True)

    h = vmap(hessian(divergence), chunk_size=chunk)(torch.zeros_like(x), x, clean)
    values, vectors = torch.linalg.eigh(h)
    return values[:, -clean.shape[1] :].flip(1).numpy(), vectors[:, :, -1].numpy()


def jacobian_spectrum(network: Model, x: np.ndarray, chunk: int = 256) -> Spectra:
    """The same from the Jacobian of the logits and the C×C matrix F^½ J Jᵀ F^½."""
    x = torch.from_numpy(x)
    j = vmap(jacrev(lambda x: network(x[None])[0]), chunk_size=chunk)(x)
    p = F.softmax(network(x), dim=1)
    root = torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]
    a = root.mT @ j
    values, w = torch.linalg.eigh(a @ a.mT)
    u = (w[:, None, :, -1] @ a)[:, 0]
    return values.flip(1).numpy(), F.normalize(u, dim=1, eps=0).numpy()
