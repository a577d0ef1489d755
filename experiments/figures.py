"""Figures of finished runs: learning curves, and virtual adversarial perturbations of images."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.lab import cli, machine, results, runs
from experiments.lab.results import Run
from experiments.lab.scene import Scene, holdout, perturbation, scene
from minivat import backend, ops, vat


def tested_on(run: Run) -> tuple[str, str, frozenset[tuple[str, str]]]:
    """A run's data set, what its error is the error on, and the checksums of its files."""
    spec = run.spec
    what = f"{holdout(run):,} held-out training images" if holdout(run) else "test images"
    if spec.validation:
        others = f", others than the {what}" if holdout(run) else ""
        what = f"{spec.validation:,} validation images of seed {spec.seed_of_data}{others}"
    return spec.dataset, what, frozenset(run.checksums.items())


def newest(wanted: Callable[[Run], bool], what: str, how: str) -> dict[str, Run]:
    """By method: the newest run that is wanted, and of each other method the newest of the same
    task, its error on the same images. RunError, which says how to make one, where there is none.
    """

    def task(run: Run) -> tuple[Any, ...]:
        return type(run.spec), run.spec.parts_of_title(), tested_on(run)

    every = results.newest()
    first = next(filter(wanted, every), None)
    if first is None:
        none = "there is none in runs/; make one first, for example with"
        raise runs.RunError(f"no {what} to draw: {none}: {how}")
    found = {first.spec.method: first}
    for run in every:
        if task(run) == task(first):
            found.setdefault(run.spec.method, run)
    return found


def make(name: str, args: argparse.Namespace, draw: Callable[[Path], dict[str, Any]]) -> int:
    """Draw a figure, write beside it what `draw` says that it was drawn from; the exit code."""
    path = results.writable(args.out)
    if path.suffix != ".png":
        raise runs.RunError(f"--out must name a PNG file (.png), got {path}")
    if path.with_suffix(".json").name in runs.FILES:
        raise runs.RunError(f"--out {path}: the file beside it would have the name of a run's own")
    environment = machine.environment(backend.Device())  # before a figure in the repository changes
    content = {"command": cli.command_line(name, args), **draw(path), "environment": environment}
    runs.write_json(path.with_suffix(".json"), content)
    print(f"drawn: {path}")
    return 0


# Learning curves ---------------------------------------------------------------------------------

CURVES = """Several runs in one figure: error and R_vadv over training.

RUN is the folder of a run, finished or not; without a name, the folder's name is its name. Without
RUNs, the newest one in runs/ and the newest of every other method that did the same task, tested on
the same images. A JSON file beside the figure says what it was drawn from."""


def named_run(text: str) -> tuple[str, Run]:
    """An argparse type: a run's name and its folder."""
    name, separator, folder = text.partition("=")
    named = separator and "/" not in name  # else the = is in the folder's path
    return (name, Run(folder)) if named else (Path(text).name, Run(text))


@cli.command
def curves(argv: Sequence[str] | None = None) -> int:
    """Draw learning curves; the exit code."""
    parser = cli.Parser(CURVES, "curves")
    parser.add_argument("runs", nargs="*", type=named_run, metavar="[NAME=]RUN")
    parser.add_argument("--title", metavar="TEXT", help="default: the data set")
    parser.add_argument("--out", type=Path, default=Path("runs/curves.png"), metavar="FILE")
    args = parser.parse_args(argv)
    by_name = dict(args.runs)
    if len(by_name) < len(args.runs):
        raise runs.RunError("two of the runs have the same name: give them as NAME=RUN")
    if not by_name:
        found = newest(lambda run: True, "runs", "make mnist-sup").values()
        by_name = {run.spec.title_of_method: run for run in found}
    measured = {tested_on(run) for run in by_name.values()}
    if len(measured) > 1:
        differences = sorted({f"{dataset}, {what}" for dataset, what, _ in measured})
        if len(differences) == 1:
            differences.append("the same of other files (SHA-256)")
        both = " and ".join(differences)
        raise runs.RunError(f"the runs are measured on different images: {both}")
    ((dataset, what, _),) = measured
    rows = {name: run.rows(("update", "error", "r_vadv")) for name, run in by_name.items()}
    from experiments.lab import plotting

    def draw(path: Path) -> dict[str, Any]:
        drawn = {
            f"{name}, seed {run.spec.seed}": plotting.Curve(run.spec.method, rows[name])
            for name, run in by_name.items()
        }
        plotting.curves(path, drawn, args.title or dataset, f"error on {what} (%)")
        return {"runs": {name: run.config for name, run in by_name.items()}}

    return make("curves", args, draw)


