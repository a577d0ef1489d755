import gzip
import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minivat.data import idx
from minivat.data.dataset import DataError
from tests.allocation import allocating_less_than
from tests.mnist_files import encode

many = settings(max_examples=200)

ITEM_SHAPES = [(28, 28), ()]  # images and labels
arrays = st.sampled_from(ITEM_SHAPES).flatmap(
    lambda item: st.integers(1, 4).flatmap(lambda count: hnp.arrays(np.uint8, (count, *item)))
)


def refused(compressed: bytes, item_shape: tuple[int, ...]) -> str:
    """The one-line reason for which the file is refused."""
    with pytest.raises(DataError) as caught:
        idx.parse(compressed, item_shape)
    (reason,) = str(caught.value).splitlines()
    return reason


def change(content: bytes, position: int, flips: int) -> bytes:
    return content[:position] + bytes([content[position] ^ flips]) + content[position + 1 :]


@many
@given(arrays)
def test_a_well_formed_file_gives_its_array(array):
    parsed = idx.parse(encode(array), array.shape[1:])
    assert parsed.dtype == np.uint8
    np.testing.assert_array_equal(parsed, array)


@many
@given(arrays)
def test_so_does_an_unpacked_one_which_the_checksum_is_of(array):
    content = gzip.decompress(encode(array))
    np.testing.assert_array_equal(idx.parse(content, array.shape[1:]), array)
    assert idx.sha256(array) == hashlib.sha256(content).hexdigest()


@many
@given(arrays, st.data())
def test_an_unpacked_file_cut_or_with_more_after_its_end_is_refused(array, data):
    content = gzip.decompress(encode(array))
    length = data.draw(st.integers(0, len(content) - 1), "length")
    expected = "truncated" if length >= 2 else "neither a gzip nor an idx file"
    assert refused(content[:length], array.shape[1:]).startswith(expected)
    assert refused(content + b"\n", array.shape[1:]).startswith("over-long")


@many
@given(arrays, st.data())
def test_any_change_of_the_header_is_refused(array, data):
    content = gzip.decompress(encode(array))
    position = data.draw(st.integers(0, 4 * (1 + array.ndim) - 1), "position")
    damaged = change(content, position, data.draw(st.integers(1, 255), "flips"))
    reason = refused(gzip.compress(damaged), array.shape[1:])
    if position >= 2:  # else it is no idx file
        assert refused(damaged, array.shape[1:]).partition(":")[0] == reason.partition(":")[0]
    if position < 4:
        assert reason.startswith("magic number must be") and f"got 0x{damaged[:4].hex()}" in reason
    elif position < 8:
        assert reason.startswith(("truncated", "over-long", "count must be"))
    else:
        assert reason.startswith("item size must be")


@many
@given(arrays, st.data())
def test_a_file_cut_before_compression_is_refused(array, data):
    content = gzip.decompress(encode(array))
    length = data.draw(st.integers(0, len(content) - 1), "length")
    assert refused(gzip.compress(content[:length]), array.shape[1:]).startswith("truncated")


@many
@given(arrays, st.data())
def test_a_file_cut_after_compression_is_refused(array, data):
    compressed = encode(array)
    length = data.draw(st.integers(0, len(compressed) - 1), "length")
    expected = "truncated" if length >= 2 else "neither a gzip nor an idx file"
    assert refused(compressed[:length], array.shape[1:]).startswith(expected)


@many
@given(arrays, st.binary(min_size=1))
def test_a_file_with_more_after_its_end_is_refused(array, appended):
    compressed = encode(array)
    content = gzip.decompress(compressed)
    item_shape = array.shape[1:]
    assert refused(gzip.compress(content + appended), item_shape).startswith("over-long")
    assert refused(compressed + appended, item_shape).startswith("over-long")
    assert refused(compressed + gzip.compress(appended), item_shape).startswith("over-long")


@many
@given(arrays, st.data())
def test_a_damaged_gzip_stream_is_refused_or_harmless(array, data):
    """Harmless: a change of the time stamp, say. No change gives another array."""
    compressed = encode(array)
    position = data.draw(st.integers(0, len(compressed) - 1), "position")
    damaged = change(compressed, position, data.draw(st.integers(1, 255), "flips"))
    try:
        parsed = idx.parse(damaged, array.shape[1:])
    except DataError:
        return
    np.testing.assert_array_equal(parsed, array)


@many
@given(arrays, st.integers(1, 8), st.integers(1, 255))
def test_a_wrong_checksum_or_length_of_the_gzip_stream_is_refused(array, from_end, flips):
    compressed = encode(array)
    damaged = change(compressed, len(compressed) - from_end, flips)
    assert refused(damaged, array.shape[1:]).startswith("corrupt gzip data")


@many
@given(st.binary(), st.sampled_from(ITEM_SHAPES))
def test_arbitrary_bytes_are_refused(content, item_shape):
    refused(content, item_shape)
    refused(idx.GZIP_MAGIC + content, item_shape)
    refused(idx.MAGIC + content, item_shape)
    refused(gzip.compress(content), item_shape)


def test_images_are_refused_as_labels_and_labels_as_images():
    images, labels = np.zeros((20, 28, 28), np.uint8), np.zeros(20, np.uint8)
    assert refused(encode(images), ()).endswith(", got 0x00000803")
    assert refused(encode(labels), (28, 28)).endswith(", got 0x00000801")


def test_a_promise_of_terabytes_is_refused_without_allocating_them():
    header = struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 28, 28)
    assert refused(gzip.compress(header + bytes(100)), (28, 28)).startswith("truncated")


def test_a_promise_that_no_gzip_data_could_keep_is_refused_before_any_of_it_is_inflated():
    content = gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 28, 28) + bytes(10**7))
    with allocating_less_than(10**6):
        reason = refused(content, (28, 28))
    promised = (2**32 - 1) * 28 * 28
    assert reason == f"truncated: {len(content)} bytes of gzip data cannot hold {promised}"


def test_an_over_long_file_is_not_inflated_beyond_its_promise():
    bomb = gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 2, 28, 28) + bytes(10**7))
    with allocating_less_than(10**6):
        refused(bomb, (28, 28))
