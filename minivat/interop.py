"""Models of other frameworks as `vat.Model`s: a PyTorch module, a function of JAX.

H = Jᵀ F J needs no more of a model than its logits and the products with J and Jᵀ, and those its
own framework computes. So `vat` and `curvature` take these models as they take minivat's:
spectra, the true maximiser, power iterations, finite differences, r_adv and the LDS. What they do
not give is a derivative with respect to the model's parameters, and the two routes of
`curvature.hessian` that differentiate D twice.

    model = interop.from_torch(module.eval())
    spectrum = curvature.spectrum(model, images)

NumPy and CuPy arrays go in and come out. They cross by DLPack, which shares their memory; only an
array that is not contiguous, or read-only, is copied on its way in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from .backend import from_dlpack
from .typing import Array, LinearMap, RawArray

Foreign: TypeAlias = Any  # torch.Tensor or jax.RawArray


@dataclass(frozen=True)
class ForeignModel:
    """A model x ↦ logits (N, C) that another framework computes, and its linearisation.

    function: the model, on the framework's arrays. vjp: f, x ↦ f(x) and g ↦ (Jᵀ g,), on them too.
    import_array: an array as the framework's. context: what every computation runs in.
    """

    function: Callable[[Foreign], Foreign]
    vjp: Callable[
        [Callable[..., Any], Foreign], tuple[Foreign, Callable[[Foreign], tuple[Foreign]]]
    ]
    import_array: Callable[[RawArray], Foreign]
    context: Callable[[], AbstractContextManager[None]] = nullcontext

    def __call__(self, x: RawArray) -> RawArray:
        """The logits (N, C) at x (N, ...), of x's dtype and device.

        Raises TypeError where x is no array of float32 or float64, ValueError where the model
        returns anything but (N, C) of its dtype or would answer differently the next time, and
        what the model itself raises.
        """
        _check_input(x)
        with self.context():
            return from_dlpack(self._logits(self._foreign(x)), x)

    def linearize(self, x: RawArray) -> tuple[RawArray, LinearMap, LinearMap]:
        """The logits at x, and t ↦ J t and g ↦ Jᵀ g over one forward pass, as `vat.linearized`.

        They refer to x's memory, which must stay unchanged while they are in use.
        Raises as a call does, and ValueError where t is not like x, or g not like the logits.
        """
        _check_input(x)
        with self.context():
            foreign, pull = self.vjp(self._logits, self._foreign(x))
        logits = from_dlpack(foreign, x)

        def vjp(g: Array) -> RawArray:
            _check_like("vjp: the cotangent", g, logits)
            with self.context():
                return from_dlpack(pull(self._foreign(g))[0], x)

        def jvp(t: Array) -> RawArray:
            # J is the transpose of g ↦ Jᵀ g, at whatever g: this asks for no forward mode, which
            # some operations of either framework lack.
            _check_like("jvp: the tangent", t, x)
            with self.context():
                _, push = self.vjp(lambda g: pull(g)[0], foreign)
                return from_dlpack(push(self._foreign(t))[0], x)

        return logits, jvp, vjp

    def _foreign(self, x: Any) -> Foreign:
        # Neither framework takes all strides, and JAX no read-only array. CuPy has none.
        if not (x.flags.c_contiguous and getattr(x.flags, "writeable", True)):
            x = x.copy()
        try:
            return self.import_array(x)
        except (AssertionError, BufferError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"array not accepted by the model's framework: {reason}") from None

    def _logits(self, x: Foreign) -> Foreign:
        logits = self.function(x)
        shape = getattr(logits, "shape", None)
        if shape is None or len(shape) != 2 or shape[0] != x.shape[0]:
            given = type(logits).__name__ if shape is None else tuple(shape)
            raise ValueError(f"model must return logits ({x.shape[0]}, C), got {given}")
        if logits.dtype != x.dtype:
            raise ValueError(
                f"model must return logits of its input's dtype, {x.dtype}, got {logits.dtype}"
            )
        return logits


def from_torch(module: Callable[[Foreign], Foreign]) -> ForeignModel:
    """A PyTorch module, or a function of one tensor, as a model; by `torch.func`.

    module: takes (N, ...), returns logits (N, C). Given itself, not inside another function, it is
        left as it is: parameters receive no gradient, buffers are not updated, and no graph stays
        behind. Usually `module.eval()` is meant. In training mode batch norm uses the batch's
        statistics; the examples then influence each other, and `curvature.spectrum` refuses.
    All passes must be the same function (see `vat`), so a module that draws random numbers, as
    dropout does in training mode, is refused. An x of another dtype than the module's parameters,
    or on another device, is refused too. A pass raises ValueError for each. Modules that
    `torch.func` does not take (TorchScript, recurrent ones in eval mode) raise what it raises.
    Raises ImportError where PyTorch is missing.
    """
    torch = _framework("torch", "PyTorch", "from_torch")
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def function(x: Foreign) -> Foreign:
        before = _random_state(torch, x.device)
        logits = module_of(x.clone())  # of a copy, for modules that work in place
        if not torch.equal(before, _random_state(torch, x.device)):
            raise ValueError(
                "module draws random numbers, as dropout does in training mode, so its passes are "
                "not the same function: call module.eval() first"
            )
        return logits

    def module_of(x: Foreign) -> Foreign:
        if not isinstance(module, torch.nn.Module):
            return module(x)
        _check_placement(x, list(module.parameters()))
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        return torch.func.functional_call(module, buffers, (x,))

    @contextmanager
    def context() -> Iterator[None]:
        # Without gradients, torch.func still differentiates by x, and records nothing for
        # parameters. Of attention's kernels only "math" has a backward pass to differentiate.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield

    return ForeignModel(function, torch.func.vjp, torch.from_dlpack, context)


def _random_state(torch: Any, device: Any) -> Foreign:
    return torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)


def _check_placement(x: Foreign, parameters: list[Foreign]) -> None:
    dtypes = {p.dtype for p in parameters if p.is_floating_point()}
    if dtypes and x.dtype not in dtypes:
        expected = " or ".join(sorted(map(str, dtypes)))
        raise ValueError(f"x must have the dtype of the module, {expected}, got {x.dtype}")
    devices = {p.device for p in parameters}
    if devices and x.device not in devices:
        expected = " or ".join(sorted(map(str, devices)))
        raise ValueError(f"x must be on the device of the module, {expected}, got {x.device}")


def from_jax(function: Callable[[Foreign], Foreign]) -> ForeignModel:
    """A function of one JAX array, (N, ...) ↦ logits (N, C), as a model; jitted is faster.

    What it closes over (parameters, statistics, keys) is constant. JAX computes in float64 only
    after `jax.config.update("jax_enable_x64", True)`: until then x of float64 is refused.
    Results share the memory of JAX's arrays, which never change: NumPy's are read-only.
    Raises ImportError where JAX is missing.
    """
    jax = _framework("jax", "JAX", "from_jax")

    def import_array(x: RawArray) -> Foreign:
        foreign = jax.numpy.from_dlpack(x)
        if foreign.dtype != x.dtype:
            raise ValueError(
                f"x must be float32, got {x.dtype}, for which JAX needs "
                "jax.config.update('jax_enable_x64', True)"
            )
        return foreign

    return ForeignModel(function, jax.vjp, import_array)


def _framework(module: str, name: str, user: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise ImportError(f"{user} needs {name}: pip install {module}") from None


def _check_input(x: RawArray) -> None:
    dtype = getattr(x, "dtype", None)
    if not hasattr(x, "flags") or dtype not in (np.float32, np.float64):
        given = type(x).__name__ if dtype is None else f"{type(x).__name__} of {dtype}"
        raise TypeError(f"x must be a NumPy or CuPy array of float32 or float64, got {given}")


def _check_like(what: str, a: Array, like: Array) -> None:
    if a.shape != like.shape or a.dtype != like.dtype:
        raise ValueError(
            f"{what} must have shape {like.shape} and dtype {like.dtype}, "
            f"got {a.shape} and {a.dtype}"
        )
