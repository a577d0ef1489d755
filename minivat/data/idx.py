"""The idx format of the original MNIST files: a header, then raw bytes, in one gzip stream.

The header is a 4-byte magic number (two zero bytes, a type code, the number of dimensions), then
each dimension's size as a big-endian 4-byte integer. Unsigned bytes have the type code 8, so image
files begin with 0x00000803 (2051) and label files with 0x00000801 (2049).

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
"""

import math
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from .dataset import DataError

GZIP_MAGIC = b"\x1f\x8b"
GZIP_WBITS = 16 + zlib.MAX_WBITS  # zlib then checks the gzip header, CRC and length as well
UNSIGNED_BYTE = 0x08


def parse(compressed: bytes, item_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The array in the gzip-compressed idx file `compressed`: (count, *item_shape), read-only.

    The file must be exactly one gzip stream that holds exactly what its header promises: unsigned
    bytes, one item or more, each of `item_shape`. Anything else raises DataError with the reason.
    """
    if not compressed.startswith(GZIP_MAGIC):
        raise DataError(f"not a gzip file (begins with {compressed[:4]!r})")
    stream = zlib.decompressobj(GZIP_WBITS)
    try:
        header = stream.decompress(compressed, 4 * (2 + len(item_shape)))
        shape = _parse_header(header, item_shape)
        size = math.prod(shape)
        # Never inflate more than is promised; one byte beyond shows that the file is over-long.
        body = stream.decompress(stream.unconsumed_tail, size + 1)
    except zlib.error as error:
        raise DataError(f"corrupt gzip data ({error})") from None

    promised = f"the {size} bytes of {' x '.join(map(str, shape))} that the header promises"
    if len(body) > size:
        raise DataError(f"over-long: more than {promised}")
    if len(body) < size:
        raise DataError(f"truncated: {len(body)} bytes instead of {promised}")
    if not stream.eof:
        raise DataError("truncated: the gzip stream has no end")
    if stream.unused_data:
        raise DataError(f"over-long: {len(stream.unused_data)} bytes after the gzip stream")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _parse_header(header: bytes, item_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The array's shape, (count, *item_shape)."""
    dimensions = 1 + len(item_shape)
    if len(header) < 4 * (1 + dimensions):
        raise DataError(f"truncated: {len(header)} of {4 * (1 + dimensions)} header bytes")
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
