"""How long an update takes on a GPU, compared with PyTorch: eager, compiled, and as a CUDA graph.

    python -m experiments bench-gpu [--json] [--tf32] [--conv] [--updates 200] [--rounds 5]

Updates of the MNIST network (supervised, VAT, VAT with 64 + 256), or with --conv of Conv-Small and
Conv-Large (VAT with 32 + 128), Adam included, in float32; --tf32: both libraries may round factors
to TF32. A time is that of many updates, none of which is waited for, divided by their number. The
images are random: it takes no less time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments.bench import harness, mlp, peers
from experiments.lab import cli
from minivat import backend, nn
from minivat.nn.images import CLASSES
from minivat.objective import Regularization

Run = Callable[[], None]  # many updates, and the wait for the last one

VAT = Regularization()
BOTH = {"batch_size": 64, "unlabelled_batch_size": 256}
MLPS: dict[str, tuple[Regularization, dict[str, int]]] = {
    "supervised": (Regularization("mle"), {}),
    "VAT": (VAT, {}),
    "VAT, 64 + 256": (VAT, BOTH),
}
IMAGE_SHAPE = (32, 32, 3)
CONVS = {"Conv-Small, VAT, 32 + 128": nn.conv_small, "Conv-Large, VAT, 32 + 128": nn.conv_large}
PEERS = {  # by name: whether compiled, whether as a graph
    "torch_eager": (False, False),
    "torch_compiled": (True, False),
    "torch_graph": (False, True),
    "torch_compiled_graph": (True, True),
}
TOLERANCE = 1e-5  # in float64, where ξ = 1e-6 is not rounding noise


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when PyTorch, where it is present, gave the same gradients."""
    parser = cli.Parser(__doc__, "bench-gpu")
    cli.add_count(parser, "--updates", 1, 200, "updates in a row")
    cli.add_count(parser, "--rounds", 1, 5, "timed rows of each")
    parser.add_argument("--device", choices=["cuda"], default="cuda", help="the only one")
    parser.add_argument("--tf32", action="store_true", help="let factors be rounded to TF32")
    parser.add_argument("--conv", action="store_true", help="convolutional networks, not MNIST's")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out, which takes minutes"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args(argv)
    device = backend.select_device(args.device, args.tf32)
    torch = bool(peers.installed({"torch": "torch"}))
    print(device.description + (f", PyTorch {peers.load('torch_gpu').VERSION}" if torch else ""))
    found: dict[str, float] = {}
    tasks = convolutional() if args.conv else of_mnist()
    for name, make in tasks.items():
        module = "torch_conv" if args.conv else "torch"
        if torch and not args.conv:
            both = {each: make(each, dtype=np.float64) for each in ("minivat", module)}
            harness.check(f"{name}, in float64", both, TOLERANCE)
        runs = ours(make, args.updates, args.tf32)
        if torch:
            runs |= theirs(make(module, tf32=args.tf32), args.updates, not args.no_compile)
        times = timed(runs, args.rounds, args.updates)
        prefix = "".join(c if c.isalnum() else "_" for c in name.lower()) + "_"
        columns = ("median", "fastest")
        found |= harness.compare(name, columns, "ms", harness.summarized(times), prefix)
    if args.json:
        print(json.dumps(found))
    return 0


def of_mnist() -> dict[str, Callable[..., harness.Task]]:
    """By name, the task of a module."""

    def task(
        update: tuple[Regularization, dict[str, int]],
        module: str,
        dtype: Any = np.float32,
        **options: Any,
    ) -> harness.Task:
        regularization, sizes = update
        random = harness.random_data(10_000, mlp.SIZES[:1], mlp.SIZES[-1], dtype)
        network = nn.mlp(mlp.SIZES)
        options |= sizes
        return harness.Task(module, network, *random, regularization, device="cuda", **options)

    return {name: partial(task, update) for name, update in MLPS.items()}


def convolutional() -> dict[str, Callable[..., harness.Task]]:
    """By name, the task of a module."""

    def task(make: Callable[..., nn.Network], module: str, **options: Any) -> harness.Task:
        random = harness.random_data(2000, IMAGE_SHAPE, CLASSES)
        network = make("cifar10", image_shape=IMAGE_SHAPE)
        vat = Regularization("vat", epsilon=10.0)
        return harness.Task(module, network, *random, vat, 0.001, 32, 128, device="cuda", **options)

    return {name: partial(task, make) for name, make in CONVS.items()}


def ours(make: Callable[..., harness.Task], updates: int, tf32: bool) -> dict[str, Run]:
    """minivat's update as a graph, and kernel by kernel."""
    runs: dict[str, Run] = {}
    for name, capture in (("minivat_graph", True), ("minivat_eager", False)):
        trainer = make("minivat", tf32=tf32, capture=capture).trainer()
        done = [0]

        def run(trainer: Any = trainer, done: list[int] = done) -> None:
            for update in range(done[0], done[0] + updates):
                trainer.step(update)
            done[0] += updates
            trainer.device.synchronize()

        runs[name] = run
    return runs


def theirs(task: harness.Task, updates: int, compile_: bool) -> dict[str, Run]:
    """PyTorch's, in each of the ways."""
    gpu = peers.load("torch_gpu")
    return {
        name: gpu.run(task.peer(), updates, compiled, captured)
        for name, (compiled, captured) in PEERS.items()
        if compile_ or not compiled
    }


def timed(runs: Mapping[str, Run], rounds: int, updates: int) -> dict[str, list[float]]:
    """Milliseconds of an update in each round, the runs in turn, after one of each that is not."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if round_:
                times[name].append(1e3 * (time.perf_counter() - start) / updates)
    return times
