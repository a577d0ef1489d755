"""Targets for unlabelled predictions: the terms, what is remembered, and whole updates.

The right values are those of NumPy alone: definitions, closed forms, complex steps.
"""

import functools
import gc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivat import Tensor, nn, targets, value_and_grad
from minivat.backend import Device, host_generator
from minivat.divergence import bernoulli
from minivat.objective import Regularization
from minivat.optim import exponential_decay
from minivat.targets import Batch, MeanTeacher, PiModel, PseudoLabels, TemporalEnsembling
from minivat.training import Trainer
from tests import oracle
from tests.strict_device import strict_device
from tests.test_training import SIZES, copies, inputs, problem, trainer

each_method = pytest.mark.parametrize("kind", targets.METHODS.values(), ids=targets.METHODS)


def training(kind, device=None, dtype=np.float64, ramp_up=5, **options):
    """A small trainer of a method alone, with noise, dropout and augmentation."""
    noisy = nn.mlp(SIZES, activation="leaky_relu", noise=0.5, dropout=0.2)
    options = {"network": noisy, "augment": augment, "two": True, **options}
    return trainer(device, dtype, method="mle", targets=kind(ramp_up=ramp_up), **options)


def augment(x, stream):
    return x + 0.1 * stream.normal(x.shape, x.dtype)


def logits(seed=0, count=7):
    return 2 * np.random.default_rng(seed).standard_normal((count, 3))


# The weight


@given(st.integers(1, 1000), st.floats(0.01, 1000))
def test_the_weight_grows_to_alpha(ramp_up, alpha):
    its = PiModel(alpha, ramp_up)
    weights = [its.weight(update) for update in range(ramp_up + 2)]
    shares = np.arange(ramp_up) / ramp_up
    np.testing.assert_allclose(weights[:-2], alpha * np.exp(-5 * (1 - shares) ** 2), rtol=1e-12)
    assert np.all(np.diff(weights) >= 0) and weights[-2:] == [alpha, alpha]


def test_without_a_ramp_up_it_is_alpha():
    assert [PseudoLabels(2.0).weight(update) for update in (0, 1, 10**6)] == [2.0, 2.0, 2.0]


def test_the_papers_weights():
    alphas = {name: kind().alpha for name, kind in targets.METHODS.items()}
    assert alphas == {
        "pseudo-labels": 3.0,
        "pi-model": 100.0,
        "temporal-ensembling": 30.0,
        "mean-teacher": 100.0,
    }
    assert TemporalEnsembling().decay == 0.6
    assert (MeanTeacher().decay_of_ramp_up, MeanTeacher().decay) == (0.99, 0.999)


# The terms and their gradients


def term(its, z, batch=None, arrays=None):
    """The term and its gradient in the logits."""
    return value_and_grad(lambda z: its.loss(z, batch, arrays))(z)


def batch_of(rows, params=None, another_pass=None):
    """A batch of one epoch."""
    return Batch(np.array(rows), [slice(0, len(rows))], params or {}, another_pass)


def test_pseudo_labels_are_the_likeliest_classes():
    z = logits()
    value, gradient = term(PseudoLabels(), z)
    assert value == pytest.approx(np.mean(-np.log(oracle.softmax(z).max(axis=1))), rel=1e-12)
    one_hot = np.eye(3)[z.argmax(axis=1)]
    np.testing.assert_allclose(gradient, (oracle.softmax(z) - one_hot) / len(z), rtol=1e-12)


def squared(z, target):
    return ((oracle.softmax(z) - target) ** 2).mean()


def test_both_passes_of_the_pi_model_are_trained():
    z, other = logits(0), logits(1)

    def loss(both):
        batch = batch_of(range(7), {"other": both["other"]}, lambda params: params["other"])
        return PiModel().loss(both["z"], batch, {})

    value, gradients = value_and_grad(loss)({"z": z, "other": other})
    assert value == pytest.approx(squared(z, oracle.softmax(other)), rel=1e-12)
    for name, changed, constant in (("z", z, other), ("other", other, z)):
        expected = oracle.gradient(lambda z, c=constant: squared(z, oracle.softmax(c)), changed)
        np.testing.assert_allclose(gradients[name], expected, rtol=1e-9, atol=1e-14)