# Perturbations -----------------------------------------------------------------------------------

PICTURE = """Virtual adversarial perturbations of trained networks: the README's pictures.

For test images that all networks classify rightly: the image, the perturbation each network is most
sensitive to, and the perturbed image with what the network makes of it. RUN is the folder of a run
on MNIST, CIFAR-10 or SVHN, finished or not; --with alone draws that run's network alone. Without
--with, the newest run with VAT in runs/, and the newest of mle for the same task and test images.
The networks' running statistics are estimated once more, as before every run's last evaluation.
CIFAR-10's perturbations are of whitened images: shown so, and as what they do to the pixels."""
# L2 norm of the perturbations: on MNIST, in pixels of range 0 to 1, as in figure 2; on images one
# at which networks with and without VAT differ. At the 10 that VAT trains with on CIFAR-10, nearly
# all predictions change in both.
SIZES = {"mnist": 2.0, "cifar10": 1.0, "svhn": 1.0}
PARTS = 10  # of them, classified one after another


def right_for_all(networks: Sequence[vat.Model], x: np.ndarray, labels: np.ndarray) -> list[int]:
    """The first image of each class that every network classifies rightly; RunError for none."""
    right = np.ones(len(x), bool)
    for network in networks:
        parts = np.array_split(x, PARTS)
        right &= np.concatenate([network(part).argmax(axis=1) for part in parts]) == labels
    first = {int(labels[i]): int(i) for i in reversed(np.flatnonzero(right))}
    if len(first) < 10:
        raise runs.RunError("there is a class of which no image is classified rightly by all runs")
    return [first[label] for label in range(10)]


def draw(networks: Mapping[str, vat.Model], seen: Scene, epsilon: float, path: Path) -> None:
    """Rows: images; perturbation and perturbed images of each network. Columns: examples."""
    from matplotlib.figure import Figure

    from experiments.lab import plotting

    x, clean = seen.x, seen.pixels(seen.x)
    grey = len(seen.shape) == 2
    rows = 1 + (3 if seen.whitened else 2) * len(networks)
    figure = Figure(figsize=(len(x) + 1.6, 1.1 * rows + 0.6), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.03, w_pad=0.03, hspace=0, wspace=0)
    axes = iter(figure.subplots(rows, len(x), squeeze=False))

    def show(pictures: np.ndarray, name: str, low: float = 0, high: float = 1, cmap="gray_r"):
        row = next(axes)
        for axis, picture in zip(row, np.clip(pictures, low, high), strict=True):
            image = axis.imshow(picture.reshape(seen.shape), cmap, vmin=low, vmax=high)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
        return row, image

    def show_differences(r: np.ndarray, name: str) -> None:
        largest = np.abs(r).max()
        if grey:
            row, image = show(r, name, -largest, largest, "RdBu_r")
            ticks = [-largest, 0, largest]
            figure.colorbar(image, ax=row.tolist(), pad=0.01, aspect=9, ticks=ticks, format="%.2g")
        else:  # no map for colours
            show(0.5 + r / (2 * largest), f"{name}\n±{largest:.2g}")

    show(clean, "x")
    for name, network in networks.items():
        r = perturbation(network, x, epsilon)
        perturbed = seen.pixels(x + r)
        show_differences(r, f"{name}\n\nr" + (", whitened" if seen.whitened else ""))
        if seen.whitened:
            show_differences(perturbed - clean, "r, pixels")
        row, _ = show(perturbed, "x + r")
        before, after = ops.softmax(network(x)), ops.softmax(network(x + r))
        for axis, p, q in zip(row, before, after, strict=True):
            axis.set_title(
                f"{seen.classes[q.argmax()]} ({100 * q.max():.0f} %)",
                fontsize=9 if grey else 7,
                color="black" if p.argmax() == q.argmax() else "tab:red",
                pad=2,
            )
    figure.suptitle(caption(seen, epsilon), fontsize=10)
    plotting.save(figure, path, dpi=130)


