"""CUDA kernels for batches of images (N, H, W, C), whose arrays are many times a GPU's cache.

Batch norm with its products, as `batch_norm` has it, and max pooling, as `ops.pooling` has it, in
as few passes over the memory as there can be: batch norm's sums over the rows take one, and its
result another. The rows are cut into slabs, so that every multiprocessor has some, and every block
of the second pass adds up the slabs' sums by itself. They are added in an order that depends on
the shapes alone. As in `cuda`, whose tools these are, a test compiles the source for the CPU.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import numpy as np

from ..typing import RawArray
from . import Borders, IntPair, Shape, cuda
from .plain import output_size

Three: TypeAlias = tuple[RawArray, RawArray, RawArray]

SLABS, LEAST_SLAB = 128, 256  # at most so many, of at least so many rows
PIXELS = 256  # of a block's threads, where each has a pixel

BATCH_NORM = """
#define AT(i) ((long long)(i) * units + j)
#define FIRST (blockIdx.y * slab)
#define EACH_OF_SLAB(i) \\
    int i = FIRST + threadIdx.y, end = min((int)FIRST + slab, rows); i < end; i += ROWS
#define EACH_SLAB(s) int s = threadIdx.y, slabs = (rows + slab - 1) / slab; s < slabs; s += ROWS

extern "C" __global__ void moments(
    const T *x, T *means, T *squares, int slab, int rows, int units
) {
    int j = COLUMN, size = min(slab, rows - (int)FIRST);
    T sum = 0, square = 0;
    for (EACH_OF_SLAB(i)) sum += x[AT(i)];
    T mean = total(sum) / size;
    for (EACH_OF_SLAB(i)) square += (x[AT(i)] - mean) * (x[AT(i)] - mean);
    means[AT(blockIdx.y)] = mean;
    squares[AT(blockIdx.y)] = total(square);
}

// Of the whole from the slabs' moments: Chan, Golub and LeVeque.
extern "C" __global__ void normalize_images(
    const T *x, const T *gamma, const T *beta, const T *means, const T *squares,
    T epsilon, T slope, T *z, T *mean, T *var, int slab, int rows, int units
) {
    int j = COLUMN;
    T sum = 0, square = 0;
    for (EACH_SLAB(s)) sum += means[AT(s)] * min(slab, rows - s * slab);
    T m = total(sum) / rows;
    for (EACH_SLAB(s)) {
        T off = means[AT(s)] - m;
        square += squares[AT(s)] + off * off * min(slab, rows - s * slab);
    }
    T v = total(square) / rows, scale = gamma[j] / sqrt(v + epsilon), shift = beta[j];
    for (EACH_OF_SLAB(i)) {
        T u = (x[AT(i)] - m) * scale + shift;
        z[AT(i)] = u <= 0 ? (slope != 0 ? u * slope : 0) : u;
    }
    mean[j] = m;
    var[j] = v;
}

// The sums over a slab of h = g phi'(u), and of h times the normalized x.
extern "C" __global__ void sums(
    const T *g, const T *x, const T *z, const T *mean, const T *var, T epsilon,
    T slope, T steep, T *plain, T *tilted, int slab, int rows, int units
) {
    int j = COLUMN;
    T m = mean[j], inverse = 1 / sqrt(var[j] + epsilon), sum = 0, product = 0;
    for (EACH_OF_SLAB(i)) {
        T h = g[AT(i)] * (slope == steep || z[AT(i)] > 0 ? steep : slope);
        sum += h;
        product += h * ((x[AT(i)] - m) * inverse);
    }
    plain[AT(blockIdx.y)] = total(sum);
    tilted[AT(blockIdx.y)] = total(product);
}

extern "C" __global__ void pull_back_images(
    const T *g, const T *x, const T *z, const T *mean, const T *var, const T *gamma,
    const T *plain, const T *tilted, T epsilon, T slope, T steep,
    T *g_x, T *g_gamma, T *g_beta, int slab, int rows, int units
) {
    int j = COLUMN;
    T m = mean[j], inverse = 1 / sqrt(var[j] + epsilon), sum = 0, product = 0;
    for (EACH_SLAB(s)) {
        sum += plain[AT(s)];
        product += tilted[AT(s)];
    }
    sum = total(sum);
    product = total(product);
    T scale = gamma[j] * inverse;
    for (EACH_OF_SLAB(i)) {
        T h = g[AT(i)] * (z[AT(i)] > 0 ? steep : slope);
        g_x[AT(i)] = (h - sum / rows - (x[AT(i)] - m) * inverse * (product / rows)) * scale;
    }
    g_gamma[j] = product;
    g_beta[j] = sum;
}

