"""What determines a result: one frozen dataclass for each experiment, and functions of it.

A `Spec` says what is trained, on what, how and how long. `None` means "the default", which may
depend on other fields; `resolved()` fills it in. Data set, network, trainer, folder name, flags and
config.json are all made from it. A new experiment is a subclass with its own defaults.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from experiments.lab import cli, runs
from experiments.lab.methods import METHOD_SETTINGS, METHODS, method_name, stored_method
from minivat import backend, data, nn, optim, targets, training, vat
from minivat.objective import Regularization

# Settings ----------------------------------------------------------------------------------------


def setting(text: str, before: Any = None, **options: Any) -> Any:
    """A field of a Spec, by default None, with a flag of the command line.

    text, options: argparse's help and other options. before: what runs have that were made before
    the field was added; it is left out of the settings, so that theirs are still the same.
    """
    metadata = {"flag": {"help": text, **options}, "before": before}
    return dataclasses.field(default=None, metadata=metadata)


COUNT = {"type": cli.integer(1), "metavar": "N"}
BATCH = {"type": cli.integer(2), "metavar": "N"}
FROM_0 = {"type": cli.integer(0), "metavar": "N"}
POSITIVE = {"type": cli.positive, "metavar": "X"}
YES_OR_NO = {"choices": ("yes", "no")}


class Paper(NamedTuple):
    """What the paper has: the test error in percent, its deviation over the paper's runs, and how
    many updates a run needs to be compared with it."""

    error: float
    deviation: float
    updates: int


class Split(NamedTuple):
    """Images as a run uses them: (images, labels) to train on, unlabelled ones, those held out."""

    images: np.ndarray
    labels: np.ndarray
    unlabelled: np.ndarray | None
    held_out: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """An experiment. Subclasses give defaults, a network, and what else they vary.

    A subclass's docstring is what --help says of it.
    """

    experiment: ClassVar[str]  # its name on the command line
    datasets: ClassVar[tuple[str, ...]]  # to choose from; the first is the paper's
    methods: ClassVar[tuple[str, ...]]
    direction: ClassVar[str]  # of VAT where none is named
    titles: ClassVar[Mapping[str, str]] = {}  # of methods, where they have others here
    named: ClassVar[str] = "{dataset}-{method}"  # what the name of every run's folder tells
    shorten: ClassVar[str] = "--updates"  # the flags that make a run shorter
    usual: ClassVar[dict[str, Any]] = {  # the defaults that depend on nothing
        **{"alpha": 1.0, "samples": 1, "power_iterations": 1, "xi": 1e-6, "entropy_weight": 1.0},
        **{"seed": 1, "validation": 0, "checkpoint_every": 1000},
    }

    dataset: str | None = None
    method: str | None = None
    epsilon: float | None = setting("size of the perturbation (default: by method)", **POSITIVE)
    alpha: float | None = setting(
        "weight of the method's term (default: by method; VAT's is 1)", **POSITIVE
    )
    samples: int | None = setting(
        "perturbations averaged in an update", type=cli.integer(1, 100), metavar="S"
    )
    power_iterations: float | None = setting(
        "K of VAT: 0.5, 1, 2, ... (0 would be RPT)", type=cli.iterations, metavar="K"
    )
    xi: float | None = setting("step of the finite difference", **POSITIVE)
    entropy_weight: float | None = setting("weight of the conditional entropy", **POSITIVE)
    ramp_up: int | None = setting(
        "updates in which alpha grows to its full size (default: 80 of 300)", **FROM_0
    )

    seed: int | None = setting("of weights, batches, directions and the images held out", **FROM_0)
    updates: int | None = setting("updates to train for", **COUNT)
    batch_size: int | None = setting("labelled images in a batch", **BATCH)
    learning_rate: float | None = setting("Adam's at the beginning", **POSITIVE)
    validation: int | None = setting(
        "hold out N training images, report the error on them, leave the test set alone", **FROM_0
    )
    aside: int | None = None  # training images that are not used, where none are held out
    evaluate_every: int | None = setting("updates from row to row of metrics.csv", **COUNT)
    checkpoint_every: int | None = setting("updates from checkpoint to checkpoint", **COUNT)

    # What a subclass says ------------------------------------------------------------------------

    def defaults(self) -> dict[str, Any]:
        """The defaults that depend on method, data set or what else is `given` or `usual`."""
        return {"evaluate_every": max(50, self.updates // 100)}

    def meaningless(self) -> dict[str, str]:
        """The settings that mean nothing in this combination, and to what."""
        unused = [name for name in METHOD_SETTINGS if name not in METHODS[self.method].settings]
        return dict.fromkeys(unused, self.title_of_method)

    def build(self) -> nn.Network:
        """The network."""
        raise NotImplementedError

    def split(self, dataset: data.Dataset) -> Split:
        """The images to train on and those held out; RunError where there are too few.

        Held out are `validation` training images, and the test set is not touched; or the test set.
        """
        images, labels = dataset.train_images, dataset.train_labels
        held_out = dataset.test_images, dataset.test_labels
        check_count("--validation", self.validation, len(images) - 1, "images to hold out")
        if self.validation or self.aside:
            kept, left = data.hold_out(labels, self.validation or self.aside, self.seed_of_data)
            held_out = (images[left], labels[left]) if self.validation else held_out
            images, labels = images[kept], labels[kept]
        check_count("--batch-size", self.batch_size, len(images), "images to train on")
        return Split(images, labels, None, held_out)

    @property
    def seed_of_data(self) -> int:
        """The seed by which images are held out and labels drawn."""
        return self.seed

    def learning_rates(self) -> Callable[[int], float]:
        """The schedule: update ↦ rate; here one that falls to 0 in the last `decay_updates`."""
        return optim.constant_then_linear(self.learning_rate, self.decay_start, self.updates)

    def options(self) -> dict[str, Any]:
        """More options of the trainer."""
        return {}

    def load(self, data_dir: str | None) -> data.Dataset:
        """The data set as the network gets it; where none is named, the first that can be had."""
        first, *others = self.datasets
        return data.load(self.dataset or ("auto" if others else first), data_dir)

    def parts_of_title(self) -> list[str]:
        """What is said of a run besides its method."""
        return [str(self.dataset)]

    # What follows from it ------------------------------------------------------------------------

    def given(self) -> dict[str, Any]:
        """The fields that are not None."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def resolved(self) -> Spec:
        """All fields filled in, but for those that mean nothing here, which are None.

        Raises RunError, one line naming the flag, for one that means nothing or does not fit.
        """
        method = self.method or method_name("vat", self.direction)
        if method not in self.methods:
            raise runs.RunError(f"method must be one of {', '.join(self.methods)}, got {method!r}")
        for name, options in flags(type(self)).items():
            value, choices = getattr(self, name), options.get("choices")
            if choices and value is not None and value not in choices:
                raise runs.RunError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        known = self.replace(dataset=self.dataset or self.datasets[0], method=method)
        given, meaningless = known.given(), known.meaningless()
        for name, what in meaningless.items():
            if name in given:
                typed = f"--{name.replace('_', '-')} {given[name]}"
                raise runs.RunError(f"{typed} means nothing to {what}: leave it out")
        known = known.replace(**{**known.usual, **given})
        spec = known.replace(**{**known.defaults(), **given, **dict.fromkeys(meaningless)})
        try:
            _ = spec.regularization(), spec.targets(), spec.build(), spec.learning_rates()
        except ValueError as error:
            raise runs.RunError(str(error)) from error
        return spec

    def replace(self, **changes: Any) -> Spec:
        """A spec with other values."""
        return dataclasses.replace(self, **changes)

    @property
    def decay_start(self) -> int:
        """The update at which the learning rate begins to fall; RunError where there is none."""
        check_count("--decay-updates", self.decay_updates, self.updates, "updates")
        return self.updates - self.decay_updates

    @property
    def title_of_method(self) -> str:
        """The method, for people."""
        return self.titles.get(self.method, METHODS[self.method].title)

    def title(self) -> str:
        """Data set and method, for people."""
        spec = self.resolved()
        return f"{', '.join(spec.parts_of_title())}: {spec.title_of_method}"

    def settings(self) -> dict[str, Any]:
        """All that determines the result besides the data, as config.json has it."""
        spec = self.resolved()
        left_out = {"dataset": spec.dataset, "method": spec.method, **before(type(spec))}
        found: dict[str, Any] = stored_method(spec.method)
        for name, value in spec.given().items():
            if value != left_out.get(name):
                found[name] = list(value) if isinstance(value, tuple) else value
        return found

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], dataset: str) -> Spec:
        """The resolved spec whose `settings()` these are; RunError where there is none."""
        values = before(cls) | {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in settings.items()
            if name != "direction"
        }
        values["method"] = method_name(settings.get("method", ""), settings.get("direction"))
        try:
            spec = cls(dataset=dataset, **values).resolved()
        except TypeError as error:
            raise runs.RunError(f"settings of another version: {error}") from error
        if values["method"] is None or spec.settings() != dict(settings):
            raise runs.RunError("settings of another version")
        return spec

    def arguments(self) -> list[str]:
        """The flags that give this spec on the command line of its experiment."""
        values = {"method": self.method}
        values["data"] = self.dataset if len(self.datasets) > 1 else None
        values |= {name: getattr(self, name) for name in flags(type(self))}
        typed = ((f"--{name.replace('_', '-')}", value) for name, value in values.items())
        return [part for flag, value in typed if value is not None for part in (flag, str(value))]

    def folder(self) -> Path:
        """Where a run is kept that names no folder: runs/<experiment>/<name>-<changes>-seed<N>."""
        spec = self.resolved()
        named = {k: v for k, v in spec.given().items() if f"{{{k}}}" in self.named}
        changes = [
            f"{name.replace('_', '-')}{value}"
            for name, value in self.given().items()
            if name not in (*named, "seed") and not self._same_without(name)
        ]
        name = "-".join([self.named.format(**named), *changes, f"seed{spec.seed}"])
        return Path("runs", self.experiment.replace("-", "_"), name)

    def _same_without(self, name: str) -> bool:
        """Whether the field's value is what would be filled in for it anyway."""
        try:
            return self.replace(**{name: None}).resolved() == self.resolved()
        except runs.RunError:  # another field means something with this one's value alone
            return False

    def like(self, other: Spec) -> bool:
        """Whether runs of both may stand in one line of a table; see OWN."""
        if type(self) is not type(other) or self.resolved().dataset != other.resolved().dataset:
            return False
        mine, others = self.replace(updates=other.updates).settings(), other.settings()
        return all(mine.get(name) == others.get(name) for name in {*mine, *others} - OWN)

    def regularization(self) -> Regularization:
        """The method, as the library takes it; without the term of `targets()`."""
        method = METHODS[self.method]
        if self.method in targets.METHODS:
            return Regularization("mle")
        fields = {name: getattr(self, name) for name in method.settings}
        if method.direction is not None:
            k, xi = fields.pop("power_iterations"), fields.pop("xi", 1e-6)
            fields["power_iteration"] = vat.PowerIteration(k, method.direction, xi)
        return Regularization(method.stored.removesuffix("-entmin"), **fields)

    def targets(self) -> targets.Targets | None:
        """The method, where it is one of `minivat.targets`."""
        kind = targets.METHODS.get(self.method)
        return None if kind is None else kind(self.alpha, self.ramp_up)

    def trainer(self, split: Split, device: backend.Device) -> training.Trainer:
        """The trainer of a run, before its first update. split: of the data set."""
        spec = self.resolved()
        return training.Trainer(
            spec.build(),
            device,
            split.images,
            split.labels,
            unlabelled=split.unlabelled,
            regularization=spec.regularization(),
            targets=spec.targets(),
            learning_rate=spec.learning_rates(),
            batch_size=spec.batch_size,
            seed=spec.seed,
            **spec.options(),
        )


