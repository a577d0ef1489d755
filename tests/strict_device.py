"""A stand-in for a CUDA device that needs no GPU: NumPy arrays that behave as CuPy's, and refuse.

`StrictArray` reaches NumPy through the protocols by which minivat reaches CuPy
(`__array_ufunc__`, `__array_function__`), and refuses whatever would fail, copy or wait on a GPU:

* host arrays mixed with device arrays, in any operation and any position. Python and NumPy scalars
  are accepted, as CuPy accepts them;
* everything that needs the value on the host: `float`, `int`, `bool`, `operator.index`, iteration,
  `item`, `tolist`, `np.asarray`, pickling, masks as indices (their count decides a shape);
* names and keyword arguments that CuPy does not offer. The tables below are CuPy 14's own
  signatures; `test_strict_device.py` compares them with CuPy where it can be imported. Among the
  differences that matter: no `where=` or `initial=` anywhere, `reduce` of add and multiply only,
  no `out=` of einsum, no `mode=` of take, `np.where` needs a device array as condition;
* assignment through repeated indices, which CuPy leaves undefined.

Results of reductions are 0-d arrays, as in CuPy, not NumPy scalars.

`StrictDevice` counts what waits for a GPU. `RecordingDevice` records work as a CUDA graph does:
every operation with the very memory of its operands and results, and nothing of what Python
computes in between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from minivat.backend import CounterStream, Device, RandomStream, host_generator
from minivat.kernels import philox

# CuPy's ufuncs take `out`, `dtype` and `casting`, nothing else.
UFUNC_KEYWORDS = frozenset({"out", "dtype", "casting"})
UFUNCS = frozenset(
    """
    absolute add arccos arccosh arcsin arcsinh arctan arctan2 arctanh bitwise_and bitwise_or
    bitwise_xor cbrt ceil conjugate copysign cos cosh divide equal exp exp2 expm1 fabs floor
    floor_divide fmax fmin fmod greater greater_equal heaviside hypot invert isfinite isinf isnan
    left_shift less less_equal log log10 log1p log2 logaddexp logaddexp2 logical_and logical_not
    logical_or logical_xor matmul maximum minimum mod multiply negative not_equal positive power
    reciprocal remainder right_shift rint sign signbit sin sinh sqrt square subtract tan tanh
    true_divide trunc
    """.split()
)
REDUCE = frozenset({"add", "multiply"})
AT = frozenset({"add", "subtract", "maximum", "minimum"})

# name in numpy: the parameters CuPy's function has, in order; after `*` by keyword only.
FUNCTIONS = {
    name: parameters.split()
    for name, parameters in {
        "all": "a axis out keepdims",
        "amax": "a axis out keepdims",
        "amin": "a axis out keepdims",
        "any": "a axis out keepdims",
        "arange": "start stop step dtype",
        "argmax": "a axis dtype out keepdims",
        "argmin": "a axis dtype out keepdims",
        "asarray": "a dtype order * copy",
        "ascontiguousarray": "a dtype",
        "astype": "x dtype * copy",
        "broadcast_to": "array shape",
        "can_cast": "from_ to casting",
        "clip": "a a_min a_max out",
        "concatenate": "tup axis out * dtype casting",
        "copy": "a order",
        "copyto": "dst src casting where",
        "count_nonzero": "a axis",
        "cumprod": "a axis dtype out",
        "cumsum": "a axis dtype out",
        "diagonal": "a offset axis1 axis2",
        "dot": "a b out",
        "einsum": "*operands * dtype optimize",
        "empty": "shape dtype order",
        "empty_like": "prototype dtype order subok shape",
        "expand_dims": "a axis",
        "eye": "N M k dtype order",
        "flip": "a axis",
        "full": "shape fill_value dtype order",
        "full_like": "a fill_value dtype order subok shape",
        "hstack": "tup * dtype casting",
        "identity": "n dtype",
        "inner": "a b",
        "linalg.eigh": "a UPLO",
        "linalg.norm": "x ord axis keepdims",
        "matrix_transpose": "x",
        "max": "a axis out keepdims",
        "mean": "a axis dtype out keepdims",
        "min": "a axis out keepdims",
        "moveaxis": "a source destination",
        "nan_to_num": "x copy nan posinf neginf",
        "ndim": "a",
        "ones": "shape dtype order",
        "ones_like": "a dtype order subok shape",
        "outer": "a b out",
        "pad": "array pad_width mode * constant_values",
        "permute_dims": "a axes",
        "prod": "a axis dtype out keepdims",
        "ravel": "a order",
        "repeat": "a repeats axis",
        "reshape": "a newshape order * copy",
        "result_type": "*arrays_and_dtypes",
        "roll": "a shift axis",
        "shape": "a",
        "size": "a axis",
        "split": "ary indices_or_sections axis",
        "squeeze": "a axis",
        "stack": "tup axis out * dtype casting",
        "std": "a axis dtype out ddof keepdims",
        "sum": "a axis dtype out keepdims",
        "swapaxes": "a axis1 axis2",
        "take": "a indices axis out",
        "take_along_axis": "a indices axis",
        "tensordot": "a b axes",
        "tile": "A reps",
        "trace": "a offset axis1 axis2 dtype out",
        "transpose": "a axes",
        "tril": "m k",
        "triu": "m k",
        "var": "a axis dtype out ddof keepdims",
        "vdot": "a b",
        "vstack": "tup * dtype casting",
        "where": "condition x y",
        "zeros": "shape dtype order",
        "zeros_like": "a dtype order subok shape",
    }.items()
}
# Where NumPy and CuPy would be free to differ: the least number of arguments that is safe.
AT_LEAST = {"where": 3}
JOINS = frozenset({"concatenate", "stack", "hstack", "vstack"})

METHODS = {
    name: parameters.split()
    for name, parameters in {
        "all": "axis out keepdims",
        "any": "axis out keepdims",
        "argmax": "axis out dtype keepdims",
        "argmin": "axis out dtype keepdims",
        "astype": "dtype order casting subok copy",
        "clip": "min max out",
        "conj": "",
        "copy": "order",
        "cumsum": "axis dtype out",
        "diagonal": "offset axis1 axis2",
        "dot": "b out",
        "fill": "value",
        "flatten": "order",
        "max": "axis out keepdims",
        "mean": "axis dtype out keepdims",
        "min": "axis out keepdims",
        "prod": "axis dtype out keepdims",
        "ravel": "order",
        "repeat": "repeats axis",
        "reshape": "*shape * order copy",
        "squeeze": "axis",
        "std": "axis dtype out ddof keepdims",
        "sum": "axis dtype out keepdims",
        "swapaxes": "axis1 axis2",
        "take": "indices axis out",
        "trace": "offset axis1 axis2 dtype out",
        "transpose": "*axes",
        "var": "axis dtype out ddof keepdims",
        "view": "dtype type",
    }.items()
}
PROPERTIES = ("shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides", "real", "imag")

SCALARS = (bool, int, float, complex, np.bool_, np.number)


class StrictError(TypeError):
    """Something that does not work, or not without waiting, on a GPU."""


class Tape:
    """What is recorded: operations, and what they overwrite as it was before."""

    def __init__(self):
        self.operations: list[tuple[Callable[[], Any], Any]] = []
        self.before: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def overwritten(self, host: np.ndarray) -> None:
        while host.base is not None:
            host = host.base
        self.before.setdefault(id(host), (host, host.copy()))

    def rewind(self) -> None:
        """A GPU has done nothing of it yet."""
        for host, copy in self.before.values():
            host[...] = copy

    def replay(self) -> None:
        for compute, result in self.operations:
            _copy_into(result, compute())


tape: Tape | None = None  # where operations are recorded now


def _copy_into(result: Any, value: Any) -> None:
    """Into the memory that the first result had. A view of that memory is copied onto itself."""
    if isinstance(result, StrictArray):
        np.copyto(result._host, value)
    elif isinstance(result, (list, tuple)):
        for one, other in zip(result, value, strict=True):
            _copy_into(one, other)


def _done(compute: Callable[[], Any], overwritten: np.ndarray | None = None) -> Any:
    """What an operation gives, wrapped, and recorded if something is."""
    if tape is not None and overwritten is not None:
        tape.overwritten(overwritten)
    result = _wrap(compute())
    if tape is not None:
        tape.operations.append((compute, result))
    return result


class StrictArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array on the stand-in device. The operators are NumPy's ufuncs, as for CuPy's arrays.

    The mixin leaves an operator to the other operand exactly where CuPy does (NEP 13): when that
    has `__array_ufunc__ = None`. `get`, CuPy's explicit copy to the host, is the only way out.
    """

    __slots__ = ("_host", "__weakref__")
    __array_priority__ = 100

    def __init__(self, host: np.ndarray):
        if type(host) is not np.ndarray or host.dtype.kind not in "biufc":
            raise StrictError(f"a device array of {type(host).__name__} {host!r:.40}")
        self._host = host

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = ufunc.__name__
        out = kwargs.get("out", ())
        operands = inputs[:1] + inputs[2:] if method == "at" else inputs
        if not all(isinstance(x, (StrictArray, np.ndarray, *SCALARS)) for x in (*operands, *out)):
            return NotImplemented
        if name not in UFUNCS:
            raise StrictError(f"numpy.{name}: not among the ufuncs of CuPy")
        if method == "__call__":
            allowed = UFUNC_KEYWORDS
        elif method == "reduce" and name in REDUCE:
            allowed = {"axis", "dtype", "out", "keepdims"}
        elif method == "accumulate" and name in REDUCE:
            allowed = {"axis", "dtype", "out"}
        elif method == "at" and name in AT:
            allowed = set()
            _check_index(name, inputs[1])
            if isinstance(inputs[1], tuple):
                raise StrictError(f"numpy.{name}.at: CuPy takes no tuple through this function")
        else:
            raise StrictError(f"numpy.{name}.{method}: CuPy does not offer it")
        for keyword in kwargs:
            if keyword not in allowed:
                raise StrictError(f"numpy.{name}: CuPy does not take {keyword}=")
        if len(out) > 1:
            raise StrictError(f"numpy.{name}: CuPy takes one output only")
        compute = partial(getattr(ufunc, method), *_unwrap(name, inputs), **_unwrap(name, kwargs))
        if any(isinstance(x, StrictArray) for x in out):
            # The result is the very array given, and not a new one around the same memory.
            _done(compute, out[0]._host)
            return out[0]
        return _done(compute, inputs[0]._host if method == "at" else None)

    def __array_function__(self, func: Any, types: Any, args: tuple, kwargs: dict) -> Any:
        name = ".".join([*func.__module__.split(".")[1:], func.__name__])
        if not all(issubclass(kind, (StrictArray, np.ndarray)) for kind in types):
            return NotImplemented
        if name not in FUNCTIONS:
            raise StrictError(f"numpy.{name}: not among the functions of CuPy, or it waits")
        _accept(f"numpy.{name}", FUNCTIONS[name], args, kwargs)
        if name == "asarray":  # reached by like= only: an explicit copy to the device
            if isinstance(args[0], StrictArray):
                return args[0]
            _waited()
            return _wrap(func(*args, **kwargs))
        if len(args) + len(kwargs) < AT_LEAST.get(name, 0):
            raise StrictError(f"numpy.{name}: CuPy would wait for the result")
        if tape is not None and name in JOINS and len(args[0]) > 8:
            raise StrictError(f"numpy.{name}: CuPy copies the addresses of so many arrays")
        if name == "where" and not isinstance(args[0], StrictArray):
            raise StrictError("numpy.where: CuPy needs a device array as condition")
        compute = partial(func, *_unwrap(name, args), **_unwrap(name, kwargs))
        out = kwargs.get("out", args[0] if name == "copyto" else None)
        return _done(compute, None if out is None else out._host)

    def __getitem__(self, key: Any) -> StrictArray:
        _check_index("indexing", key)
        if any(isinstance(k, StrictArray) and k.dtype == bool for k in _tuple(key)):
            raise StrictError("indexing: a mask makes CuPy wait for the number of its elements")
        return _done(partial(self._host.__getitem__, _unwrap("indexing", key)))

    def __setitem__(self, key: Any, value: Any) -> None:
        _check_index("assignment", key)
        host_key, host_value = _unwrap("assignment", key), _unwrap("assignment", value)
        if np.ndim(host_value):
            if any(isinstance(k, StrictArray) and k.dtype == bool for k in _tuple(key)):
                raise StrictError("assignment: an array through a mask makes CuPy wait")
            positions = np.arange(self._host.size).reshape(self._host.shape)[host_key]
            if np.unique(positions).size != positions.size:
                raise StrictError("assignment: with repeated indices CuPy's result is undefined")
        _done(partial(self._host.__setitem__, host_key, host_value), self._host)

    def get(self) -> np.ndarray:
        _waited()
        return self._host.copy()

    def __len__(self) -> int:
        return len(self._host)

    @property
    def T(self) -> StrictArray:
        return _wrap(self._host.T)

    @property
    def base(self) -> StrictArray | None:
        return None if self._host.base is None else _wrap(self._host.base)

    @property
    def flags(self) -> Any:
        return self._host.flags

    @property
    def data(self) -> Any:
        """The address, as CuPy's MemoryPointer has it."""
        return SimpleNamespace(ptr=self._host.ctypes.data)

    def __copy__(self) -> StrictArray:
        return self.copy()

    def __deepcopy__(self, memo: dict) -> StrictArray:
        return self.copy()

    def __repr__(self) -> str:
        return f"StrictArray(shape={self.shape}, dtype={self.dtype})"

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise StrictError("this copies a device array to the host, which waits for the device")

    __array__ = __float__ = __int__ = __complex__ = __bool__ = __index__ = _refuse
    __iter__ = __contains__ = __reduce__ = __reduce_ex__ = _refuse
    item = tolist = tobytes = dump = dumps = tofile = nonzero = _refuse