extern "C" __global__ void push_forward_images(
    const T *t, const T *x, const T *z, const T *mean, const T *var, const T *gamma,
    const T *plain, const T *tilted, T epsilon, T slope, T steep,
    T *t_z, T *t_mean, T *t_var, int slab, int rows, int units
) {
    int j = COLUMN;
    T m = mean[j], deviation = sqrt(var[j] + epsilon), inverse = 1 / deviation;
    T sum = 0, product = 0;
    for (EACH_SLAB(s)) {
        sum += plain[AT(s)];
        product += tilted[AT(s)];
    }
    sum = total(sum) / rows;
    product = total(product) / rows;
    T scale = gamma[j] * inverse;
    for (EACH_OF_SLAB(i)) {
        T u = (t[AT(i)] - sum - (x[AT(i)] - m) * inverse * product) * scale;
        t_z[AT(i)] = u * (z[AT(i)] > 0 ? steep : slope);
    }
    t_mean[j] = sum;
    t_var[j] = 2 * deviation * product;
}
"""

# Of images (height, width, channels), windows of `tall` by `broad` pixels, `down` and `across` from
# each other, the first `top` and `left` outside; there are `high` by `wide` of them.
WINDOWS = (
    "int height, int width, int channels, int high, int wide, "
    "int tall, int broad, int down, int across, int top, int left"
)
MAX_POOL = f"""
#define PIXEL(k) \\
    long long k = (long long)blockIdx.x * PIXELS + threadIdx.x; \\
    if (k >= count) return;
// Channel, column, row and image of pixel k of images `sizes` high and wide.
#define PLACE(k, rows, columns) \\
    int c = k % channels, column = k / channels % columns, \\
        row = k / channels / columns % rows; \\
    long long image = k / channels / columns / rows;
#define AT(image, row, column, rows, columns) \\
    ((((image) * (rows) + (row)) * (columns) + (column)) * channels + c)

extern "C" __global__ void largest(
    const T *x, T *y, unsigned char *winners, T least, long long count,
    {WINDOWS}
) {{
    PIXEL(k)
    PLACE(k, high, wide)
    T best = least;
    int winner = 0;
    for (int a = 0; a < tall; a++)
        for (int b = 0; b < broad; b++) {{
            int i = row * down + a - top, j = column * across + b - left;
            if (i < 0 || i >= height || j < 0 || j >= width) continue;
            T pixel = x[AT(image, i, j, height, width)];
            if (pixel > best) winner = a * broad + b;
            if (pixel > best || pixel != pixel) best = pixel;
        }}
    y[k] = best;
    winners[k] = winner;
}}

extern "C" __global__ void pick(
    const T *x, const unsigned char *winners, T *y, long long count,
    {WINDOWS}
) {{
    PIXEL(k)
    PLACE(k, high, wide)
    int i = row * down + winners[k] / broad - top;
    int j = column * across + winners[k] % broad - left;
    bool inside = i >= 0 && i < height && j >= 0 && j < width;
    y[k] = inside ? x[AT(image, i, j, height, width)] : 0;
}}

