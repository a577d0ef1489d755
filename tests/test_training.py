"""One update, told by an oracle without the engine; and what surrounds it: batches, statistics.

`one` and `two` are the numbers of batches: labelled alone, or labelled and unlabelled.
"""

import gc
import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivat import Tensor, nn, vat
from minivat.backend import Device, host_generator
from minivat.divergence import bernoulli, gaussian
from minivat.objective import METHODS, Regularization
from minivat.optim import Adam, exponential_decay
from minivat.training import Batches, Trainer
from minivat.vat import PowerIteration
from tests import oracle
from tests.strict_device import strict_device

SIZES = (6, 9, 7, 3)


def problem(dtype=np.float64, count=40):
    """Three overlapping clouds of points, one for each label."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, count)
    images = generator.standard_normal((count, 6)) + 3.0 * np.eye(3, 6)[labels]
    return images.astype(dtype), labels


def inputs(dtype=np.float64, count=30):
    """Points of the same clouds, without labels."""
    generator = np.random.default_rng(1)
    clouds = 3.0 * np.eye(3, 6)[generator.integers(0, 3, count)]
    return (generator.standard_normal((count, 6)) + clouds).astype(dtype)


def trainer(device=None, dtype=np.float64, count=40, network=None, two=False, **options):
    """A small trainer; `two`: with a second batch, of 12 unlabelled inputs.

    options: of PowerIteration, of Regularization, and of Trainer.
    """
    defaults = {"learning_rate": exponential_decay(0.01), "seed": 1, "batch_size": 10}
    if two:
        defaults |= {"unlabelled": inputs(dtype), "unlabelled_batch_size": 12}
    settings, strengths = (
        {k: options.pop(k) for k in list(options) if k in kind.__dataclass_fields__}
        for kind in (PowerIteration, Regularization)
    )
    regularization = Regularization(**strengths, power_iteration=PowerIteration(**settings))
    return Trainer(
        network or nn.mlp(SIZES, activation="leaky_relu"),
        device or Device(),
        *problem(dtype, count),
        regularization=regularization,
        **{**defaults, **options},
    )


def copies(arrays, device=None):
    device = device or Device()
    return {name: device.to_host(array).copy() for name, array in arrays.items()}


def host(views, device=None):
    return copies(views, device)


# The update


def perturbation(method, f, x, labels, d, epsilon, iterations):
    """r by the definitions: dense H, gradient by complex steps."""
    if method.startswith("at"):
        g = oracle.gradient(lambda x: oracle.cross_entropy(f(x), labels).sum(), x)
        return epsilon * (oracle.unit(g) if method == "at-l2" else np.sign(g))
    if method == "vat" and iterations == 0.5:
        roots = [np.diag(np.sqrt(p)) - np.outer(p, np.sqrt(p)) for p in oracle.softmax(f(x))]
        rz = np.einsum("nij,nj->ni", roots, d)
        return epsilon * oracle.unit((oracle.jacobian(f, x).T @ rz.ravel()).reshape(x.shape))
    d = oracle.unit(d)
    if method == "vat":
        h = oracle.hessian(f, x)
        for _ in range(iterations):
            d = oracle.unit((h @ d.ravel()).reshape(x.shape))
    return epsilon * d


each_number_of_batches = pytest.mark.parametrize("two", [False, True], ids=["one", "two"])
every_option = {
    "alpha": 2.5,
    "iterations": 2,
    "samples": 3,
    "entropy_weight": 0.7,
    "noise": 0.5,
    "dropout": 0.5,
}


@pytest.mark.parametrize("method", METHODS)
@each_number_of_batches
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"iterations": 0},
        {"iterations": 0.5},
        {"entropy_weight": 0.7},
        {"noise": 0.5},
        every_option,
    ],
    ids=str,
)
def test_an_update_is_that_of_the_oracle(method, two, options):
    options = dict(options)
    noisy = {name: options.pop(name) for name in ("noise", "dropout") if name in options}
    model = nn.mlp(SIZES, activation="leaky_relu", **noisy)
    update = 7
    training = trainer(network=model, two=two, method=method, epsilon=0.7, **options)
    params, state = host(training.params), host(training.state)
    flat = training.arrays["params"].copy()
    terms = training.step(update)

    # Everything random is keyed by the seed, its purpose and the update.
    images, labels = problem()
    order = host_generator(1, "batches", update // 4).permutation(40)
    batch = order[10 * (update % 4) :][:10]
    x, labels = images[batch], labels[batch]
    noise = model.draw_noise(Device().random(1, "noise", update), 10, np.float64)
    xu, noise_u = x, noise
    if two:  # inputs 84 to 95 of permutations of 30: the last six of one, the first six of the next
        orders = [host_generator(1, "unlabelled batches", i).permutation(30) for i in (2, 3)]
        xu = inputs()[np.concatenate([orders[0][24:], orders[1][:6]])]
        noise_u = model.draw_noise(Device().random(1, "unlabelled noise", update), 12, np.float64)
    stream = Device().random(1, "directions", update)
    half = method == "vat" and options.get("iterations") == 0.5
    shape = (len(xu), SIZES[-1]) if half else xu.shape
    directions = [stream.normal(shape, float) for _ in range(options.get("samples", 1))]

    def f(x, params=params):
        return oracle.network(params, x, None, noise, slope=0.1)

    def fu(x, params=params):
        return oracle.network(params, x, None, noise_u, slope=0.1)

    k = options.get("iterations", 1)
    if method.startswith("at"):
        r = perturbation(method, f, x, labels, None, 0.7, k)
    else:
        rs = [perturbation(method, fu, xu, None, d, 0.7, k) for d in directions]
    p_logits = fu(xu)

    def likelihood(params):
        return oracle.cross_entropy(f(x, params), labels).mean()

    def regularizer(params):
        if method == "mle":
            return 0.0
        if method.startswith("at"):
            return oracle.cross_entropy(f(x + r, params), labels).mean()
        return sum(oracle.kl(p_logits, fu(xu + r, params)).mean() for r in rs) / len(rs)

    def entropy(params):
        return oracle.entropy(fu(xu, params)).mean()

    def objective(params):
        return (
            likelihood(params)
            + options.get("alpha", 1.0) * regularizer(params)
            + options.get("entropy_weight", 0.0) * entropy(params)
        )

    assert terms["nll"] == pytest.approx(likelihood(params), rel=1e-10)
    assert terms["regularizer"] == pytest.approx(regularizer(params), rel=1e-9)
    assert ("entropy" in terms) == ("entropy_weight" in options)
    if "entropy" in terms:
        assert terms["entropy"] == pytest.approx(entropy(params), rel=1e-9)

    # A first update from zero moments leaves g in the first moment (divided by 1 − β₁).
    gradient = nn.unpack(training.arrays["first_moment"], params)
    # Adam's own step number is the update's number plus one.
    expected = flat.copy()
    Adam().update(
        expected,
        training.arrays["first_moment"],
        Adam().init(flat),
        update + 1,
        0.01,
    )
    np.testing.assert_allclose(training.arrays["params"], expected, rtol=1e-9, atol=1e-12)
    for name, array in params.items():

        def of_one(changed, name=name):
            return objective({**params, name: changed})

        expected = oracle.gradient(of_one, array)
        np.testing.assert_allclose(gradient[name], expected, rtol=1e-8, atol=1e-11)

    # Only the labelled pass moves the running statistics.
    _, expected = model(params, x, state, noise=noise)
    for name, array in expected.items():
        np.testing.assert_allclose(training.state[name], array, rtol=1e-12)


def test_all_methods_move_the_running_statistics_alike():
    """With or without unlabelled inputs."""
    states = []
    for method in METHODS:
        for two in (False, True):
            training = trainer(method=method, two=two, entropy_weight=1.0)
            training.step(0)
            states.append(copies(training.state))
    for state in states[1:]:
        for name, array in states[0].items():
            np.testing.assert_array_equal(state[name], array)


@pytest.mark.parametrize(
    ("method", "options", "recorded"),
    [
        # The labelled pass and the moved one; a clean pass that no other term needs is of θ̂.
        ("vat", {}, [True, False, True]),
        ("rpt", {}, [True, False, True]),
        ("vat", {"entropy_weight": 1.0}, [True, True, True]),
    ],
)
def test_which_passes_of_two_batches_are_recorded(method, options, recorded, monkeypatch):
    found = []
    forward = nn.Network.__call__

    def call(self, params, *args, **keywords):
        found.append(all(isinstance(array, Tensor) for array in params.values()))
        return forward(self, params, *args, **keywords)

    training = trainer(method=method, two=True, **options)
    monkeypatch.setattr(nn.Network, "__call__", call)
    training.step(0)
    assert found == recorded


@pytest.mark.parametrize("method", ["mle", "at-l2", "at-linf"])
def test_a_method_that_needs_labels_leaves_the_unlabelled_inputs_alone(method):
    one, two = trainer(method=method), trainer(method=method, two=True)
    two.unlabelled.batches = None  # not even asked for
    for update in range(5):
        one.step(update)
        two.step(update)
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(two.arrays[name], array)


@each_number_of_batches
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", METHODS)
def test_every_array_keeps_its_dtype_and_its_place(device, method, dtype, two):
    training = trainer(device, dtype, two=two, method=method, entropy_weight=float(two))
    before = dict(training.arrays)
    values = copies(training.arrays, device)
    for update in range(2):
        terms = training.step(update)
    assert {np.dtype(t.dtype) for t in terms.values() if hasattr(t, "dtype")} == {np.dtype(dtype)}
    assert list(training.arrays) == list(before)
    for name, array in training.arrays.items():
        assert array is before[name]
        assert array.dtype == dtype
        assert not np.array_equal(device.to_host(array), values[name])


@each_number_of_batches
def test_the_strict_device_trains_to_the_same_bits(two):
    """Nothing in an update leaves the device, mixes devices, or waits for one."""
    for method in METHODS:
        results = []
        for device in (Device(), strict_device()):
            training = trainer(
                device, np.float32, two=two, method=method, samples=2, entropy_weight=float(two)
            )
            terms = [training.step(update) for update in range(6)]
            training.reestimate_statistics()
            results.append(
                (copies(training.arrays, device), float(device.to_host(terms[-1]["nll"])))
            )
        (here, nll), (there, strict_nll) = results
        assert nll == strict_nll
        for name, array in here.items():
            np.testing.assert_array_equal(there[name], array)


@each_number_of_batches
@pytest.mark.parametrize("method", METHODS)
def test_a_seed_determines_every_bit(method, two):
    def run(seed):
        training = trainer(
            dtype=np.float32, two=two, method=method, seed=seed, direction="finite-difference"
        )
        for update in range(6):
            training.step(update)
        return copies(training.arrays)

    first, again, other = run(1), run(1), run(2)
    for name, array in first.items():
        np.testing.assert_array_equal(again[name], array)
        assert not np.array_equal(other[name], array)


@each_number_of_batches
def test_restored_arrays_continue_to_the_bit(two):
    noisy = nn.mlp(SIZES, noise=0.5, dropout=0.2)
    options = {"dtype": np.float32, "network": noisy, "two": two, "entropy_weight": 1.0}
    whole = trainer(**options)
    for update in range(3):
        whole.step(update)
    saved = copies(whole.arrays)
    for update in range(3, 9):
        whole.step(update)

    resumed = trainer(**options)
    resumed.step(5)  # whatever happened in it before
    for name, array in saved.items():
        resumed.arrays[name][...] = array
    for update in range(3, 9):
        resumed.step(update)
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(resumed.arrays[name], array)


def test_the_learning_rate_follows_the_schedule():
    asked = []

    def schedule(update):
        asked.append(update)
        return 0.0

    training = trainer(learning_rate=schedule)
    before = training.arrays["params"].copy()
    for update in range(3):
        training.step(update)
    assert asked == [0, 1, 2]
    np.testing.assert_array_equal(training.arrays["params"], before)


def test_parameters_are_views_into_the_flat_array():
    training = trainer()
    training.arrays["params"][...] = 5.0
    for array in training.params.values():
        np.testing.assert_array_equal(array, 5.0)


@each_number_of_batches
@pytest.mark.parametrize(
    ("method", "direction"), [(m, "exact") for m in METHODS] + [("vat", "finite-difference")]
)
def test_the_graph_of_an_update_is_freed_without_the_garbage_collector(method, direction, two):
    training = trainer(two=two, method=method, direction=direction, entropy_weight=1.0)
    training.step(0)
    gc.collect()
    gc.disable()
    try:
        training.step(1)
        assert not any(type(o) is Tensor for o in gc.get_objects())
    finally:
        gc.enable()


@pytest.mark.parametrize("method", METHODS)
def test_training_learns(method):
    images, labels = problem(np.float32, 300)
    training = trainer(dtype=np.float32, count=300, method=method, epsilon=0.3, batch_size=50)
    before = training.error(images, labels)
    for update in range(120):
        training.step(update)
    assert before > 40
    assert training.error(images, labels) < 8


def test_unlabelled_inputs_help_where_labels_are_few():
    labels = np.tile(np.arange(3), 10)
    clouds = 2.5 * np.eye(3, 6)[labels]
    images = np.random.default_rng(5).standard_normal((30, 6)) + clouds
    errors = {}
    for method in ("mle", "vat"):
        training = Trainer(
            nn.mlp(SIZES, noise=0.3),
            Device(),
            images[:6],
            labels[:6],
            unlabelled=inputs(count=300),
            regularization=Regularization(method, epsilon=1.5),
            learning_rate=exponential_decay(0.01),
            seed=2,
            batch_size=6,
            unlabelled_batch_size=50,
        )
        for update in range(200):
            training.step(update)
        training.reestimate_statistics()
        errors[method] = training.error(*problem(count=1000))
    assert errors["vat"] < 0.75 * errors["mle"]


# Other outputs


def test_one_logit_trains_as_two_classes():
    images, labels = problem(count=200)
    labels = (labels == 1).astype(int)
    training = Trainer(
        nn.mlp([6, 20, 1], output_norm=False),
        Device(),
        images,
        labels,
        unlabelled=inputs(count=100),
        regularization=Regularization(epsilon=0.3, entropy_weight=0.1),
        learning_rate=exponential_decay(0.02),
        seed=1,
        batch_size=50,
        divergence=bernoulli,
    )
    before = training.error(images, labels)
    for update in range(100):
        terms = training.step(update)
    assert all(np.isfinite(term) for term in terms.values())
    assert before > 20 > 5 > training.error(images, labels)
    assert training.error(images, 1 - labels) > 95
    assert training.r_vadv(images) > 0


def test_the_error_is_for_classes_only():
    images, labels = problem()
    for wrong in (labels.astype(float), labels[:, None], labels[:-1], labels == 1):
        with pytest.raises(ValueError, match=r"^labels must be 40 integers, the classes, got .*$"):
            trainer().error(images, wrong)


def test_targets_of_one_output_may_have_one_axis():
    images, _ = problem()
    targets = np.sin(images[:, 0])
    trained = []
    for labels in (targets, targets[:, None]):
        training = Trainer(
            nn.mlp([6, 5, 1]),
            Device(),
            images,
            labels,
            regularization=Regularization("at-l2", 0.1),
            learning_rate=exponential_decay(0.02),
            seed=1,
            batch_size=10,
            divergence=gaussian(0.5),
        )
        assert np.isfinite(training.step(0)["nll"])
        trained.append(host(training.params))
    for name, array in trained[0].items():
        np.testing.assert_array_equal(array, trained[1][name])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_regression(dtype):
    images, _ = problem(dtype, count=200)
    targets = np.stack([np.sin(images[:, 0]), images[:, 1] / 3], axis=1)
    training = Trainer(
        nn.mlp([6, 40, 2], output_norm=False),
        Device(),
        images,
        targets.astype(np.float64),
        unlabelled=inputs(dtype, count=100),
        regularization=Regularization(epsilon=0.1),
        learning_rate=exponential_decay(0.02),
        seed=1,
        batch_size=100,
        divergence=gaussian(0.5),
    )
    first = training.step(0)
    for update in range(1, 300):
        last = training.step(update)
    assert last["nll"].dtype == last["regularizer"].dtype == dtype
    assert last["nll"] < 0.1 * first["nll"]


# What surrounds the update: augmentation, the schedule of beta1


@each_number_of_batches
def test_all_passes_see_the_augmented_images(two):
    """Doubling every batch is training on doubled images, to the bit."""
    network = nn.mlp(SIZES, noise=0.5)
    options = {"network": network, "two": two, "entropy_weight": 0.7}
    augmented = trainer(augment=lambda x, stream: 2 * x, **options)
    doubled = trainer(**options)
    for source in (doubled.labelled, doubled.unlabelled)[: 1 + two]:
        source.images = 2 * source.images
    for update in range(3):
        terms, expected = augmented.step(update), doubled.step(update)
        assert terms == expected
    np.testing.assert_array_equal(augmented.arrays["params"], doubled.arrays["params"])
    plain = trainer(**options)
    assert plain.step(0) != trainer(augment=lambda x, stream: 2 * x, **options).step(0)


def test_every_update_and_batch_is_augmented_by_a_stream_of_its_own(device):
    drawn = []

    def augment(x, stream):
        drawn.append(device.to_host(stream.normal((2,))))
        return x

    training = trainer(device, augment=augment, two=True)
    for update in (0, 1, 0):
        training.step(update)
    expected = [
        device.to_host(device.random(1, purpose, update).normal((2,)))
        for update in (0, 1, 0)
        for purpose in ("augmentation", "unlabelled augmentation")
    ]
    np.testing.assert_array_equal(drawn, expected)
    assert len(np.unique(drawn, axis=0)) == 4


def test_evaluation_and_statistics_are_not_augmented():
    training = randomized(trainer(augment=lambda x, stream: 1 / 0))
    images, labels = problem()
    training.reestimate_statistics()
    assert training.error(images, labels) > 0 and training.r_vadv(images) > 0


def test_beta1_follows_its_schedule():
    seen = []

    class Spy(Adam):
        def at(self, step, learning_rate, beta1=None):
            seen.append((step, learning_rate, beta1))
            return super().at(step, learning_rate, beta1)

    training = trainer(
        optimizer=Spy(), learning_rate=lambda update: 0.1, beta1=lambda update: 0.9 - update / 10
    )
    usual = trainer(optimizer=Spy())
    for update in range(2):
        training.step(update)
        usual.step(update)
    assert seen == [(1, 0.1, 0.9), (1, 0.01, None), (2, 0.1, 0.8), (2, 0.01, None)]
    assert not np.array_equal(training.arrays["params"], usual.arrays["params"])


# Batches


def batches(count, size, seed=1, purpose="batches", device=None):
    return Batches(device or Device(), seed, purpose, count, size, "batch_size")


@given(st.integers(2, 50).flatmap(lambda n: st.tuples(st.just(n), st.integers(2, n))))
def test_batches_are_slices_of_an_endless_row_of_permutations(counts):
    count, size = counts
    drawn = batches(count, size)
    updates = [drawn(update) for update in range(3 * count)]  # 3 · size epochs
    assert {len(batch) for batch in updates} == {size}
    epochs = np.concatenate(updates).reshape(-1, count)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(count), (3 * size, 1)))
    assert count < 8 or len(np.unique(epochs, axis=0)) == len(epochs)  # all fresh


def test_a_batch_depends_on_the_update_alone(device):
    drawn, again = batches(43, 10), batches(43, 10, device=device)
    in_order = [drawn(update) for update in range(9)]
    for update in (8, 0, 5, 4):
        np.testing.assert_array_equal(device.to_host(again(update)), in_order[update])


def test_both_orders_are_independent():
    training = trainer(unlabelled=inputs(count=40), unlabelled_batch_size=10)
    assert not np.array_equal(training.labelled.batches(0), training.unlabelled.batches(0))


# Evaluation


def randomized(training):
    """The trainer with parameters and running statistics away from their first values."""
    generator = np.random.default_rng(3)
    for name, array in training.arrays.items():
        if "moment" not in name:
            array += 0.2 * generator.random(array.shape)
    return training


@pytest.fixture(params=[(100, 1), (15, 1), (15, 2), (15, 3)], ids="{0[0]}x{0[1]}".format)
def evaluated(request, monkeypatch):
    """Images that are evaluated together, and threads that do so."""
    at_once, threads = request.param
    monkeypatch.setattr("minivat.training.EVALUATED_ROWS", at_once)
    monkeypatch.setattr("minivat.parallel._threads", lambda: threads)


@pytest.mark.usefixtures("evaluated")
def test_the_error_is_a_percentage_of_all_images_by_the_running_statistics():
    training = randomized(trainer(count=2345))
    images, labels = problem(count=2345)
    logits = oracle.network(training.params, images, training.state, slope=0.1)
    wrong = (logits.argmax(axis=1) != labels).sum()
    assert 0 < wrong < 2345
    assert training.error(images, labels) == pytest.approx(100 * wrong / 2345, rel=1e-12)


def test_evaluating_changes_nothing(device):
    training = trainer(device)
    training.step(0)
    before = copies(training.arrays, device)
    images, labels = problem()
    values = training.error(images, labels), training.r_vadv(images)
    assert values == (training.error(images, labels), training.r_vadv(images))
    assert all(type(value) is float for value in values)
    for name, array in copies(training.arrays, device).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
@pytest.mark.usefixtures("evaluated")
def test_r_vadv_is_the_oracles_with_running_statistics(epsilon):
    training = randomized(trainer())
    images, _ = problem()

    def f(x):
        return oracle.network(training.params, x, training.state, slope=0.1)

    d = Device().random(0, "r_vadv").normal(images.shape, float)
    expected = []
    for x, direction in zip(images, d, strict=True):
        r = perturbation("vat", f, x[None], None, direction[None], epsilon, 1)
        expected.append(oracle.kl(f(x[None]), f(x[None] + r)))
    assert training.r_vadv(images, epsilon) == pytest.approx(np.mean(expected), rel=1e-9)


def alone(training, x, parts):
    """What each of so many random batches of x leaves in the state by itself."""
    order = host_generator(1, "statistics").permutation(len(x))
    return [
        training.network(training.params, x[part], training.state, decay=0.0)[1]
        for part in np.array_split(order, parts)
    ]


def test_reestimated_statistics_are_the_average_over_all_batches():
    training = randomized(trainer(count=47))
    images, _ = problem(count=47)
    training.reestimate_statistics()
    first = {f"dense1.{n}": training.params[f"dense1.{n}"] for n in ("weight", "bias")}
    order = host_generator(1, "statistics").permutation(47)
    batches = [images[order[i:j]] for i, j in ((0, 12), (12, 24), (24, 36), (36, 47))]
    units = [x @ first["dense1.weight"] + first["dense1.bias"] for x in batches]
    mean = np.mean([u.mean(axis=0) for u in units], axis=0)
    var = np.mean([u.var(axis=0, ddof=1) for u in units], axis=0)
    np.testing.assert_allclose(training.state["norm1.running_mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(training.state["norm1.running_var"], var, rtol=1e-12)
    # And of all layers.
    states = alone(training, images, 4)
    for name, array in training.state.items():
        np.testing.assert_allclose(array, np.mean([s[name] for s in states], axis=0), rtol=1e-12)


def test_statistics_are_reestimated_over_the_unlabelled_inputs_without_noise():
    training = randomized(trainer(network=nn.mlp(SIZES, noise=0.5, dropout=0.5), two=True))
    states = alone(training, inputs(), 2)
    training.reestimate_statistics()
    for name, array in training.state.items():
        np.testing.assert_allclose(array, np.mean([s[name] for s in states], axis=0), rtol=1e-12)


def test_sorted_inputs_are_reestimated_like_shuffled_ones():
    """One batch of the first class alone would normalize the others with what it is like."""
    images, labels = problem(count=40)
    errors = []
    for order in (np.arange(40), np.argsort(labels, kind="stable")):
        training = Trainer(
            nn.mlp(SIZES),
            Device(),
            images[order],
            labels[order],
            regularization=Regularization("mle"),
            learning_rate=exponential_decay(0.01),
            seed=1,
            batch_size=25,
        )
        for update in range(60):
            training.step(update)
        training.reestimate_statistics()
        errors.append(training.error(images, labels))
    assert max(errors) <= 5


def test_what_is_asked_for_reaches_the_method(monkeypatch):
    """Every option, by what `vat`'s functions are called with."""
    asked = {}

    def spy(name):
        function = getattr(vat, name)

        def called(*args, **options):
            asked[name] = {**inspect.signature(function).bind(*args, **options).arguments}
            return function(*args, **options)

        monkeypatch.setattr(vat, name, called)

    for name in ("regularizer", "adversarial_perturbation", "conditional_entropy"):
        spy(name)
    x, labels = problem(count=8)
    labels = np.minimum(labels, 1)
    net = lambda x: x @ np.ones((6, 1))  # noqa: E731
    d = [np.ones_like(x)] * 3
    Regularization(
        "vat",
        0.3,
        power_iteration=PowerIteration(np.int64(2), "finite-difference", xi=0.02),
        samples=np.int32(3),
        entropy_weight=0.5,
    ).objective(net, x, labels, d, divergence=bernoulli)
    options = asked["regularizer"]
    names = ("epsilon", "power_iteration", "divergence")
    expected = (0.3, PowerIteration(2, "finite-difference", 0.02), bernoulli)
    assert tuple(options[name] for name in names) == expected
    assert len(options["directions"]) == 3
    assert asked["conditional_entropy"]["divergence"] is bernoulli
    for norm in ("l2", "linf"):
        Regularization(f"at-{norm}", 0.3).objective(net, x, labels, [], divergence=bernoulli)
        options = asked["adversarial_perturbation"]
        assert (options["epsilon"], options["norm"]) == (0.3, norm)
        assert options["divergence"] is bernoulli