def caption(seen: Scene, epsilon: float) -> str:
    """What the picture shows."""
    text = f"Virtual adversarial perturbations, ‖r‖₂ = {epsilon:g}: what each network then sees "
    text += "(red: its prediction has changed)"
    if len(seen.shape) == 3:
        norm = np.linalg.norm(seen.x.reshape(len(seen.x), -1), axis=1).mean()
        where = "of the whitened image" if seen.whitened else "of the image, pixels ± 0.5"
        text += f"\n‖r‖₂ is that {where}, whose own is {norm:.0f} on average; each row of r "
        text += "is scaled to its largest value, which stands beside it"
    return text


def to_compare(with_vat: Run | None, without: Run | None) -> dict[str, Run]:
    """The runs to draw by name, given or the newest; RunError where they do not go together."""
    if with_vat is None and without is not None:
        raise runs.RunError("--without needs --with: a run with VAT to compare with")
    if with_vat is None:
        found = newest(
            lambda run: run.spec.dataset in SIZES and run.spec.method.startswith("vat"),
            "run with VAT on MNIST, CIFAR-10 or SVHN",
            "make mnist-sup UPDATES=600, or name one in WITH= (--with)",
        )
        with_vat, without = next(iter(found.values())), found.get("mle")
    chosen = {"without VAT": without, "with VAT": with_vat}
    chosen = {name: run for name, run in chosen.items() if run is not None}
    for name, run in chosen.items():
        if run.spec.dataset not in SIZES:
            raise runs.RunError(f"the run {name} is one on {run.spec.dataset}")
    if len({(run.spec.dataset, holdout(run)) for run in chosen.values()}) > 1:
        raise runs.RunError("the two runs have different test images")
    return chosen


@cli.command
def picture(argv: Sequence[str] | None = None) -> int:
    """Draw perturbations of test images; the exit code."""
    parser = cli.Parser(PICTURE, "picture")
    parser.add_argument("--without", type=Run, metavar="RUN", help="a run without VAT (mle)")
    parser.add_argument("--with", type=Run, metavar="RUN", dest="vat", help="a run with VAT")
    text = "size of the perturbations (default: 2 for MNIST, else 1)"
    parser.add_argument("--epsilon", type=cli.positive, metavar="X", help=text)
    parser.add_argument("--data-dir", metavar="DIR", help="where the data set's files are")
    parser.add_argument("--out", type=Path, default=Path("runs/picture.png"), metavar="FILE")
    args = parser.parse_args(argv)
    chosen = to_compare(args.vat, args.without)

    def draw_chosen(path: Path) -> dict[str, Any]:
        spec = chosen["with VAT"].spec
        checkpoints = {name: run.checkpoint() for name, run in chosen.items()}
        dataset = spec.load(args.data_dir)
        seen = scene(chosen["with VAT"], dataset, args.data_dir)
        networks = {name: run.network(dataset, backend.Device()) for name, run in chosen.items()}
        indices = right_for_all(list(networks.values()), seen.x, seen.labels)
        epsilon = args.epsilon or SIZES[spec.dataset]
        draw(networks, replace(seen, x=seen.x[indices]), epsilon, path)
        drawn_from = {
            name: {"updates": checkpoint.update, **checkpoint.config}
            for name, checkpoint in checkpoints.items()
        }
        return {"epsilon": epsilon, "test_images": indices, **drawn_from}

    return make("picture", args, draw_chosen)
