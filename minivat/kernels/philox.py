"""Random numbers by counter: Philox4x32-10 of Salmon et al., "Parallel random numbers" (SC 2011).

A number is a function of its place in the array, the draw, the step and a key of 64 bits. No
generator keeps a state, so every number has a thread of its own on a GPU, and the step may be an
array of one number that the device itself counts up: what a CUDA graph replays draws anew each
time. `normal` and `uniform` are the definition; `CudaKernels` does the same in one kernel, and its
source, which is C, is compiled and compared by the tests.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np

from ..typing import RawArray

Word: TypeAlias = Any  # a number below 2³², or an array of uint64 that holds such numbers

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
INCREMENTS = 0x9E3779B9, 0xBB67AE85  # of the key, from round to round
ROUNDS = 10
MASK = 0xFFFFFFFF


class PhiloxKernels(Protocol):
    """Fill `out` with a draw's numbers; step: an integer from 0, or an array (1,) of uint64."""

    def normal(self, key: int, step: Any, draw: int, out: RawArray) -> None: ...

    def uniform(self, key: int, step: Any, draw: int, out: RawArray) -> None: ...


def philox(counter: tuple[Word, Word, Word, Word], key: tuple[int, int]) -> tuple[Word, ...]:
    """Four words of 32 random bits for every counter of four words."""
    a, b, c, d = counter
    k, l = key  # noqa: E741  the paper's letters stop here
    for _ in range(ROUNDS):
        p, q = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (q >> 32) ^ b ^ k, q & MASK, (p >> 32) ^ d ^ l, p & MASK
        k, l = (k + INCREMENTS[0]) & MASK, (l + INCREMENTS[1]) & MASK  # noqa: E741
    return a, b, c, d


def normal(key: int, step: Any, draw: int, out: RawArray) -> None:
    """Fill out with standard normal numbers, by the method of Box and Muller; float32 or float64.

    Of 32 or of 53 random bits each: none is larger than 6.7 or 8.6.
    """
    words = _words(key, step, draw, out)
    if out.dtype == np.float32:
        radius, angle = (words[0] + 1) * 2.0**-32, words[1] * 2.0**-32
    else:
        radius, angle = 1 - _double(*words[:2]), _double(*words[2:])
    numbers = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)
    out[...] = numbers.reshape(out.shape)


def uniform(key: int, step: Any, draw: int, out: RawArray) -> None:
    """Fill out with numbers uniform in [0, 1), of 24 (float32) or 53 (float64) random bits."""
    words = _words(key, step, draw, out)
    numbers = (words[0] >> 8) * 2.0**-24 if out.dtype == np.float32 else _double(*words[:2])
    out[...] = numbers.reshape(out.shape)


def _words(key: int, step: Any, draw: int, out: RawArray) -> tuple[Word, ...]:
    place = np.arange(out.size, dtype=np.uint64, like=out)
    return philox((place & MASK, place >> 32, step, draw), (key & MASK, key >> 32))


def _double(a: Word, b: Word) -> Any:
    return ((a >> 5) * 2.0**26 + (b >> 6)) * 2.0**-53


SOURCE = """
__device__ void philox(unsigned int *w, unsigned long long key) {
    unsigned int k = (unsigned int)key, l = (unsigned int)(key >> 32);
    for (int i = 0; i < 10; i++) {
        unsigned long long p = 0xD2511F53ull * w[0], q = 0xCD9E8D57ull * w[2];
        w[0] = (unsigned int)(q >> 32) ^ w[1] ^ k;
        w[1] = (unsigned int)q;
        w[2] = (unsigned int)(p >> 32) ^ w[3] ^ l;
        w[3] = (unsigned int)p;
        k += 0x9E3779B9u;
        l += 0xBB67AE85u;
    }
}
__device__ double doubled(unsigned int a, unsigned int b) {
    return ((a >> 5) * 67108864.0 + (b >> 6)) * (1.0 / 9007199254740992.0);
}
__device__ void uniform(const unsigned int *w, float *out) {
    *out = (w[0] >> 8) * (1.0f / 16777216.0f);
}
__device__ void uniform(const unsigned int *w, double *out) {
    *out = doubled(w[0], w[1]);
}
__device__ void normal(const unsigned int *w, float *out) {
    float radius = ((float)w[0] + 1.0f) * (1.0f / 4294967296.0f);
    *out = sqrtf(-2.0f * logf(radius)) * cosf(6.283185307f * (w[1] * (1.0f / 4294967296.0f)));
}
__device__ void normal(const unsigned int *w, double *out) {
    double radius = 1.0 - doubled(w[0], w[1]);
    *out = sqrt(-2.0 * log(radius)) * cos(6.283185307179586 * doubled(w[2], w[3]));
}
"""
# CuPy gives the place of a number as `i`.
OPERATION = """
    unsigned int w[4] = {(unsigned int)i, (unsigned int)((unsigned long long)i >> 32),
                         (unsigned int)step, draw};
    philox(w, key);
    T number;
    %s(w, &number);
    out = number;
"""


class CudaKernels:
    """The same on a GPU, a thread for every number."""

    def __init__(self, cupy: Any):
        self._normal, self._uniform = (
            cupy.ElementwiseKernel(
                "uint64 key, uint64 step, uint32 draw",
                "T out",
                OPERATION % name,
                f"minivat_{name}",
                preamble=SOURCE,
            )
            for name in ("normal", "uniform")
        )

    def normal(self, key: int, step: Any, draw: int, out: RawArray) -> None:
        """As `normal`, up to the rounding of log, cos and square root."""
        self._normal(*_typed(key, step, draw), out)

    def uniform(self, key: int, step: Any, draw: int, out: RawArray) -> None:
        """As `uniform`."""
        self._uniform(*_typed(key, step, draw), out)


def _typed(key: int, step: Any, draw: int) -> tuple[Any, ...]:
    """With the kernel's own types, which CuPy does not convert to."""
    return np.uint64(key), np.uint64(step) if isinstance(step, int) else step, np.uint32(draw)
