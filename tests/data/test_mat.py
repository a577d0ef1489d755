"""The reader of MATLAB's files, on files that SciPy writes and on damaged ones."""

import io
import struct
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minivat.data import DataError, mat
from tests.allocation import allocating_less_than

X = np.arange(120, dtype=np.uint8).reshape(2, 3, 4, 5)
SHAPES = {"X": X.shape, "y": (3, 1)}
OTHERS = {"a": "text", "b": {"c": 1.5}, "e": np.eye(3), "f": np.zeros((0, 0)), "longer": 1j}

arrays = hnp.arrays(
    np.uint8, hnp.array_shapes(min_dims=2, max_dims=5, max_side=5), elements=st.integers(0, 255)
)


def saved(variables, compressed):
    stream = io.BytesIO()
    scipy.io.savemat(stream, variables, do_compression=compressed)
    return stream.getvalue()


def refused(content, shapes=SHAPES):
    """The reason, in one line."""
    with pytest.raises(DataError) as caught:
        mat.read(content, shapes)
    (reason,) = str(caught.value).splitlines()
    return reason


def element(kind, data, order="<"):
    return struct.pack(order + "II", kind, len(data)) + data + bytes(-len(data) % 8)


FILES = {
    compressed: saved({"a": "text", "X": X, "y": np.ones((3, 1), np.uint8)}, compressed)
    for compressed in (False, True)
}


@given(arrays, arrays, st.booleans(), st.randoms())
def test_variables_among_others(x, y, compressed, random):
    variables = list({"x": x, "y_2": y, **OTHERS}.items())
    random.shuffle(variables)
    found = mat.read(saved(dict(variables), compressed), {"x": x.shape, "y_2": y.shape})
    for name, array in (("x", x), ("y_2", y)):
        assert found[name].dtype == np.uint8
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(("order", "version"), [("<", b"\x00\x01IM"), (">", b"\x01\x00MI")])
@pytest.mark.parametrize("short", [False, True])
def test_both_orders_of_bytes_and_short_elements(order, version, short):
    name = struct.pack(order + "I", 1 << 16 | 1) + b"y\0\0\0" if short else element(1, b"y", order)
    variable = (
        element(6, struct.pack(order + "II", 9, 0), order)
        + element(5, struct.pack(order + "ii", 3, 1), order)
        + name
        + element(2, b"\x07\x08\x09", order)
    )
    content = bytes(124) + version + element(14, variable, order)
    assert mat.read(content, {"y": (3, 1)})["y"].tolist() == [[7], [8], [9]]


@pytest.mark.parametrize(
    ("value", "given"),
    [
        (X[1:], "uint8 (1, 3, 4, 5)"),
        (X.astype(float), "double (2, 3, 4, 5)"),
        (X.astype(np.int16), "int16 (2, 3, 4, 5)"),
        ("text", "char (1, 4)"),
        ({"c": 1}, "struct (1, 1)"),
        (np.array([1, "a"], object), "cell (1, 2)"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_another_class_or_shape_is_named(value, given, compressed):
    content = saved({"y": np.ones((3, 1), np.uint8), "X": value}, compressed)
    assert refused(content) == f"variable X must be uint8 (2, 3, 4, 5), got {given}"


# At each, SciPy 1.17 ends the process: the class of X, the types of the data of X and y.
@pytest.mark.parametrize(("at", "value"), [(144, 5), (184, 14), (185, 4), (-24, 8), (-23, 255)])
def test_a_damaged_type_byte_is_refused(at, value):
    content = bytearray(saved({"X": X, "y": np.ones((12, 1), np.uint8)}, False))
    content[at] = value
    assert refused(bytes(content), {"X": X.shape, "y": (12, 1)}).startswith(
        ("truncated, damaged or not", "variable X must be uint8 (2, 3, 4, 5), got sparse")
    )


@pytest.mark.parametrize("compressed", [False, True])
@settings(max_examples=200)
@given(st.data())
def test_no_damage_is_more_than_refused(compressed, data):
    content = bytearray(FILES[compressed])
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        at = data.draw(st.integers(0, len(content) - 1), "at")
        how = data.draw(st.sampled_from(["byte", "number", "cut", "insertion"]), "how")
        if how == "byte":
            content[at] = data.draw(st.integers(0, 255), "value")
        elif how == "number":
            content[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4), "value")
        elif how == "cut":
            del content[at : at + data.draw(st.integers(1, 9), "length")]
        else:
            content[at:at] = data.draw(st.binary(min_size=1, max_size=9), "value")
    try:
        found = mat.read(bytes(content), SHAPES)
    except DataError:
        return
    assert {name: array.shape for name, array in found.items()} == SHAPES
    if compressed:  # with a checksum
        np.testing.assert_array_equal(found["X"], X)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_cut_anywhere_is_refused(compressed):
    for length in range(len(FILES[compressed])):
        assert refused(FILES[compressed][:length]).startswith(("truncated", "lacks the variable"))


def test_a_variable_is_not_inflated_beyond_its_promise():
    def packed(variable):
        return FILES[True][:128] + struct.pack("<II", 15, len(variable)) + variable

    beginning = FILES[False][128 + struct.unpack_from("<I", FILES[False], 132)[0] + 8 :][:64]
    bombs = [packed(zlib.compress(start + bytes(10**7))) for start in (beginning, b"")]
    with allocating_less_than(10**6):
        for bomb in bombs:
            refused(bomb)


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"\x89HDF\r\n\x1a\n" + bytes(1000), bytes(1000)]
)
def test_what_is_no_matlab_file_is_refused(content):
    assert refused(content) == "truncated, damaged or not a MATLAB file of version 5 to 7.2"
