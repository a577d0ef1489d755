"""How much memory is allocated within a test."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator


@contextlib.contextmanager
def allocating_less_than(limit: float) -> Iterator[None]:
    """Fail where so many bytes, or more, are allocated at once inside."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()
