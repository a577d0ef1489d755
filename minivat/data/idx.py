"""The idx format of MNIST's files: a header, then raw bytes; as they are, or in one gzip stream.

The header is a 4-byte magic number (two zero bytes, a type code, the number of dimensions), then
each dimension's size as a big-endian 4-byte integer. Unsigned bytes have the type code 8, so image
files begin with 0x00000803 (2051) and label files with 0x00000801 (2049).

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
"""

import hashlib
import math
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from .dataset import DataError

MAGIC = b"\0\0"
GZIP_MAGIC = b"\x1f\x8b"
GZIP_WBITS = 16 + zlib.MAX_WBITS  # zlib then checks the gzip header, CRC and length as well
MOST_INFLATED = 1032  # bytes that one of gzip's can stand for
UNSIGNED_BYTE = 0x08


def parse(content: bytes, item_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The array in an idx file's `content`, compressed or not: (count, *item_shape), read-only.

    It must be exactly one gzip stream, or none, of exactly what its header promises: unsigned
    bytes, one item or more, each of `item_shape`. Anything else raises DataError with the reason.
    """
    if content.startswith(MAGIC):
        return _parse_unpacked(content, item_shape)
    if not content.startswith(GZIP_MAGIC):
        raise DataError(f"neither a gzip nor an idx file (begins with {content[:4]!r})")
    stream = zlib.decompressobj(GZIP_WBITS)
    try:
        header = stream.decompress(content, _header_bytes(item_shape))
        size = math.prod(_parse_header(header, item_shape))
        if size > MOST_INFLATED * len(content):
            raise DataError(f"truncated: {len(content)} bytes of gzip data cannot hold {size}")
        # Never inflate more than is promised; one byte beyond shows that the file is over-long.
        body = stream.decompress(stream.unconsumed_tail, size + 1)
    except zlib.error as error:
        raise DataError(f"corrupt gzip data ({error})") from None
    array = _parse_unpacked(header + body, item_shape)
    if not stream.eof:
        raise DataError("truncated: the gzip stream has no end")
    if stream.unused_data:
        raise DataError(f"over-long: {len(stream.unused_data)} bytes after the gzip stream")
    return array


def sha256(array: NDArray[np.uint8]) -> str:
    """The SHA-256, in hexadecimal, of the uncompressed idx file that holds just this array."""
    header = struct.pack(f">HBB{array.ndim}I", 0, UNSIGNED_BYTE, array.ndim, *array.shape)
    return hashlib.sha256(header + array.tobytes()).hexdigest()


def _parse_unpacked(content: bytes, item_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    shape = _parse_header(content, item_shape)
    given, size = len(content) - _header_bytes(item_shape), math.prod(shape)
    promised = f"the {size} bytes of {' x '.join(map(str, shape))} that the header promises"
    if given > size:
        raise DataError(f"over-long: more than {promised}")
    if given < size:
        raise DataError(f"truncated: {given} bytes instead of {promised}")
    return np.frombuffer(content, np.uint8, offset=_header_bytes(item_shape)).reshape(shape)


def _header_bytes(item_shape: tuple[int, ...]) -> int:
    return 4 * (2 + len(item_shape))


def _parse_header(content: bytes, item_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The array's shape, (count, *item_shape), from what begins with its header."""
    dimensions, size = 1 + len(item_shape), _header_bytes(item_shape)
    header = content[:size]
    if len(header) < size:
        raise DataError(f"truncated: {len(header)} of {size} header bytes")
    expected = bytes((0, 0, UNSIGNED_BYTE, dimensions))
    if header[:4] != expected:
        raise DataError(
            f"magic number must be 0x{expected.hex()} (unsigned bytes, dimensions: {dimensions}), "
            f"got 0x{header[:4].hex()}"
        )
    count, *item = struct.unpack(f">{dimensions}I", header[4:])
    if tuple(item) != item_shape:
        sizes = " x ".join(map(str, item))
        raise DataError(f"item size must be {' x '.join(map(str, item_shape))}, got {sizes}")
    if count == 0:
        raise DataError("count must be 1 or more, got 0")
    return count, *item_shape
