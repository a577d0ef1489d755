"""Table 2: supervised learning on CIFAR-10, all methods, several seeds each.

    python -m experiments.table2 --seeds 1 2 3 --device cuda

By default the paper's rows; --rows knows VAT by the exact direction, too. Finished runs are skipped
and unfinished ones resumed. When all are done, their results are written as table2.json and
table2.md, and beside them the metrics of every run; with another width, number of updates or test
set than the paper's, under a name that says so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments import cifar10_sup, common, image_tables, tables

TASK = cifar10_sup.TASK
TABLE = tables.Table(
    name="table2",
    updates=None,
    columns=("method",),
    lines=image_tables.lines(TASK, ["conv-large"], TASK.augment, ("method",)),
    key=image_tables.key,
    cited=[
        ("Network in Network", "8.81"),
        ("All-CNN", "7.25"),
        ("Deeply Supervised Net", "7.97"),
        ("Highway Network", "7.72"),
        ("ResNet (1001 layers)", "4.62 ± 0.20"),
        ("DenseNet (190 layers)", "3.46"),
    ],
)


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Make the table; the exit code."""
    image_tables.make(TABLE, image_tables.parser(__doc__, TABLE).parse_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
