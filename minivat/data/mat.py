"""Arrays of unsigned bytes from a MATLAB file of version 5 to 7.2.

A reader of our own, because SciPy's, which checks less, ends the process at some damaged files.

After a header of 128 bytes the file is a sequence of elements: a tag, which is a type and a length,
then data. A variable is an element MATRIX, or such a one compressed by zlib. It consists of
elements itself: flags (the last byte is its class), shape, name, and the data in Fortran's order.

Source: MathWorks, "MAT-File Format".
"""

import math
import struct
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .dataset import DataError

HEADER_BYTES = 128
BYTE_ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}  # version 1, and how its bytes are ordered
INT8, UINT8, INT32, UINT32, MATRIX, COMPRESSED, UTF8 = 1, 2, 5, 6, 14, 15, 16
CLASSES = (
    "",
    *("cell", "struct", "object", "char", "sparse", "double", "single"),
    *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
)
BEGINNING = 512  # bytes in which a variable's flags, shape, name and the tag of its data end

# type, beginning, length, and where the next one begins
Element = tuple[int, int, int, int]


class _Damaged(Exception):
    """Bytes that are not what the format says."""


def read(content: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.uint8]]:
    """The variables {name: shape} of a MATLAB file's bytes, arrays of uint8, read-only.

    Raises DataError with the reason where one is missing, of another shape or class, or damaged.
    """
    try:
        found = _find(content, shapes)
    except (_Damaged, struct.error, zlib.error):
        raise DataError("truncated, damaged or not a MATLAB file of version 5 to 7.2") from None
    for name in shapes:
        if name not in found:
            raise DataError(f"lacks the variable {name}")
    return found


def _find(content: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.uint8]]:
    order = BYTE_ORDERS.get(content[HEADER_BYTES - 4 : HEADER_BYTES])
    if order is None:
        raise _Damaged
    found: dict[str, NDArray[np.uint8]] = {}
    at = HEADER_BYTES
    while at < len(content) and len(found) < len(shapes):
        kind, length = struct.unpack_from(order + "II", content, at)
        body = memoryview(content)[at : at + 8 + length]
        if len(body) < 8 + length or kind not in (MATRIX, COMPRESSED):
            raise _Damaged
        at += 8 + length
        packed = kind == COMPRESSED
        start = zlib.decompressobj().decompress(body[8:], BEGINNING) if packed else body[:BEGINNING]
        name, shape, class_name, data_at = _parse(start, order)
        if name not in shapes:
            continue
        if (class_name, shape) != ("uint8", shapes[name]):
            raise DataError(
                f"variable {name} must be uint8 {shapes[name]}, got {class_name} {shape}"
            )
        kind, begin, length, _ = _element(start, data_at, order)
        if kind != UINT8 or length != math.prod(shape):
            raise _Damaged
        whole = _inflate(body[8:], begin + length + 8) if packed else body
        if not 0 <= len(whole) - begin - length < 8:  # the padding
            raise _Damaged
        found[name] = np.frombuffer(whole, np.uint8, length, begin).reshape(shape, order="F")
    return found


def _parse(start: bytes | memoryview, order: str) -> tuple[str, tuple[int, ...], str, int]:
    """The name, shape and class of a variable, and where its data begin; no name of other kinds."""
    kind, begin, length, at = _element(start, 8, order)
    if (kind, length) != (UINT32, 8):
        raise _Damaged
    number = struct.unpack_from(order + "I", start, begin)[0] & 0xFF
    if number >= len(CLASSES):  # functions and objects of classes have no shape
        return "", (), "", 0
    kind, begin, length, at = _element(start, at, order)
    if kind not in (INT32, UINT32):  # some other programs' files
        raise _Damaged
    shape = struct.unpack_from(f"{order}{length // 4}i", start, begin)
    kind, begin, length, at = _element(start, at, order)
    if kind not in (INT8, UTF8):
        raise _Damaged
    return bytes(start[begin : begin + length]).decode("latin-1"), shape, CLASSES[number], at


def _element(start: bytes | memoryview, at: int, order: str) -> Element:
    kind, length = struct.unpack_from(order + "II", start, at)
    if kind < 2**16:
        return kind, at + 8, length, at + 8 + length + -length % 8
    if kind >> 16 > 4:
        raise _Damaged
    return kind & 0xFFFF, at + 4, kind >> 16, at + 8  # a short one, within its tag


def _inflate(packed: memoryview, limit: int) -> bytes:
    """What is packed, which must be fewer bytes than the limit: no more are inflated."""
    stream = zlib.decompressobj()
    content = stream.decompress(packed, limit)
    if not stream.eof or stream.unused_data:
        raise _Damaged
    return content
