"""Tables 1 to 6 of the paper: which runs, the paper's numbers, and those that it cites.

Data only. A line's spec gives what tells it from the other lines; all else is the experiment's
default. The numbers are test errors in percent, mean and standard deviation over the paper's runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.images import Cifar10Semisup, Cifar10Sup, SvhnSemisup
from experiments.lab.methods import stored_method
from experiments.lab.spec import Paper, Spec
from experiments.lab.table import Line, Table
from experiments.mnist import MnistSemisup, MnistSup

Numbers = Mapping[str, tuple[float, float]]
DATASET_NAMES = {"svhn": "SVHN", "cifar10": "CIFAR-10"}
MAKING = """

Finished runs are skipped and unfinished ones resumed. When all are done, their results are written
as {name}.json and {name}.md, and beside them the metrics of every run; with other data or settings
than the paper's, under a name that says so."""


def title(spec: Spec) -> str:
    """The method, as the lines of a table name it."""
    return spec.resolved().title_of_method


# MNIST -------------------------------------------------------------------------------------------

TABLE1 = Table(
    name="table1",
    about="Table 1: supervised learning on MNIST, all methods, several seeds each."
    + MAKING.format(name="table1"),
    columns=("method",),
    lines={
        method: Line((title(MnistSup(method=method)),), MnistSup(method=method), paper)
        for method, paper in {
            "mle": (1.11, 0.06),
            "rpt": (0.84, 0.03),
            "at-linf": (0.79, 0.03),
            "at-l2": (0.71, 0.03),
            "vat-exact": (0.64, 0.05),
            "vat-finite-difference": (0.64, 0.05),
        }.items()
    },
    cited=[
        ("SVM", "1.40"),
        ("Dropout", "1.05"),
        ("Adversarial, Linf (Goodfellow et al.)", "0.78"),
        ("Ladder networks", "0.57 ± 0.02"),
    ],
    evaluations=50,
)

TABLE3_NUMBERS: dict[int, Numbers] = {
    100: {"rpt": (6.81, 1.30), "vat": (1.36, 0.03)},
    1000: {"rpt": (1.58, 0.54), "vat": (1.27, 0.11)},
}
TABLE3_CITED = {
    "TSVM": ("16.81", "5.38"),
    "Pseudo ensembles agreement": ("5.21", "2.87"),
    "Deep generative models (M1+M2)": ("3.33 ± 0.14", "2.40 ± 0.02"),
    "CatGAN": ("1.91 ± 0.1", "1.73 ± 0.18"),
    "Skip DGM": ("1.32 ± 0.07",),
    "Ladder networks": ("1.06 ± 0.37", "0.84 ± 0.08"),
    "Auxiliary DGM": ("0.96 ± 0.02",),
    "GAN with feature matching": ("0.93 ± 0.07",),
}
TABLE3 = Table(
    name="table3",
    about="Table 3: semi-supervised learning on MNIST, 100 and 1,000 labels, several seeds each.\n"
    "\nThe labelled examples and the initial weights both follow from the seed. By default the\n"
    "paper's rows; --rows knows MLE and VAT+EntMin, too." + MAKING.format(name="table3"),
    columns=("method", "labels"),
    lines={
        f"{method}-{labels}": Line(
            (title(MnistSemisup(method=method)), str(labels)),
            MnistSemisup(method=method, labels=labels),
            numbers.get(stored_method(method)["method"]),
        )
        for labels, numbers in TABLE3_NUMBERS.items()
        for method in MnistSemisup.methods
    },
    cited=[
        (name, str(labels), error)
        for i, labels in enumerate(TABLE3_NUMBERS)
        for name, errors in TABLE3_CITED.items()
        for error in errors[i : i + 1]
    ],
    evaluations=50,
)


# Images ------------------------------------------------------------------------------------------


def image_lines(
    cls: type[Cifar10Sup | Cifar10Semisup | SvhnSemisup],
    columns: Sequence[str],
    numbers: Mapping[str, Numbers],
    augment: str,
    iterations: Sequence[int] = (1,),
) -> dict[str, Line]:
    """The lines of an experiment on images, by network and method; K is 1 but for VAT.

    columns: which of "method", "data set", "network" and "K" the cells are. numbers: the paper's,
    by network and method, whatever VAT's direction; for K > 1 with "-k<K>" appended. VAT by the
    exact direction, which is not the paper's, is only run where it is asked for.
    """
    found = {}
    for model, of_method in numbers.items():
        for method in cls.methods:
            for k in iterations if method.startswith("vat") else (1,):
                suffix = "" if k == 1 else f"-k{k}"
                spec = cls(method=method, model=model, augment=augment)
                if method.startswith("vat"):
                    spec = spec.replace(power_iterations=k)
                cells = {
                    "method": title(spec),
                    "data set": DATASET_NAMES[cls.datasets[0]],
                    "network": model,
                    "K": str(k),
                }
                found[f"{cls.datasets[0]}-{model}-{method}{suffix}"] = Line(
                    tuple(cells[column] for column in columns),
                    spec,
                    of_method.get(stored_method(method)["method"] + suffix),
                    default=not method.endswith("-exact"),
                )
    return found


METHOD, METHOD_DATA, METHOD_K = ("method",), ("method", "data set"), ("method", "K")
METHOD_DATA_NETWORK = ("method", "data set", "network")

