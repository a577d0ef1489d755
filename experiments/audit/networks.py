"""Which networks are audited: those of finished runs, or of shorter ones that are trained first."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from argparse import Namespace
from collections.abc import Sequence

from experiments.lab import results, runs, sweep
from experiments.lab.results import Run
from experiments.lab.spec import Spec
from experiments.mnist import MnistSup
from minivat import backend, data, training

METHODS = {"mle": "mle", "vat": "vat-exact"}  # of the runs by default, by label
DEFAULT = {"evaluate_every": None, "checkpoint_every": None}  # these change no network


@dataclasses.dataclass(frozen=True)
class Audited:
    """A network to audit.

    role: "first" is audited in full, "again" in less detail, "stage" by its spectra only.
    spec: of the run in full, which a stage is the beginning of.
    run: the finished one; None for the network before any update.
    """

    label: str
    role: str
    spec: Spec
    run: Run | None

    @property
    def updates(self) -> int:
        return self.run.spec.updates if self.run else 0

    def trainer(self, dataset: data.Dataset, device: backend.Device) -> training.Trainer:
        """The run's trainer as its result was evaluated, or before any update."""
        if self.run:
            return self.run.trainer(dataset, device)
        trainer = self.spec.trainer(self.spec.split(dataset), device)
        trainer.reestimate_statistics()
        return trainer


def networks_to_audit(args: Namespace, dataset: data.Dataset) -> list[Audited]:
    """All networks, those of earlier stages first; trains what is missing."""
    first, again = [], []
    for label, of_label in _runs(args, dataset).items():
        for run in of_label:
            _check(run, label, dataset)
        if len({run.spec.seed for run in of_label}) < len(of_label):
            raise runs.RunError(f"--{label} must name runs of different seeds")
        first.append(Audited(label, "first", of_label[0].spec, of_label[0]))
        for run in of_label[1:]:
            again.append(Audited(f"{label}-seed{run.spec.seed}", "again", run.spec, run))
    return [*_stages(args, first), *first, *again]


def _runs(args: Namespace, dataset: data.Dataset) -> dict[str, list[Run]]:
    """The runs to audit, by label: those named, else those found, else trained."""
    named = {label: [Run(folder) for folder in getattr(args, label)] for label in METHODS}
    if any(named.values()):
        if not all(named.values()):
            raise runs.RunError("--mle and --vat go together: give both or neither")
        return named
    specs = {
        label: MnistSup(dataset=dataset.name, method=method, seed=args.seed)
        for label, method in METHODS.items()
    }
    found = {label: finished(spec) for label, spec in specs.items()}
    if not all(found.values()):
        if not args.quiet:
            missing = " and ".join(label for label in METHODS if not found[label])
            text = f"no finished run of {missing}: training for {args.updates} updates"
            print(text, file=sys.stderr)
        short = {label: spec.replace(updates=args.updates) for label, spec in specs.items()}
        trained = _trained(args, list(short.values()))
        return {label: [trained[spec]] for label, spec in short.items()}
    return found


def finished(spec: Spec) -> list[Run]:
    """The newest finished runs of this spec and then of the next seed; [] without the first."""
    found = {
        run.spec.replace(**DEFAULT).resolved(): run
        for run in reversed(results.newest())
        if run.result is not None
    }
    wanted = [spec.resolved(), spec.replace(seed=spec.seed + 1).resolved()]
    return [found[each] for each in itertools.takewhile(lambda each: each in found, wanted)]


def _check(run: Run, label: str, dataset: data.Dataset) -> None:
    """RunError for a run that is not finished, of another method, or on other data."""
    if run.result is None:
        raise runs.RunError(f"{run.folder} holds no finished run: there is no result.json")
    spec = run.spec
    if not isinstance(spec, MnistSup) or spec.settings()["method"] != label:
        what = f"{spec.experiment} with {spec.method}, not of mnist-sup with {label}"
        raise runs.RunError(f"{run.folder} holds a run of {what}")
    run.check_files(dataset)


def _stages(args: Namespace, first: Sequence[Audited]) -> list[Audited]:
    """The networks that these runs were after fewer updates, by shorter runs of the same settings.

    What a run does at an update depends on the update's number only, so these are the same.
    """
    stages = [
        (each, each.spec.replace(updates=updates, **DEFAULT))
        for each in first
        for updates in sorted(set(args.stages))
        if updates < each.updates
    ]
    trained = _trained(args, [spec for _, spec in stages if spec.updates > 0])
    return [
        Audited(f"{each.label}-{spec.updates}", "stage", each.spec, trained.get(spec))
        for each, spec in stages
    ]


def _trained(args: Namespace, specs: Sequence[Spec]) -> dict[Spec, Run]:
    """The runs of these specs; those that are not finished are trained."""
    folder = args.work / "networks"
    found, todo = {}, {}
    for spec in specs:
        method = spec.settings()["method"]
        name = f"{spec.dataset}-{method}-seed{spec.seed}-{spec.updates}-updates"
        found[spec] = Run(folder / name)
        if found[spec].result is None:
            todo[name] = sweep.job(spec, args)
    sweep.run_all(todo, folder, args.jobs)
    return found
