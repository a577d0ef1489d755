"""How time and memory of a VAT update grow with batch, width, depth and K, beside PyTorch's.

    python -m experiments bench-growth [--picture FILE] [--json] [--threads 2] [--rounds 5]

One of these is changed at a time; else the batch has 100 rows, the hidden layers 1,200, 600, 300
and 150 units, and K is 1. Width is that of the first hidden layer, the others in proportion; depth
is a number of hidden layers of 600 units. A quantity that grows as value^e has the exponent e, the
slope of a line through the logarithms; for K the value is the number of passes, 6 + 2 K. Beside it
is that of the arithmetic, all multiplications of the matrix products. The images are random.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench import harness, launcher, peers
from experiments.lab import cli, machine
from minivat import nn
from minivat.objective import Regularization
from minivat.vat import PowerIteration

AXES: dict[str, tuple[int, ...]] = {
    "batch": (32, 128, 512, 2048, 4096),
    "width": (300, 600, 1200, 2400, 4800),
    "depth": (2, 4, 8, 16),
    "K": (0, 1, 2, 4, 8),
}
MODULES = {"minivat": "minivat", "torch": "torch"}
INPUTS, CLASSES, DEEP = 784, 10, 600
IMAGES, UPDATES = 8192, 3
SMALL = 8  # units: a network that occupies nothing
QUANTITIES = {"time": "ms", "memory": "MiB"}

Found = Mapping[str, Mapping[int, Mapping[str, float]]]  # by axis, value and library


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table for each quantity, and draw them."""
    parser = harness.parser("bench-growth", __doc__, ("--rounds", 5, "timed updates of each"))
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw them in this file, too")
    args = parser.parse_args(argv)
    modules = peers.installed(MODULES)
    time = launcher.measured(times, args.threads, modules=modules, rounds=args.rounds)
    found = {"time": time, "memory": memory(modules, args.threads)}
    for quantity, each in found.items():
        show(quantity, each)
    if args.picture:
        draw(found, args.picture)
    if args.json:
        print(json.dumps(found))
    return 0


def sizes(axis: str, value: int) -> list[int]:
    """Units of every layer."""
    if axis == "depth":
        return [INPUTS, *[DEEP] * value, CLASSES]
    width = value if axis == "width" else 1200
    return [INPUTS, width, width // 2, width // 4, width // 8, CLASSES]


def task(module: str, axis: str, value: int) -> harness.Task:
    """Updates of a module."""
    vat = Regularization(power_iteration=PowerIteration(value if axis == "K" else 1))
    random = harness.random_data(IMAGES, (INPUTS,), CLASSES)
    batch = value if axis == "batch" else 100
    return harness.Task(module, nn.mlp(sizes(axis, value)), *random, vat, batch_size=batch)


def scale(axis: str, value: int) -> float:
    """What the exponents are of: the value, for K the passes through the network.

    Clean and perturbed, backward from both to weights and to inputs; for each iteration J and Jᵀ.
    """
    return 6 + 2 * value if axis == "K" else value


def arithmetic(axis: str, value: int) -> float:
    """Multiplications of an update's matrix products, in units of the passes' weights."""
    weights = sum(a * b for a, b in pairwise(sizes(axis, value)))
    passes = scale("K", value if axis == "K" else 1)
    return passes * weights * (value if axis == "batch" else 100)


def exponent(by_scale: Mapping[float, float]) -> float:
    """The slope of the logarithms' line, without what is too little to be seen; NaN for none."""
    seen = {x: y for x, y in by_scale.items() if y > 0}
    if len(seen) < 2:
        return float("nan")
    return float(np.polyfit(np.log(list(seen)), np.log(list(seen.values())), 1)[0])


def times(modules: Mapping[str, str], rounds: int) -> dict[str, Any]:
    """Median milliseconds."""
    print(machine.benchmarked())

    def at(axis: str, value: int) -> dict[str, float]:
        tasks = {name: task(module, axis, value) for name, module in modules.items()}
        found = harness.interleaved(harness.make_steps(tasks), rounds)
        return {name: float(np.median(values)) for name, values in found.items()}

    return {axis: {value: at(axis, value) for value in values} for axis, values in AXES.items()}


def memory(modules: Mapping[str, str], threads: int) -> dict[str, Any]:
    """MiB that the updates add to a process that does nothing else, at the peak."""

    def at(axis: str, value: int, module: str) -> float:
        place = {"module": module, "axis": axis, "value": value}
        peak, before = launcher.measured(peak_memory, threads, **place)
        return peak - before

    return {
        axis: {v: {name: at(axis, v, module) for name, module in modules.items()} for v in values}
        for axis, values in AXES.items()
    }


def peak_memory(module: str, axis: str, value: int) -> tuple[float, float]:
    """Of this process, after the updates and before them.

    Before: with the images, and all that a library loads and compiles once, which updates of a
    small network call for.
    """
    small = harness.peak_memory(task(module, "width", SMALL), UPDATES)
    return harness.peak_memory(task(module, axis, value), UPDATES)[0], small[0]


def exponents(axis: str, found: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Those of all libraries."""
    names = next(iter(found.values()))
    return {
        name: exponent({scale(axis, value): each[name] for value, each in found.items()})
        for name in names
    }


def show(quantity: str, found: Found) -> None:
    """Print the numbers and the exponents."""
    for axis, by_value in found.items():
        rows = {
            f"{value:,}": [f"{number:.1f}" for number in each.values()]
            for value, each in by_value.items()
        }
        rows["exponent"] = [f"{e:.2f}" for e in exponents(axis, by_value).values()]
        if quantity == "time":
            count = {scale(axis, value): arithmetic(axis, value) for value in by_value}
            rows["exponent of the arithmetic"] = [f"{exponent(count):.2f}"] * len(rows["exponent"])
        names = next(iter(by_value.values()))
        harness.print_table(f"{quantity}, {QUANTITIES[quantity]}, by {axis}", list(names), rows)


def draw(found: Mapping[str, Found], path: Path) -> None:
    """A panel for each quantity and axis, with logarithmic scales."""
    from matplotlib.figure import Figure

    from experiments.lab import plotting

    canvas = Figure((13, 6), layout="constrained")
    panels = canvas.subplots(len(found), len(AXES), sharey="row")
    for row, (quantity, by_axis) in zip(panels, found.items(), strict=True):
        for axes, (axis, by_value) in zip(row, by_axis.items(), strict=True):
            x = [scale(axis, value) for value in by_value]
            of_all = exponents(axis, by_value)
            for (name, e), shade in zip(of_all.items(), plotting.SHADES, strict=False):
                y = [each[name] for each in by_value.values()]
                axes.plot(x, y, marker=".", color=shade, label=f"{name}: exponent {e:.2f}")
            label = "passes, 6 + 2 K" if axis == "K" else axis
            axes.set(xscale="log", yscale="log", xlabel=label)
            axes.set_xticks(x, [f"{each:g}" for each in x])
            axes.minorticks_off()
            axes.grid(color="0.9")
            axes.legend(fontsize="small")
        row[0].set_ylabel(f"{quantity} ({QUANTITIES[quantity]})")
    plotting.save(canvas, path)