// A thread has a pixel of the images: the sum over the windows that it has won.
extern "C" __global__ void put(
    const T *g, const unsigned char *winners, T *x, long long count,
    {WINDOWS}
) {{
    PIXEL(k)
    PLACE(k, height, width)
    T sum = 0;
    for (int a = (row + top) % down; a < tall; a += down)
        for (int b = (column + left) % across; b < broad; b += across) {{
            int u = (row + top - a) / down, v = (column + left - b) / across;
            if (row + top < a || u >= high || column + left < b || v >= wide) continue;
            long long window = AT(image, u, v, high, wide);
            if (winners[window] == a * broad + b) sum += g[window];
        }}
    x[k] = sum;
}}
"""


NAMES = re.findall(r"__global__ void (\w+)", BATCH_NORM + MAX_POOL)


class CudaImages:
    """The functions of `batch_norm` and of `ops.pooling`, for CuPy's arrays of one dtype.

    Arrays are C-contiguous, or copied; images may be matrices (rows, units) for batch norm.
    """

    def __init__(self, cupy: Any, char: str):
        """char: the dtype's, of `cuda.KINDS`."""
        kind = cuda.KINDS[char]
        of_batch_norm = cuda.source(cuda.TOTAL + BATCH_NORM, kind)
        of_pooling = f"#define PIXELS {PIXELS}\n" + cuda.source(MAX_POOL, kind)
        self._kernels = {
            name: cupy.RawKernel(source, name)
            for source in (of_batch_norm, of_pooling)
            for name in NAMES
            if f"void {name}(" in source
        }

    def forward(
        self, x: RawArray, gamma: RawArray, beta: RawArray, epsilon: float, slope: float
    ) -> Three:
        """As `batch_norm.forward`."""
        x = contiguous(x)
        number, means, squares = x.dtype.type, *_of_slabs(x)
        self._over_rows("moments", x, means, squares)
        z, mean, var = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
        options = number(epsilon), number(slope)
        self._over_rows("normalize_images", x, gamma, beta, means, squares, *options, z, mean, var)
        return z, mean, var

    def pullback(
        self,
        g: RawArray,
        x: RawArray,
        gamma: RawArray,
        outputs: Three,
        epsilon: float,
        slope: float,
    ) -> Three:
        """As `batch_norm.pullback`, without cotangents of mean and var."""
        g, x, (z, *moments) = contiguous(g), contiguous(x), outputs
        epsilon, slopes = x.dtype.type(epsilon), _slopes(x, slope)
        parts = _of_slabs(x)
        self._over_rows("sums", g, x, z, *moments, epsilon, *slopes, *parts)
        results = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
        arguments = g, x, z, *moments, gamma, *parts, epsilon, *slopes
        self._over_rows("pull_back_images", *arguments, *results)
        return results

    def pushforward(
        self,
        t: RawArray,
        x: RawArray,
        gamma: RawArray,
        outputs: Three,
        epsilon: float,
        slope: float,
    ) -> Three:
        """As `batch_norm.pushforward`."""
        t, x, (z, *moments) = contiguous(t), contiguous(x), outputs
        epsilon, (_, one) = x.dtype.type(epsilon), _slopes(x, slope)
        parts = _of_slabs(x)
        self._over_rows("sums", t, x, z, *moments, epsilon, one, one, *parts)
        results = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
        arguments = t, x, z, *moments, gamma, *parts, epsilon, *_slopes(x, slope)
        self._over_rows("push_forward_images", *arguments, *results)
        return results

    def largest(
        self, x: RawArray, window: IntPair, stride: IntPair, padding: Borders
    ) -> tuple[RawArray, RawArray]:
        """As `ops.pooling`'s: the largest pixel of each window, and its number."""
        x = contiguous(x)
        size = output_size(x.shape, window, stride, padding)
        y = np.empty_like(x, shape=(len(x), *size, x.shape[3]))
        winners, least = np.empty_like(y, dtype=np.uint8), x.dtype.type(-np.inf)
        self._over_pixels(
            "largest", (x, y, winners, least), y, x.shape, size, window, stride, padding
        )
        return y, winners

    def pick(
        self, x: RawArray, winners: RawArray, window: IntPair, stride: IntPair, padding: Borders
    ) -> RawArray:
        """Of each window of x the pixel that won in another array."""
        x, size = contiguous(x), winners.shape[1:3]
        y = np.empty_like(x, shape=winners.shape)
        self._over_pixels("pick", (x, winners, y), y, x.shape, size, window, stride, padding)
        return y

    def put(
        self,
        g: RawArray,
        winners: RawArray,
        shape: Shape,
        window: IntPair,
        stride: IntPair,
        padding: Borders,
    ) -> RawArray:
        """The transpose of `pick`."""
        g, size = contiguous(g), winners.shape[1:3]
        x = np.empty_like(g, shape=shape)
        self._over_pixels("put", (g, winners, x), x, shape, size, window, stride, padding)
        return x

    def _over_rows(self, name: str, *arguments: Any) -> None:
        """Launch a kernel of batch norm; the first argument is of the images' shape."""
        rows, units, slab, slabs = _slabs(arguments[0])
        blocks = -(-units // cuda.COLUMNS), slabs
        self._kernels[name](blocks, (cuda.COLUMNS, cuda.ROWS), (*arguments, slab, rows, units))

    def _over_pixels(
        self,
        name: str,
        arguments: tuple[Any, ...],
        each: RawArray,
        shape: Shape,
        size: IntPair,
        window: IntPair,
        stride: IntPair,
        padding: Borders,
    ) -> None:
        """Launch a kernel of pooling, a thread for each element of an array."""
        if each.size == 0:
            return
        (top, _), (left, _) = padding
        numbers = (*shape[1:], *size, *window, *stride, top, left)
        blocks = (-(-each.size // PIXELS),)
        self._kernels[name](blocks, (PIXELS,), (*arguments, np.int64(each.size), *numbers))


def _slabs(x: RawArray) -> tuple[int, int, int, int]:
    """Rows and units of an array, the rows of a slab, and how many slabs there are."""
    units = x.shape[-1]
    rows = x.size // units
    slab = max(LEAST_SLAB, -(-rows // SLABS))
    return rows, units, slab, -(-rows // slab)


def _of_slabs(x: RawArray) -> tuple[RawArray, RawArray]:
    """Two uninitialised arrays (slabs, units)."""
    _, units, _, slabs = _slabs(x)
    return np.empty_like(x, shape=(slabs, units)), np.empty_like(x, shape=(slabs, units))


def _slopes(x: RawArray, slope: float) -> tuple[Any, Any]:
    """Of φ below 0 and above."""
    return x.dtype.type(slope), x.dtype.type(1)


def contiguous(x: RawArray) -> RawArray:
    """x, or a copy of it in C's order."""
    return x if x.flags.c_contiguous else x.copy(order="C")
