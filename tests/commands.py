"""Calling an experiment's command line within a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from minivat import runs

Main = Callable[[Sequence[str] | None], int]


def call(main: Main, *arguments: Any) -> int:
    """The exit code, however it comes about."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exit:
        return exit.code


def refused(main: Main, capsys: pytest.CaptureFixture, *arguments: Any) -> str:
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
