"""CUDA kernels for CuPy's arrays, each in the place of NumPy's functions, up to rounding.

An update of a small network is hundreds of kernels that each take longer to begin than to compute;
batch norm with its products is two thirds of them when it is made of NumPy's functions. `CudaLoops`
are those of `loops`, with the same arguments; `CudaRows` are functions of each row.

Sums are added in an order that depends on the shapes alone: results are the same in every run. The
source is C++ that a test compiles for the CPU, with threads in the place of CUDA's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..typing import RawArray
from . import loops

COLUMNS, ROWS = 16, 32  # of a block's threads, where it has some columns and all their rows
THREADS = 128  # of a block that has a row

TOTAL = """
// The sum of every row's number, for each of the block's columns.
__device__ T total(T number) {
    __shared__ T numbers[ROWS][COLUMNS];
    int i = threadIdx.y, j = threadIdx.x;
    numbers[i][j] = number;
    __syncthreads();
    for (int half = ROWS / 2; half; half /= 2) {
        if (i < half) numbers[i][j] += numbers[i + half][j];
        __syncthreads();
    }
    number = numbers[0][j];
    __syncthreads();  // before the next sum is written there
    return number;
}

// Beyond the last column, threads repeat it: all have to meet in `total`.
#define COLUMN min((int)(blockIdx.x * COLUMNS + threadIdx.x), units - 1)
"""

SOURCE = """
#define EACH(i) int i = threadIdx.y; i < rows; i += ROWS

extern "C" __global__ void normalize(
    const T *x, const T *gamma, const T *beta, T epsilon, T slope, T *z, T *mean, T *var,
    int rows, int units
) {
    int j = COLUMN;
    T sum = 0, squares = 0;
    for (EACH(i)) sum += x[i * units + j];
    T m = total(sum) / rows;
    for (EACH(i)) {
        T centred = x[i * units + j] - m;
        squares += centred * centred;
    }
    T v = total(squares) / rows;
    T inverse = 1 / sqrt(v + epsilon), scale = gamma[j], shift = beta[j];
    for (EACH(i)) {
        T u = (x[i * units + j] - m) * inverse * scale + shift;
        z[i * units + j] = u <= 0 ? (slope != 0 ? u * slope : 0) : u;
    }
    mean[j] = m;
    var[j] = v;
}

extern "C" __global__ void pull_back(
    const T *g, const T *x, const T *gamma, const T *z, const T *mean, const T *var,
    T epsilon, T slope, T steep, T *g_x, T *g_gamma, T *g_beta, int rows, int units
) {
    int j = COLUMN;
    T m = mean[j], inverse = 1 / sqrt(var[j] + epsilon), sum = 0, product = 0;
    for (EACH(i)) {
        T h = g[i * units + j] * (z[i * units + j] > 0 ? steep : slope);
        sum += h;
        product += h * ((x[i * units + j] - m) * inverse);
    }
    sum = total(sum);
    product = total(product);
    T scale = gamma[j] * inverse;
    for (EACH(i)) {
        T h = g[i * units + j] * (z[i * units + j] > 0 ? steep : slope);
        T y = (x[i * units + j] - m) * inverse;
        g_x[i * units + j] = (h - sum / rows - y * (product / rows)) * scale;
    }
    g_gamma[j] = product;
    g_beta[j] = sum;
}

extern "C" __global__ void push_forward(
    const T *t, const T *x, const T *gamma, const T *z, const T *mean, const T *var,
    T epsilon, T slope, T steep, T *t_z, T *t_mean, T *t_var, int rows, int units
) {
    int j = COLUMN;
    T m = mean[j], deviation = sqrt(var[j] + epsilon), inverse = 1 / deviation;
    T sum = 0, product = 0;
    for (EACH(i)) {
        sum += t[i * units + j];
        product += t[i * units + j] * ((x[i * units + j] - m) * inverse);
    }
    sum = total(sum) / rows;
    product = total(product) / rows;
    T scale = gamma[j] * inverse;
    for (EACH(i)) {
        T y = (x[i * units + j] - m) * inverse;
        T u = (t[i * units + j] - sum - y * product) * scale;
        t_z[i * units + j] = u * (z[i * units + j] > 0 ? steep : slope);
    }
    t_mean[j] = sum;
    t_var[j] = 2 * deviation * product;
}
"""

OF_ROWS = """
__device__ T larger(T a, T b) {  // what is no number is the largest
    return b <= a || a != a ? a : b;
}

__device__ T sum(T a, T b) {
    return a + b;
}

// All of the block's threads' numbers as one.
__device__ T whole(T number, T combined(T, T)) {
    __shared__ T numbers[THREADS];
    int i = threadIdx.x;
    numbers[i] = number;
    __syncthreads();
    for (int half = THREADS / 2; half; half /= 2) {
        if (i < half) numbers[i] = combined(numbers[i], numbers[i + half]);
        __syncthreads();
    }
    number = numbers[0];
    __syncthreads();  // before the next are written there
    return number;
}

