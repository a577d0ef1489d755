"""Table 3: semi-supervised learning on MNIST, 100 and 1,000 labels, several seeds each.

    python -m experiments.table3 --seeds 1 2 3 --jobs 2

The labelled examples and the initial weights both follow from the seed. By default the paper's
rows, RPT and VAT, the latter with either direction; --rows knows MLE and VAT+EntMin, too. Finished
runs are skipped and unfinished ones resumed. When all are done, their results are written as
table3.json and table3.md, and beside them the metrics of every run; with other data than MNIST or
another number of updates, under a name that says so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments import common, mnist_semisup, tables

CITED = {
    "TSVM": ("16.81", "5.38"),
    "Pseudo ensembles agreement": ("5.21", "2.87"),
    "Deep generative models (M1+M2)": ("3.33 ± 0.14", "2.40 ± 0.02"),
    "CatGAN": ("1.91 ± 0.1", "1.73 ± 0.18"),
    "Skip DGM": ("1.32 ± 0.07",),
    "Ladder networks": ("1.06 ± 0.37", "0.84 ± 0.08"),
    "Auxiliary DGM": ("0.96 ± 0.02",),
    "GAN with feature matching": ("0.93 ± 0.07",),
}
LABELS = (100, 1000)

TABLE = tables.Table(
    name="table3",
    updates=mnist_semisup.PRESETS["paper"].updates,
    columns=("method", "labels"),
    lines={
        f"{key}-{labels}": tables.Line(
            (row.name, str(labels)),
            "experiments.mnist_semisup",
            [*common.row_arguments(key), "--labels", str(labels)],
            row.paper.get(labels),
        )
        for labels in LABELS
        for key, row in mnist_semisup.ROWS.items()
    },
    key=lambda result: f"{result['row']}-{result['labels']}",
    cited=[
        (name, str(labels), error)
        for i, labels in enumerate(LABELS)
        for name, errors in CITED.items()
        for error in errors[i : i + 1]
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
