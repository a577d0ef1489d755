"""Damage to the bytes of a file, drawn at random."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

LARGEST = 1 << 12  # bytes of one change


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The content with one to four changes, of which at least one changes something."""
    while True:
        changed = content
        for _ in range(draw.randint(1, 4)):
            changed = draw.choice(CHANGES)(changed, draw)
        if changed != content:
            return changed


def flipped(content: bytes, draw: random.Random) -> bytes:
    """One bit is another, most often near the beginning, where headers are."""
    if not content:
        return content
    at = min(int(draw.expovariate(8 / len(content))), len(content) - 1)
    return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]


def shortened(content: bytes, draw: random.Random) -> bytes:
    """The end is missing."""
    return content[: draw.randint(0, len(content))]


def without(content: bytes, draw: random.Random) -> bytes:
    """A part is missing."""
    start, stop = _part(content, draw)
    return content[:start] + content[stop:]


def repeated(content: bytes, draw: random.Random) -> bytes:
    """A part is there twice."""
    start, stop = _part(content, draw)
    return content[:stop] + content[start:]


def drawn(content: bytes, draw: random.Random) -> bytes:
    """A part is random bytes, or zeros."""
    start, stop = _part(content, draw)
    noise = draw.randbytes(stop - start) if draw.random() < 0.7 else bytes(stop - start)
    return content[:start] + noise + content[stop:]


def promising(content: bytes, draw: random.Random) -> bytes:
    """A 4-byte number is small, negative or huge: a length or a count, perhaps."""
    at = min(int(draw.expovariate(16 / (len(content) + 1))), max(len(content) - 4, 0))
    number = draw.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, draw.getrandbits(32)])
    return content[:at] + struct.pack(draw.choice("<>") + "I", number) + content[at + 4 :]


def extended(content: bytes, draw: random.Random) -> bytes:
    """More bytes follow."""
    return content + draw.randbytes(draw.randint(1, LARGEST))


def _part(content: bytes, draw: random.Random) -> tuple[int, int]:
    start = draw.randint(0, len(content))
    return start, min(len(content), start + draw.randint(1, LARGEST))


CHANGES: list[Callable[[bytes, random.Random], bytes]] = [
    flipped,
    flipped,
    flipped,
    shortened,
    without,
    repeated,
    drawn,
    promising,
    promising,
    extended,
]
