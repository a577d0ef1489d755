"""Figures of finished runs: learning curves, and virtual adversarial perturbations of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.lab import cli, machine, results, runs
from experiments.lab.results import Run
from minivat import backend, data, ops, vat

NONE_FOUND = "there is none in runs/; make one first, for example with: {make}"


def tested_on(run: Run) -> tuple[str, str, frozenset[tuple[str, str]]]:
    """A run's data set, what its error is the error on, and the checksums of its files.

    The whitening's is left out: fitted on another machine, its matrix differs in its last bits.
    """
    spec = run.spec
    checksums = run.config["data"]["checksums"].items()
    files = frozenset((name, checksum) for name, checksum in checksums if name != "zca.matrix")
    holdout, what = getattr(spec, "holdout", None), "test images"
    if holdout:
        what = f"{holdout:,} held-out training images"
    if spec.validation:
        others = f", others than the {what}" if holdout else ""
        seed = getattr(spec, "data_seed", None)
        seed = spec.seed if seed is None else seed
        what = f"{spec.validation:,} validation images of seed {seed}{others}"
    return spec.dataset, what, files


def alike(run: Run, other: Run) -> bool:
    """Whether two runs do the same task, and their errors are those on the same images."""

    def task(run: Run) -> tuple[Any, ...]:
        return type(run.spec), run.spec.parts_of_title(), tested_on(run)

    return task(run) == task(other)


# Learning curves ---------------------------------------------------------------------------------

CURVES = """Several runs in one figure: error and R_vadv over training.

RUN is the folder of a run, finished or not; without a name, the folder's name is its name. Without
RUNs, the newest one in runs/ and the newest of every other method that did the same task, tested on
the same images. A JSON file beside the figure says what it was drawn from."""


def named_run(text: str) -> tuple[str, Run]:
    """An argparse type: a run's name and its folder."""
    name, separator, folder = text.partition("=")
    return (name, Run(folder)) if separator else (Path(text).name, Run(text))


def newest_of_each_method() -> list[tuple[str, Run]]:
    """The newest run, and the newest of each other method that is `alike`."""
    every = results.newest()
    if not every:
        raise runs.RunError("no runs to draw: " + NONE_FOUND.format(make="make mnist-sup"))
    found: dict[str, Run] = {}
    for run in every:
        if alike(run, every[0]):
            found.setdefault(run.spec.title_of_method, run)
    return list(found.items())


@cli.command
def curves(argv: Sequence[str] | None = None) -> int:
    """Draw the figure, write beside it what it was drawn from; the exit code."""
    parser = cli.Parser(CURVES, "curves")
    parser.add_argument("runs", nargs="*", type=named_run, metavar="[NAME=]RUN")
    parser.add_argument("--title", metavar="TEXT", help="default: the data set")
    parser.add_argument("--out", type=Path, default=Path("runs/curves.png"), metavar="FILE")
    args = parser.parse_args(argv)
    chosen = args.runs or newest_of_each_method()
    by_name = dict(chosen)
    if len(by_name) < len(chosen):
        raise runs.RunError("two of the runs have the same name: give them as NAME=RUN")
    found = {tested_on(run) for run in by_name.values()}
    if len(found) > 1:
        differences = sorted({f"{dataset}, {what}" for dataset, what, _ in found})
        if len(differences) == 1:
            differences.append("the same of other files (SHA-256)")
        raise runs.RunError(
            f"the runs are measured on different images: {' and '.join(differences)}"
        )
    ((dataset, what, _),) = found
    columns = ("update", "error", "r_vadv")
    rows = {name: run.rows(columns) for name, run in by_name.items()}
    from experiments.lab import plotting

    path = results.writable(args.out)
    environment = machine.environment(backend.Device())  # before a figure in the repository changes
    drawn = {
        f"{name}, seed {run.spec.seed}": plotting.Curve(run.spec.method, rows[name])
        for name, run in by_name.items()
    }
    plotting.curves(path, drawn, args.title or dataset, f"error on {what} (%)")
    drawn_from = {
        "command": cli.command_line("curves", args),
        "runs": {name: run.config for name, run in by_name.items()},
        "environment": environment,
    }
    runs.write_json(path.with_suffix(".json"), drawn_from)
    print(f"drawn: {path}")
    return 0


# Perturbations -----------------------------------------------------------------------------------

