"""Table 4: semi-supervised learning on SVHN (1,000 labels) and CIFAR-10 (4,000), no augmentation.

    python -m experiments.table4 --seeds 1 2 3 --device cuda

By default the paper's rows; --rows knows those that it has not, too: the labels alone, VAT by the
exact direction, and every method on either network. Finished runs are skipped and unfinished ones
resumed. When all are done, their results are written as table4.json and table4.md, and beside them
the metrics of every run; with another width, number of updates or test set than the paper's, under
a name that says so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments import cifar10_semisup, common, image_tables, images, svhn_semisup, tables

COLUMNS = ("method", "data set", "network")
CITED = {
    "SVHN": {
        "SWWAE": "23.56",
        "Skip DGM (permutation invariant)": "16.61 ± 0.24",
        "Auxiliary DGM (permutation invariant)": "22.86",
        "GAN with feature matching": "8.11 ± 1.3",
        "Π model": "5.43 ± 0.25",
    },
    "CIFAR-10": {
        "Ladder networks, Γ model": "20.40 ± 0.47",
        "CatGAN": "19.58 ± 0.58",
        "GAN with feature matching": "18.63 ± 2.32",
        "Π model": "16.55 ± 0.29",
    },
}
TABLE = tables.Table(
    name="table4",
    updates=None,
    columns=COLUMNS,
    lines={
        key: line
        for task in (svhn_semisup.TASK, cifar10_semisup.TASK)
        for key, line in image_tables.lines(task, list(images.MODELS), "no", COLUMNS).items()
    },
    key=image_tables.key,
    cited=[
        (name, dataset, "", error)
        for dataset, rows in CITED.items()
        for name, error in rows.items()
    ],
)


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Make the table; the exit code."""
    image_tables.make(TABLE, image_tables.parser(__doc__, TABLE).parse_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