# What a run may do its own way and still be compared with others. That it is long enough is
# another question.
OWN = {
    *("seed", "data_seed", "updates", "evaluate_every", "checkpoint_every"),
    *("validation", "aside", "holdout"),
}


def before(cls: type[Spec]) -> dict[str, Any]:
    """What runs have that were made before a field was added, by the field's name."""
    found = {field.name: field.metadata.get("before") for field in dataclasses.fields(cls)}
    return {name: value for name, value in found.items() if value is not None}


def flags(cls: type[Spec]) -> dict[str, Mapping[str, Any]]:
    """argparse's options of the settings that an experiment can have, by the field's name."""
    used = {name for method in cls.methods for name in METHODS[method].settings}
    return {
        field.name: field.metadata["flag"]
        for field in dataclasses.fields(cls)
        if "flag" in field.metadata and (field.name in used or field.name not in METHOD_SETTINGS)
    }


# Few labels --------------------------------------------------------------------------------------


# The share of the updates in which a target's weight grows: 80 of 300 epochs in arXiv 1610.02242,
# and 40,000 of 150,000 updates in the code of 1703.01780, which is the same.
RAMP_UP = 80 / 300


@dataclass(frozen=True, kw_only=True)
class FewLabels(Spec):
    """What the experiments with few labels share: a second batch, of unlabelled images."""

    methods = (
        *("mle", "rpt", "vat-exact", "vat-finite-difference", "vat-entmin", "vat-entmin-exact"),
        *targets.METHODS,
    )
    # The paper's. On MNIST the exact one did worse on held-out images: see
    # results/search_semisup-*.json.
    direction = "finite-difference"
    named = Spec.named + "-{labels}labels"
    balanced: ClassVar[bool] = True  # whether the same number of labels is drawn of each class

    labels: int | None = setting("labelled images", **BATCH)
    unlabelled_batch_size: int | None = setting("unlabelled images in a batch", **BATCH)

    def defaults(self) -> dict[str, Any]:
        found = {**super().defaults(), "ramp_up": round(RAMP_UP * self.updates)}
        found["batch_size"] = min(self.batch_size, self.labels)  # fewer labels are one batch
        if self.method in targets.METHODS:
            found["alpha"] = targets.METHODS[self.method].alpha
        return found

    def split(self, dataset: data.Dataset) -> Split:
        images, labels, _, held_out = super().split(dataset)
        seed, classes = self.seed_of_data, self.build().outputs
        try:
            drawn = data.draw_labels(labels, self.labels, seed, self.balanced, classes)
        except data.DataError as error:
            raise runs.RunError(f"--labels {self.labels}: {error}") from error
        check_count("--batch-size", self.batch_size, len(drawn), "images with a label")
        size = self.unlabelled_batch_size
        check_count("--unlabelled-batch-size", size or 0, len(images), "images to train on")
        return Split(images[drawn], labels[drawn], images if size else None, held_out)

    def options(self) -> dict[str, Any]:
        return {**super().options(), "unlabelled_batch_size": self.unlabelled_batch_size}

    def parts_of_title(self) -> list[str]:
        dataset, *others = super().parts_of_title()
        return [dataset, f"{self.labels} labels", *others]


def check_count(flag: str, count: int, limit: int, what: str) -> None:
    """RunError where a flag asks for more than there are."""
    if count > limit:
        raise runs.RunError(f"{flag} {count} is too many: there are {limit} {what}")
