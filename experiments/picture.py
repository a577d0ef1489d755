"""Virtual adversarial perturbations of trained networks: the README's pictures.

    python -m experiments.picture --without RUN --with RUN

For test images that all networks classify rightly: the image, the perturbation each network is most
sensitive to, and the perturbed image with what the network makes of it. RUN is a folder of a run on
MNIST, CIFAR-10 or SVHN, finished or not; --without may be left out. The networks' running
statistics are estimated once more, as every run does before its last evaluation.
CIFAR-10's networks see whitened images, and the perturbation is one of those: it is shown as it is,
and as what it does to the pixels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import (
    cifar10_semisup,
    common,
    images,
    jobs,
    mnist_semisup,
    mnist_sup,
    svhn_semisup,
)
from experiments.lab import runs
from minivat import backend, data, nn, ops, training, vat

EPSILON = 2.0  # on MNIST: L2 norm of the perturbations, in pixels of range 0 to 1; as in figure 2
CLASSES = {"cifar10": "airplane car bird cat deer dog frog horse ship truck".split()}
FEW_LABELS = {task.dataset: task for task in (cifar10_semisup.TASK, svhn_semisup.TASK)}
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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = common.Parser(__doc__)
    parser.add_argument("--without", metavar="RUN", help="a run without VAT (mle)")
    parser.add_argument("--with", required=True, metavar="RUN", dest="vat", help="a run with VAT")
    parser.add_argument(
        "--epsilon",
        type=common.positive,
        metavar="X",
        help=f"size of the perturbations (default: {EPSILON:g} for MNIST, else that of the run)",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where the data set's files are")
    parser.add_argument("--out", default="experiments/results/picture.png", metavar="FILE")
    return parser


def checkpoint_in(folder: str) -> runs.Checkpoint:
    """The state of a run; RunError where the folder holds none."""
    path = Path(folder) / "checkpoint.npz"
    if not path.exists():
        raise runs.RunError(f"{folder} holds no run: there is no {path.name}")
    return runs.read_checkpoint(path)


def check_files(config: Mapping[str, Any], dataset: data.Dataset) -> None:
    """RunError where the run with this configuration was on other files than the data set's.

    The whitening's matrix may be another: fitted on another machine, it differs in its last bits.
    """
    theirs = config["data"]["checksums"]
    for name, checksum in dataset.checksums.items():
        if theirs.get(name) != checksum:
            raise runs.RunError(f"the runs were on another {name} than the one found (SHA-256)")


def tested_on(config: Mapping[str, Any]) -> tuple[str, int]:
    """What tells a run's test images."""
    return config["data"]["name"], config["settings"].get("holdout", 0)


def dataset_of(configs: Sequence[Mapping[str, Any]], data_dir: str | None) -> data.Dataset:
    """The data set of the runs with these configurations, not whitened.

    Raises RunError where their test images are not the same, or not those of the files found.
    """
    if len({tested_on(config) for config in configs}) > 1:
        raise runs.RunError("the two runs have different test images")
    name, holdout = tested_on(configs[0])
    dataset = data.load(name, data_dir, holdout)
    for config in configs:
        check_files(config, dataset)
    return dataset


def scene(dataset: data.Dataset) -> Scene:
    """The data set's first test images."""
    x, labels = dataset.test_images[:FEW], dataset.test_labels[:FEW]
    if dataset.name == "mnist":
        return Scene(x, labels, dataset.image_shape, lambda x: x)
    if dataset.name == "svhn":
        return Scene(x, labels, dataset.image_shape, lambda x: x + 0.5)
    zca = data.whitening.cached_zca(dataset.train_images)
    return Scene(zca.apply(x), labels, dataset.image_shape, lambda x: zca.revert(x) + 0.5, True)


def build(config: Mapping[str, Any]) -> nn.Network:
    """The network of a run with this configuration, which does not name its experiment."""
    name, settings = config["data"]["name"], config["settings"]
    if name != "mnist":
        return images.build(name, settings)
    return (mnist_semisup if "noise" in settings else mnist_sup).build(settings)


def for_statistics(
    settings: Mapping[str, Any], dataset: data.Dataset
) -> tuple[np.ndarray, np.ndarray, int]:
    """What a run with these settings estimates its statistics on: images, labels, batch size.

    All images to train on; without unlabelled ones, only those that keep their label.
    """
    seed = settings.get("data_seed", settings["seed"])
    x, labels, _, _ = common.hold_out(
        dataset, settings["validation"], seed, settings.get("aside", 0)
    )
    if "unlabelled_batch_size" in settings:
        return x, labels, settings["unlabelled_batch_size"]
    if "labels" in settings:
        balanced = FEW_LABELS[dataset.name].balanced
        labelled = common.draw_labels(labels, settings["labels"], seed, balanced)
        x, labels = x[labelled], labels[labelled]
    return x, labels, settings["batch_size"]


def restored(
    checkpoint: runs.Checkpoint, dataset: data.Dataset, device: backend.Device
) -> training.Trainer:
    """The trainer of a run as its result is evaluated; it cannot go on training.

    dataset: as the network sees it. RunError for a checkpoint that this version cannot read.
    """
    settings = checkpoint.config["settings"]
    try:
        network = build(checkpoint.config)
        x, labels, batch_size = for_statistics(settings, dataset)
    except KeyError as error:
        raise runs.RunError(
            f"the settings of a run on {dataset.name} lack {error}: it is of another version"
        ) from error
    trainer = training.Trainer(
        network,
        device,
        x,
        labels,
        regularization=training.Regularization("mle"),
        learning_rate=lambda update: 0.0,
        seed=settings["seed"],
        batch_size=batch_size,
    )
    return common.restored(trainer, checkpoint, device)