PICTURE = """Virtual adversarial perturbations of trained networks: the README's pictures.

For test images that all networks classify rightly: the image, the perturbation each network is most
sensitive to, and the perturbed image with what the network makes of it. RUN is the folder of a run
on MNIST, CIFAR-10 or SVHN, finished or not. Without --with, the newest run with VAT in runs/, and
the newest of the same task with the method mle, tested on the same images; with --with alone, that
run's network alone. The networks' running statistics are estimated once more, as every run does
before its last evaluation.
CIFAR-10's networks see whitened images, and the perturbation is one of those: it is shown as it is,
and as what it does to the pixels."""
# L2 norm of the perturbations: on MNIST, in pixels of range 0 to 1, as in figure 2; on images one
# at which networks with and without VAT differ. At the 10 that VAT trains with on CIFAR-10, nearly
# all predictions change in both.
SIZES = {"mnist": 2.0, "cifar10": 1.0, "svhn": 1.0}
CLASSES = {"cifar10": "airplane car bird cat deer dog frog horse ship truck".split()}
FEW = 1000  # test images to choose from
AT_ONCE = 100


@dataclass(frozen=True)
class Scene:
    """The test images to choose from, as the networks see them and as people do.

    x, labels   what the networks see
    shape       of a picture, (height, width) in grey or (height, width, 3)
    pixels      the networks' images ↦ pictures in [0, 1]
    whitened    whether the networks see whitened images
    """

    x: np.ndarray
    labels: np.ndarray
    shape: tuple[int, ...]
    pixels: Callable[[np.ndarray], np.ndarray]
    whitened: bool = False


def scene(dataset: data.Dataset, raw: data.Dataset) -> Scene:
    """The first test images. raw: the data set before any whitening."""
    x, labels = dataset.test_images[:FEW], dataset.test_labels[:FEW]
    if dataset.name == "mnist":
        return Scene(x, labels, dataset.image_shape, lambda x: x)
    if dataset.name == "svhn":
        return Scene(x, labels, dataset.image_shape, lambda x: x + 0.5)
    zca = data.whitening.cached_zca(raw.train_images)
    return Scene(x, labels, dataset.image_shape, lambda x: zca.revert(x) + 0.5, whitened=True)


def newest_with_and_without() -> dict[str, Run]:
    """The newest run with VAT, and the newest of mle that is `alike`, if there is one."""
    found = [run for run in results.newest() if run.spec.dataset in SIZES]
    with_vat = next((run for run in found if run.spec.method.startswith("vat")), None)
    if with_vat is None:
        wanted = NONE_FOUND.format(make="make mnist-sup UPDATES=600")
        raise runs.RunError(f"no run with VAT to draw: {wanted}, or name one in WITH= (--with)")
    for run in found:
        if run.spec.method == "mle" and alike(run, with_vat):
            return {"without VAT": run, "with VAT": with_vat}
    return {"with VAT": with_vat}


def perturbation(network: vat.Model, x: np.ndarray, epsilon: float) -> np.ndarray:
    """r_vadv after four exact power iterations, with the sign that moves the output more."""
    d = backend.host_generator(1, "picture").standard_normal(x.shape, dtype=x.dtype)
    r, logits = vat.virtual_adversarial_perturbation(network, x, d, epsilon, vat.PowerIteration(4))
    plus, minus = (vat.lds(network, x, sign * r, logits) for sign in (1, -1))
    worse = np.where(plus >= minus, 1, -1).astype(x.dtype)
    return r * worse.reshape(-1, *[1] * (x.ndim - 1))


def right_for_all(networks: Sequence[vat.Model], x: np.ndarray, labels: np.ndarray) -> list[int]:
    """The first test image of each class that every network classifies rightly.

    Raises RunError where a class has none.
    """
    parts = [x[start : start + AT_ONCE] for start in range(0, len(x), AT_ONCE)]
    predicted = [
        np.concatenate([network(part).argmax(axis=1) for part in parts]) for network in networks
    ]
    right = np.all([each == labels for each in predicted], axis=0)
    first = [np.flatnonzero(right & (labels == label))[:1] for label in range(10)]
    if not all(len(indices) for indices in first):
        raise runs.RunError("there is a class of which no image is classified rightly by all runs")
    return [int(indices[0]) for indices in first]


