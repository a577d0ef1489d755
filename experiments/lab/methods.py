"""The methods: one name for each, and the settings that mean something to it."""

from __future__ import annotations

from typing import NamedTuple


class Method(NamedTuple):
    """A way to train. settings: the fields of a Spec that mean something to it."""

    title: str
    regularizer: str  # `Regularization.method`
    settings: tuple[str, ...] = ()
    direction: str | None = None  # how H d is computed


_PERTURBED = ("epsilon", "alpha")
_SAMPLED = (*_PERTURBED, "samples")
_EXACT = (*_SAMPLED, "power_iterations")
_FINITE = (*_EXACT, "xi")
METHOD_SETTINGS = (*_FINITE, "entropy_weight")
METHODS = {
    "mle": Method("MLE", "mle"),
    "rpt": Method("RPT", "rpt", _SAMPLED),
    "at-linf": Method("adversarial, Linf", "at-linf", _PERTURBED),
    "at-l2": Method("adversarial, L2", "at-l2", _PERTURBED),
    "vat-exact": Method("VAT, exact", "vat", _EXACT, "exact"),
    "vat-finite-difference": Method("VAT, finite differences", "vat", _FINITE, "finite-difference"),
    "vat-entmin": Method("VAT+EntMin", "vat", METHOD_SETTINGS, "finite-difference"),
    "vat-entmin-exact": Method("VAT+EntMin, exact", "vat", (*_EXACT, "entropy_weight"), "exact"),
}


def stored_method(name: str) -> dict[str, str]:
    """A method as config.json has it: VAT's direction is a setting of its own there."""
    direction = METHODS[name].direction
    if direction is None:
        return {"method": name}
    return {"method": name.removesuffix(f"-{direction}"), "direction": direction}


def method_name(stored: str, direction: str | None) -> str | None:
    """The name of a method that is stored so; None where there is none."""
    wanted = {"method": stored, **({} if direction is None else {"direction": direction})}
    return next((name for name in METHODS if stored_method(name) == wanted), None)
