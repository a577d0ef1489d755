"""How long the exact spectra of 10,000 images take, beside PyTorch's torch.func.

    python -m experiments.bench_curvature [--json] [--threads 2]

Every eigenvalue and the first eigenvector of each image's H, for the MNIST network in float32. As
experiments/bench.py does, it settles the threads and measures in a process that begins with them
(experiments/bench_spectrum.py).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from experiments import common
from experiments.bench import limit_threads


def parser() -> common.Parser:
    """The command line."""
    parser = common.Parser(__doc__)
    for flag, default, text in (
        ("--threads", 2, "threads, the same for all"),
        ("--images", 10_000, "test images; of fewer, the time is that of 10,000 at their rate"),
        ("--peer-images", 16, "images that torch.func is timed on; its time is scaled up likewise"),
        ("--updates", 200, "updates to train the network for before"),
    ):
        common.add_count(parser, flag, 1, default, text)
    parser.add_argument("--data-dir", metavar="DIR", help="where MNIST's files are")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return parser


@common.command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when minivat's eigenvalues agree with torch.func's, or there is no PyTorch."""
    args = parser().parse_args(argv)
    numbers = (args.images, args.peer_images, args.updates)
    command = [sys.executable, "-m", "experiments.bench_spectrum", *map(str, numbers)]
    command += ["--data-dir", args.data_dir] if args.data_dir else []
    command += ["--json"] if args.json else []
    return subprocess.run(command, env=limit_threads(args.threads)).returncode


if __name__ == "__main__":
    sys.exit(main())
