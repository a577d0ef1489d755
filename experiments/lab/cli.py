"""The command line: argparse with one-line errors, types of arguments, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from experiments.lab import runs
from minivat import backend, data

EXTRAS = {"distributed": "dask", "tensorboardX": "tensorboard"}  # of single options


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors and no abbreviated options; `argv` keeps what was parsed.

    name: the experiment's, as it is typed.
    """

    def __init__(self, description: str, name: str = "NAME"):
        super().__init__(
            prog=f"python -m experiments {name}",
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        parsed = super().parse_args(args, namespace)
        parsed.argv = list(sys.argv[1:] if args is None else args)
        return parsed

    def error(self, message: str) -> None:
        self.exit(2, f"error: {message}\n")


def command_line(experiment: str, args: argparse.Namespace) -> str:
    """What was typed at the shell for an experiment whose `Parser` gave `args`."""
    return shlex.join(["python", "-m", "experiments", experiment, *args.argv])


def argument(
    convert: Callable[[str], Any], holds: Callable[[Any], bool], accepted: str
) -> Callable[[str], Any]:
    """An argparse type: what the text is converted to, where `holds` is true of it."""

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError):
            value = convert(text)
            if holds(value):
                return value
        raise argparse.ArgumentTypeError(f"must be {accepted}, got {text!r}")

    return read


def integer(low: int, high: float = math.inf) -> Callable[[str], int]:
    """An argparse type: an integer from `low` to `high`."""
    accepted = f"an integer from {low}" + (f" to {high}" if high < math.inf else "")
    return argument(int, lambda value: low <= value <= high, accepted)


positive = argument(float, lambda value: 0 < value < math.inf, "a finite number above 0")
not_negative = argument(float, lambda value: 0 <= value < math.inf, "a finite number from 0")
iterations = argument(
    lambda text: 0.5 if text in ("0.5", ".5") else int(text),
    lambda value: value >= 0,
    "0.5 or an integer from 0",
)
folder_name = argument(str, bool, "the name of a folder")


def add_count(
    group: argparse._ActionsContainer, flag: str, low: int, default: int | None, text: str
) -> None:
    """A flag for an integer from `low`; the help is `text` and the default, where there is one."""
    if default is not None:
        text += f" (default: {default})"
    group.add_argument(flag, type=integer(low), default=default, metavar="N", help=text)


def add_seeds(parser: argparse.ArgumentParser, default: Sequence[int] | None, text: str) -> None:
    """--seeds, different integers from 0; `text` says of what, and which where none are given."""
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=integer(0),
        action=Different,
        default=default,
        metavar="N",
        help=text,
    )


class Different(argparse.Action):
    """Stores values of which none may be given twice: it would count as two runs."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        if len(set(values)) < len(values):
            raise argparse.ArgumentError(self, f"one is given twice: {' '.join(map(str, values))}")
        setattr(namespace, self.dest, values)


def add_device_arguments(group: argparse._ActionsContainer) -> None:
    """--device and --tf32."""
    group.add_argument(
        "--device",
        default="auto",
        choices=["auto", "cpu", "cuda"],
        help="default: auto, which is $MINIVAT_DEVICE, else cuda where it works, else cpu",
    )
    group.add_argument(
        "--tf32",
        action="store_true",
        help="on a GPU: products of float32 with factors rounded to TensorFloat-32 (10 bits); "
        "faster, less exact",
    )


def device_arguments(args: argparse.Namespace) -> list[str]:
    """The flags of `add_device_arguments` as they were given, for another process."""
    return ["--device", args.device, *(["--tf32"] if args.tf32 else [])]


def command(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Let `main(argv)` return an exit code for whatever the user may meet: 2 for what was asked
    wrongly, 1 for a run that failed, 130 for Ctrl-C; each with one line and no traceback."""

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except (runs.RunError, data.DataError, backend.DeviceError) as error:
            code, message = 2, f"error: {error}"
        except runs.RunFailed as error:
            code, message = 1, f"error: {error}"
        except MemoryError:
            code, message = 1, "error: out of memory"
        except ModuleNotFoundError as error:
            code = 2
            extra = EXTRAS.get(error.name, "experiments")
            message = f'error: {error.name} is missing: pip install -e ".[{extra}]"'
        except (runs.Interrupted, KeyboardInterrupt) as stop:
            code, message = 130, str(stop) or "interrupted"
        print(message, file=sys.stderr)
        return code

    return guarded


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of text, aligned."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