def _method(name: str) -> Any:
    def method(self, *args, **kwargs):
        _accept(f"ndarray.{name}", METHODS[name], args, kwargs)
        compute = partial(getattr(self._host, name), *_unwrap(name, args), **_unwrap(name, kwargs))
        out = self if name == "fill" else kwargs.get("out")
        return _done(compute, None if out is None else out._host)

    method.__name__ = name
    return method


for _name in METHODS:
    setattr(StrictArray, _name, _method(_name))
for _name in PROPERTIES:
    setattr(StrictArray, _name, property(lambda self, n=_name: _wrap(getattr(self._host, n))))


def _accept(what: str, parameters: list[str], args: tuple, kwargs: dict) -> None:
    """Refuse arguments that CuPy's signature does not have."""
    named = [p for p in parameters if not p.startswith("*")]
    starred = [p for p in parameters if p.startswith("*") and p != "*"]
    positional = parameters.index("*") if "*" in parameters else len(parameters)
    if not starred and len(args) > positional:
        raise StrictError(f"{what}: CuPy takes {positional} positional arguments")
    for keyword in kwargs:
        if keyword not in named:
            raise StrictError(f"{what}: CuPy does not take {keyword}=")


def _unwrap(what: str, x: Any) -> Any:
    """The NumPy arrays inside, to compute with; host arrays among them are refused."""
    if isinstance(x, StrictArray):
        return x._host
    if isinstance(x, np.ndarray):
        raise StrictError(f"{what}: a host array of shape {x.shape} is mixed with device arrays")
    if isinstance(x, (tuple, list)):
        return type(x)([_unwrap(what, item) for item in x])
    if isinstance(x, dict):
        return {key: _unwrap(what, item) for key, item in x.items()}
    return x


