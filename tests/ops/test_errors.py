"""What goes wrong in a call is said in one line that names what was given."""

import numpy as np
import pytest

import minivat
from minivat import ops
from tests.strict_device import strict_device

HOST = np.ones((2, 3))
DEVICE = strict_device().asarray(HOST)


@pytest.mark.parametrize(
    "f",
    [
        lambda: ops.add(HOST, DEVICE),
        lambda: ops.multiply(DEVICE, HOST),
        lambda: ops.matmul(HOST.T, DEVICE),
        lambda: ops.where(DEVICE > 0, HOST, 0.0),
        lambda: ops.kl(HOST, DEVICE),
        lambda: ops.concat([HOST, DEVICE]),
        lambda: ops.cross_entropy(DEVICE, np.array([0, 1])),
        lambda: ops.maximum(np.array(1.0), DEVICE),
        lambda: minivat.grad(lambda x: ops.sum(x * HOST))(DEVICE),
        lambda: minivat.grad(lambda x: ops.sum(HOST + x))(DEVICE),
        lambda: minivat.linearize(ops.tanh, DEVICE)[2](HOST),
    ],
)
def test_arrays_of_two_devices(f):
    with pytest.raises(TypeError, match="arrays of two devices are mixed") as caught:
        f()
    message = str(caught.value)
    assert "\n" not in message
    assert "StrictArray" in message
    assert "numpy.ndarray" in message


@pytest.mark.parametrize(
    ("f", "match"),
    [
        (lambda: ops.cross_entropy(HOST, np.array([0.0, 1.0])), "labels must be integers"),
        (lambda: ops.cross_entropy(HOST, np.array([0, 1, 2])), r"shape \(2,\), got .* \(3,\)"),
        (lambda: ops.stack([HOST, HOST[0]]), "must have one shape"),
        (lambda: ops.add(HOST, np.ones(4)), "broadcast"),
        (lambda: ops.take_along_axis(HOST, np.array([0]), 1), "take_along_axis|dimensions"),
        (lambda: ops.reshape(HOST, (4, -1)), "reshape"),
        (lambda: ops.kl(HOST, HOST[:, :2]), "kl"),
        (lambda: ops.transpose(HOST, (0, 3)), "axis 3 is out of bounds"),
        (lambda: ops.transpose(HOST, (0, 0)), "repeated axis"),
        (lambda: ops.stack([HOST, HOST], 7), "axis 7 is out of bounds"),
        (lambda: ops.take_along_axis(HOST, np.array([[0]]), 5), "axis 5 is out of bounds"),
        (lambda: ops.kl(HOST, HOST[:1]), "kl"),
    ],
)
def test_wrong_shapes(f, match):
    with pytest.raises(ValueError, match=match) as caught:
        f()
    assert "\n" not in str(caught.value)
