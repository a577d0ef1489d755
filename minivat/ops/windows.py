"""The arguments that convolution and pooling share: images, windows, strides and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeGuard

from ..kernels import Borders, IntPair, Shape
from ..kernels.plain import output_size
from ..typing import Array, is_integer

Pair: TypeAlias = int | Sequence[int]
Padding: TypeAlias = str | Pair | Sequence[Sequence[int]]


def check_images(name: str, x: Array) -> None:
    """Refuse what is not (N, height, width, channels)."""
    if len(x.shape) != 4:
        raise ValueError(f"{name}: x must be (N, height, width, channels), got {x.shape}")


def resolve_pair(name: str, argument: str, value: Pair) -> IntPair:
    """(down, right) from one positive integer or two."""
    pair = (value, value) if is_integer(value) else value
    if not _is_pair(pair) or not all(is_integer(n) and n > 0 for n in pair):
        raise ValueError(
            f"{name}: {argument} must be a positive integer or two of them, got {value!r}"
        )
    return int(pair[0]), int(pair[1])


def resolve_padding(
    name: str, shape: Shape, window: IntPair, stride: IntPair, padding: Padding
) -> Borders:
    """((top, bottom), (left, right)) of zeros around images of a shape (N, height, width, C).

    Raises ValueError for an unknown padding, and where not one window fits.
    """
    if isinstance(padding, str) and padding == "same":
        down, across = map(_same, shape[1:3], window, stride)
    elif isinstance(padding, str) and padding == "valid":
        down, across = (0, 0), (0, 0)
    else:
        down, across = _explicit(name, padding)
    high, wide = output_size(shape, window, stride, (down, across))
    if high < 1 or wide < 1:
        padded = tuple(n + sum(p) for n, p in zip(shape[1:3], (down, across), strict=True))
        raise ValueError(f"{name}: the window {window} is larger than the padded image {padded}")
    return down, across


def _same(size: int, length: int, step: int) -> IntPair:
    """TensorFlow's: ⌈size / step⌉ windows, and the odd pixel of padding comes last."""
    total = max((-(-size // step) - 1) * step + length - size, 0)
    return total // 2, total - total // 2


def _explicit(name: str, padding: Any) -> Borders:
    pair = (padding, padding) if is_integer(padding) else padding
    if _is_pair(pair):
        sides = [(p, p) if is_integer(p) else p for p in pair]
        if all(_is_pair(p) and all(is_integer(n) and n >= 0 for n in p) for p in sides):
            (top, bottom), (left, right) = sides
            return (int(top), int(bottom)), (int(left), int(right))
    raise ValueError(
        f"{name}: padding must be 'same', 'valid', an integer, two of them or "
        f"((top, bottom), (left, right)), none negative, got {padding!r}"
    )


def _is_pair(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, tuple | list) and len(value) == 2
