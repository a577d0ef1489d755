"""Specs: their settings, flags, folders and titles; all published runs have one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.images import Cifar10Semisup, Cifar10Sup, SvhnSemisup
from experiments.lab import results, runs, spec
from experiments.lab.methods import METHOD_SETTINGS, METHODS, method_name, stored_method
from experiments.mnist import MnistSemisup, MnistSup
from experiments.registry import EXPERIMENTS
from minivat import targets
from minivat.objective import Regularization
from tests import commands


def published_settings():
    """(file, data set, settings) of every run in the results."""
    for path in sorted(results.RESULTS.rglob("*.json")):
        content = json.loads(path.read_text())
        whole = content.get("data", {}).get("name")
        stack = [content]
        while stack:
            each = stack.pop()
            if isinstance(each, list):
                stack += each
            elif isinstance(each, dict):
                dataset = each.get("data", {}).get("name") if "data" in each else whole
                if "evaluate_every" in each.get("settings", ()):  # a run's, not an estimator's
                    yield path.name, dataset, each["settings"]
                stack += each.values()


PUBLISHED = list(published_settings())


def test_there_are_published_runs():
    assert len(PUBLISHED) >= 94


@pytest.mark.parametrize("name", sorted({name for name, *_ in PUBLISHED}))
def test_every_published_run_loads_into_a_spec_and_writes_back_identical_settings(name):
    for _, dataset, settings in [each for each in PUBLISHED if each[0] == name]:
        found = results.spec_of({"settings": settings, "data": {"name": dataset}})
        assert json.loads(json.dumps(found.settings())) == settings
        assert found.resolved() == found


# Settings ----------------------------------------------------------------------------------------

CLASSES = list(EXPERIMENTS.values())
EVERY_METHOD = [
    pytest.param(cls, method, id=f"{cls.experiment}-{method}")
    for cls in CLASSES
    for method in cls.methods
]
each_class = pytest.mark.parametrize("cls", CLASSES, ids=EXPERIMENTS)

_positive = st.floats(1e-6, 1e6)
_count = st.integers(1, 10**6)
_seed = st.integers(0, 2**40)
VALUES = {  # of the flags that have no choices
    **dict.fromkeys(("epsilon", "alpha", "xi", "entropy_weight", "learning_rate"), _positive),
    **dict.fromkeys(("seed", "data_seed", "validation", "holdout"), _seed),
    **dict.fromkeys(("evaluate_every", "checkpoint_every", "decay_every"), _count),
    **dict.fromkeys(("batch_size", "unlabelled_batch_size", "labels"), st.integers(2, 10**6)),
    "samples": st.integers(1, 100),
    "ramp_up": st.integers(0, 10**6),
    "power_iterations": st.integers(0, 20),
    "updates": st.integers(1000, 10**6),
    "decay_updates": st.integers(1, 1000),
    "width": st.floats(0.001, 3),
    "noise": st.floats(0, 10),
}


@st.composite
def specs(draw: st.DrawFn, cls: type[spec.Spec]) -> spec.Spec:
    """An experiment with any method, on any of its data sets, and any of its flags."""
    method = draw(st.sampled_from(cls.methods))
    values = {
        name: st.sampled_from(flag["choices"]) if "choices" in flag else VALUES[name]
        for name, flag in spec.flags(cls).items()
    }
    if METHODS[method].direction == "exact":
        values["power_iterations"] |= st.just(0.5)
    fields = draw(st.fixed_dictionaries({}, optional=values))
    asked = cls(method=method, dataset=draw(st.sampled_from(cls.datasets)), **fields)
    return asked.replace(**dict.fromkeys(asked.meaningless()))


@each_class
@given(st.data())
def test_arguments_give_the_spec_on_its_command_line(cls, data):
    asked = data.draw(specs(cls))
    assert commands.spec_of(cls.experiment, *asked.arguments()) == asked
    whole = commands.spec_of(cls.experiment, *asked.resolved().arguments())
    assert whole.settings() == asked.settings()


@each_class
@given(st.data())
def test_settings_give_the_spec_and_its_experiment(cls, data):
    asked = data.draw(specs(cls)).resolved()
    settings = json.loads(json.dumps(asked.settings()))
    assert cls.from_settings(settings, asked.dataset) == asked
    assert results.spec_of({"settings": settings, "data": {"name": asked.dataset}}) == asked
    assert asked.resolved() == asked


@pytest.mark.parametrize(("cls", "method"), EVERY_METHOD)
def test_a_method_has_all_of_its_settings_and_no_others(cls, method):
    for dataset in cls.datasets:
        asked = cls(method=method, dataset=dataset)
        settings = asked.settings()
        own = set(settings) & set(METHOD_SETTINGS)
        assert own == set(METHODS[method].settings)
        stored = stored_method(method)
        assert stored.items() <= settings.items() and ("direction" in settings) == len(stored) - 1
        assert method_name(settings["method"], settings.get("direction")) == method
        regularization = asked.resolved().regularization()
        assert regularization.epsilon == settings.get("epsilon", regularization.epsilon)
        assert (regularization.entropy_weight > 0) == method.startswith("vat-entmin")
        its = asked.resolved().targets()
        assert type(its) is targets.METHODS.get(method, type(None))
        if its is not None:
            assert regularization == Regularization("mle")
            assert (its.alpha, its.ramp_up) == (settings["alpha"], settings["ramp_up"])


def test_a_stored_method_is_one_of_those_there_are():
    assert method_name("vat", None) is None  # VAT is stored with its direction,
    assert method_name("rpt", "exact") is None  # others without
    assert method_name("vat-exact", None) is None
    assert method_name("dropout", None) is None


@each_class
def test_defaults_are_not_given(cls):
    asked = cls()
    assert asked.given() == {} and asked.arguments() == []
    assert asked.resolved().method == f"vat-{cls.direction}"
    assert asked.settings() == cls(**asked.resolved().given()).settings()


def test_what_older_runs_lack_is_left_out_at_its_default():
    added = {"noise_place": "after", "activation": "leaky_relu", "data_seed": 1}
    added["schedule"] = "constant-then-linear"
    paper = MnistSemisup(preset="paper")
    usual = paper.settings()
    assert not added.keys() & usual.keys()
    explicit = paper.replace(noise_place="before", activation="relu", schedule="exponential")
    assert explicit.settings() == usual
    tuned = MnistSemisup().settings()
    assert (tuned["noise_place"], tuned["schedule"]) == ("after", "constant-then-linear")
    assert MnistSemisup(noise_place="before").settings().keys() == tuned.keys() - {"noise_place"}
    for name, value in added.items():
        changed = paper.replace(**{name: value}).settings()
        assert changed[name] == value
        assert changed.items() >= usual.items()


def test_settings_of_no_spec_are_refused():
    settings = MnistSup().settings()
    assert MnistSup.from_settings(settings, "mnist") == MnistSup().resolved()
    lacking = {name: value for name, value in settings.items() if name != "seed"}
    for other, named in (
        ({**settings, "momentum": 0.9}, "momentum"),
        (lacking, "another version"),
        ({**settings, "direction": "finite-difference"}, "another version"),  # without xi
        ({**settings, "direction": None}, "another version"),
        ({**settings, "method": "vat-exact"}, "another version"),
        ({**settings, "method": "mle"}, "another version"),
        ({**settings, "method": "rpt"}, "another version"),
        ({**settings, "xi": 1e-6}, "--xi 1e-06 means nothing to VAT, exact"),
        ({**settings, "epsilon": -1.0}, "epsilon must be positive, got -1.0"),
        ({}, "another version"),
    ):
        with pytest.raises(runs.RunError, match=re.escape(named)):
            MnistSup.from_settings(other, "mnist")
    with pytest.raises(runs.RunError, match="of no experiment of this version"):
        results.spec_of({"settings": {**settings, "momentum": 0.9}, "data": {"name": "mnist"}})
    with pytest.raises(runs.RunError, match="it needs 'settings' and 'data'"):
        results.spec_of({"data": {"name": "mnist"}})
    few = {**MnistSemisup().settings(), "preset": "nips"}
    with pytest.raises(runs.RunError, match="of no experiment of this version"):
        results.spec_of({"settings": few, "data": {"name": "mnist"}})


@each_class
def test_a_value_that_is_none_of_the_choices_is_refused(cls):
    chosen = [name for name, options in spec.flags(cls).items() if "choices" in options]
    for name in chosen:
        with pytest.raises(runs.RunError, match=f"^{name} must be one of .*, got 'other'$"):
            cls(**{name: "other"}).resolved()
    assert cls is MnistSup or chosen


def test_a_method_that_an_experiment_has_not_is_refused():
    with pytest.raises(runs.RunError, match=r"method must be one of mle, .* got 'vat-entmin'"):
        MnistSup(method="vat-entmin").resolved()


def test_runs_are_alike_whatever_their_seed_and_length():
    line = MnistSemisup(preset="paper")
    own = {"seed": 2, "data_seed": 3, "updates": 9, "evaluate_every": 4, "checkpoint_every": 5}
    assert line.like(line.replace(**own, validation=100))
    for change in (
        {"epsilon": 4.0},
        {"noise": 0.0},
        {"labels": 1000},
        {"preset": "iclr2016"},
        {"method": "vat-exact"},
        {"noise_place": "after"},
        {"schedule": "constant-then-linear"},
        {"dataset": "digits"},
    ):
        assert not line.like(line.replace(**change))
    assert not line.like(MnistSup())
    assert Cifar10Semisup().like(Cifar10Semisup(holdout=10_000))
    short = Cifar10Semisup(updates=1000)  # its decay keeps its share
    assert short.like(Cifar10Semisup()) and Cifar10Semisup().like(short)


# Names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "flags", "folder"),
    [
        ("mnist-sup", "", "mnist-vat-exact-seed1"),
        ("mnist-sup", "--method vat --direction finite-difference --seed 3", "{fd}-seed3"),
        ("mnist-sup", "--method vat-finite-difference --seed 3", "{fd}-seed3"),
        ("mnist-sup", "--updates 600", "mnist-vat-exact-updates600-seed1"),
        ("mnist-sup", "--epsilon 2.1 --alpha 1", "mnist-vat-exact-seed1"),
        ("mnist-sup", "--evaluate-every 600 --checkpoint-every 1000", "mnist-vat-exact-seed1"),
        (
            "mnist-sup",
            "--updates 1000 --evaluate-every 600",  # of 60,000 updates the default
            "mnist-vat-exact-updates1000-evaluate-every600-seed1",
        ),
        ("mnist-sup", "--updates 1000 --evaluate-every 50", "mnist-vat-exact-updates1000-seed1"),
        (
            "mnist-sup",
            "--method rpt --epsilon 2.5 --updates 20",
            "{rpt}-epsilon2.5-updates20-seed1",
        ),
        ("mnist-sup", "--validation 10000 --seed 7", "mnist-vat-exact-validation10000-seed7"),
        ("mnist-sup", "--data digits --method at-l2", "digits-at-l2-seed1"),
        ("mnist-sup", "--xi 1e-3 --method vat-finite-difference", "{fd}-xi0.001-seed1"),
        ("mnist-semisup", "", "{fd}-100labels-tuned-seed1"),
        ("mnist-semisup", "--preset paper", "{fd}-100labels-paper-seed1"),
        ("mnist-semisup", "--labels 1000 --updates 600", "{fd}-1000labels-tuned-updates600-seed1"),
        ("mnist-semisup", "--preset iclr2016 --noise 0", "{fd}-100labels-iclr2016-seed1"),
        ("mnist-semisup", "--direction exact", "mnist-vat-exact-100labels-tuned-seed1"),
        ("mnist-semisup", "--method vat-entmin", "mnist-vat-entmin-100labels-tuned-seed1"),
        (
            "mnist-semisup",
            "--output-norm no --method rpt",
            "{rpt}-100labels-tuned-output-normno-seed1",
        ),
        ("mnist-semisup", "--data-seed 1 --method rpt", "{rpt}-100labels-tuned-data-seed1-seed1"),
        ("mnist-semisup", "--noise-place after --method rpt", "{rpt}-100labels-tuned-seed1"),
        (
            "mnist-semisup",
            "--preset paper --schedule constant-then-linear --decay-updates 10 --method rpt",
            "{rpt}-100labels-paper-scheduleconstant-then-linear-decay-updates10-seed1",
        ),
        ("cifar10-sup", "--method mle", "cifar10-conv-large-mle-seed1"),
        ("cifar10-sup", "--model conv-small", "cifar10-conv-small-vat-finite-difference-seed1"),
        ("cifar10-semisup", "", "cifar10-conv-small-vat-finite-difference-4000labels-seed1"),
        (
            "cifar10-semisup",
            "--holdout 10000 --method vat-entmin --model conv-large",
            "cifar10-conv-large-vat-entmin-4000labels-holdout10000-seed1",
        ),
        (
            "cifar10-semisup",
            "--method mle --augment yes --seed 2",
            "cifar10-conv-small-mle-4000labels-augmentyes-seed2",
        ),
        (
            "svhn-semisup",
            "--method rpt --updates 100 --width 1",
            "svhn-conv-small-rpt-1000labels-updates100-seed1",
        ),
        (
            "svhn-semisup",
            "--method mle --labels 20 --width 0.05",
            "svhn-conv-small-mle-20labels-width0.05-seed1",
        ),
    ],
)
def test_the_folder_is_named_after_what_is_not_the_default(name, flags, folder):
    """As before there were specs: unfinished runs are found again."""
    folder = folder.format(fd="mnist-vat-finite-difference", rpt="mnist-rpt")
    place = Path("runs", name.replace("-", "_"), folder)
    assert commands.spec_of(name, *flags.split()).folder() == place


@pytest.mark.parametrize(
    ("asked", "title"),
    [
        (MnistSup(method="mle"), "mnist: MLE"),
        (MnistSemisup(dataset="digits"), "digits, 100 labels: VAT, finite differences"),
        (Cifar10Sup(method="mle"), "cifar10, conv-large, augmented: dropout only"),
        (
            Cifar10Semisup(method="mle", width=0.25),
            "cifar10, 4000 labels, conv-small x 0.25: labels alone",
        ),
        (
            SvhnSemisup(method="vat-entmin-exact", model="conv-large"),
            "svhn, 1000 labels, conv-large: VAT+EntMin, exact",
        ),
    ],
)
def test_titles(asked, title):
    assert asked.title() == title
