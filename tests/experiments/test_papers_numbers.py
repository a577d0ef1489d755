"""Which runs the paper has a number for, and which number that is."""

from __future__ import annotations

import pytest

from experiments import tables
from experiments.registry import EXPERIMENTS
from tests.commands import spec_of


@pytest.mark.parametrize(
    ("name", "flags", "paper"),
    [
        ("mnist-sup", "--method mle", (1.11, 0.06)),
        ("mnist-sup", "--method rpt", (0.84, 0.03)),
        ("mnist-sup", "--method at-linf", (0.79, 0.03)),
        ("mnist-sup", "--method at-l2", (0.71, 0.03)),
        ("mnist-sup", "--method vat-exact", (0.64, 0.05)),
        ("mnist-sup", "--method vat-finite-difference", (0.64, 0.05)),
        ("mnist-sup", "--seed 2 --updates 300 --validation 10000 --epsilon 2.1", (0.64, 0.05)),
        ("mnist-sup", "--epsilon 2", None),
        ("mnist-sup", "--alpha 2", None),
        ("mnist-sup", "--power-iterations 2", None),
        ("mnist-sup", "--samples 2", None),
        ("mnist-sup", "--batch-size 101", None),
        ("mnist-sup", "--learning-rate 0.001", None),
        ("mnist-sup", "--decay-every 500", None),
        ("mnist-sup", "--data digits", None),
        ("mnist-semisup", "--labels 100 --method vat-exact", (1.36, 0.03)),
        (
            "mnist-semisup",
            "--labels 1000 --method vat --seed 2 --data-seed 3 --evaluate-every 1",
            (1.27, 0.11),
        ),
        ("mnist-semisup", "--labels 1000 --method rpt", (1.58, 0.54)),
        ("mnist-semisup", "--labels 100 --method rpt", (6.81, 1.30)),
        ("mnist-semisup", "--labels 100 --method mle", None),
        ("mnist-semisup", "--labels 100 --method vat-entmin", None),
        ("mnist-semisup", "--labels 50 --method vat-exact", None),
        ("mnist-semisup", "--epsilon 4 --method vat-exact", None),
        ("mnist-semisup", "--power-iterations 0 --method vat-exact", None),
        ("mnist-semisup", "--noise 0 --method vat-exact", None),
        ("mnist-semisup", "--preset iclr2016 --method vat-exact", None),
        ("mnist-semisup", "--preset tuned", (1.36, 0.03)),
        ("mnist-semisup", "--preset paper", (1.36, 0.03)),
        ("mnist-semisup", "--preset paper --labels 1000", (1.27, 0.11)),
        ("mnist-semisup", "--preset paper --shared-noise no", None),
        ("mnist-semisup", "--shared-noise yes", None),
        ("mnist-semisup", "--noise-place before", None),
        ("mnist-semisup", "--schedule exponential", None),
        ("mnist-semisup", "--data digits", None),
        ("cifar10-semisup", "--method vat", (14.87, 0.13)),
        ("cifar10-semisup", "--method vat --direction exact", (14.87, 0.13)),
        ("cifar10-semisup", "--method rpt", (18.56, 0.29)),
        ("cifar10-semisup", "--method vat --model conv-large", (14.18, 0.38)),
        ("cifar10-semisup", "--model conv-large --power-iterations 2", (14.19, 0.16)),
        ("cifar10-semisup", "--model conv-large --power-iterations 4", (14.25, 0.18)),
        ("cifar10-semisup", "--model conv-large --augment yes", (11.36, 0.34)),
        ("cifar10-semisup", "--method vat-entmin --model conv-large", (13.15, 0.21)),
        ("cifar10-semisup", "--method vat-entmin-exact --model conv-large", (13.15, 0.21)),
        ("cifar10-semisup", "--method vat-entmin --model conv-large --augment yes", (10.55, 0.05)),
        ("cifar10-semisup", "--holdout 10000 --validation 5000 --seed 2", (14.87, 0.13)),
        ("cifar10-semisup", "--updates 1000 --checkpoint-every 9", (14.87, 0.13)),
        ("cifar10-semisup", "--epsilon 10", (14.87, 0.13)),
        ("cifar10-semisup", "--method vat-entmin", None),
        ("cifar10-semisup", "--labels 1000", None),
        ("cifar10-semisup", "--width 0.5", None),
        ("cifar10-semisup", "--power-iterations 2", None),
        ("cifar10-semisup", "--method mle", None),
        ("cifar10-semisup", "--epsilon 0.01", None),
        ("cifar10-semisup", "--alpha 2", None),
        ("cifar10-semisup", "--xi 0.1", None),
        ("cifar10-semisup", "--samples 2", None),
        ("cifar10-semisup", "--learning-rate 0.01", None),
        ("cifar10-semisup", "--batch-size 31", None),
        ("cifar10-semisup", "--unlabelled-batch-size 127", None),
        ("cifar10-semisup", "--decay-updates 1", None),
        ("cifar10-semisup", "--direction exact --power-iterations 0.5", None),
        (
            "cifar10-semisup",
            "--method vat-entmin-exact --model conv-large --power-iterations 0.5",
            None,
        ),
        (
            "cifar10-semisup",
            "--method vat-entmin --model conv-large --augment yes --entropy-weight 2",
            None,
        ),
        ("svhn-semisup", "--method rpt", (8.41, 0.24)),
        ("svhn-semisup", "", (6.83, 0.24)),
        ("svhn-semisup", "--model conv-large", (5.77, 0.32)),
        ("svhn-semisup", "--model conv-large --augment yes", (5.42, 0.22)),
        ("svhn-semisup", "--method vat-entmin --model conv-large", (4.28, 0.10)),
        ("svhn-semisup", "--method vat-entmin --model conv-large --augment yes", (3.86, 0.11)),
        ("svhn-semisup", "--augment yes", None),
        ("cifar10-sup", "--method mle", (6.67, 0.07)),
        ("cifar10-sup", "--method rpt", (6.30, 0.04)),
        ("cifar10-sup", "--method vat", (5.81, 0.02)),
        ("cifar10-sup", "--method vat-exact", (5.81, 0.02)),
        ("cifar10-sup", "--augment no", None),
        ("cifar10-sup", "--model conv-small", None),
    ],
)
def test_the_papers_number_is_that_of_its_settings(name, flags, paper):
    updates = EXPERIMENTS[name]().resolved().updates
    expected = None if paper is None else (*paper, updates)
    assert tables.paper_of(spec_of(name, *flags.split())) == expected
