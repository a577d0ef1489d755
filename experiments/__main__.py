"""The one entry to all experiments: `python -m experiments NAME [flags]`."""

from __future__ import annotations

import functools
import importlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from experiments.lab import space, streams

if TYPE_CHECKING:
    from experiments.lab.figure import Figure

Command = Callable[[Sequence[str]], int]

# Beside tables, figures, and the experiments that train one network. Name: (module, function, what
# it does). A module is loaded when it is called: a bench settles its threads before NumPy is there.
COMMANDS = {
    "search": ("search", "epsilon", "the size of the perturbation, on held-out images"),
    "search-semisup": ("search", "semisup", "few labels: what matters, on held-out images"),
    "synthetic": ("figure1.main", "main", "figure 1: VAT on points in the plane"),
    "few-labels": ("few_labels", "main", "the scikit-learn estimator and its rivals"),
    "audit": ("audit", "main", "exact curvature of trained networks"),
    "picture": ("figures", "picture", "virtual adversarial perturbations of images"),
    "curves": ("figures", "curves", "error and R_vadv over training, of several runs"),
    "results": ("page", "main", "all tables and figures on one page, beside the paper's"),
    "bench": ("bench.mlp", "main", "time one update beside PyTorch and JAX"),
    "bench-updates": ("bench.updates", "main", "time what people run beside PyTorch"),
    "bench-conv": ("bench.conv", "main", "time one update of Conv-Small beside PyTorch"),
    "bench-growth": ("bench.growth", "main", "time and memory by batch, width, depth and K"),
    "bench-gpu": ("bench.gpu", "main", "time updates on a GPU beside PyTorch"),
    "bench-curvature": ("bench.spectrum", "main", "time the exact spectra beside torch.func"),
    "soak": ("soak", "main", "long checks of what is promised on a bad day"),
}
FIGURES = ("figure2", "figure3", "figure4", "figure5", "figure6", "figure7", "figure8")


def figures() -> dict[str, Figure]:
    """The figures of the paper that are made of many runs, by name."""
    modules = [importlib.import_module(f"experiments.{name}") for name in FIGURES]
    return {each.name: each for module in modules for each in module.FIGURES}


def commands() -> dict[str, Command]:
    """Those that the registry, the tables and the figures give, by name."""
    from experiments import tables
    from experiments.lab import cli, figure, runner, table
    from experiments.registry import EXPERIMENTS

    found = {
        name: functools.partial(runner.main, cls, tables.paper_of)
        for name, cls in EXPERIMENTS.items()
    }
    found |= {name: functools.partial(table.make, each) for name, each in tables.TABLES.items()}
    found |= {name: functools.partial(figure.make, each) for name, each in figures().items()}
    return {name: cli.command(function) for name, function in found.items()}


def command(name: str) -> Command | None:
    """The function behind a name; None where there is none."""
    if name in COMMANDS:
        module, function, _ = COMMANDS[name]
        return getattr(importlib.import_module(f"experiments.{module}"), function)
    return commands().get(name)


def called(arguments: Sequence[str]) -> int:
    """Run an experiment, or say which there are; the exit code."""
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print("usage: python -m experiments NAME [flags]; --help after a name lists its flags\n")
        print(f"  train, a table or a figure:  {', '.join(commands())}\n")
        print("\n".join(f"  {name:18}  {text}" for name, (_, _, text) in COMMANDS.items()))
        return 0
    function = command(name)
    if function is None:
        names = ", ".join([*commands(), *COMMANDS])
        print(f"error: NAME must be one of {names}, got {name!r}", file=sys.stderr)
        return 2
    return function(arguments[1:])


def guarded(arguments: Sequence[str]) -> int:
    """Do as `called`, or say in a line that there is too little memory for it, or that Ctrl-C came
    before it had begun; the exit code."""
    if short := space.shortage():
        print(f"error: {short}", file=sys.stderr)
        return 1
    try:
        return called(arguments)
    except SystemExit as stop:  # argparse's
        return stop.code
    except (KeyboardInterrupt, Exception) as error:
        # A library that was being loaded may have made another error of Ctrl-C.
        if interrupts or isinstance(error, KeyboardInterrupt):
            code, message = 130, "interrupted"
        elif space.is_shortage(error):
            code, message = 1, "error: out of memory, which ulimit -v limits"
        else:
            raise
    print(message, file=sys.stderr)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Do as `called`; the exit code, 1 where what it printed was lost."""
    with streams.forgiving() as out:
        code = guarded(list(sys.argv[1:] if argv is None else argv))
        out.flush()
        if out.error is None:
            return code
        if not isinstance(out.error, BrokenPipeError):  # `... | head` wants no more
            reason = out.error.strerror
            print(f"error: standard output cannot be written: {reason}", file=sys.stderr)
        return code or 1


interrupts: list[float] = []  # when Ctrl-C came, in seconds


def once(*_: object) -> None:
    """Ctrl-C; a second one within a second, often make's after the terminal's, changes nothing."""
    now = time.monotonic()
    if not interrupts or now - interrupts[-1] > 1:
        interrupts.append(now)
        raise KeyboardInterrupt


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup sets it
        signal.signal(signal.SIGINT, once)
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it would cut short what Python does in the end
    sys.exit(code)
