"""The transforms of `winograd`'s tiles as loops, compiled as those of `loops` are.

Each is `winograd._both_ways` with another matrix, down the columns of a tile first and then along
its rows, for whole rows of tiles. At the points 0, ±P, ±Q and ∞ the lines of a matrix come in
pairs, the sum and the difference of an even part and an odd one. The sums are in another order than
BLAS's: of all loops these alone round otherwise than what they stand for.
"""

from __future__ import annotations

import numpy as np

from ..typing import RawArray

P, Q = 2 / 3, 3 / 2


def expand(padded: RawArray, first: int, rows: int, wide: int, out: RawArray) -> None:
    """Bᵀ d B into out, (6, 6, tiles, C), of `rows` rows of tiles from the `first` of each image.

    padded: (images, height, width, C). A line of Bᵀ has the coefficients of the polynomial that is
    1 at one of the points and 0 at the others; at ∞, of the one that is 0 at all of them.
    """
    number, channels = padded.dtype.type, padded.shape[3]
    pp, qq, both = number(P * P), number(Q * Q), number(P * P + Q * Q)
    all_, at_p = number(P * P * Q * Q), 1 / (2 * P * P * (P * P - Q * Q))
    at_0, at_q = number(1 / (P * P * Q * Q)), 1 / (2 * Q * Q * (Q * Q - P * P))
    even_p, even_q, odd_p, odd_q = number(at_p), number(at_q), number(P * at_p), number(Q * at_q)
    half = np.empty((6, padded.shape[2] * channels), padded.dtype)
    h0, h1, h2, h3, h4, h5 = half[0], half[1], half[2], half[3], half[4], half[5]
    tile = 0
    for each in range(len(padded)):
        image = padded[each]  # of a known layout; `for image in padded` has none
        for row in range(first, first + rows):
            d0, d1 = image[4 * row].reshape(-1), image[4 * row + 1].reshape(-1)
            d2, d3 = image[4 * row + 2].reshape(-1), image[4 * row + 3].reshape(-1)
            d4, d5 = image[4 * row + 4].reshape(-1), image[4 * row + 5].reshape(-1)
            for i in range(d0.size):
                a1, a2, a3, a4 = d1[i], d2[i], d3[i], d4[i]
                a, b = (a4 - qq * a2) * even_p, (a3 - qq * a1) * odd_p
                c, e = (a4 - pp * a2) * even_q, (a3 - pp * a1) * odd_q
                h0[i] = d0[i] + (a4 - both * a2) * at_0
                h1[i], h2[i], h3[i], h4[i] = a + b, a - b, c + e, c - e
                h5[i] = all_ * a1 - both * a3 + d5[i]
            for column in range(wide):
                start, n = 4 * column * channels, channels
                for k in range(6):
                    h = half[k, start : start + 6 * n]
                    g0, g1, g2 = h[:n], h[n : 2 * n], h[2 * n : 3 * n]
                    g3, g4, g5 = h[3 * n : 4 * n], h[4 * n : 5 * n], h[5 * n :]
                    o0, o1, o2 = out[k, 0, tile], out[k, 1, tile], out[k, 2, tile]
                    o3, o4, o5 = out[k, 3, tile], out[k, 4, tile], out[k, 5, tile]
                    for i in range(n):
                        a1, a2, a3, a4 = g1[i], g2[i], g3[i], g4[i]
                        a, b = (a4 - qq * a2) * even_p, (a3 - qq * a1) * odd_p
                        c, e = (a4 - pp * a2) * even_q, (a3 - pp * a1) * odd_q
                        o0[i] = g0[i] + (a4 - both * a2) * at_0
                        o1[i], o2[i], o3[i], o4[i] = a + b, a - b, c + e, c - e
                        o5[i] = all_ * a1 - both * a3 + g5[i]
                tile += 1


