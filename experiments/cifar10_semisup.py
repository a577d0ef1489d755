"""Semi-supervised learning on CIFAR-10 (the paper's Tables 4 to 6): few labels, all images.

    python -m experiments.cifar10_semisup --method vat --holdout 10000

The labelled examples are drawn from the training images, the same number of each class, and all
training images are the unlabelled ones, these included. --method mle trains on the labelled ones
alone. Labelled examples and initial weights both follow from the seed. The learning rate falls
over the last 8 % of the updates: 16,000 of the paper's 200,000. Where the official test batch is
missing, --holdout takes a test set out of the training images, and every result says so.
RPT's perturbations have VAT's size; the paper does not say which they had.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments import common, images

TASK = images.Task(
    name="cifar10_semisup",
    about=__doc__,
    dataset="cifar10",
    rows=images.semisupervised_rows(
        rpt={("conv-small", "no", 1): (18.56, 0.29)},
        vat={
            ("conv-small", "no", 1): (14.87, 0.13),
            ("conv-large", "no", 1): (14.18, 0.38),
            ("conv-large", "no", 2): (14.19, 0.16),
            ("conv-large", "no", 4): (14.25, 0.18),
            ("conv-large", "yes", 1): (11.36, 0.34),
        },
        entmin={
            ("conv-large", "no", 1): (13.15, 0.21),
            ("conv-large", "yes", 1): (10.55, 0.05),
        },
    ),
    model="conv-small",
    augment="no",
    labels=4000,
    batch_size=32,
    updates=200_000,
    epsilon={"no": 10.0, "yes": 8.0},
    decay_share=16_000 / 200_000,
)


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Train one network, write the run's folder, print the summary; the exit code."""
    return images.main(TASK, argv)


if __name__ == "__main__":
    sys.exit(main())
