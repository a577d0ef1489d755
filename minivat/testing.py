"""For tests: are the derivatives of a function right, those of one's own primitives too?

    check_derivatives(ops.tanh, x)       # of one argument
    check_derivatives(ops.matmul, a, b)  # of several

Both modes are checked against a reference and against each other; from order 2 on, so are the
derivatives of the derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .autodiff.tensor import Function
from .autodiff.transforms import jvp, leaves_of, linearize, vjp
from .typing import RawArray

Several: TypeAlias = tuple[Any, ...]  # arrays

# The relative error allowed, by dtype and order of the derivative. The reference is computed in
# float64, with differences good to about 1e-9, or exactly by a complex step.
TOLERANCE = {
    ("float32", 1): 1e-4,
    ("float32", 2): 3e-4,
    ("float64", 1): 1e-7,
    ("float64", 2): 1e-7,
}
COMPLEX_STEP_TOLERANCE = {
    ("float32", 1): 1e-4,
    ("float32", 2): 3e-4,
    ("float64", 1): 1e-11,
    ("float64", 2): 1e-11,
}
# The identity ⟨u, J t⟩ = ⟨Jᵀ u, t⟩ needs no reference and holds up to rounding.
ADJOINT_TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

DTYPES = ("float32", "float64")
MODES = ("forward", "reverse")
REFERENCES = ("differences", "complex step")


class DerivativeError(AssertionError):
    """A derivative is wrong; the message names argument, mode and order, expected and got."""


def check_derivatives(
    f: Function,
    *args: Any,
    order: int = 2,
    modes: Sequence[str] = MODES,
    reference: str = "differences",
    tolerance: float | None = None,
    seed: int = 0,
) -> None:
    """Check the derivatives of f at `args` with respect to each of them.

    f: a function of arrays, written with `minivat.ops` or one's own primitives, that returns an
        array or a tuple, list or dict of arrays. It must be smooth near args, accept float64, and
        for the complex step be analytic and accept complex arrays (so no abs, max or norm in it).
    args: arrays of dtype float32 or float64 are differentiated; whatever else is a constant.
    order: 1, or 2 and more to check the derivatives of the derivatives, in all mixes of modes.
    modes: "forward" checks J t, "reverse" Jᵀ u, with both also the adjoint identity.
    reference: "differences" (central, along random unit directions) or "complex step".
    tolerance: the relative error allowed instead of the table's.
    seed: of the random directions.

    Raises DerivativeError, in one line, at the first derivative that is wrong, has the wrong
    shape or dtype or is not finite, and where f's value has not the dtype of its arguments;
    ValueError for options that are not among these.
    """
    if order < 1 or not set(modes) <= set(MODES) or not modes or reference not in REFERENCES:
        raise ValueError(
            f"check_derivatives: order must be at least 1, modes among {MODES}, reference one of "
            f"{REFERENCES}; got {order!r}, {modes!r}, {reference!r}"
        )
    args = tuple(np.asarray(a) if isinstance(a, np.generic) else a for a in args)
    active = [i for i, a in enumerate(args) if getattr(a, "dtype", None) in DTYPES]
    if not active:
        raise ValueError("check_derivatives: no argument is an array of float32 or float64")

    def of_active(xs: Several) -> Several:
        full = list(args)
        for i, x in zip(active, xs, strict=True):
            full[i] = x
        return tuple(leaves_of(f(*full)))

    checker = _Checker(tuple(modes), reference, tolerance, np.random.default_rng(seed))
    names = [f"argument {i}" for i in active]
    checker.check(of_active, tuple(args[i] for i in active), names, order, ())


@dataclass(frozen=True)
class _Checker:
    modes: tuple[str, ...]
    reference: str
    tolerance: float | None
    generator: np.random.Generator

    def check(
        self, f: Function, xs: Several, names: list[str], order: int, path: tuple[str, ...]
    ) -> None:
        """f: a function of a tuple of arrays to a tuple of arrays, the derivative of the checked
        function by the modes in `path`."""
        y, push, pull = linearize(f, xs)
        dtype = np.result_type(*(x.dtype for x in xs))
        for v in y:
            if v.dtype != dtype:
                raise DerivativeError(f"the value: expected the arguments' {dtype}, got {v.dtype}")
        us = tuple(self.direction(v, xs[0]) for v in y)
        pulled = pull(us)
        ts = tuple(self.direction(x, xs[0]) for x in xs)
        for k, name in enumerate(names):
            alone = tuple(t if i == k else np.zeros_like(t) for i, t in enumerate(ts))
            pushed = push(alone)
            _compare_shapes(f"{name}, forward mode, order {len(path) + 1}", y, pushed)
            _compare_shapes(f"{name}, reverse mode, order {len(path) + 1}", xs, pulled)
            self.check_argument(f, xs, k, name, path, us, alone, pushed, pulled, y)
        if order == 1:
            return
        # A derivative is a function of the point and of the direction, and checked in both.
        n = len(xs)
        derivatives: dict[str, tuple[Function, Several, list[str]]] = {
            "forward": (
                lambda both: jvp(f, both[:n], both[n:])[1],
                ts,
                [f"the tangent of {name}" for name in names],
            ),
            "reverse": (
                lambda both: vjp(f, both[:n])[1](both[n:]),
                us,
                [f"the cotangent of output {i}" for i in range(len(us))],
            ),
        }
        for mode in self.modes:
            derivative, directions, labels = derivatives[mode]
            self.check(derivative, (*xs, *directions), [*names, *labels], order - 1, (*path, mode))

    def check_argument(
        self,
        f: Function,
        xs: Several,
        k: int,
        name: str,
        path: tuple[str, ...],
        us: Several,
        ts: Several,
        pushed: Several,
        pulled: Several,
        y: Several,
    ) -> None:
        order = len(path) + 1
        dtype = min((str(x.dtype) for x in xs), key=DTYPES.index)
        expected = self.derivative_along(f, xs, k, ts[k])
        table = TOLERANCE if self.reference == "differences" else COMPLEX_STEP_TOLERANCE
        tolerance = self.tolerance or table[dtype, min(order, 2)]
        # Differences of a function cannot be better than its own rounding, nor than the curvature
        # they ignore: hence a small absolute part.
        rounding = 0.01 * (1.0 + _norm(_vector(y)))
        u, t = _vector(us), _vector([ts[k]])
        for mode, got, reference in (
            ("forward", _vector(pushed), expected),
            ("reverse", np.array([_vector([pulled[k]]) @ t]), np.array([u @ expected])),
        ):
            if mode in self.modes:
                via = f"{name}, {' over '.join((mode, *reversed(path)))} mode, order {order}"
                _compare(via, reference, got, tolerance, _norm(expected) + rounding)
        if len(self.modes) == 2:
            products = u * _vector(pushed), _vector([pulled[k]]) * t
            of = f" of {' over '.join(reversed(path))}" if path else ""
            via = f"{name}, adjoint identity{of}, order {order}"
            scale = sum(np.sum(np.abs(product)) for product in products) + rounding
            left, right = (np.array([product.sum()]) for product in products)
            _compare(via, left, right, ADJOINT_TOLERANCE[dtype], scale)

    def derivative_along(self, f: Function, xs: Several, k: int, t: Any) -> RawArray:
        """The derivative of f along t in argument k, all outputs in one float64 vector."""
        exact = self.reference == "complex step"
        wide = [x.astype(np.complex128 if exact else np.float64) for x in xs]
        t = t.astype(np.float64)

        def at(step: complex) -> RawArray:
            # NumPy makes scalars of results without dimensions; f is promised arrays.
            moved = (wide[k] + step * t).reshape(t.shape)
            return _vector(f((*wide[:k], moved, *wide[k + 1 :])))

        if exact:
            return at(1e-30j).imag / 1e-30
        largest = np.max(np.abs(_vector([wide[k]])), initial=1.0)
        step = np.cbrt(np.finfo(np.float64).eps) * largest
        return (at(step) - at(-step)) / (2 * step)

    def direction(self, x: Any, like: Any) -> RawArray:
        """A random unit direction with no tiny entries, which differences would not resolve."""
        d = self.generator.standard_normal(x.shape)
        floor = 0.1 * _norm(d) / np.sqrt(max(d.size, 1))
        d = np.where(np.abs(d) < floor, np.copysign(floor, d), d)
        d = d / max(_norm(d), np.finfo(np.float64).tiny)
        return np.asarray(d.astype(x.dtype), like=like)


def _compare(what: str, expected: RawArray, got: RawArray, tolerance: float, scale: float) -> None:
    error = np.abs(got - expected)
    if not _norm(error) <= tolerance * scale:  # and so NaN is refused
        worst = np.argmax(np.where(np.isnan(error), np.inf, error))
        relative = error[worst] / max(abs(expected[worst]), np.finfo(np.float64).tiny)
        raise DerivativeError(
            f"{what}: expected {expected[worst]:.9g}, got {got[worst]:.9g} "
            f"(relative error {relative:.1e}, allowed {tolerance:.0e})"
        )


def _compare_shapes(what: str, like: Several, derivatives: Several) -> None:
    for x, d in zip(like, derivatives, strict=True):
        if (d.shape, d.dtype) != (x.shape, x.dtype):
            raise DerivativeError(
                f"{what}: expected {x.dtype} of shape {x.shape}, got {d.dtype} of shape {d.shape}"
            )


def _vector(arrays: Sequence[Any]) -> RawArray:
    """All elements on the host, in float64 (or complex128) whatever they were."""
    host = [np.ravel(a.get() if hasattr(a, "get") else a) for a in arrays]
    return np.concatenate([v.astype(np.result_type(v, np.float64)) for v in host])


def _norm(v: RawArray) -> float:
    return float(np.linalg.norm(v))