def collect(products: RawArray, first: int, rows: int, wide: int, whole: RawArray) -> None:
    """Aᵀ m A of m = products, (6, 6, tiles, C), into the rows of tiles of whole images."""
    number, channels = whole.dtype.type, whole.shape[3]
    p, pp, ppp = number(P), number(P**2), number(P**3)
    q, qq, qqq = number(Q), number(Q**2), number(Q**3)
    half = np.empty((4, 6, wide * channels), whole.dtype)
    tile = 0
    for each in range(len(whole)):
        image = whole[each]
        for row in range(first, first + rows):
            last = tile + wide
            for k in range(6):
                m0 = products[0, k, tile:last].reshape(-1)
                m1 = products[1, k, tile:last].reshape(-1)
                m2 = products[2, k, tile:last].reshape(-1)
                m3 = products[3, k, tile:last].reshape(-1)
                m4 = products[4, k, tile:last].reshape(-1)
                m5 = products[5, k, tile:last].reshape(-1)
                h0, h1, h2, h3 = half[0, k], half[1, k], half[2, k], half[3, k]
                for i in range(m0.size):
                    a, b, c, d = m1[i] + m2[i], m1[i] - m2[i], m3[i] + m4[i], m3[i] - m4[i]
                    h0[i], h1[i] = m0[i] + a + c, p * b + q * d
                    h2[i], h3[i] = pp * a + qq * c, ppp * b + qqq * d + m5[i]
            for column in range(wide):
                start, stop = column * channels, (column + 1) * channels
                for k in range(4):
                    m0, m1, m2 = (
                        half[k, 0, start:stop],
                        half[k, 1, start:stop],
                        half[k, 2, start:stop],
                    )
                    m3, m4, m5 = (
                        half[k, 3, start:stop],
                        half[k, 4, start:stop],
                        half[k, 5, start:stop],
                    )
                    o0, o1 = image[4 * row + k, 4 * column], image[4 * row + k, 4 * column + 1]
                    o2, o3 = image[4 * row + k, 4 * column + 2], image[4 * row + k, 4 * column + 3]
                    for i in range(channels):
                        a, b, c, d = m1[i] + m2[i], m1[i] - m2[i], m3[i] + m4[i], m3[i] - m4[i]
                        o0[i], o1[i] = m0[i] + a + c, p * b + q * d
                        o2[i], o3[i] = pp * a + qq * c, ppp * b + qqq * d + m5[i]
            tile = last


def spread(whole: RawArray, first: int, rows: int, wide: int, out: RawArray) -> None:
    """A g Aᵀ of the rows of tiles of whole images into out, (6, 6, tiles, C).

    A line of A has the powers of a point: these are the values of polynomials.
    """
    number, channels = whole.dtype.type, whole.shape[3]
    p, pp, ppp = number(P), number(P**2), number(P**3)
    q, qq, qqq = number(Q), number(Q**2), number(Q**3)
    half = np.empty((6, 4 * wide * channels), whole.dtype)
    h0, h1, h2, h3, h4, h5 = half[0], half[1], half[2], half[3], half[4], half[5]
    tile = 0
    for each in range(len(whole)):
        image = whole[each]
        for row in range(first, first + rows):
            g0, g1 = image[4 * row].reshape(-1), image[4 * row + 1].reshape(-1)
            g2, g3 = image[4 * row + 2].reshape(-1), image[4 * row + 3].reshape(-1)
            for i in range(g0.size):
                a0, a1, a2, a3 = g0[i], g1[i], g2[i], g3[i]
                a, b = a0 + pp * a2, p * a1 + ppp * a3
                c, d = a0 + qq * a2, q * a1 + qqq * a3
                h0[i], h1[i], h2[i], h3[i], h4[i], h5[i] = a0, a + b, a - b, c + d, c - d, a3
            for column in range(wide):
                start, n = 4 * column * channels, channels
                for k in range(6):
                    h = half[k, start : start + 4 * n]
                    f0, f1, f2, f3 = h[:n], h[n : 2 * n], h[2 * n : 3 * n], h[3 * n :]
                    o0, o1, o2 = out[k, 0, tile], out[k, 1, tile], out[k, 2, tile]
                    o3, o4, o5 = out[k, 3, tile], out[k, 4, tile], out[k, 5, tile]
                    for i in range(n):
                        a0, a1, a2, a3 = f0[i], f1[i], f2[i], f3[i]
                        a, b = a0 + pp * a2, p * a1 + ppp * a3
                        c, d = a0 + qq * a2, q * a1 + qqq * a3
                        o0[i], o1[i], o2[i] = a0, a + b, a - b
                        o3[i], o4[i], o5[i] = c + d, c - d, a3
                tile += 1
