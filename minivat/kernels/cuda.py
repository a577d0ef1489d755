"""The loops of `loops` as CUDA kernels, for CuPy's arrays: the same arguments, the same results up
to rounding.

An update of a small network is hundreds of kernels that each take longer to begin than to compute;
batch norm with its products is two thirds of them when it is made of NumPy's functions.

A block of threads has COLUMNS columns of the batch, all its rows, and sums over them in an order
that depends on the shapes alone: results are the same in every run. The source is C++ that a test
compiles for the CPU, with threads in the place of CUDA's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..typing import RawArray
from . import loops

COLUMNS, ROWS = 16, 32  # of a block's threads

SOURCE = """
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

# CuPy's own kind of kernel: a thread for every number; what is one number for all may be a scalar,
# or an array (1,).
AVERAGE = "out = old * decay + new_ * share;"
ADAM = """
    m = m * beta1 + g * share;
    v = v * beta2 + g * g;
    theta -= m / (sqrt(v) + epsilon) * rate;
"""


def source(kind: str) -> str:
    """The kernels' source for "float" or "double"."""
    return f"typedef {kind} T;\n#define COLUMNS {COLUMNS}\n#define ROWS {ROWS}\n{SOURCE}"


class CudaLoops:
    """By a loop of `loops`, the function that computes the same on a GPU."""

    def __init__(self, cupy: Any):
        self._of_rows = {
            (loop, char): _of_rows(cupy.RawKernel(source(kind), loop.__name__))
            for loop in (loops.normalize, loops.pull_back, loops.push_forward)
            for char, kind in (("f", "float"), ("d", "double"))
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
        if like.dtype.char not in "fd":
            return None
        of_elements = {loops.average: self._average, loops.adam: self.adam}
        return of_elements.get(loop) or self._of_rows[loop, like.dtype.char]

    def adam(self, theta: RawArray, g: RawArray, m: RawArray, v: RawArray, *numbers: Any) -> None:
        """`loops.adam`; the numbers may be arrays (1,), too."""
        self._adam(g, *numbers, theta, m, v)


def _of_rows(kernel: Any) -> Callable[..., None]:
    """A kernel's launch; the first argument is one of the batch's arrays (rows, units)."""

    def launch(*arguments: Any) -> None:
        rows, units = arguments[0].shape
        blocks = -(-units // COLUMNS)
        kernel((blocks,), (COLUMNS, ROWS), (*arguments, rows, units))

    return launch
