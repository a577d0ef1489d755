"""PyTorch's update on a GPU: eager, with a compiled network, as a CUDA graph, or both."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor

VERSION = torch.__version__
WARM_UP = 3  # updates before a graph is captured, as PyTorch's documentation has it
DRAWN = 50  # batches of random rows, on the device before the time is taken


def run(peer: Any, updates: int, compiled: bool, captured: bool) -> Callable[[], None]:
    """So many updates of the peer, and the wait for the last one."""
    task = peer.task
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = task.tf32
    torch.backends.cudnn.benchmark = True
    peer.optimizer = torch.optim.Adam(
        peer.params.values(), lr=task.learning_rate, fused=True, capturable=True
    )
    if compiled:
        peer.network = torch.compile(peer.network)
    sizes = [size for size in (task.batch_size, task.unlabelled_batch_size) if size]
    drawn = [
        [torch.randint(len(task.images), (size,), device="cuda") for size in sizes]
        for _ in range(DRAWN)
    ]
    step = _captured(peer, drawn[0]) if captured else lambda rows: _update(peer, rows)
    numbers = count()

    def several() -> None:
        for _ in range(updates):
            step(drawn[next(numbers) % DRAWN])
        torch.cuda.synchronize(peer.device)  # which lives as long as what was captured of it

    return several


def _update(peer: Any, rows: list[Tensor]) -> Tensor:
    peer.optimizer.zero_grad(set_to_none=True)
    loss = peer.objective(*peer.batch(*rows))
    loss.backward(inputs=list(peer.params.values()))
    peer.optimizer.step()
    return loss.detach()


def _captured(peer: Any, rows: list[Tensor]) -> Callable[[list[Tensor]], None]:
    """The update as a graph, which reads its rows where they are written before each launch."""
    static = [row.clone() for row in rows]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            _update(peer, static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(peer.generator)
    with torch.cuda.graph(graph):
        _update(peer, static)

    def launch(rows: list[Tensor]) -> None:
        for place, row in zip(static, rows, strict=True):
            place.copy_(row)
        graph.replay()

    return launch
