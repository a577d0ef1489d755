"""Tables 1 to 6 of the paper: which runs, the paper's numbers, and those that it cites.

A line's spec gives what tells it from the other lines; all else is the experiment's default. The
numbers are test errors in percent, mean ± standard deviation over the paper's runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.images import Cifar10Semisup, Cifar10Sup, SvhnSemisup
from experiments.lab.methods import METHODS, stored_method
from experiments.lab.spec import Paper, Spec
from experiments.lab.table import COLUMNS, Line, Table
from experiments.mnist import MnistSemisup, MnistSup


def by_name(text: str) -> list[dict[str, str]]:
    """The columns of lines "name | cell | cell ...": their cells by name, without "-"."""
    rows = [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]
    names, *columns = zip(*rows, strict=True)
    return [{n: cell for n, cell in zip(names, c, strict=True) if cell != "-"} for c in columns]


def table(
    name: str,
    about: str,
    columns: tuple[str, ...],
    groups: Mapping[str, Spec],
    numbers: str,
    *,
    methods: Sequence[str] = (),
    exact: bool = False,
    asked: Sequence[str] = (),
    evaluations: int | None = None,
) -> Table:
    """A table of all methods, or those named, in every group.

    groups: what the lines of each share, by their keys with {} for the method. numbers: the paper's
    as it prints them, a column for each group; those of VAT are for both directions, and what is no
    method of ours is cited. exact: whether VAT by the exact direction, which is not the paper's, is
    run where it is not asked for. asked: keys of groups that are run where they are asked for.
    """
    ours = {method: stored_method(method)["method"] for method in METHODS}
    lines, cited = {}, []
    for (key, spec), errors in zip(groups.items(), by_name(numbers), strict=True):
        for method in methods or spec.methods:
            error = errors.get(ours[method])
            lines[key.format(method)] = Line(
                spec.replace(method=method),
                tuple(map(float, error.split(" ± "))) if error else None,
                (exact or not method.endswith("-exact")) and key not in asked,
            )
        # What is cited is of other networks and settings than ours.
        of_ours = ("network", "setting")
        cells = ["" if c in of_ours else COLUMNS[c](spec.resolved()) for c in columns[1:]]
        cited += [(name, *cells, errors[name]) for name in errors if name not in ours.values()]
    return Table(name, about, columns, lines, cited, evaluations)


TABLE1 = table(
    "table1",
    "Table 1: supervised learning on MNIST, all methods, several seeds each.",
    ("method",),
    {"{}": MnistSup()},
    """
    SVM                                   | 1.40
    Dropout                               | 1.05
    Adversarial, Linf (Goodfellow et al.) | 0.78
    Ladder networks                       | 0.57 ± 0.02
    mle                                   | 1.11 ± 0.06
    rpt                                   | 0.84 ± 0.03
    at-linf                               | 0.79 ± 0.03
    at-l2                                 | 0.71 ± 0.03
    vat                                   | 0.64 ± 0.05
    """,
    exact=True,
    evaluations=50,
)

TABLE2 = table(
    "table2",
    "Table 2: supervised learning on CIFAR-10, all methods, several seeds each.\n"
    "\nA full table needs a GPU: --width and --updates make the runs small.",
    ("method",),
    {"cifar10-conv-large-{}": Cifar10Sup(model="conv-large", augment="yes")},
    """
    Network in Network    | 8.81
    All-CNN               | 7.25
    Deeply Supervised Net | 7.97
    Highway Network       | 7.72
    ResNet (1001 layers)  | 4.62 ± 0.20
    DenseNet (190 layers) | 3.46
    mle                   | 6.67 ± 0.07
    rpt                   | 6.30 ± 0.04
    vat                   | 5.81 ± 0.02
    """,
)

TABLE3 = table(
    "table3",
    "Table 3: semi-supervised learning on MNIST, 100 and 1,000 labels, several seeds each.\n"
    "\nThe labelled examples and the initial weights both follow from the seed. By default the\n"
    "paper's rows with --preset tuned; --rows knows MLE and VAT+EntMin, and --preset paper, too.",
    ("method", "labels", "setting"),
    {
        "{}-100": MnistSemisup(labels=100, preset="tuned"),
        "{}-1000": MnistSemisup(labels=1000, preset="tuned"),
        "{}-100-paper": MnistSemisup(labels=100, preset="paper"),
        "{}-1000-paper": MnistSemisup(labels=1000, preset="paper"),
    },
    """
    TSVM                           | 16.81       | 5.38        | -           | -
    Pseudo ensembles agreement     | 5.21        | 2.87        | -           | -
    Deep generative models (M1+M2) | 3.33 ± 0.14 | 2.40 ± 0.02 | -           | -
    CatGAN                         | 1.91 ± 0.1  | 1.73 ± 0.18 | -           | -
    Skip DGM                       | 1.32 ± 0.07 | -           | -           | -
    Ladder networks                | 1.06 ± 0.37 | 0.84 ± 0.08 | -           | -
    Auxiliary DGM                  | 0.96 ± 0.02 | -           | -           | -
    GAN with feature matching      | 0.93 ± 0.07 | -           | -           | -
    rpt                            | 6.81 ± 1.30 | 1.58 ± 0.54 | 6.81 ± 1.30 | 1.58 ± 0.54
    vat                            | 1.36 ± 0.03 | 1.27 ± 0.11 | 1.36 ± 0.03 | 1.27 ± 0.11
    """,
    exact=True,
    asked=("{}-100-paper", "{}-1000-paper"),
    evaluations=50,
)

TABLE4 = table(
    "table4",
    "Table 4: few labels of SVHN (1,000) and CIFAR-10 (4,000), no augmentation.\n"
    "\nBy default the paper's rows; --rows knows the labels alone, VAT by the exact direction and\n"
    "every method on either network, too. A full table needs a GPU: --width and --updates make\n"
    "the runs small.",
    ("method", "data set", "network"),
    {
        f"{cls.datasets[0]}-{model}-{{}}": cls(model=model, augment="no")
        for cls in (SvhnSemisup, Cifar10Semisup)
        for model in ("conv-small", "conv-large")
    },
    """
    SWWAE                                 | 23.56        | -           | -            | -
    Skip DGM (permutation invariant)      | 16.61 ± 0.24 | -           | -            | -
    Auxiliary DGM (permutation invariant) | 22.86        | -           | -            | -
    Ladder networks, Γ model              | -            | -           | 20.40 ± 0.47 | -
    CatGAN                                | -            | -           | 19.58 ± 0.58 | -
    GAN with feature matching             | 8.11 ± 1.3   | -           | 18.63 ± 2.32 | -
    Π model                               | 5.43 ± 0.25  | -           | 16.55 ± 0.29 | -
    rpt                                   | 8.41 ± 0.24  | -           | 18.56 ± 0.29 | -
    vat                                   | 6.83 ± 0.24  | 5.77 ± 0.32 | 14.87 ± 0.13 | 14.18 ± 0.38
    vat-entmin                            | -            | 4.28 ± 0.10 | -            | 13.15 ± 0.21
    """,
)

TABLE5 = table(
    "table5",
    "Table 5: few labels of SVHN (1,000) and CIFAR-10 (4,000), augmented images.\n"
    "\nConv-Large on images translated at random, CIFAR-10's mirrored as well. By default the\n"
    "paper's rows; --rows knows the other methods, too.",
    ("method", "data set"),
    {
        f"{cls.datasets[0]}-conv-large-{{}}": cls(model="conv-large", augment="yes")
        for cls in (SvhnSemisup, Cifar10Semisup)
    },
    """
    Π model             | 4.82 ± 0.17 | 12.36 ± 0.31
    Temporal ensembling | 4.42 ± 0.16 | 12.16 ± 0.24
    Sajjadi et al.      | -           | 11.29 ± 0.24
    vat                 | 5.42 ± 0.22 | 11.36 ± 0.34
    vat-entmin          | 3.86 ± 0.11 | 10.55 ± 0.05
    """,
)

TABLE6 = table(
    "table6",
    "Table 6: VAT on CIFAR-10 with 4,000 labels by the number K of power iterations.\n"
    "\nConv-Large without augmentation. By default the paper's rows, by finite differences;\n"
    "--rows knows the exact direction, too.",
    ("method", "K"),
    {
        f"cifar10-conv-large-{{}}{end}": Cifar10Semisup(
            model="conv-large", augment="no", power_iterations=k
        )
        for k, end in ((1, ""), (2, "-k2"), (4, "-k4"))
    },
    "vat | 14.18 ± 0.38 | 14.19 ± 0.16 | 14.25 ± 0.18",
    methods=("vat-exact", "vat-finite-difference"),
)

TABLES = {each.name: each for each in (TABLE1, TABLE2, TABLE3, TABLE4, TABLE5, TABLE6)}


def paper_of(spec: Spec) -> Paper | None:
    """What the paper has for a run, in whichever table; None where it has nothing."""
    for each in TABLES.values():
        for line in each.lines.values():
            if line.paper and line.spec.like(spec):
                return Paper(*line.paper, line.spec.resolved().updates)
    return None
