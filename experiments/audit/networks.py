"""Which networks are audited: those of finished runs, or of shorter ones that are trained first."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.lab import runs, sweep
from experiments.lab.results import Run
from experiments.lab.spec import Spec
from experiments.mnist import MnistSup
from minivat import backend, data, training

METHODS = {"mle": "mle", "vat": "vat-exact"}  # of the runs by default, by label


@dataclasses.dataclass(frozen=True)
class Audited:
    """A network to audit.

    role: "first" is audited in full, "again" in less detail, "stage" by its spectra only.
    spec: of the run in full, which a stage is the beginning of.
    folder: of the finished run; None for the network before any update.
    """

    label: str
    role: str
    updates: int
    spec: Spec
    folder: Path | None

    def described(self) -> dict[str, Any]:
        """What audit.json says of the network before any measure."""
        settings = self.spec.settings()
        return {
            "role": self.role,
            "method": settings["method"],
            "seed": self.spec.seed,
            "updates": self.updates,
            "settings": settings,
        }

    def trainer(self, dataset: data.Dataset, device: backend.Device) -> training.Trainer:
        """The run's trainer as its result was evaluated, or before any update."""
        if self.folder is not None:
            return Run(self.folder).trainer(dataset, device)
        trainer = self.spec.trainer(dataset, device)
        trainer.reestimate_statistics()
        return trainer


def networks_to_audit(
    args: Namespace, dataset: data.Dataset, log: Callable[[str], Any]
) -> list[Audited]:
    """All networks, those of earlier stages first; trains what is missing."""
    first, again = [], []
    for label, folders in _runs(args, dataset, log).items():
        specs = [finished(folder, label, dataset) for folder in folders]
        if len({spec.seed for spec in specs}) < len(specs):
            raise runs.RunError(f"--{label} must name runs of different seeds")
        for spec, folder in zip(specs, folders, strict=True):
            if folder == folders[0]:
                first.append(Audited(label, "first", spec.updates, spec, folder))
            else:
                name = f"{label}-seed{spec.seed}"
                again.append(Audited(name, "again", spec.updates, spec, folder))
    return [*_stages(args, first), *first, *again]


def _runs(
    args: Namespace, dataset: data.Dataset, log: Callable[[str], Any]
) -> dict[str, list[Path]]:
    """The folders of the runs to audit, by label: those named, else those found, else trained."""
    folders = {label: getattr(args, label) for label in METHODS if getattr(args, label)}
    if len(folders) == 1:
        raise runs.RunError("--mle and --vat go together: give both or neither")
    folders = folders or {
        label: default_runs(MnistSup(dataset=dataset.name, method=method, seed=args.seed))
        for label, method in METHODS.items()
    }
    if missing := [label for label, places in folders.items() if not places]:
        log(f"no finished run of {' and '.join(missing)}: training for {args.updates} updates")
        folders = _trained_briefly(args, dataset)
    return folders


def finished(folder: Path, label: str, dataset: data.Dataset) -> Spec:
    """The spec of a finished run of mnist-sup; RunError for another method or other data."""
    run = Run(folder)
    if run.result is None:
        raise runs.RunError(f"{folder} holds no finished run: there is no result.json")
    spec = run.spec
    if not isinstance(spec, MnistSup) or spec.settings()["method"] != label:
        found = f"{spec.experiment} with {spec.method}"
        raise runs.RunError(f"{folder} holds a run of {found}, not of mnist-sup with {label}")
    if spec.dataset != dataset.name:
        raise runs.RunError(f"{folder} holds a run on {spec.dataset}, not on {dataset.name}")
    run.check_files(dataset)
    return spec


def default_runs(spec: MnistSup) -> list[Path]:
    """The folders of finished runs of this spec and then of the next seed; [] without the first."""
    found = []
    for each in (spec, spec.replace(seed=spec.seed + 1)):
        places = [each.folder()]
        if each.dataset == "mnist":
            places.append(Path("runs", "table1", f"{each.method}-seed{each.seed}"))
        done = [folder for folder in places if (folder / "result.json").exists()]
        if not done:
            break
        found.append(done[0])
    return found


def _trained_briefly(args: Namespace, dataset: data.Dataset) -> dict[str, list[Path]]:
    """The folders of runs of --updates, trained for want of finished ones."""
    shared = {"dataset": dataset.name, "seed": args.seed, "updates": args.updates}
    specs = {label: MnistSup(method=method, **shared) for label, method in METHODS.items()}
    folders = {label: _folder(args, label, spec) for label, spec in specs.items()}
    _train(args, {folders[label]: spec for label, spec in specs.items()})
    return {label: [folder] for label, folder in folders.items()}


def _stages(args: Namespace, first: list[Audited]) -> list[Audited]:
    """The networks that these runs were after fewer updates, by shorter runs of the same settings.

    What a run does at an update depends on the update's number only, so these are the same.
    """
    stages, todo = [], {}
    for each in first:
        for updates in sorted(n for n in set(args.stages) if n < each.updates):
            folder = None
            if updates > 0:
                by_default = dict.fromkeys(("evaluate_every", "checkpoint_every"))
                spec = each.spec.replace(updates=updates, **by_default)
                folder = _folder(args, each.label, spec)
                todo[folder] = spec
            stages.append(Audited(f"{each.label}-{updates}", "stage", updates, each.spec, folder))
    _train(args, todo)
    return stages


def _folder(args: Namespace, label: str, spec: Spec) -> Path:
    """Where a run that is trained for an audit is kept."""
    name = f"{spec.dataset}-{label}-seed{spec.seed}-{spec.updates}-updates"
    return args.work / "networks" / name


def _train(args: Namespace, specs: Mapping[Path, Spec]) -> None:
    """Train what has no finished run in its folder."""
    todo = {
        folder.name: sweep.job(spec, args)
        for folder, spec in specs.items()
        if not (folder / "result.json").exists()
    }
    sweep.run_all(todo, args.work / "networks", args.jobs)