def _wrap(x: Any) -> Any:
    if isinstance(x, (np.ndarray, np.generic)):
        return StrictArray(np.asarray(x))
    if isinstance(x, (list, tuple)):  # a plain tuple for NumPy's named ones, as CuPy's eigh has it
        return (list if isinstance(x, list) else tuple)(map(_wrap, x))
    return x


def _tuple(key: Any) -> tuple:
    return key if isinstance(key, tuple) else (key,)


def _check_index(what: str, key: Any) -> None:
    """CuPy would copy host indices to the device; minivat keeps its own there."""
    for k in _tuple(key):
        if isinstance(k, (np.ndarray, list)):
            raise StrictError(f"{what}: indices on the host, of type {type(k).__name__}")


_waits = 0  # copies between host and device, and other waits, so far


def _waited() -> None:
    global _waits
    if tape is not None:
        raise StrictError("a recording must not copy between host and device, nor wait")
    _waits += 1


class StrictDevice(Device):
    """The stand-in device. Its random numbers are the CPU's."""

    name = "strict"
    description = "strict: NumPy arrays that refuse what CuPy's would"

    @property
    def waits(self) -> int:
        """How often something was copied between host and device, or waited for, so far."""
        return _waits

    def asarray(self, array: Any, dtype: Any = None) -> StrictArray:
        if isinstance(array, StrictArray):
            return array if dtype is None else array.astype(dtype, copy=False)
        _waited()
        return StrictArray(np.array(array, dtype))

    def to_host(self, array: StrictArray) -> np.ndarray:
        return array.get() if isinstance(array, StrictArray) else np.asarray(array)

    def synchronize(self) -> None:
        _waited()

    def random(self, seed: int, purpose: str, step: int = 0) -> RandomStream:
        return RandomStream(_StrictGenerator(host_generator(seed, purpose, step)))


