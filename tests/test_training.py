"""One update, told by an oracle without the engine; and what surrounds it: batches, statistics."""

import gc

import numpy as np
import pytest

from minivat import Tensor, nn
from minivat.backend import Device, host_generator
from minivat.optim import Adam, exponential_decay
from minivat.training import METHODS, Regularization, Trainer
from tests import oracle
from tests.strict_device import strict_device

SIZES = (6, 9, 7, 3)


def problem(dtype=np.float64, count=40):
    """Three overlapping clouds of points, one for each label."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, count)
    images = generator.standard_normal((count, 6)) + 3.0 * np.eye(3, 6)[labels]
    return images.astype(dtype), labels


def trainer(device=None, dtype=np.float64, count=40, network=None, **options):
    defaults = {"learning_rate": exponential_decay(0.01), "seed": 1, "batch_size": 10}
    regularization = Regularization(
        **{k: options.pop(k) for k in list(options) if k in Regularization.__dataclass_fields__}
    )
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


def perturbation(method, f, x, labels, d, epsilon, power_iterations):
    """r by the definitions: dense H, gradient by complex steps."""
    if method.startswith("at"):
        g = oracle.gradient(lambda x: oracle.cross_entropy(f(x), labels).sum(), x)
        return epsilon * (oracle.unit(g) if method == "at-l2" else np.sign(g))
    if method == "vat" and power_iterations == 0.5:
        roots = [np.diag(np.sqrt(p)) - np.outer(p, np.sqrt(p)) for p in oracle.softmax(f(x))]
        rz = np.einsum("nij,nj->ni", roots, d)
        return epsilon * oracle.unit((oracle.jacobian(f, x).T @ rz.ravel()).reshape(x.shape))
    d = oracle.unit(d)
    if method == "vat":
        h = oracle.hessian(f, x)
        for _ in range(power_iterations):
            d = oracle.unit((h @ d.ravel()).reshape(x.shape))
    return epsilon * d


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 2.5},
        {"power_iterations": 0.5},
        {"power_iterations": 3},
        {"samples": 3},
        {"noise": 0.5, "dropout": 0.5},
    ],
    ids=str,
)
def test_an_update_is_that_of_the_oracle(method, options):
    options = dict(options)
    noisy = {name: options.pop(name) for name in ("noise", "dropout") if name in options}
    model = nn.mlp(SIZES, activation="leaky_relu", **noisy)
    update = 7
    training = trainer(network=model, method=method, epsilon=0.7, **options)
    params, state = host(training.params), host(training.state)
    flat = training.arrays["params"].copy()
    terms = training.step(update)

    # Everything random is keyed by the seed, its purpose and the update.
    images, labels = problem()
    order = host_generator(1, "batches", update // 4).permutation(40)
    batch = order[10 * (update % 4) :][:10]
    x, labels = images[batch], labels[batch]
    stream = Device().random(1, "directions", update)
    half = method == "vat" and options.get("power_iterations") == 0.5
    shape = (10, SIZES[-1]) if half else x.shape
    directions = [stream.normal(shape, float) for _ in range(options.get("samples", 1))]
    noise = model.draw_noise(Device().random(1, "noise", update), 10, np.float64)

    def f(x, params=params):
        return oracle.network(params, x, None, noise, slope=0.1)

    if method in ("mle", "at-l2", "at-linf"):
        directions = directions[:1]
    k = options.get("power_iterations", 1)
    rs = [perturbation(method, f, x, labels, d, 0.7, k) for d in directions]
    p_logits = f(x)

    def likelihood(params):
        return oracle.cross_entropy(f(x, params), labels).mean()

    def regularizer(params):
        if method == "mle":
            return 0.0
        moved = [f(x + r, params) for r in rs]
        if method.startswith("at"):
            return oracle.cross_entropy(moved[0], labels).mean()
        return sum(oracle.kl(p_logits, q).mean() for q in moved) / len(moved)

    def objective(params):
        return likelihood(params) + options.get("alpha", 1.0) * regularizer(params)

    assert terms["nll"] == pytest.approx(likelihood(params), rel=1e-10)
    assert terms["regularizer"] == pytest.approx(regularizer(params), rel=1e-9)

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
    states = []
    for method in METHODS:
        training = trainer(method=method)
        training.step(0)
        states.append(copies(training.state))
    for state in states[1:]:
        for name, array in states[0].items():
            np.testing.assert_array_equal(state[name], array)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", METHODS)
def test_every_array_keeps_its_dtype_and_its_place(device, method, dtype):
    training = trainer(device, dtype, method=method)
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


def test_the_strict_device_trains_to_the_same_bits():
    """Nothing in an update leaves the device, mixes devices, or waits for one."""
    for method in METHODS:
        results = []
        for device in (Device(), strict_device()):
            training = trainer(device, np.float32, method=method, samples=2)
            terms = [training.step(update) for update in range(6)]
            training.reestimate_statistics()
            results.append(
                (copies(training.arrays, device), float(device.to_host(terms[-1]["nll"])))
            )
        (here, nll), (there, strict_nll) = results
        assert nll == strict_nll
        for name, array in here.items():
            np.testing.assert_array_equal(there[name], array)


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_determines_every_bit(method):
    def run(seed):
        training = trainer(
            dtype=np.float32, method=method, seed=seed, direction="finite-difference"
        )
        for update in range(6):
            training.step(update)
        return copies(training.arrays)

    first, again, other = run(1), run(1), run(2)
    for name, array in first.items():
        np.testing.assert_array_equal(again[name], array)
        assert not np.array_equal(other[name], array)


def test_restored_arrays_continue_to_the_bit():
    whole = trainer(dtype=np.float32)
    for update in range(3):
        whole.step(update)
    saved = copies(whole.arrays)
    for update in range(3, 9):
        whole.step(update)

    resumed = trainer(dtype=np.float32)
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


@pytest.mark.parametrize(
    ("method", "direction"), [(m, "exact") for m in METHODS] + [("vat", "finite-difference")]
)
def test_the_graph_of_an_update_is_freed_without_the_garbage_collector(method, direction):
    training = trainer(method=method, direction=direction)
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


# Batches


def test_every_epoch_visits_all_examples_once_in_a_fresh_order():
    training = trainer(count=40)
    epochs = [
        np.concatenate([training.batches(4 * epoch + i) for i in range(4)]) for epoch in range(3)
    ]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(40))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])


def test_a_batch_depends_on_the_update_alone():
    training, again = trainer(count=43), trainer(count=43)
    in_order = [training.batches(update) for update in range(9)]
    assert {len(batch) for batch in in_order} == {10}
    for update in (8, 0, 5):
        np.testing.assert_array_equal(again.batches(update), in_order[update])


# Evaluation


def randomized(training):
    """The trainer with parameters and running statistics away from their first values."""
    generator = np.random.default_rng(3)
    for name, array in training.arrays.items():
        if "moment" not in name:
            array += 0.2 * generator.random(array.shape)
    return training


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


def test_reestimated_statistics_are_the_average_over_all_batches():
    training = randomized(trainer(count=47))
    images, _ = problem(count=47)
    training.reestimate_statistics()
    first = {f"dense1.{n}": training.params[f"dense1.{n}"] for n in ("weight", "bias")}
    batches = [images[i : i + 10] for i in range(0, 40, 10)]
    units = [x @ first["dense1.weight"] + first["dense1.bias"] for x in batches]
    mean = np.mean([u.mean(axis=0) for u in units], axis=0)
    var = np.mean([u.var(axis=0, ddof=1) for u in units], axis=0)
    np.testing.assert_allclose(training.state["norm1.running_mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(training.state["norm1.running_var"], var, rtol=1e-12)

    # And of all layers: what each batch alone leaves in the state, averaged.
    states = [training.network(training.params, x, training.state, decay=0.0)[1] for x in batches]
    for name, array in training.state.items():
        np.testing.assert_allclose(array, np.mean([s[name] for s in states], axis=0), rtol=1e-12)


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "pi-model"}, "method must be one of .* got 'pi-model'"),
        ({"direction": "best"}, "direction must be one of .* got 'best'"),
        ({"epsilon": 0.0}, "epsilon must be .* got 0.0"),
        ({"epsilon": np.inf}, "epsilon must be .* got inf"),
        ({"alpha": -1.0}, "alpha must be .* got -1.0"),
        ({"alpha": np.nan}, "alpha must be .* got nan"),
        ({"xi": 0.0}, "xi must be .* got 0.0"),
        ({"power_iterations": -1}, "power_iterations must be 0.5 or 0, 1, 2, ..., got -1"),
        ({"power_iterations": 1.5}, "power_iterations must be 0.5 or 0, 1, 2, ..., got 1.5"),
        (
            {"power_iterations": 0.5, "direction": "finite-difference"},
            "direction must be 'exact' with power_iterations 0.5",
        ),
        ({"samples": 0}, "samples must be an integer from 1, got 0"),
        ({"batch_size": 1}, "batch_size must lie in .* got 1"),
        ({"batch_size": 41}, "batch_size must lie in .* got 41"),
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
