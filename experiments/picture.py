"""Virtual adversarial perturbations of two trained networks, side by side: the README's picture.

    python -m experiments.picture --without RUN --with RUN

For test images that both networks classify rightly: the image, the perturbation each network is
most sensitive to, and the perturbed images with what the network makes of them. RUN is a folder of
`make mnist-sup`, finished or not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments import common, mnist_sup
from minivat import backend, data, ops, runs, vat

EPSILON = 2.0  # L2 norm of the perturbations, in pixels of range 0 to 1; as in figure 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = common.Parser(__doc__)
    parser.add_argument("--without", required=True, metavar="RUN", help="a run without VAT (mle)")
    parser.add_argument("--with", required=True, metavar="RUN", dest="vat", help="a run with VAT")
    parser.add_argument("--data-dir", metavar="DIR", help="where MNIST's files are")
    parser.add_argument("--out", default="experiments/results/picture.png", metavar="FILE")
    return parser


def perturbation(network: vat.Network, x: np.ndarray) -> np.ndarray:
    """r_vadv after four exact power iterations, with the sign that moves the output more."""
    d = backend.host_generator(1, "picture").standard_normal(x.shape, dtype=x.dtype)
    r, logits = vat.virtual_adversarial_perturbation(network, x, d, EPSILON, power_iterations=4)
    plus, minus = (vat.lds(network, x, sign * r, logits) for sign in (1, -1))
    return np.where((plus >= minus)[:, None], r, -r)


def chosen(networks: Sequence[vat.Network], images: np.ndarray, labels: np.ndarray) -> list[int]:
    """The first test image of each class that every network classifies rightly.

    Raises RunError where a class has none.
    """
    right = np.all([network(images).argmax(axis=1) == labels for network in networks], axis=0)
    first = [np.flatnonzero(right & (labels == label))[:1] for label in range(10)]
    if not all(len(indices) for indices in first):
        raise runs.RunError("there is a class of which no image is classified rightly by both runs")
    return [int(indices[0]) for indices in first]


def draw(networks: dict[str, vat.Network], x: np.ndarray, shape: tuple, path: Path) -> None:
    """Rows: images; perturbation and perturbed images of each network. Columns: examples."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = 1 + 2 * len(networks)
    figure, axes = plt.subplots(rows, len(x), figsize=(len(x), 1.22 * rows), squeeze=False)

    def show(row: int, images: np.ndarray, limit: tuple, colours: str, name: str) -> None:
        for axis, image in zip(axes[row], images, strict=True):
            axis.imshow(image.reshape(shape), cmap=colours, vmin=limit[0], vmax=limit[1])
            axis.set_xticks([])
            axis.set_yticks([])
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center")

    show(0, x, (0, 1), "gray_r", "x")
    row = 1
    for name, network in networks.items():
        r = perturbation(network, x)
        largest = np.abs(r).max()
        before, after = ops.softmax(network(x)), ops.softmax(network(x + r))
        show(row, r, (-largest, largest), "RdBu_r", f"{name}\n\nr")
        show(row + 1, x + r, (0, 1), "gray_r", "x + r")
        for axis, p, q in zip(axes[row + 1], before, after, strict=True):
            flipped = p.argmax() != q.argmax()
            axis.set_title(
                f"{q.argmax()} ({100 * q.max():.0f} %)",
                fontsize=9,
                color="tab:red" if flipped else "black",
                pad=2,
            )
        row += 2
    figure.suptitle(
        f"Virtual adversarial perturbations, ‖r‖₂ = {EPSILON:g}: what each network then sees "
        "(red: its prediction has changed)",
        fontsize=10,
    )
    figure.tight_layout(h_pad=0.3, w_pad=0.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Read both runs, draw the picture, write beside it what it was made of; the exit code."""
    args = parser().parse_args(argv)
    dataset = data.load("mnist", args.data_dir)
    checkpoints = {
        name: runs.read_checkpoint(Path(folder) / "checkpoint.npz")
        for name, folder in (("without VAT", args.without), ("with VAT", args.vat))
    }
    for name, checkpoint in checkpoints.items():
        if checkpoint.config["data"]["name"] != "mnist":
            raise runs.RunError(f"the run {name} is one on {checkpoint.config['data']['name']}")
    cpu = backend.select_device("cpu")
    networks = {
        name: mnist_sup.trained_network(
            checkpoint.config["settings"], checkpoint.arrays, cpu, np.float32
        )
        for name, checkpoint in checkpoints.items()
    }
    few = slice(1000)
    indices = chosen(list(networks.values()), dataset.test_images[few], dataset.test_labels[few])
    out = Path(args.out)
    draw(networks, dataset.test_images[indices], dataset.image_shape, out)
    made_of = {
        "command": "python -m experiments.picture",
        "epsilon": EPSILON,
        "test_images": indices,
        **{
            name: {"updates": checkpoint.update, **checkpoint.config}
            for name, checkpoint in checkpoints.items()
        },
        "environment": common.environment(cpu),
    }
    runs.write_json(out.with_suffix(".json"), made_of)
    print(f"drawn: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