def draw(
    networks: Mapping[str, vat.Model],
    seen: Scene,
    indices: Sequence[int],
    epsilon: float,
    classes: Sequence[str],
    path: Path,
) -> None:
    """Rows: images; perturbation and perturbed images of each network. Columns: examples."""
    from matplotlib.figure import Figure

    from experiments.lab import plotting

    x, clean = seen.x[indices], seen.pixels(seen.x[indices])
    grey = len(seen.shape) == 2
    rows = 1 + (3 if seen.whitened else 2) * len(networks)
    figure = Figure(figsize=(len(x) + 1.6, 1.1 * rows + 0.6), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.03, w_pad=0.03, hspace=0, wspace=0)
    axes = iter(figure.subplots(rows, len(x), squeeze=False))

    def show(pictures: np.ndarray, name: str, **options: Any) -> Any:
        row = next(axes)
        for axis, picture in zip(row, pictures, strict=True):
            image = axis.imshow(picture.reshape(seen.shape), **options)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
        return row, image

    def show_images(pictures: np.ndarray, name: str) -> Any:
        row, _ = show(np.clip(pictures, 0, 1), name, cmap="gray_r", vmin=0, vmax=1)
        return row

    def show_differences(r: np.ndarray, name: str) -> None:
        largest = np.abs(r).max()
        if grey:
            row, image = show(r, name, cmap="RdBu_r", vmin=-largest, vmax=largest)
            ticks = [-largest, 0, largest]
            figure.colorbar(image, ax=row.tolist(), pad=0.01, aspect=9, ticks=ticks, format="%.2g")
        else:  # no map for colours
            show(0.5 + r / (2 * largest), f"{name}\n±{largest:.2g}")

    show_images(clean, "x")
    for name, network in networks.items():
        r = perturbation(network, x, epsilon)
        perturbed = seen.pixels(x + r)
        show_differences(r, f"{name}\n\nr" + (", whitened" if seen.whitened else ""))
        if seen.whitened:
            show_differences(perturbed - clean, "r, pixels")
        row = show_images(perturbed, "x + r")
        before, after = ops.softmax(network(x)), ops.softmax(network(x + r))
        for axis, p, q in zip(row, before, after, strict=True):
            axis.set_title(
                f"{classes[q.argmax()]} ({100 * q.max():.0f} %)",
                fontsize=9 if grey else 7,
                color="black" if p.argmax() == q.argmax() else "tab:red",
                pad=2,
            )
    figure.suptitle(caption(seen, x, epsilon), fontsize=10)
    plotting.save(figure, path, dpi=130)


def caption(seen: Scene, x: np.ndarray, epsilon: float) -> str:
    """What the picture shows."""
    text = f"Virtual adversarial perturbations, ‖r‖₂ = {epsilon:g}: what each network then sees "
    text += "(red: its prediction has changed)"
    if len(seen.shape) == 3:
        norm = np.linalg.norm(x.reshape(len(x), -1), axis=1).mean()
        where = "of the whitened image" if seen.whitened else "of the image, pixels ± 0.5"
        text += f"\n‖r‖₂ is that {where}, whose own is {norm:.0f} on average; each row of r "
        text += "is scaled to its largest value, which stands beside it"
    return text


@cli.command
def picture(argv: Sequence[str] | None = None) -> int:
    """Read the runs, draw the picture, write beside it what it was made of; the exit code."""
    parser = cli.Parser(PICTURE, "picture")
    parser.add_argument("--without", type=Run, metavar="RUN", help="a run without VAT (mle)")
    parser.add_argument("--with", type=Run, metavar="RUN", dest="vat", help="a run with VAT")
    parser.add_argument(
        "--epsilon",
        type=cli.positive,
        metavar="X",
        help="size of the perturbations (default: 2 for MNIST, else 1)",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where the data set's files are")
    parser.add_argument("--out", type=Path, default=results.RESULTS / "picture.png", metavar="FILE")
    args = parser.parse_args(argv)
    if args.vat is None and args.without is not None:
        raise runs.RunError("--without needs --with: a run with VAT to compare with")
    given = {"without VAT": args.without, "with VAT": args.vat}
    chosen = {name: run for name, run in given.items() if run is not None}
    chosen = chosen or newest_with_and_without()
    spec = chosen["with VAT"].spec
    for name, run in chosen.items():
        if run.spec.dataset not in SIZES:
            raise runs.RunError(f"the run {name} is one on {run.spec.dataset}")
        if tested_on(run)[0] != spec.dataset or _holdout(run) != _holdout(chosen["with VAT"]):
            raise runs.RunError("the two runs have different test images")
    epsilon = args.epsilon or SIZES[spec.dataset]
    out = results.writable(args.out)
    cpu = backend.select_device("cpu")
    environment = machine.environment(cpu)  # before a picture in the repository is changed
    dataset = spec.load(args.data_dir)
    raw = data.load(spec.dataset, args.data_dir, _holdout(chosen["with VAT"]))
    seen = scene(dataset, raw)
    checkpoints = {name: run.checkpoint() for name, run in chosen.items()}
    networks = {name: run.network(dataset, cpu) for name, run in chosen.items()}
    indices = right_for_all(list(networks.values()), seen.x, seen.labels)
    classes = CLASSES.get(spec.dataset, [str(digit) for digit in range(10)])
    draw(networks, seen, indices, epsilon, classes, out)
    made_of = {
        "command": cli.command_line("picture", args),
        "epsilon": epsilon,
        "test_images": indices,
        **{
            name: {"updates": checkpoint.update, **checkpoint.config}
            for name, checkpoint in checkpoints.items()
        },
        "environment": environment,
    }
    runs.write_json(out.with_suffix(".json"), made_of)
    print(f"drawn: {out}")
    return 0


def _holdout(run: Run) -> int:
    return getattr(run.spec, "holdout", None) or 0