def test_defaults_of_the_yardstick_and_of_the_second_batch():
    training = trainer()
    images, _ = problem()
    assert training.r_vadv(images) == training.r_vadv(images, 2.0) != training.r_vadv(images, 1.0)
    two = trainer(unlabelled=inputs())
    assert two.unlabelled.batches.size == two.labelled.batches.size == 10


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "pi-model"}, "method must be one of .* got 'pi-model'"),
        ({"epsilon": 0.0}, "epsilon must be .* got 0.0"),
        ({"epsilon": np.inf}, "epsilon must be .* got inf"),
        ({"alpha": -1.0}, "alpha must be .* got -1.0"),
        ({"alpha": np.nan}, "alpha must be .* got nan"),
        ({"samples": 0}, "samples must be an integer from 1, got 0"),
        ({"entropy_weight": -1.0}, "entropy_weight must be 0 or more, got -1.0"),
        ({"entropy_weight": np.nan}, "entropy_weight must be 0 or more, got nan"),
        ({"batch_size": 1}, "batch_size must lie in .* got 1"),
        ({"batch_size": 41}, "batch_size must lie in .* got 41"),
        ({"unlabelled_batch_size": 10}, "unlabelled_batch_size must be None .* got 10"),
        ({"two": True, "unlabelled_batch_size": 1}, "unlabelled_batch_size must lie in .* got 1"),
        ({"two": True, "unlabelled_batch_size": 31}, r"must lie in \[2, 30\], got 31"),
        ({"unlabelled": np.zeros((30, 5))}, r"unlabelled must .*\(40, 6\).*\(30, 5\)"),
        ({"unlabelled": np.zeros((30, 6), "f")}, "unlabelled must .* float64 .* got float32"),
        ({"divergence": bernoulli}, "network must have one output, .* got 3"),
        ({"divergence": gaussian(1.0)}, r"labels must .* \(40, 3\), got int64 of shape \(40,\)"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message) as error:
        trainer(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((20, 6), np.uint8), np.zeros(20, int), "images must .* uint8"),
        (np.zeros((20, 6), np.float16), np.zeros(20, int), "images must .* float16"),
        (np.zeros((20, 6), np.float32), np.zeros(19, int), r"labels must .*\(19,\)"),
        (np.zeros((20, 6), np.float32), np.full(20, 3), "labels must .* 3"),
        (np.zeros((20, 6), np.float32), np.full(20, -1), "labels must .* -1"),
        (np.zeros((20, 6), np.float32), np.zeros(20), "labels must .* float64"),
    ],
)
def test_data_that_does_not_fit_is_named(images, labels, message):
    with pytest.raises(ValueError, match=message) as error:
        Trainer(
            nn.mlp(SIZES),
            Device(),
            images,
            labels,
            regularization=Regularization(),
            learning_rate=exponential_decay(0.01),
            seed=1,
            batch_size=10,
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("divergence", "labels", "options", "message"),
    [
        (bernoulli, np.full(20, 2), {}, r"labels must lie in \[0, 2\), got 2 to 2"),
        (bernoulli, np.full(20, 0.5), {}, "labels must be 20 integers, .* got float64"),
        (gaussian(1.0), np.full((20, 1), np.nan), {}, "labels must be finite, got NaN"),
        (
            gaussian(1.0),
            np.zeros((20, 2)),
            {},
            r"labels must .* \(20,\) or \(20, 1\), got float64 .*\(20, 2\)",
        ),
        (gaussian(1.0), np.zeros(19), {}, r"labels must .* \(20, 1\), got float64 .*\(19,\)"),
        (
            gaussian(1.0),
            np.zeros((20, 1)),
            {"entropy_weight": 1.0},
            r"entropy_weight must be 0 for a divergence without a method entropy, got 1\.0",
        ),
    ],
)
def test_targets_that_do_not_fit_the_outputs_are_named(divergence, labels, options, message):
    with pytest.raises(ValueError, match=message) as error:
        Trainer(
            nn.mlp([6, 5, 1]),
            Device(),
            np.zeros((20, 6)),
            labels,
            regularization=Regularization(**options),
            learning_rate=exponential_decay(0.01),
            seed=1,
            batch_size=10,
            divergence=divergence,
        )
    assert "\n" not in str(error.value)
