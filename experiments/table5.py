"""Table 5: semi-supervised learning on SVHN (1,000 labels) and CIFAR-10 (4,000), augmented images.

    python -m experiments.table5 --seeds 1 2 3 --device cuda

Conv-Large on images translated at random, CIFAR-10's mirrored as well. By default the paper's rows;
--rows knows the other methods, too. Finished runs are skipped and unfinished ones resumed. When all
are done, their results are written as table5.json and table5.md, and beside them the metrics of
every run; with another width, number of updates or test set than the paper's, under a name that
says so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments import cifar10_semisup, common, image_tables, svhn_semisup, tables

COLUMNS = ("method", "data set")
CITED = {
    "SVHN": {"Π model": "4.82 ± 0.17", "Temporal ensembling": "4.42 ± 0.16"},
    "CIFAR-10": {
        "Π model": "12.36 ± 0.31",
        "Temporal ensembling": "12.16 ± 0.24",
        "Sajjadi et al.": "11.29 ± 0.24",
    },
}
TABLE = tables.Table(
    name="table5",
    updates=None,
    columns=COLUMNS,
    lines={
        key: line
        for task in (svhn_semisup.TASK, cifar10_semisup.TASK)
        for key, line in image_tables.lines(task, ["conv-large"], "yes", COLUMNS).items()
    },
    key=image_tables.key,
    cited=[
        (name, dataset, error) for dataset, rows in CITED.items() for name, error in rows.items()
    ],
)


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Make the table; the exit code."""
    image_tables.make(TABLE, image_tables.parser(__doc__, TABLE).parse_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
