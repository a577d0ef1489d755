"""What is read back: the folder of a run, and the runs that a results file holds."""

from __future__ import annotations

import contextlib
import csv
import functools
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.lab import runs
from experiments.lab.spec import Spec
from experiments.registry import EXPERIMENTS
from minivat import backend, data, training, vat

RESULTS = Path(__file__).parents[1] / "results"  # the published ones
NEW = Path("runs", "results")  # where commands write theirs, so that the published ones stay
WHITENING = "zca.matrix"  # among a data set's checksums


def spec_of(config: Mapping[str, Any]) -> Spec:
    """The spec of a run, from its configuration or its result; RunError where there is none.

    The configuration does not name the experiment: it is the one that has just these settings on
    this data set.
    """
    match config:
        case {"settings": dict(settings), "data": {"name": str(dataset)}}:
            pass
        case _:
            raise runs.RunError("no configuration of a run: it needs 'settings' and 'data'")
    for cls in EXPERIMENTS.values():
        if dataset in cls.datasets:
            try:
                return cls.from_settings(settings, dataset)
            except runs.RunError:
                continue
    raise runs.RunError(f"settings on {dataset} of no experiment of this version")


class Run:
    """The folder of a run, finished or not."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """config.json."""
        return runs.read_json(self.folder / "config.json")

    @functools.cached_property
    def spec(self) -> Spec:
        """The run's spec, resolved; RunError where config.json is not that of a run."""
        config = self.config
        try:
            return spec_of(config)
        except runs.RunError as error:
            path = self.folder / "config.json"
            raise runs.RunError(f"{path} is not that of a run: {error}") from error

    @functools.cached_property
    def checksums(self) -> dict[str, str]:
        """Of the run's data files, by name; RunError where config.json has none.

        The whitening's matrix is left out: fitted on another machine, it differs in its last bits.
        """
        match self.config:
            case {"data": {"checksums": dict(found)}}:
                return {name: each for name, each in found.items() if name != WHITENING}
        path = self.folder / "config.json"
        raise runs.RunError(f"{path} is not that of a run: its data have no checksums")

    @property
    def result(self) -> dict[str, Any] | None:
        """result.json; None where the run is not finished."""
        path = self.folder / "result.json"
        return runs.read_json(path) if path.exists() else None

    def checkpoint(self) -> runs.Checkpoint:
        """The newest state; RunError where there is none."""
        if not self.checkpoint_path.exists():
            raise runs.RunError(f"{self.folder} holds no run: there is no checkpoint.npz")
        return runs.read_checkpoint(self.checkpoint_path)

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / "checkpoint.npz"

    def rows(self, columns: Iterable[str] = ("update",)) -> list[dict[str, float]]:
        """The rows of metrics.csv; RunError where there are none with these columns."""
        return rows(self.folder / "metrics.csv", columns)

    def trainer(self, dataset: data.Dataset, device: backend.Device) -> training.Trainer:
        """The trainer as the run's result is evaluated: its running statistics estimated anew.

        dataset: as the spec's `load` gives it.
        """
        self.check_files(dataset)
        trainer = self.spec.trainer(self.spec.split(dataset), device)
        runs.restore(trainer.arrays, self.checkpoint(), device, self.checkpoint_path)
        trainer.reestimate_statistics()  # as for the result: the checkpoint is of before that
        return trainer

    def network(
        self, dataset: data.Dataset, device: backend.Device, dtype: Any = np.float32
    ) -> vat.Model:
        """x ↦ logits of the trained network, as the run's result is evaluated.

        dtype: of its parameters, float32 or float64, to be called with x of that dtype on `device`.
        """
        return trained_network(self.trainer(dataset, device), device, dtype)

    def check_files(self, dataset: data.Dataset) -> None:
        """RunError where the run was on other files than the data set's; see `checksums`."""
        for name, checksum in dataset.checksums.items():
            if name != WHITENING and self.checksums.get(name) != checksum:
                raise runs.RunError(
                    f"{self.folder}: the run was on another {name} than the one found (SHA-256)"
                )


def trained_network(
    trainer: training.Trainer, device: backend.Device, dtype: Any = np.float32
) -> vat.Model:
    """x ↦ logits of the evaluated network by its running statistics; dtype as in `Run.network`."""
    params, state = (
        {name: device.asarray(array, dtype) for name, array in each.items()}
        for each in trainer.predictor
    )
    return lambda x: trainer.network(params, x, state, statistics="running")[0]


def rows(path: Path, columns: Iterable[str] = ("update",)) -> list[dict[str, float]]:
    """The rows of a run's metrics; RunError where there are none with these columns."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            found = [
                {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise runs.RunError(f"{path} cannot be read as a run's metrics: {error}") from error
    if not found or not set(columns) <= found[0].keys():
        raise runs.RunError(f"{path} holds no row of a run's metrics")
    return found


def newest(folder: Path = Path("runs")) -> list[Run]:
    """The runs in folders of `folder`, newest first.

    What cannot be read as one is left out, and so is one that was never evaluated.
    """
    found = []
    paths = folder.glob("*/*/metrics.csv")
    for path in sorted(paths, key=lambda each: each.stat().st_mtime, reverse=True):
        run = Run(path.parent)
        with contextlib.suppress(runs.RunError):
            _ = run.spec, run.checksums, run.rows()
            if run.checkpoint_path.exists():
                found.append(run)
    return found


def published(
    path: Path,
    what: str,
    label: Callable[[Mapping[str, Any]], str],
    needed: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """The runs that a results file holds, by label; none where there is no file.

    what: the kind of results, for people. Raises RunError where a run has no label, or lacks one of
    `needed`.
    """
    if not path.exists():
        return {}
    content = runs.read_json(path)
    try:
        for name in needed:
            _ = [each[name] for each in content["runs"]]
        return {label(each): each for each in content["runs"]}
    except (KeyError, TypeError, ValueError) as error:
        raise runs.RunError(f"{path}: holds no runs of this {what} ({error})") from error


def in_folder(path: Path) -> Path:
    """The path, with its folder made where there was none (RunFailed where that cannot be)."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot write in the folder {path.parent}: {error.strerror}"
        raise runs.RunFailed(message) from error
    return path


def writable(path: Path) -> Path:
    """The path, in a folder that was made and can be written in (RunFailed), before any work."""
    if path.is_dir():
        raise runs.RunFailed(f"cannot write {path}: it is a folder")
    try:
        with tempfile.TemporaryFile(dir=in_folder(path).parent):
            return path
    except OSError as error:
        raise runs.RunFailed(f"cannot write {path}: {error.strerror}") from error
