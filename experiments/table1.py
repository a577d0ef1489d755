"""Table 1: supervised learning on MNIST, all methods, several seeds each.

    python -m experiments.table1 --seeds 1 2 3 --jobs 2

Finished runs are skipped and unfinished ones resumed. When all are done, their results are written
as table1.json and table1.md, and beside them the metrics of every run; with other data than MNIST
or another number of updates than the paper's, under a name that says so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments import common, mnist_sup, tables

TABLE = tables.Table(
    name="table1",
    updates=60_000,
    columns=("method",),
    lines={
        key: tables.Line(
            (row.name,),
            "experiments.mnist_sup",
            common.row_arguments(key),
            row.paper[mnist_sup.LABELS],
        )
        for key, row in mnist_sup.ROWS.items()
    },
    key=lambda result: result["row"],
    cited=[
        ("SVM", "1.40"),
        ("Dropout", "1.05"),
        ("Adversarial, Linf (Goodfellow et al.)", "0.78"),
        ("Ladder networks", "0.57 ± 0.02"),
    ],
    datasets=["mnist", "digits"],
)


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Make the table; the exit code."""
    tables.make_on_mnist(TABLE, tables.parser(__doc__, TABLE, seeds=[1, 2, 3]).parse_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
