"""The methods: one name for each, and the settings that mean something to it."""

from __future__ import annotations

from typing import NamedTuple


class Method(NamedTuple):
    """A way to train."""

    title: str
    stored: str  # its name in config.json, where VAT's direction is a setting of its own
    settings: tuple[str, ...] = ()  # the fields of a Spec that mean something to it
    direction: str | None = None  # how H d is computed


_PERTURBED = ("epsilon", "alpha")
_SAMPLED = (*_PERTURBED, "samples")
_EXACT = (*_SAMPLED, "power_iterations")
_FINITE = (*_EXACT, "xi")
_ENTROPY = (*_FINITE, "entropy_weight")
_TARGETS = ("alpha", "ramp_up")
METHOD_SETTINGS = (*_ENTROPY, "ramp_up")
METHODS = {
    "mle": Method("MLE", "mle"),
    "rpt": Method("RPT", "rpt", _SAMPLED),
    "at-linf": Method("adversarial, Linf", "at-linf", _PERTURBED),
    "at-l2": Method("adversarial, L2", "at-l2", _PERTURBED),
    "vat-exact": Method("VAT, exact", "vat", _EXACT, "exact"),
    "vat-finite-difference": Method("VAT, finite differences", "vat", _FINITE, "finite-difference"),
    "vat-entmin": Method("VAT+EntMin", "vat-entmin", _ENTROPY, "finite-difference"),
    "vat-entmin-exact": Method(
        "VAT+EntMin, exact", "vat-entmin", (*_EXACT, "entropy_weight"), "exact"
    ),
    # Those of minivat.targets, under its names.
    "pseudo-labels": Method("pseudo-labels", "pseudo-labels", _TARGETS),
    "pi-model": Method("Π-model", "pi-model", _TARGETS),
    "temporal-ensembling": Method("temporal ensembling", "temporal-ensembling", _TARGETS),
    "mean-teacher": Method("mean teacher", "mean-teacher", _TARGETS),
}


def stored_method(name: str) -> dict[str, str]:
    """A method's settings in config.json."""
    method = METHODS[name]
    return {
        "method": method.stored,
        **({"direction": method.direction} if method.direction else {}),
    }


def method_name(stored: str, direction: str | None) -> str | None:
    """The name of a method that is stored so; None where there is none."""
    wanted = stored, direction
    found = (name for name, each in METHODS.items() if (each.stored, each.direction) == wanted)
    return next(found, None)
