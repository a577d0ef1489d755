"""Calling a command line within a test."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments import __main__ as entry
from experiments.lab import runner, runs
from experiments.lab.spec import Spec
from experiments.registry import EXPERIMENTS
from minivat import training

Main = Callable[[Sequence[str] | None], int]


def call(main: Main | str, *arguments: Any) -> int:
    """The exit code, however it comes about. main: an experiment's name, or a function."""
    typed = [str(argument) for argument in arguments]
    try:
        return entry.main([main, *typed]) if isinstance(main, str) else main(typed)
    except SystemExit as exit:
        return exit.code


def refused(main: Main | str, capsys: pytest.CaptureFixture, *arguments: Any) -> str:
    """The one line that a mistake is answered with."""
    assert call(main, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


def arrays_of(folder: Path) -> dict[str, bytes]:
    """The bits that a run ended with."""
    arrays = runs.read_checkpoint(folder / "checkpoint.npz").arrays
    return {name: array.tobytes() for name, array in arrays.items()}


class Seen(Exception):
    """Thrown by a trainer that only looks at what it is given."""


def given(monkeypatch: pytest.MonkeyPatch, main: Main | str, *arguments: Any) -> dict[str, Any]:
    """What the trainer of a command is given."""
    seen = {}

    def look(network, device, images, labels, **options):
        seen.update(network=network, images=images, labels=labels, **options)
        raise Seen

    with monkeypatch.context() as patch:
        patch.setattr(training, "Trainer", look)
        with pytest.raises(Seen):
            call(main, *arguments)
    return seen


def call_interrupted(monkeypatch: pytest.MonkeyPatch, main: Main | str, *arguments: Any) -> int:
    """`call` with a Ctrl-C as the tenth update begins."""
    step = training.Trainer.step

    def interrupted(self, update):
        if update == 9:
            signal.raise_signal(signal.SIGINT)
        return step(self, update)

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "step", interrupted)
        return call(main, *arguments)


def spec_of(name: str, *flags: str) -> Spec:
    """The spec that an experiment's command line asks for."""
    cls = EXPERIMENTS[name]
    return runner.spec_of(cls, runner.parser(cls).parse_args(flags))
