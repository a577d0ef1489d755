"""Crash safety: a run killed with SIGKILL again and again ends with the same bits.

    python -m experiments crash-check --updates 2000 --kills 10

Trains once without a break. Trains the same again, killed at random moments and resumed each time.
Compares the two checkpoints bit by bit; exit code 0 when they are the same.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.lab import cli, runs
from experiments.mnist import MnistSup


def run(command: Sequence[str], folder: Path, target: int | None = None, delay: float = 0) -> None:
    """Run a training in `folder`: to its end, or killed `delay` seconds after it has written a
    checkpoint of update `target` or later. RunFailed if it ends otherwise."""
    least = 0 if target is None else max(target, update_of(folder) + 1)
    command = [*command, "--out", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while target is not None and process.poll() is None and update_of(folder) < least:
            time.sleep(0.02)
        if target is not None:
            time.sleep(delay)
            process.kill()
    if process.returncode != (0 if target is None else -signal.SIGKILL):
        raise runs.RunFailed(f"the run ended by itself with exit code {process.returncode}")


def update_of(folder: Path) -> int:
    """The update of the checkpoint in `folder`; 0 if there is none yet."""
    path = folder / "checkpoint.npz"
    return runs.read_checkpoint(path).update if path.exists() else 0


def same_bits(one: runs.Checkpoint, other: runs.Checkpoint) -> bool:
    """Whether two checkpoints hold the same arrays, to the bit."""
    return one.arrays.keys() == other.arrays.keys() and all(
        array.dtype == other.arrays[name].dtype and array.tobytes() == other.arrays[name].tobytes()
        for name, array in one.arrays.items()
    )


@cli.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; 0 when the bits are the same."""
    parser = cli.Parser(__doc__, "crash-check")
    cli.add_count(parser, "--updates", 1, 2000, "updates of the run")
    cli.add_count(parser, "--kills", 1, 10, "times it is killed")
    cli.add_count(parser, "--seed", 0, 1, "of the run and of the moments")
    cli.add_count(parser, "--checkpoint-every", 1, 20, "updates from checkpoint to checkpoint")
    parser.add_argument("--method", choices=MnistSup.methods, default="vat-exact")
    parser.add_argument("--data", choices=["auto", *MnistSup.datasets], default="auto")
    args = parser.parse_args(argv)
    command = [
        *(sys.executable, "-m", "experiments", "mnist-sup", "--method", args.method),
        *("--data", args.data, "--device", "cpu", "--seed", str(args.seed), "--resume", "--quiet"),
        *("--updates", str(args.updates), "--checkpoint-every", str(args.checkpoint_every)),
    ]
    draw = random.Random(args.seed)
    last = args.updates - (args.kills + 2) * args.checkpoint_every  # none ends by itself
    if last < 1:
        raise runs.RunError(
            f"--updates {args.updates} is too few for {args.kills} kills with a checkpoint every "
            f"{args.checkpoint_every}: give more than {args.updates - last}"
        )
    targets = sorted(draw.randrange(last) for _ in range(args.kills))
    with tempfile.TemporaryDirectory() as place:
        reference, killed = Path(place, "reference"), Path(place, "killed")
        run(command, reference)
        whole = runs.read_checkpoint(reference / "checkpoint.npz")
        print(f"without a break: {args.updates} updates in {whole.seconds:.1f} s")
        between_checkpoints = whole.seconds * args.checkpoint_every / args.updates
        for i, target in enumerate(targets, start=1):
            run(command, killed, target, draw.uniform(0, between_checkpoints))
            print(f"kill {i}, after update {target}: the checkpoint is of {update_of(killed)}")
        run(command, killed)
        resumed = runs.read_checkpoint(killed / "checkpoint.npz")
    same = resumed.update == whole.update and same_bits(resumed, whole)
    print(f"arrays after update {resumed.update}: {'bit-identical' if same else 'DIFFERENT'}")
    return 0 if same else 1
