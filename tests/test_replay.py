"""An update that is replayed is the update: to the bit, and without waiting."""

import numpy as np
import pytest

from minivat import nn, replay
from minivat.backend import Device, DeviceError
from minivat.objective import METHODS, Regularization
from minivat.optim import Adam, constant_then_linear
from minivat.training import Trainer
from tests import strict_device as strict
from tests.test_training import SIZES, trainer

UPDATES = 12


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    """Several in a few updates; a batch that begins in one epoch and ends in the next, too."""
    monkeypatch.setattr(replay, "BLOCK", 5)


def of_host(arrays):
    return {name: array.get() for name, array in arrays.items()}


def same(ours, theirs):
    for name, array in of_host(theirs).items():
        np.testing.assert_array_equal(array, ours[name].get(), strict=True, err_msg=name)


OPTIONS = {
    **{method: {"method": method} for method in METHODS},
    "half an iteration": {"method": "vat", "iterations": 0.5},
    "differences": {"method": "vat", "direction": "finite-difference", "iterations": 2},
    "more samples than CuPy joins": {"method": "rpt", "samples": 9},
    "samples and entropy": {"method": "vat", "samples": 2, "entropy_weight": 0.7},
    "beta1": {"method": "vat", "beta1": constant_then_linear(0.9, 3, 20)},
    "augmentation": {
        "method": "vat",
        "augment": lambda x, stream: x + stream.normal(x.shape, x.dtype),
    },
}


@pytest.mark.parametrize(("two", "dtype"), [(False, np.float32), (True, np.float64)], ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_a_replayed_update_is_the_eager_one(two, dtype, name):
    network = nn.mlp(SIZES, noise=0.3, dropout=0.2)
    device = strict.RecordingDevice()
    captured, eager = (
        trainer(device, dtype, network=network, two=two, capture=capture, **OPTIONS[name])
        for capture in (True, False)
    )
    for update in range(UPDATES):
        same(captured.step(update), eager.step(update))
    same(captured.arrays, eager.arrays)


def test_so_it_is_with_convolutions():
    device = strict.RecordingDevice()
    images = np.random.default_rng(0).standard_normal((12, 12, 12, 3)).astype(np.float32)
    captured, eager = (
        Trainer(
            nn.conv_small(width=0.05, image_shape=(12, 12, 3)),
            device,
            images,
            np.arange(12) % 10,
            regularization=Regularization("vat", epsilon=1.0),
            learning_rate=lambda update: 0.001,
            seed=0,
            batch_size=4,
            capture=capture,
        )
        for capture in (True, False)
    )
    for update in range(replay.EAGER + 2):
        same(captured.step(update), eager.step(update))
    same(captured.arrays, eager.arrays)


def vat_trainer(device, **options):
    return trainer(device, network=nn.mlp(SIZES, noise=0.3), method="vat", **options)


def test_within_a_block_nothing_waits(monkeypatch):
    monkeypatch.setattr(replay, "BLOCK", 100)
    device = strict.RecordingDevice()
    replayed = vat_trainer(device, two=True)
    replayed.step(0)
    before = device.waits
    for update in range(1, 10):  # in epochs whose order the host has not made before
        replayed.step(update)
    assert device.waits == before


def test_a_block_is_few_copies():
    device = strict.RecordingDevice()
    replayed = vat_trainer(device)
    for update in range(5):
        replayed.step(update)
    before = device.waits
    replayed.step(5)  # the first of the next block: Adam's numbers, and an epoch's order
    assert 0 < device.waits - before <= 6


def test_it_goes_on_from_any_update():
    device = strict.RecordingDevice()
    whole, part, resumed = (vat_trainer(device) for _ in range(3))
    for update in range(UPDATES):
        whole.step(update)
    for update in range(7):
        part.step(update)
        resumed.step(update + 20)  # so that it is recorded, and its counters are elsewhere
    for name, array in part.arrays.items():
        resumed.arrays[name][...] = array
    for update in range(7, UPDATES):
        resumed.step(update)
    same(resumed.arrays, whole.arrays)


def test_evaluating_in_between_changes_nothing():
    device = strict.RecordingDevice()
    one, other = vat_trainer(device), vat_trainer(device)
    images, labels = np.zeros((4, 6)), np.zeros(4, int)
    for update in range(UPDATES):
        one.step(update)
        other.step(update)
        other.error(images, labels)
        other.r_vadv(images)
    same(one.arrays, other.arrays)


def test_the_terms_are_the_callers_own():
    replayed = vat_trainer(strict.RecordingDevice())
    first = replayed.step(0)
    kept = []
    for update in range(1, UPDATES):
        terms = replayed.step(update)
        kept.append((terms, of_host(terms)))
    for terms, then in kept:
        assert of_host(terms) == then
    assert of_host(first)["nll"] != kept[-1][1]["nll"]


def test_a_schedule_that_ends_says_so_when_it_is_asked():
    rates = [0.01] * 8
    replayed = vat_trainer(strict.RecordingDevice(), learning_rate=rates.__getitem__)
    for update in range(8):
        replayed.step(update)
    with pytest.raises(IndexError):
        replayed.step(8)


def test_what_waits_is_refused_and_can_be_trained_without_a_graph():
    def augment(x, stream):
        return strict.RecordingDevice().asarray(x.get() * 2)

    device = strict.RecordingDevice()
    replayed = vat_trainer(device, augment=augment)
    for update in range(replay.EAGER):
        replayed.step(update)
    with pytest.raises(strict.StrictError, match="must not copy"):
        replayed.step(replay.EAGER)
    eager = vat_trainer(device, augment=augment, capture=False)
    for update in range(UPDATES):
        eager.step(update)


def test_the_stand_in_freezes_what_python_computes():
    """As a CUDA graph does. Otherwise these tests could not fail."""
    device = strict.RecordingDevice()
    x, count = device.asarray(np.zeros(2)), [0]

    def work():
        nonlocal x
        count[0] += 1
        x += count[0]
        y = np.exp(x[:1])
        x[1] = y[0]
        return y

    result, launch = device.capture(work)
    assert (x.get() == 0).all()  # nothing is done yet
    launch()
    np.testing.assert_array_equal(x.get(), [1, np.exp(1)])
    launch()
    assert count == [1]
    np.testing.assert_array_equal(x.get(), [2, np.exp(2)])
    np.testing.assert_array_equal(result.get(), [np.exp(2)])
    with pytest.raises(strict.StrictError, match="within a recording"):
        device.capture(lambda: device.capture(work))


def test_the_cpu_records_nothing():
    assert not Device.captures
    with pytest.raises(DeviceError, match="device cpu records nothing"):
        Device().capture(lambda: None)


def test_adams_numbers_are_all_that_an_update_needs():
    def arrays(*shape):
        return strict.strict_device().asarray(np.ones(shape, np.float32))

    flat = arrays(4), arrays(4)
    moments = [Adam().init(each) for each in flat]
    for step in range(1, 4):
        gradient = [arrays(3) * step, arrays(1) * -step]
        Adam().update(flat[0], gradient, moments[0], step, 0.1, 0.5)
        numbers = Adam().at(step, 0.1, 0.5)
        on_device = type(numbers)(*(arrays(1) * number for number in numbers))
        Adam().apply(flat[1], gradient, moments[1], on_device)
    np.testing.assert_array_equal(flat[0].get(), flat[1].get())