def network_of(
    checkpoint: runs.Checkpoint, dataset: data.Dataset, device: backend.Device
) -> vat.Network:
    """The trained network of a run; see `restored`."""
    trainer = restored(checkpoint, dataset, device)
    return common.trained_network(trainer.network, trainer.arrays, device, np.float32)


def perturbation(network: vat.Network, x: np.ndarray, epsilon: float) -> np.ndarray:
    """r_vadv after four exact power iterations, with the sign that moves the output more."""
    d = backend.host_generator(1, "picture").standard_normal(x.shape, dtype=x.dtype)
    r, logits = vat.virtual_adversarial_perturbation(network, x, d, epsilon, vat.PowerIteration(4))
    plus, minus = (vat.lds(network, x, sign * r, logits) for sign in (1, -1))
    worse = np.where(plus >= minus, 1, -1).astype(x.dtype)
    return r * worse.reshape(-1, *[1] * (x.ndim - 1))


def chosen(networks: Sequence[vat.Network], x: np.ndarray, labels: np.ndarray) -> list[int]:
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
    networks: Mapping[str, vat.Network],
    seen: Scene,
    indices: Sequence[int],
    epsilon: float,
    classes: Sequence[str],
    path: Path,
) -> None:
    """Rows: images; perturbation and perturbed images of each network. Columns: examples."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    x = seen.x[indices]
    grey = len(seen.shape) == 2
    rows = 1 + (3 if seen.whitened else 2) * len(networks)
    figure, axes = plt.subplots(rows, len(x), figsize=(len(x), 1.22 * rows), squeeze=False)
    row = -1

    def show(pictures: np.ndarray, name: str, **options: Any) -> None:
        nonlocal row
        row += 1
        for axis, picture in zip(axes[row], pictures, strict=True):
            axis.imshow(picture.reshape(seen.shape), **options)
            axis.set_xticks([])
            axis.set_yticks([])
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center")

    def show_images(pictures: np.ndarray, name: str) -> None:
        show(np.clip(pictures, 0, 1), name, cmap="gray_r", vmin=0, vmax=1)  # no map for colours

    def show_differences(r: np.ndarray, name: str) -> None:
        largest = np.abs(r).max()
        if grey:
            show(r, name, cmap="RdBu_r", vmin=-largest, vmax=largest)
        else:
            show(0.5 + r / (2 * largest), name)

    clean = seen.pixels(x)
    show_images(clean, "x")
    for name, network in networks.items():
        r = perturbation(network, x, epsilon)
        perturbed = seen.pixels(x + r)
        show_differences(r, f"{name}\n\nr" + (", whitened" if seen.whitened else ""))
        if seen.whitened:
            show_differences(perturbed - clean, "r, pixels")
        show_images(perturbed, "x + r")
        before, after = ops.softmax(network(x)), ops.softmax(network(x + r))
        for axis, p, q in zip(axes[row], before, after, strict=True):
            flipped = p.argmax() != q.argmax()
            axis.set_title(
                f"{classes[q.argmax()]} ({100 * q.max():.0f} %)",
                fontsize=9 if grey else 7,
                color="tab:red" if flipped else "black",
                pad=2,
            )
    figure.suptitle(caption(seen, x, epsilon), fontsize=10)
    figure.tight_layout(h_pad=0.3, w_pad=0.2)
    runs.replace_file(path, lambda file: figure.savefig(file, dpi=130, format="png"))
    plt.close(figure)


def caption(seen: Scene, x: np.ndarray, epsilon: float) -> str:
    """What the picture shows."""
    text = f"Virtual adversarial perturbations, ‖r‖₂ = {epsilon:g}: what each network then sees "
    text += "(red: its prediction has changed)"
    if len(seen.shape) == 3:
        norm = np.linalg.norm(x.reshape(len(x), -1), axis=1).mean()
        where = "of the whitened image" if seen.whitened else "of the image, pixels ± 0.5"
        text += f"\n‖r‖₂ is that {where}, whose own is {norm:.0f} on average; each row of r "
        text += "is scaled to its largest value"
    return text


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Read the runs, draw the picture, write beside it what it was made of; the exit code."""
    args = parser().parse_args(argv)
    folders = {"without VAT": args.without, "with VAT": args.vat}
    checkpoints = {
        name: checkpoint_in(folder) for name, folder in folders.items() if folder is not None
    }
    config = checkpoints["with VAT"].config
    for name, checkpoint in checkpoints.items():
        if checkpoint.config["data"]["name"] not in ("mnist", "cifar10", "svhn"):
            raise runs.RunError(f"the run {name} is one on {checkpoint.config['data']['name']}")
    name = config["data"]["name"]
    usual = EPSILON if name == "mnist" else config["settings"].get("epsilon")
    epsilon = args.epsilon or usual
    if epsilon is None:
        raise runs.RunError("the run with VAT has no epsilon: name one in --epsilon")
    out = jobs.writable(Path(args.out))
    cpu = backend.select_device("cpu")
    environment = common.environment(cpu)  # before a picture in the repository is changed
    dataset = dataset_of([each.config for each in checkpoints.values()], args.data_dir)
    seen = scene(dataset)
    if seen.whitened:
        dataset = data.whiten(dataset)
    networks = {label: network_of(each, dataset, cpu) for label, each in checkpoints.items()}
    indices = chosen(list(networks.values()), seen.x, seen.labels)
    classes = CLASSES.get(name, [str(digit) for digit in range(10)])
    draw(networks, seen, indices, epsilon, classes, out)
    made_of = {
        "command": common.command_line("picture", args),
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


if __name__ == "__main__":
    sys.exit(main())
