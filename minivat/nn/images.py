"""The paper's convolutional networks, Conv-Small and Conv-Large (Table 7, appendix D)."""

from __future__ import annotations

from ..typing import is_integer
from .layers import (
    BatchNorm,
    Conv2d,
    Dense,
    Dropout,
    GlobalAveragePool,
    Layer,
    MaxPool2d,
)
from .network import Network

DATASETS = ("cifar10", "svhn")
CLASSES = 10
WIDEST = 100  # 10¹⁰ parameters: a typing error, not a network
SMALLEST = 12  # height and width that leave one position after two pools and the valid convolution


def conv_small(
    dataset: str = "cifar10",
    width: float = 1.0,
    *,
    dropout: float = 0.5,
    image_shape: tuple[int, int, int] = (32, 32, 3),
) -> Network:
    """Conv-Small: images (N, 32, 32, 3) ↦ logits (N, 10), 1.4 million parameters for CIFAR-10.

        3 of [3×3 convolution, 96]      32×32    64 channels for SVHN
        2×2 max pool, dropout           16×16
        3 of [3×3 convolution, 192]     16×16    128 for SVHN
        2×2 max pool, dropout            8×8
        3×3 valid convolution, 192       6×6     128 for SVHN
        2 of [1×1 convolution, 192]      6×6     128 for SVHN
        global average pool, dense 10            for SVHN with batch norm

    Each convolution, without bias, is followed by batch norm (1e-6, running ratio 0.99) and leaky
    ReLU 0.1; all but one are padded to keep the image's size. All weights have He's initialisation.

    dataset: "cifar10" or "svhn". width: every number of channels above is multiplied by it and
        rounded to the nearest integer, halves up, at least to 1; in (0, 100].
    dropout: rate; 0 leaves dropout out. image_shape: height and width, 12 at least, and channels.
    Raises ValueError for another data set or numbers out of range.
    """
    _check_dataset(dataset)
    first, others = (96, 192) if dataset == "cifar10" else (64, 128)
    channels = [first] * 3 + [others] * 6
    return _network(channels, dataset, width, dropout, image_shape)


def conv_large(
    dataset: str = "cifar10",
    width: float = 1.0,
    *,
    dropout: float = 0.5,
    image_shape: tuple[int, int, int] = (32, 32, 3),
) -> Network:
    """Conv-Large: images (N, 32, 32, 3) ↦ logits (N, 10), 3.1 million parameters.

    Conv-Small with 128 channels in the first three convolutions, 256 in the second three, and then
    512, 256 and 128; the same for both data sets, except that SVHN's dense layer has batch norm.
    Arguments and errors as `conv_small`'s.
    """
    _check_dataset(dataset)
    channels = [128] * 3 + [256] * 3 + [512, 256, 128]
    return _network(channels, dataset, width, dropout, image_shape)


def _check_dataset(dataset: str) -> None:
    if dataset not in DATASETS:
        raise ValueError(f"dataset must be one of {DATASETS}, got {dataset!r}")


def _network(
    channels: list[int],
    dataset: str,
    width: float,
    dropout: float,
    image_shape: tuple[int, int, int],
) -> Network:
    if not 0 < width <= WIDEST:
        raise ValueError(f"width must lie in (0, {WIDEST}], got {width}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
    if (
        len(image_shape) != 3
        or not all(is_integer(n) for n in image_shape)
        or min(image_shape[:2]) < SMALLEST
        or image_shape[2] < 1
    ):
        raise ValueError(
            f"image_shape must be three integers, (height, width, channels), {SMALLEST} pixels "
            f"each way at least, got {tuple(image_shape)}"
        )
    height, breadth, inputs = image_shape
    layers: list[Layer] = []
    for i, full in enumerate(channels, start=1):
        outputs = max(1, int(full * width + 0.5))
        kernel, padding = (3, "same") if i < 7 else (3, "valid") if i == 7 else (1, "same")
        layers += [
            Conv2d(f"conv{i}", inputs, outputs, kernel, padding=padding),
            BatchNorm(f"norm{i}", outputs, decay=0.99, slope=0.1),
        ]
        inputs = outputs
        if i in (3, 6):
            height, breadth = height // 2, breadth // 2
            layers.append(MaxPool2d(2))
            if dropout:
                layers.append(Dropout(f"dropout{i // 3}", (height, breadth, outputs), dropout))
    layers += [GlobalAveragePool(), Dense("dense10", inputs, CLASSES, gain=2.0)]
    if dataset == "svhn":
        layers.append(BatchNorm("norm10", CLASSES, decay=0.99))
    return Network(tuple(layers))
