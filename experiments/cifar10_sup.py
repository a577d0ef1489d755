"""Supervised learning on CIFAR-10 (the paper's Table 2): all labels, the dropout network and more.

    python -m experiments.cifar10_sup --method vat --holdout 10000

Every method trains Conv-Large with dropout; --method mle adds nothing to it. The paper's text names
the network and no more, so the rest is ours: images translated and mirrored, ZCA whitening, Adam
and the size of the perturbation as in the semi-supervised experiments, batches of 100, 300 epochs
of the 50,000 images, and a learning rate that falls over the last third of them. Where the official
test batch is missing, --holdout takes a test set out of the training images, and every result says
so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments import common, images

USUAL = ("conv-large", "yes", 1)
VAT = {USUAL: (5.81, 0.02)}

TASK = images.Task(
    name="cifar10_sup",
    about=__doc__,
    dataset="cifar10",
    rows={
        "mle": common.Row("dropout only", {}, {USUAL: (6.67, 0.07)}),
        "rpt": common.Row("RPT", common.RPT, {USUAL: (6.30, 0.04)}),
        "vat-exact": common.Row("VAT, exact", {"direction": "exact", **common.VAT}, VAT),
        "vat-finite-difference": common.Row(
            "VAT, finite differences", {"direction": "finite-difference", **common.VAT}, VAT
        ),
    },
    model="conv-large",
    augment="yes",
    labels=None,
    batch_size=100,
    updates=150_000,
    epsilon={"no": 10.0, "yes": 8.0},
    decay_share=1 / 3,
)


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Train one network, write the run's folder, print the summary; the exit code."""
    return images.main(TASK, argv)


if __name__ == "__main__":
    sys.exit(main())
