"""Max pooling's arithmetic, as `ops.pooling` has it, in loops; compiled, and rounded, as `loops`.

x and padded: images with their padding, (N, height, width, C). y and g: a pixel for each window,
(N, high, wide, C); winners: the number of the largest pixel in its window, of y's shape.
"""

from __future__ import annotations

from ..typing import RawArray
from . import IntPair


def largest(x: RawArray, window: IntPair, stride: IntPair, y: RawArray, winners: RawArray) -> None:
    """The largest pixel of each window into y, and its number into winners."""
    for n in range(y.shape[0]):
        for u in range(y.shape[1]):
            for v in range(y.shape[2]):
                best, winner = y[n, u, v], winners[n, u, v]
                first = x[n, u * stride[0], v * stride[1]]
                for c in range(best.size):
                    best[c] = first[c]
                    winner[c] = 0
                for number in range(1, window[0] * window[1]):
                    i, j = number // window[1], number % window[1]
                    pixel = x[n, u * stride[0] + i, v * stride[1] + j]
                    name = winners.dtype.type(number)
                    for c in range(best.size):
                        new, old = pixel[c], best[c]
                        winner[c] = name if new > old else winner[c]
                        best[c] = old if old >= new or old != old else new  # NaN where either is


def pick(x: RawArray, winners: RawArray, window: IntPair, stride: IntPair, y: RawArray) -> None:
    """Of each window of x the pixel that won, into y."""
    for n in range(y.shape[0]):
        for u in range(y.shape[1]):
            for v in range(y.shape[2]):
                out, winner = y[n, u, v], winners[n, u, v]
                for number in range(window[0] * window[1]):
                    i, j = number // window[1], number % window[1]
                    pixel = x[n, u * stride[0] + i, v * stride[1] + j]
                    name = winners.dtype.type(number)
                    for c in range(out.size):
                        new, old = pixel[c], out[c]
                        out[c] = new if winner[c] == name else old


def put(g: RawArray, winners: RawArray, window: IntPair, stride: IntPair, padded: RawArray) -> None:
    """Add each number of g to the pixel of padded that won.

    From the last window to the first: a pixel of several windows gets what `ops.pooling` adds to
    it, which goes over the numbers of pixels, in the same order.
    """
    for n in range(g.shape[0]):
        for u in range(g.shape[1] - 1, -1, -1):
            for v in range(g.shape[2] - 1, -1, -1):
                given, winner = g[n, u, v], winners[n, u, v]
                for number in range(window[0] * window[1]):
                    i, j = number // window[1], number % window[1]
                    pixel = padded[n, u * stride[0] + i, v * stride[1] + j]
                    name = winners.dtype.type(number)
                    for c in range(given.size):
                        new, old = given[c], pixel[c]
                        pixel[c] = old + new if winner[c] == name else old