def test_the_target_of_temporal_ensembling_is_a_corrected_average_and_constant():
    its, rows, z = TemporalEnsembling(decay=0.7), np.array([4, 0, 2]), logits(0, 3)
    arrays = its.init({"params": np.zeros(5)}, 6, 3)
    passes = [logits(seed, 3) for seed in (1, 2, 3, 4)]
    for update, seen in enumerate(passes):
        its.remember(seen, batch_of(rows), arrays, update)
    p = [oracle.softmax(seen) for seen in passes]
    average = sum(0.3 * 0.7 ** (3 - i) * each for i, each in enumerate(p))
    np.testing.assert_allclose(arrays["ensemble"][rows], average, rtol=1e-12)
    target = average / (1 - 0.7**4)  # algorithm 2's correction of the start
    value, gradient = term(its, z, batch_of(rows), arrays)
    assert value == pytest.approx(squared(z, target), rel=1e-12)
    expected = oracle.gradient(lambda z: squared(z, target), z)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-14)


@given(st.integers(1, 12), st.floats(0, 0.99))
def test_the_average_of_equal_predictions_is_that_prediction(times, decay):
    its, z = TemporalEnsembling(decay=decay), logits()
    arrays = its.init({"params": np.zeros(1)}, 7, 3)
    for update in range(times):
        its.remember(z, batch_of(range(7)), arrays, update)
    np.testing.assert_allclose(arrays["ensemble"].sum(axis=1), 1 - decay**times, rtol=1e-9)
    value, _ = term(its, z, batch_of(range(7)), arrays)
    assert value == pytest.approx(0, abs=1e-24)


def test_only_the_rows_of_the_batch_are_remembered():
    its, z = TemporalEnsembling(), logits()
    arrays = its.init({"params": np.zeros(1, np.float32)}, 10, 3)
    assert arrays["ensemble"].dtype == np.float32
    before = arrays["ensemble"]
    before[...] = 0.2
    its.remember(z[:3], batch_of([7, 1, 5]), arrays, 0)
    assert arrays["ensemble"] is before
    changed = np.flatnonzero((before != np.float32(0.2)).any(axis=1))
    np.testing.assert_array_equal(changed, [1, 5, 7])
    expected = np.float32(0.6 * 0.2) + 0.4 * oracle.softmax(z[[1, 2, 0]])
    np.testing.assert_allclose(before[changed], expected, rtol=1e-6)


def test_what_was_never_seen_has_no_target():
    its, z = TemporalEnsembling(), logits(0, 4)
    arrays = its.init({"params": np.zeros(1)}, 9, 3)
    its.remember(logits(1, 1), batch_of([3]), arrays, 0)
    value, gradient = term(its, z, batch_of([0, 3, 8, 5]), arrays)
    target = oracle.softmax(logits(1, 1))
    assert value == pytest.approx(squared(z[1:2], target) / 4, rel=1e-12)
    np.testing.assert_array_equal(gradient[[0, 2, 3]], 0)
    assert np.abs(gradient[1]).min() > 0


def test_an_example_that_is_in_both_epochs_of_a_batch_is_remembered_twice():
    its, z = TemporalEnsembling(), logits(0, 3)
    arrays = its.init({"params": np.zeros(1)}, 3, 3)
    its.remember(z, Batch(np.array([0, 1, 1]), [slice(0, 2), slice(2, 3)], {}, None), arrays, 0)
    p = 0.4 * oracle.softmax(z)
    np.testing.assert_allclose(arrays["ensemble"], [p[0], 0.6 * p[1] + p[2], np.zeros(3)])


def test_the_target_of_the_mean_teacher_is_its_prediction_and_constant():
    z, other = logits(0), logits(1)
    arrays = {"teacher.params": np.array([3.0, 0.5])}

    def loss(both):
        network = {"shift": both["shift"], "scale": both["scale"]}
        batch = batch_of(range(7), network, lambda p: p["shift"] + other * p["scale"])
        return MeanTeacher().loss(both["z"], batch, arrays)

    both = {"z": z, "shift": np.ones(()), "scale": np.ones(())}
    value, gradients = value_and_grad(loss)(both)
    target = oracle.softmax(3.0 + 0.5 * other)
    assert value == pytest.approx(squared(z, target), rel=1e-12)
    expected = oracle.gradient(lambda z: squared(z, target), z)
    np.testing.assert_allclose(gradients["z"], expected, rtol=1e-9, atol=1e-14)
    assert gradients["shift"] == gradients["scale"] == 0


