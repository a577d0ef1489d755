"""What the interfaces ask for is there: in NumPy's arrays, in Tensors, in every divergence."""

import inspect

import numpy as np
import pytest

import minivat
from minivat import vat
from minivat.divergence import bernoulli, categorical, gaussian
from minivat.typing import Array, Divergence, HasEntropy, is_integer


def members(protocol):
    """The names of its methods and properties (and what any class has)."""
    return {n for n, v in vars(protocol).items() if callable(v) or isinstance(v, property)}


def test_arrays_and_tensors_have_what_an_array_has(device):
    wanted = members(Array)
    assert {"shape", "dtype", "__add__", "__matmul__", "__array_ufunc__"} <= wanted
    arrays = [np.ones(2), device.asarray(np.ones(2))]
    minivat.linearize(lambda x: arrays.append(x) or x, np.ones(2))
    for array in arrays:
        assert [name for name in wanted if not hasattr(array, name)] == []


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (vat.hessian_product, ["divergence"]),
        (vat.virtual_adversarial_perturbation, ["divergence"]),
        (vat.regularizer, ["divergence", "constant"]),
        (vat.adversarial_perturbation, ["norm", "divergence"]),
        (minivat.linearize, ["frozen"]),
        (minivat.value_and_grad, ["has_aux"]),
        (minivat.grad, ["has_aux"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_options_are_given_by_name_and_all_else_need_not_be(function, options):
    parameters = inspect.signature(function).parameters.values()
    assert [each.name for each in parameters if each.kind is each.KEYWORD_ONLY] == options
    others = [each.kind for each in parameters if each.name not in options]
    assert set(others) == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


@pytest.mark.parametrize("divergence", [categorical, bernoulli, gaussian()])
def test_divergences_have_what_a_divergence_has(divergence):
    wanted = members(Divergence)
    assert {"__call__", "fisher", "root", "nll", "check_labels"} <= wanted
    assert [name for name in wanted if not hasattr(divergence, name)] == []
    assert isinstance(divergence, HasEntropy) == (divergence != gaussian())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, True),
        (np.int8(-1), True),
        (True, False),
        (np.bool_(True), False),
        (2.0, False),
        ("2", False),
    ],
)
def test_integers(value, expected):
    assert is_integer(value) == expected
