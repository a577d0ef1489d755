import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivat.backend import Device
from minivat.data import translate_and_flip

CPU = Device()


def moved(image, down, right, mirror):
    """One image moved and then mirrored, written with slices."""
    height, width, _ = image.shape
    result = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row + down < height and 0 <= column + right < width:
                result[row, column] = image[row + down, column + right]
    return result[:, ::-1] if mirror else result


def which(image, augmented, max_shift=2):
    """All (down, right, mirror) that make `augmented` of `image`."""
    shifts = range(-max_shift, max_shift + 1)
    return [
        (down, right, mirror)
        for down in shifts
        for right in shifts
        for mirror in (False, True)
        if np.array_equal(moved(image, down, right, mirror), augmented)
    ]


def numbered(count, height=5, width=6, channels=2, dtype=np.float32):
    """Images in which no number occurs twice, and none is zero."""
    shape = (count, height, width, channels)
    return np.arange(1, 1 + np.prod(shape), dtype=dtype).reshape(shape)


def stream(device, step=0):
    return device.random(0, "augmentation", step)


@pytest.mark.parametrize("flip", [False, True])
def test_every_image_is_one_of_the_possible_ones(device, flip):
    images = numbered(30)
    augmented = translate_and_flip(device.asarray(images), stream(device), flip=flip)
    assert type(augmented) is type(device.asarray(images))
    found = [
        which(image, each) for image, each in zip(images, device.to_host(augmented), strict=True)
    ]
    assert all(len(each) == 1 for each in found)
    assert {mirror for ((_, _, mirror),) in found} == ({False, True} if flip else {False})


def test_all_fifty_are_equally_likely(device):
    count = 10_000
    images = np.broadcast_to(numbered(1), (count, 5, 6, 2))
    augmented = device.to_host(
        translate_and_flip(device.asarray(images.copy()), stream(device), flip=True)
    )
    distinct, counts = np.unique(augmented.reshape(count, -1), axis=0, return_counts=True)
    found = [which(images[0], each.reshape(5, 6, 2)) for each in distinct]
    assert len({each for (each,) in found}) == len(found) == 50
    # Each count is binomial (10,000, 1/50): standard deviation 14; five of them.
    assert np.all(np.abs(counts - 200) < 70)
    mirrored = sum(n for ((_, _, mirror),), n in zip(found, counts, strict=True) if mirror)
    assert abs(mirrored - 5000) < 250


@given(
    st.integers(0, 4),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 6),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_any_shape_and_any_shift(count, height, width, channels, max_shift, flip, step):
    """A shift beyond the image's size may leave nothing of it."""
    images = numbered(count, height, width, channels, np.float64)
    augmented = translate_and_flip(images, stream(CPU, step), max_shift, flip)
    assert augmented.shape == images.shape and augmented.dtype == images.dtype
    for image, each in zip(images, augmented, strict=True):
        assert which(image, each, max_shift)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8])
def test_the_dtype_is_kept_and_the_images_are_not_changed(device, dtype):
    images = device.asarray(numbered(4, dtype=dtype))
    before = device.to_host(images).copy()
    augmented = translate_and_flip(images, stream(device), flip=True)
    assert augmented.dtype == dtype
    assert augmented.flags.c_contiguous
    np.testing.assert_array_equal(device.to_host(images), before)


def test_no_shift_and_no_flip_give_the_images(device):
    images = numbered(4)
    augmented = translate_and_flip(device.asarray(images), stream(device), max_shift=0)
    np.testing.assert_array_equal(device.to_host(augmented), images)


def test_the_stream_decides(device):
    images = device.asarray(numbered(50))
    first, again, other = (
        device.to_host(translate_and_flip(images, stream(device, step), flip=True))
        for step in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_translations_do_not_depend_on_the_flip(device):
    images = device.asarray(numbered(50))
    plain, flipped = (
        device.to_host(translate_and_flip(images, stream(device), flip=flip))
        for flip in (False, True)
    )
    mirrored = np.any(plain != flipped, axis=(1, 2, 3))
    np.testing.assert_array_equal(flipped[mirrored], plain[mirrored][:, :, ::-1])
    assert 10 < mirrored.sum() < 40


def test_images_of_one_batch_move_independently():
    images = np.broadcast_to(numbered(1), (2000, 5, 6, 2))
    augmented = translate_and_flip(images, stream(CPU))
    same = np.all(augmented[:-1] == augmented[1:], axis=(1, 2, 3))
    assert abs(same.mean() - 1 / 25) < 0.025
    found = np.array([which(images[0], each)[0][:2] for each in augmented[:500]])
    assert abs(np.corrcoef(found, rowvar=False)[0, 1]) < 0.25


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (1, 2, 3, 4, 5)])
def test_images_without_four_axes_are_refused(shape):
    with pytest.raises(ValueError, match=r"^images must be \(N, height, width, channels\), got"):
        translate_and_flip(np.zeros(shape), stream(CPU))


@pytest.mark.parametrize("max_shift", [-1, 1.5, "2", None])
def test_a_shift_that_is_no_count_of_pixels_is_refused(max_shift):
    with pytest.raises(ValueError, match=r"^max_shift must be an integer from 0, got .*$"):
        translate_and_flip(numbered(2), stream(CPU), max_shift)