#define EACH(j) int j = threadIdx.x; j < size; j += THREADS

extern "C" __global__ void unit(const T *x, T *out, int size) {
    x += (long long)blockIdx.x * size;
    out += (long long)blockIdx.x * size;
    T largest = 0, squares = 0;
    for (EACH(j)) largest = larger(largest, fabs(x[j]));
    largest = whole(largest, larger);
    if (!(largest > 0)) largest = 1;
    for (EACH(j)) squares += x[j] / largest * (x[j] / largest);
    T length = sqrt(whole(squares, sum));
    if (!(length > 0)) length = 1;
    for (EACH(j)) out[j] = x[j] / largest / length;
}

extern "C" __global__ void softmax(const T *x, T *out, int size) {
    x += (long long)blockIdx.x * size;
    out += (long long)blockIdx.x * size;
    T top = x[0], total = 0;
    for (EACH(j)) top = larger(top, x[j]);
    top = whole(top, larger);
    for (EACH(j)) total += exp(x[j] - top);
    total = whole(total, sum);
    for (EACH(j)) out[j] = exp(x[j] - top) / total;
}

extern "C" __global__ void log_softmax(const T *x, T *out, int size) {
    x += (long long)blockIdx.x * size;
    out += (long long)blockIdx.x * size;
    T top = x[0], total = 0;
    for (EACH(j)) top = larger(top, x[j]);
    top = whole(top, larger);
    for (EACH(j)) total += exp(x[j] - top);
    total = log(whole(total, sum));
    for (EACH(j)) out[j] = x[j] - top - total;
}
"""

# CuPy's own kind of kernel: a thread for every number; what is one number for all may be a scalar,
# or an array (1,).
AVERAGE = "out = old * decay + new_ * share;"
ADAM = """
    m = m * beta1 + g * share;
    v = v * beta2 + g * g;
    theta -= m / (sqrt(v) + epsilon) * rate;
"""


def source(body: str, kind: str) -> str:
    """The kernels' source for "float" or "double"."""
    constants = {"COLUMNS": COLUMNS, "ROWS": ROWS, "THREADS": THREADS}
    defined = "".join(f"#define {name} {number}\n" for name, number in constants.items())
    return f"typedef {kind} T;\n{defined}{body}"


KINDS = {"f": "float", "d": "double"}


class CudaLoops:
    """By a loop of `loops`, the function that computes the same on a GPU."""

    def __init__(self, cupy: Any):
        self._of_columns = {
            (loop, char): _of_columns(cupy.RawKernel(source(TOTAL + SOURCE, kind), loop.__name__))
            for loop in (loops.normalize, loops.pull_back, loops.push_forward)
            for char, kind in KINDS.items()
        }
        self._average = cupy.ElementwiseKernel(
            "T old, T new_, T decay, T share", "T out", AVERAGE, "minivat_average"
        )
        self._adam = cupy.ElementwiseKernel(
            "T g, T beta1, T share, T beta2, T epsilon, T rate",
            "T theta, T m, T v",
            ADAM,
            "minivat_adam",
        )

    def compiled(self, loop: loops.Loop, like: RawArray) -> loops.Loop | None:
        """The loop for contiguous arrays like this one, if there is one."""
        if like.dtype.char not in KINDS:
            return None
        of_elements = {loops.average: self._average, loops.adam: self.adam}
        return of_elements.get(loop) or self._of_columns[loop, like.dtype.char]

    def adam(self, theta: RawArray, g: RawArray, m: RawArray, v: RawArray, *numbers: Any) -> None:
        """`loops.adam`; the numbers may be arrays (1,), too."""
        self._adam(g, *numbers, theta, m, v)


def _of_columns(kernel: Any) -> Callable[..., None]:
    """A kernel's launch; the first argument is one of the batch's arrays (rows, units)."""

    def launch(*arguments: Any) -> None:
        rows, units = arguments[0].shape
        blocks = -(-units // COLUMNS)
        kernel((blocks,), (COLUMNS, ROWS), (*arguments, rows, units))

    return launch


class CudaRows:
    """By name, functions of each of an array's rows: all axes but the first."""

    def __init__(self, cupy: Any):
        self._kernels = {
            (name, char): cupy.RawKernel(source(OF_ROWS, kind), name)
            for name in ("unit", "softmax", "log_softmax")
            for char, kind in KINDS.items()
        }

    def compiled(self, name: str, like: RawArray) -> Callable[[RawArray], RawArray] | None:
        """The function of that name for arrays like this one, if there is one."""
        kernel = self._kernels.get((name, like.dtype.char))
        if kernel is None or like.size == 0:
            return None

        def function(x: RawArray) -> RawArray:
            x = x if x.flags.c_contiguous else x.copy()
            out = np.empty_like(x)
            kernel((len(x),), (THREADS,), (x, out, x.size // len(x)))
            return out

        return function
