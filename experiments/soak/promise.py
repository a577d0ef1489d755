"""A promise, and what came of trying it many times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Promise:
    """What is promised, how it is tried, and how often.

    trial: the number of a trial, from 0, which seeds all that is random in it, to what went wrong,
        in a line; "" where nothing did.
    count: of trials. each: how many things one trial tries.
    measured: what the trials have measured besides, for people; they may add to it.
    """

    text: str
    tested: str
    trial: Callable[[int], str]
    count: int
    measured: list[str] = field(default_factory=list)
    each: int = 1

    def kept(self) -> dict[str, Any]:
        """The row of soak.json: how many things were tried, and what went wrong."""
        began = time.monotonic()
        found = {number: _tried(self.trial, number) for number in range(self.count)}
        return {
            "promise": self.text,
            "tested": self.tested,
            "count": self.count * self.each,
            "failures": [f"trial {number}: {fault}" for number, fault in found.items() if fault],
            "measured": self.measured,
            "seconds": round(time.monotonic() - began, 1),
        }


def _tried(trial: Callable[[int], str], number: int) -> str:
    """What went wrong; an exception that the trial did not expect is a failure like others."""
    try:
        return trial(number)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