TABLE2 = Table(
    name="table2",
    about="Table 2: supervised learning on CIFAR-10, all methods, several seeds each.\n"
    "\nA full table needs a GPU: --width and --updates make the runs small."
    + MAKING.format(name="table2"),
    columns=METHOD,
    lines=image_lines(
        Cifar10Sup,
        METHOD,
        {"conv-large": {"mle": (6.67, 0.07), "rpt": (6.30, 0.04), "vat": (5.81, 0.02)}},
        augment="yes",
    ),
    cited=[
        ("Network in Network", "8.81"),
        ("All-CNN", "7.25"),
        ("Deeply Supervised Net", "7.97"),
        ("Highway Network", "7.72"),
        ("ResNet (1001 layers)", "4.62 ± 0.20"),
        ("DenseNet (190 layers)", "3.46"),
    ],
)

TABLE4 = Table(
    name="table4",
    about="Table 4: few labels of SVHN (1,000) and CIFAR-10 (4,000), no augmentation.\n"
    "\nBy default the paper's rows; --rows knows the labels alone, VAT by the exact direction and\n"
    "every method on either network, too. A full table needs a GPU: --width and --updates make\n"
    "the runs small." + MAKING.format(name="table4"),
    columns=METHOD_DATA_NETWORK,
    lines={
        **image_lines(
            SvhnSemisup,
            METHOD_DATA_NETWORK,
            {
                "conv-small": {"rpt": (8.41, 0.24), "vat": (6.83, 0.24)},
                "conv-large": {"vat": (5.77, 0.32), "vat-entmin": (4.28, 0.10)},
            },
            augment="no",
        ),
        **image_lines(
            Cifar10Semisup,
            METHOD_DATA_NETWORK,
            {
                "conv-small": {"rpt": (18.56, 0.29), "vat": (14.87, 0.13)},
                "conv-large": {"vat": (14.18, 0.38), "vat-entmin": (13.15, 0.21)},
            },
            augment="no",
        ),
    },
    cited=[
        ("SWWAE", "SVHN", "", "23.56"),
        ("Skip DGM (permutation invariant)", "SVHN", "", "16.61 ± 0.24"),
        ("Auxiliary DGM (permutation invariant)", "SVHN", "", "22.86"),
        ("GAN with feature matching", "SVHN", "", "8.11 ± 1.3"),
        ("Π model", "SVHN", "", "5.43 ± 0.25"),
        ("Ladder networks, Γ model", "CIFAR-10", "", "20.40 ± 0.47"),
        ("CatGAN", "CIFAR-10", "", "19.58 ± 0.58"),
        ("GAN with feature matching", "CIFAR-10", "", "18.63 ± 2.32"),
        ("Π model", "CIFAR-10", "", "16.55 ± 0.29"),
    ],
)

TABLE5 = Table(
    name="table5",
    about="Table 5: few labels of SVHN (1,000) and CIFAR-10 (4,000), augmented images.\n"
    "\nConv-Large on images translated at random, CIFAR-10's mirrored as well. By default the\n"
    "paper's rows; --rows knows the other methods, too." + MAKING.format(name="table5"),
    columns=METHOD_DATA,
    lines={
        **image_lines(
            SvhnSemisup,
            METHOD_DATA,
            {"conv-large": {"vat": (5.42, 0.22), "vat-entmin": (3.86, 0.11)}},
            augment="yes",
        ),
        **image_lines(
            Cifar10Semisup,
            METHOD_DATA,
            {"conv-large": {"vat": (11.36, 0.34), "vat-entmin": (10.55, 0.05)}},
            augment="yes",
        ),
    },
    cited=[
        ("Π model", "SVHN", "4.82 ± 0.17"),
        ("Temporal ensembling", "SVHN", "4.42 ± 0.16"),
        ("Π model", "CIFAR-10", "12.36 ± 0.31"),
        ("Temporal ensembling", "CIFAR-10", "12.16 ± 0.24"),
        ("Sajjadi et al.", "CIFAR-10", "11.29 ± 0.24"),
    ],
)

TABLE6 = Table(
    name="table6",
    about="Table 6: VAT on CIFAR-10 with 4,000 labels by the number K of power iterations.\n"
    "\nConv-Large without augmentation. By default the paper's rows, by finite differences;\n"
    "--rows knows the exact direction, too." + MAKING.format(name="table6"),
    columns=METHOD_K,
    lines={
        key: line
        for key, line in image_lines(
            Cifar10Semisup,
            METHOD_K,
            {
                "conv-large": {
                    "vat": (14.18, 0.38),
                    "vat-k2": (14.19, 0.16),
                    "vat-k4": (14.25, 0.18),
                }
            },
            augment="no",
            iterations=(1, 2, 4),
        ).items()
        if "-vat-" in key and "entmin" not in key
    },
)

TABLES = {table.name: table for table in (TABLE1, TABLE2, TABLE3, TABLE4, TABLE5, TABLE6)}


def paper_of(spec: Spec) -> Paper | None:
    """What the paper has for a run, in whichever table; None where it has nothing."""
    found = (table.paper_of(spec) for table in TABLES.values())
    return next((paper for paper in found if paper is not None), None)
