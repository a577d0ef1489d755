"""Semi-supervised learning on SVHN (the paper's Tables 4 and 5): few labels, all images.

    python -m experiments.svhn_semisup --method vat

The labelled examples are drawn from the training images, whatever their class, as in the authors'
code, and all training images are the unlabelled ones, these included; the "extra" images are not
used. --method mle trains on the labelled ones alone. Labelled examples and initial weights both
follow from the seed. The learning rate falls over the last third of the updates: 16,000 of the
paper's 48,000.
RPT's perturbations have VAT's size; the paper does not say which they had.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments import common, images

TASK = images.Task(
    name="svhn_semisup",
    about=__doc__,
    dataset="svhn",
    rows=images.semisupervised_rows(
        rpt={("conv-small", "no", 1): (8.41, 0.24)},
        vat={
            ("conv-small", "no", 1): (6.83, 0.24),
            ("conv-large", "no", 1): (5.77, 0.32),
            ("conv-large", "yes", 1): (5.42, 0.22),
        },
        entmin={
            ("conv-large", "no", 1): (4.28, 0.10),
            ("conv-large", "yes", 1): (3.86, 0.11),
        },
    ),
    model="conv-small",
    augment="no",
    labels=1000,
    batch_size=32,
    updates=48_000,
    epsilon={"no": 2.5, "yes": 3.5},
    decay_share=16_000 / 48_000,
    balanced=False,
)


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Train one network, write the run's folder, print the summary; the exit code."""
    return images.main(TASK, argv)


if __name__ == "__main__":
    sys.exit(main())
