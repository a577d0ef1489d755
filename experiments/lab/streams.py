"""Standard output and error where nobody is there: closed, full, or a pipe that is read no more.

What is said must not stop what is done: a run is trained and written to the end, and then the exit
code tells that its words were lost. This file loads nothing, see `experiments.__main__`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Forgiving:
    """A stream whose failure is kept in `error` instead of raised; from then on it goes nowhere."""

    def __init__(self, stream: TextIO, nowhere: TextIO):
        self._stream, self._nowhere = stream, nowhere
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        with self._forgiven():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._forgiven():
            self._stream.flush()

    @contextlib.contextmanager
    def _forgiven(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error
            with contextlib.suppress(OSError):  # what it has in its buffer would fail again at exit
                os.dup2(self._nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def forgiving() -> Iterator[Forgiving]:
    """Standard output, and error, through `Forgiving`; the former's is what is given."""
    # Else the next file that is opened would get the number of a closed stream, and its text.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    with open(os.devnull, "w") as nowhere:
        out, err = (Forgiving(each or nowhere, nowhere) for each in (sys.stdout, sys.stderr))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                yield out
            finally:
                out.flush()
                err.flush()