def test_the_teacher_is_the_moving_average_of_all_that_the_network_is(device):
    its = MeanTeacher(ramp_up=3, decay_of_ramp_up=0.6, decay=0.7)
    values = np.random.default_rng(0).standard_normal((7, 5))
    arrays = {"params": device.asarray(values[0]), "norm.mean": device.asarray(values[0, :2])}
    arrays |= its.init(dict(arrays), 10, 3)
    for update in range(6):
        arrays["params"] = device.asarray(values[update + 1])
        arrays["norm.mean"] = device.asarray(values[update + 1, :2])
        its.remember(None, None, arrays, update)
    decays = [0, 1 / 2, 0.6, 0.7, 0.7, 0.7]  # at first the plain average
    weights = [(1 - d) * np.prod(decays[i + 1 :]) for i, d in enumerate(decays)]
    expected = np.prod(decays) * values[0] + np.array(weights) @ values[1:]
    np.testing.assert_allclose(device.to_host(arrays["teacher.params"]), expected, rtol=1e-12)
    mean = device.to_host(arrays["teacher.norm.mean"])
    np.testing.assert_allclose(mean, expected[:2], rtol=1e-12)


# Whole updates


def views(update, network):
    """The batches of an update, the labelled one, the unlabelled one and its other view.

    Each is (rows, inputs, noise), from streams keyed by the seed, the purpose and the update.
    """
    images, labels = problem()
    rows = host_generator(1, "batches", update // 4).permutation(40)[10 * (update % 4) :][:10]
    # Inputs 84 to 95 of permutations of 30: the last six of one, the first six of the next.
    orders = [host_generator(1, "unlabelled batches", i).permutation(30) for i in (2, 3)]
    second = np.concatenate([orders[0][24:], orders[1][:6]])
    found = []
    for source, chosen, prefix in (
        (images, rows, ""),
        (inputs(), second, "unlabelled "),
        (inputs(), second, "unlabelled other "),
    ):
        stream = Device().random(1, f"{prefix}augmentation", update)
        noise = network.draw_noise(
            Device().random(1, f"{prefix}noise", update), len(chosen), np.float64
        )
        found.append((chosen, augment(source[chosen], stream), noise))
    return labels[rows], found


@each_method
def test_an_update_is_that_of_the_oracle(kind):
    update = 7
    it = training(kind, ramp_up=10)
    generator = np.random.default_rng(2)
    if "ensemble" in it.arrays:  # as if most were seen before
        it.arrays["ensemble"][:25] = 0.5 * oracle.softmax(generator.standard_normal((25, 3)))
    if kind is MeanTeacher:
        it.arrays["teacher.params"] += 0.1 * generator.standard_normal(it.arrays["params"].shape)
    params, before = copies(it.params), copies(it.arrays)
    terms = it.step(update)
    y, ((_, x, noise), (rows, xu, noise_u), (_, xo, noise_o)) = views(update, it.network)

    def predict(x, noise, params):
        return oracle.softmax(oracle.network(params, x, None, noise, slope=0.1))

    def likelihood(params):
        return oracle.cross_entropy(oracle.network(params, x, None, noise, slope=0.1), y).mean()

    p = predict(xu, noise_u, params)

    def consistency(params):
        q = predict(xu, noise_u, params)
        if kind is PseudoLabels:
            return -np.log(q[np.arange(12), p.argmax(axis=1)]).mean()
        if kind is PiModel:
            return ((q - predict(xo, noise_o, params)) ** 2).mean()
        if kind is MeanTeacher:
            teacher = nn.unpack(before["teacher.params"], params)
            return ((q - predict(xo, noise_o, teacher)) ** 2).mean()
        known = rows < 25
        target = before["ensemble"][rows] / np.where(known, 0.5, 1)[:, None]
        return (((q - target) ** 2) * known[:, None]).mean()

    weight = kind().alpha * np.exp(-5 * 0.3**2)
    assert terms["nll"] == pytest.approx(likelihood(params), rel=1e-10)
    assert terms["consistency"] == pytest.approx(consistency(params), rel=1e-9)
    assert terms["regularizer"] == 0
    gradient = nn.unpack(it.arrays["first_moment"], params)  # divided by 1 − β₁
    for name, array in params.items():

        def of_one(changed, name=name):
            changed = {**params, name: changed}
            return likelihood(changed) + weight * consistency(changed)

        expected = oracle.gradient(of_one, array)
        np.testing.assert_allclose(gradient[name], expected, rtol=1e-7, atol=1e-10)

    if kind is TemporalEnsembling:
        others = np.setdiff1d(np.arange(30), rows)
        assert len(others) > 17  # an input is twice in the batch
        np.testing.assert_array_equal(it.arrays["ensemble"][others], before["ensemble"][others])
        expected = before["ensemble"].copy()
        for row, prediction in zip(rows, p, strict=True):
            expected[row] = 0.6 * expected[row] + 0.4 * prediction
        np.testing.assert_allclose(it.arrays["ensemble"], expected, rtol=1e-9)
    if kind is MeanTeacher:
        for name in ("params", *it.state):
            expected = 7 / 8 * before[f"teacher.{name}"] + 1 / 8 * it.arrays[name]
            np.testing.assert_allclose(it.arrays[f"teacher.{name}"], expected, rtol=1e-12)


def test_an_epoch_fills_the_ensemble():
    """30 inputs in batches of 10; nothing is learnt, so that the passes can be made again."""
    it = trainer(
        method="mle",
        two=True,
        unlabelled_batch_size=10,
        targets=TemporalEnsembling(),
        learning_rate=lambda update: 0.0,
    )
    for update in range(6):
        terms = it.step(update)
        assert (terms["consistency"] == 0) == (update < 3)
    expected = np.zeros((30, 3))
    for update in range(6):
        order = host_generator(1, "unlabelled batches", update // 3).permutation(30)
        rows = order[10 * (update % 3) :][:10]
        p = oracle.softmax(oracle.network(it.params, inputs()[rows], None, slope=0.1))
        expected[rows] = 0.6 * expected[rows] + 0.4 * p
    np.testing.assert_allclose(it.arrays["ensemble"], expected, rtol=1e-10)
    np.testing.assert_allclose(it.arrays["ensemble"].sum(axis=1), 1 - 0.6**2, rtol=1e-12)


@each_method
def test_batches_weights_and_the_likelihood_are_those_of_the_other_methods(kind):
    """The first update's likelihood and running statistics, to the bit."""
    it = training(kind)
    alone = trainer(method="mle", network=it.network, augment=augment, two=True)
    np.testing.assert_array_equal(it.arrays["params"], alone.arrays["params"])
    assert it.step(0)["nll"] == alone.step(0)["nll"]
    for name, array in alone.state.items():
        np.testing.assert_array_equal(it.state[name], array)


@each_method
def test_a_method_can_be_added_to_vat(kind):
    noisy = nn.mlp(SIZES, noise=0.5)
    options = {"network": noisy, "two": True, "entropy_weight": 0.3}
    both, vat = (trainer(method="vat", targets=its, **options) for its in (kind(), None))
    terms, of_vat = both.step(0), vat.step(0)
    assert {name: terms[name] for name in of_vat} == of_vat
    assert terms.keys() - of_vat.keys() == {"consistency"}
    same = np.array_equal(both.arrays["params"], vat.arrays["params"])
    assert same == (kind is TemporalEnsembling)  # which has no target yet


@each_method
def test_restored_arrays_continue_to_the_bit(kind):
    whole = training(kind, dtype=np.float32, ramp_up=6)
    for update in range(4):
        whole.step(update)
    saved = copies(whole.arrays)
    for update in range(4, 12):
        whole.step(update)

    resumed = training(kind, dtype=np.float32, ramp_up=6)
    resumed.step(5)  # whatever happened in it before
    for name, array in saved.items():
        resumed.arrays[name][...] = array
    for update in range(4, 12):
        resumed.step(update)
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(resumed.arrays[name], array)
    images, labels = problem(np.float32)
    assert resumed.error(images, labels) == whole.error(images, labels)


@each_method
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_array_keeps_its_dtype_and_its_place(device, kind, dtype):
    it = training(kind, device, dtype)
    before, values = dict(it.arrays), copies(it.arrays, device)
    for update in range(2):
        terms = it.step(update)
    assert {np.dtype(term.dtype) for term in terms.values()} == {np.dtype(dtype)}
    assert list(it.arrays) == list(before)
    for name, array in it.arrays.items():
        assert array is before[name] and array.dtype == dtype
        assert not np.array_equal(device.to_host(array), values[name])


@each_method
def test_the_strict_device_trains_to_the_same_bits(kind):
    found = []
    for device in (Device(), strict_device()):
        it = training(kind, device, np.float32)
        for update in range(6):
            it.step(update)
        it.reestimate_statistics()
        found.append(copies(it.arrays, device))
    for name, array in found[0].items():
        np.testing.assert_array_equal(found[1][name], array)


@each_method
def test_the_graph_of_an_update_is_freed_without_the_garbage_collector(kind):
    it = training(kind)
    it.step(0)
    gc.collect()
    gc.disable()
    try:
        it.step(1)
        assert not any(type(o) is Tensor for o in gc.get_objects())
    finally:
        gc.enable()


@functools.cache
def error_with_few_labels(its):
    """In percent, after 200 updates with six labels."""
    labels = np.tile(np.arange(3), 10)
    clouds = 2.5 * np.eye(3, 6)[labels]
    images = np.random.default_rng(5).standard_normal((30, 6)) + clouds
    it = Trainer(
        nn.mlp(SIZES, noise=0.5),
        Device(),
        images[:6],
        labels[:6],
        unlabelled=inputs(count=300),
        regularization=Regularization("mle"),
        learning_rate=exponential_decay(0.01),
        seed=2,
        batch_size=6,
        unlabelled_batch_size=50,
        targets=its,
    )
    for update in range(200):
        it.step(update)
    it.reestimate_statistics()
    return it.error(*problem(count=1000))


@pytest.mark.parametrize(
    "its",
    [
        PseudoLabels(1.0, ramp_up=50),
        PiModel(10.0, ramp_up=50),
        TemporalEnsembling(10.0, ramp_up=50),
        MeanTeacher(10.0, ramp_up=50, decay=0.95, decay_of_ramp_up=0.95),  # of so few updates
    ],
    ids=targets.METHODS,
)
def test_unlabelled_inputs_help_where_labels_are_few(its):
    assert error_with_few_labels(its) < 0.85 * error_with_few_labels(None)


# What is evaluated


def test_the_teacher_is_what_is_evaluated():
    it = training(MeanTeacher)
    for update in range(8):
        it.step(update)
    images, labels = problem()
    teacher = nn.unpack(it.arrays["teacher.params"], it.params)
    state = {name: it.arrays[f"teacher.{name}"] for name in it.state}
    wrong = oracle.network(teacher, images, state, slope=0.1).argmax(axis=1) != labels
    assert it.error(images, labels) == pytest.approx(100 * wrong.mean(), rel=1e-12)

    before = copies(it.state)
    it.reestimate_statistics()
    order = host_generator(1, "statistics").permutation(30)
    parts = np.array_split(order, 30 // 12)
    units = [inputs()[part] @ teacher["dense1.weight"] + teacher["dense1.bias"] for part in parts]
    mean = np.mean([each.mean(axis=0) for each in units], axis=0)
    np.testing.assert_allclose(it.arrays["teacher.norm1.running_mean"], mean, rtol=1e-9)
    for name, array in before.items():  # the student's are left alone
        np.testing.assert_array_equal(it.state[name], array)


def test_a_teacher_without_decay_is_the_network():
    it = trainer(method="mle", two=True, targets=MeanTeacher(decay=0.0, decay_of_ramp_up=0.0))
    for update in range(3):
        it.step(update)
    for name in ("params", *it.state):
        np.testing.assert_allclose(it.arrays[f"teacher.{name}"], it.arrays[name], rtol=1e-12)


@pytest.mark.parametrize("kind", [PseudoLabels, PiModel, TemporalEnsembling])
def test_otherwise_it_is_the_network_that_is_trained(kind):
    it = training(kind)
    assert it.predictor[0] is it.params and it.predictor[1] is it.state


# Mistakes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PiModel(0.0), "alpha must be positive, got 0.0"),
        (lambda: PseudoLabels(np.inf), "alpha must be positive, got inf"),
        (lambda: MeanTeacher(alpha=np.nan), "alpha must be positive, got nan"),
        (lambda: PiModel(ramp_up=-1), "ramp_up must be an integer from 0, got -1"),
        (lambda: PiModel(ramp_up=0.5), "ramp_up must be an integer from 0, got 0.5"),
        (lambda: TemporalEnsembling(decay=1.0), r"decay must lie in \[0, 1\), got 1.0"),
        (lambda: MeanTeacher(decay=-0.1), r"decay must lie in \[0, 1\), got -0.1"),
        (lambda: MeanTeacher(decay_of_ramp_up=2), r"decay_of_ramp_up must lie in .* got 2"),
        (
            lambda: trainer(method="mle", targets=PiModel()),
            r"targets must be None without unlabelled images, got PiModel\(.*\)",
        ),
    ],
)
def test_options_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


def test_targets_are_for_classes():
    images, labels = problem()
    with pytest.raises(ValueError, match=r"^targets must be None unless .* categorical, got Pi"):
        Trainer(
            nn.mlp([6, 5, 1]),
            Device(),
            images,
            np.minimum(labels, 1),
            unlabelled=inputs(),
            regularization=Regularization("mle"),
            learning_rate=exponential_decay(0.01),
            seed=1,
            batch_size=10,
            divergence=bernoulli,
            targets=PiModel(),
        )
