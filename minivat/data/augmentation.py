"""Random translations and reflections of a batch of images, on the device that holds them."""

import operator

import numpy as np

from ..backend import RandomStream
from ..typing import RawArray


def translate_and_flip(
    images: RawArray, stream: RandomStream, max_shift: int = 2, flip: bool = False
) -> RawArray:
    """Each image moved by up to `max_shift` pixels along both axes and mirrored, or not, at random.

    images: (N, height, width, channels) of any dtype, which is kept; not changed. Each of the
        (2 max_shift + 1)² translations is as likely as another. What moves in is zero, as in the
        official code, which pads with zeros and crops: the mean image where images are whitened,
        grey where they are (x - 127.5)/255.
    stream: of the images' device; the translations do not depend on `flip`.
    flip: mirror left and right with probability ½.

    Raises ValueError for images without four axes and for a max_shift that is no integer from 0.
    """
    if images.ndim != 4:
        raise ValueError(f"images must be (N, height, width, channels), got {images.shape}")
    try:
        margin = operator.index(max_shift)
    except TypeError:
        margin = -1
    if margin < 0:
        raise ValueError(f"max_shift must be an integer from 0, got {max_shift!r}")
    count, height, width, channels = images.shape

    def positions(length: int) -> RawArray:
        return np.arange(length, like=images)

    # A float32 below 1 times an odd number never rounds up to that number.
    shift = np.floor(stream.uniform((2, count, 1)) * (2 * margin + 1)).astype(np.int64)
    rows = positions(height) + shift[0]
    columns = positions(width) + shift[1]
    if flip:
        mirrored = stream.uniform((count, 1)) < 0.5
        columns = np.where(mirrored, np.flip(columns, axis=1), columns)
    edges = (margin, margin)
    padded = np.pad(images, ((0, 0), edges, edges, (0, 0)))
    # One index into the list of all pixels: several would be broadcast against one another first.
    high, wide = height + 2 * margin, width + 2 * margin
    first = positions(count)[:, None, None] * high
    pixels = (first + rows[:, :, None]) * wide + columns[:, None, :]
    return np.take(np.reshape(padded, (count * high * wide, channels)), pixels, axis=0)