class _StrictGenerator:
    """What `RandomStream` uses of a generator."""

    def __init__(self, generator: np.random.Generator):
        self._generator = generator

    def standard_normal(self, size: tuple, dtype: Any) -> StrictArray:
        return StrictArray(np.asarray(self._generator.standard_normal(size, dtype=dtype)))

    def random(self, size: tuple, dtype: Any) -> StrictArray:
        return StrictArray(np.asarray(self._generator.random(size, dtype=dtype)))


class RecordingDevice(StrictDevice):
    """One that records, as a GPU does, and whose random numbers are by counter, as a GPU's."""

    captures = True

    def random(self, seed: int, purpose: str, step: Any = 0) -> CounterStream:
        return CounterStream(philox, _empty, seed, purpose, step)

    def capture(self, work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        with _recording() as recorded:
            result = work()
        recorded.rewind()
        return result, recorded.replay


@contextlib.contextmanager
def _recording() -> Iterator[Tape]:
    global tape
    if tape is not None:
        raise StrictError("a recording within a recording")
    tape = Tape()
    try:
        yield tape
    finally:
        tape = None


def _empty(shape: tuple[int, ...], dtype: Any) -> StrictArray:
    return StrictArray(np.empty(shape, dtype))


def strict_device() -> StrictDevice:
    """A device with the interface of `minivat.backend.Device` for tests without a GPU."""
    return StrictDevice()
