"""What goes wrong in a call is said in one line that names what was given."""

import numpy as np
import pytest

import minivat
from minivat import ops
from tests.strict_device import strict_device

HOST = np.ones((2, 3))
DEVICE = strict_device().asarray(HOST)
IMAGES = np.ones((2, 5, 4, 3))
WEIGHT = np.ones((3, 3, 3, 2))


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
        lambda: ops.conv2d(IMAGES, strict_device().asarray(WEIGHT)),
        lambda: ops.conv2d(strict_device().asarray(IMAGES), WEIGHT),
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
    "f",
    [
        lambda: ops.reshape(HOST, (3.0, 2.0)),
        lambda: ops.multiply(HOST, None),
        lambda: ops.multiply(HOST, "text"),
        lambda: ops.add(np.float64(1.0), None),
    ],
)
def test_arrays_of_one_device_are_not_said_to_be_of_two(f):
    with pytest.raises(TypeError) as caught:
        f()
    assert "two devices" not in str(caught.value)


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
        (lambda: ops.pad(HOST, ((1, 1), (1,))), r"pad_width must be 2 pairs .* got \(\(1, 1\), "),
        (lambda: ops.pad(HOST, ((1, 1),) * 3), "pad_width must be 2 pairs"),
        (lambda: ops.pad(HOST, ((1, -1), (0, 0))), "pad_width .* integers from 0, got .*-1"),
        (lambda: ops.pad(HOST, 0.5), "pad_width .* got 0.5"),
        (lambda: ops.pad(HOST, True), "pad_width .* got True"),
        (
            lambda: ops.batch_norm(HOST, HOST[0, :1], HOST[0], 1e-6),
            r"gamma .* \(3,\), got \(1,\)",
        ),
        (lambda: ops.batch_norm(HOST, HOST[0], HOST, 1e-6), r"beta .* \(3,\), got \(2, 3\)"),
        (lambda: ops.batch_norm(HOST, HOST[0], HOST[0], 1e-6, -0.1), r"slope .* got -0.1"),
        (lambda: ops.batch_norm(HOST, HOST[0], HOST[0], 1e-6, 1.5), r"slope .* got 1.5"),
        (
            lambda: ops.cross_entropy(np.ones((2, 3, 4)), np.array([0, 1])),
            r"shape \(2, 3\), got int64 of shape \(2,\)",
        ),
        (lambda: ops.batch_norm(HOST[:0], HOST[0], HOST[0], 1e-6), r"not empty, got \(0, 3\)"),
        (lambda: ops.batch_norm(HOST, HOST[0], HOST[0], -1e-6), "epsilon .* got -1e-06"),
        (lambda: ops.batch_norm(HOST.astype(int), HOST[0], HOST[0], 1e-6), "floating .* got int"),
        (
            lambda: ops.batch_norm(HOST.astype("float32"), HOST[0], HOST[0], 1e-6),
            "gamma must have x's dtype float32, got float64",
        ),
        (lambda: ops.max_pool2d(IMAGES.astype(int), 2, 1, "same"), "floating dtype, got int"),
        (lambda: ops.conv2d(IMAGES[..., :0], WEIGHT[:, :, :0]), r"empty, got \(3, 3, 0, 2\)"),
        (lambda: ops.conv2d(IMAGES, WEIGHT[:0]), r"empty, got \(0, 3, 3, 2\)"),
        (lambda: ops.conv2d(HOST, WEIGHT), r"x must be \(N, height, width, channels\), got \(2, 3"),
        (lambda: ops.conv2d(IMAGES, HOST), r"weight must be \(kh, kw, in, out\), got \(2, 3\)"),
        (lambda: ops.conv2d(IMAGES, WEIGHT[:, :, :2]), "the 3 channels of x .* got .*2, 2"),
        (lambda: ops.conv2d(IMAGES[:, :2], WEIGHT, 1, "valid"), r"\(3, 3\) is larger .* \(2, 4\)"),
        (lambda: ops.conv2d(IMAGES[:, :2], WEIGHT, 1, ((0, 0), (9, 9))), r"padded image \(2, 22\)"),
        (lambda: ops.conv2d(IMAGES, WEIGHT, 0), "stride must be a positive integer .* got 0"),
        (lambda: ops.conv2d(IMAGES, WEIGHT, (1, 2, 3)), r"stride .* got \(1, 2, 3\)"),
        (lambda: ops.conv2d(IMAGES, WEIGHT, 1.0), "stride .* got 1.0"),
        (lambda: ops.conv2d(IMAGES, WEIGHT, True), "stride .* got True"),
        (lambda: ops.conv2d(IMAGES, WEIGHT, 1, "full"), "padding must be 'same', .* got 'full'"),
        (lambda: ops.conv2d(IMAGES, WEIGHT, 1, -1), "padding .* none negative, got -1"),
        (lambda: ops.conv2d(IMAGES, WEIGHT, 1, ((1, 1), 1, 1)), "padding .* got .*, 1, 1"),
        (lambda: ops.conv2d(IMAGES, WEIGHT, 1, ((1, 1), (1, 0.5))), r"padding .* got .*0.5"),
        (lambda: ops.max_pool2d(HOST), "max_pool2d: x must be"),
        (lambda: ops.max_pool2d(IMAGES, 0), "window must be a positive integer .* got 0"),
        (lambda: ops.avg_pool2d(IMAGES, 2, (0, 1)), r"stride must be .* got \(0, 1\)"),
        (lambda: ops.max_pool2d(IMAGES, 6), r"window \(6, 6\) is larger than .* \(5, 4\)"),
        (lambda: ops.avg_pool2d(IMAGES, 2, 1, 2), r"smaller than the window \(2, 2\), got .*2, 2"),
    ],
)
def test_wrong_shapes(f, match):
    with pytest.raises(ValueError, match=match) as caught:
        f()
    assert "\n" not in str(caught.value)
