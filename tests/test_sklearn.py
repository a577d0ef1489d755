"""The estimators: scikit-learn's own checks, few labels, and what is refused."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_classifiers_classes, parametrize_with_checks

from minivat import divergence, nn
from minivat.data import synthetic
from minivat.objective import Regularization
from minivat.sklearn import VATClassifier, VATRegressor
from minivat.vat import PowerIteration

QUICK = {"hidden_layer_sizes": (20,), "max_iter": 60, "learning_rate": 0.02, "random_state": 0}


def refused_by_convention(estimator):
    if isinstance(estimator, VATClassifier):
        return {
            "check_classifiers_classes": "-1 is a class in it, where for semi-supervised "
            "classifiers -1 means unlabelled; scikit-learn exempts its own by name"
        }
    return {}


CHECKS = parametrize_with_checks(
    [VATClassifier(**QUICK), VATRegressor(**QUICK)],
    expected_failed_checks=refused_by_convention,
).mark


# A list, since scikit-learn before 1.8 gives a generator, which pytest warns of.
@pytest.mark.parametrize(CHECKS.args[0], list(CHECKS.args[1]), **CHECKS.kwargs)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_the_excepted_check_passes_as_it_is_done_for_scikit_learns_own():
    check_classifiers_classes("LabelSpreading", VATClassifier(**QUICK))


def moons(seed=100):
    points = synthetic.two_moons(seed, unlabelled=300)
    x = np.concatenate([points.x, points.unlabelled])
    return x, np.concatenate([points.y, np.full(300, -1)]), points


@pytest.mark.parametrize("batch_norm", [False, True])
def test_unlabelled_rows_help(batch_norm):
    x, y, points = moons()
    options = {"max_iter": 300, "learning_rate": 0.01, "random_state": 1, "batch_norm": batch_norm}
    vat = VATClassifier(**options).fit(x, y)
    mle = VATClassifier(method="mle", **options).fit(x, y)
    scores = [each.score(points.unlabelled, points.hidden_y) for each in (mle, vat)]
    assert scores[0] < 0.97 < 0.99 < scores[1]


def test_statistics_are_those_of_all_rows():
    x, y, _ = moons()
    options = {"batch_norm": True, "standardize": False, "unlabelled_batch_size": len(x)}
    model = VATClassifier(**QUICK, **options).fit(x, y)
    inside = x @ model.params_["dense1.weight"] + model.params_["dense1.bias"]
    np.testing.assert_allclose(model.state_["norm1.running_mean"], inside.mean(axis=0), atol=1e-5)


def test_probabilities_and_classes():
    x, y, points = moons()
    names = np.array(["no", "yes", -1], object)[y]
    numbers, strings = (VATClassifier(**QUICK).fit(x, each) for each in (y, names))
    assert numbers.classes_.tolist() == [0, 1] and strings.classes_.tolist() == ["no", "yes"]
    p = numbers.predict_proba(points.unlabelled)
    assert p.shape == (300, 2) and p.dtype == np.float32
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(strings.predict_proba(points.unlabelled), p)
    np.testing.assert_array_equal(strings.predict(points.unlabelled) == "yes", p[:, 1] > p[:, 0])
    assert strings.score(points.x, np.array(["no", "yes"])[points.y]) == 1.0


def test_many_rows_are_predicted_in_chunks(monkeypatch):
    x, y, points = moons()
    model = VATClassifier(**QUICK).fit(x, y)
    whole = model.predict_proba(points.unlabelled)
    sizes, network = [], model.network_

    def counted(params, x, state, **options):
        sizes.append(len(x))
        return network(params, x, state, **options)

    model.network_ = counted
    monkeypatch.setattr("minivat.parallel.ROW_CHUNK", 2 * 100)
    np.testing.assert_allclose(model.predict_proba(points.unlabelled), whole, rtol=1e-6)
    assert sorted(sizes) == [0, 100, 100, 100]


@pytest.mark.parametrize("hidden", ["int8", "int64", "float64"])
def test_however_the_unlabelled_are_marked(hidden):
    x, y, _ = moons()
    expected = VATClassifier(**QUICK).fit(x, y).predict_proba(x)
    np.testing.assert_array_equal(
        VATClassifier(**QUICK).fit(x, y.astype(hidden)).predict_proba(x), expected
    )


def test_the_state_of_random_numbers_decides():
    x, y, _ = moons()
    same, again = (VATClassifier(**QUICK).fit(x, y).predict_proba(x) for _ in range(2))
    other = VATClassifier(**{**QUICK, "random_state": 1}).fit(x, y).predict_proba(x)
    np.testing.assert_array_equal(same, again)
    assert not np.array_equal(same, other)


def test_clone_and_pickle():
    x, y, _ = moons()
    model = VATClassifier(**QUICK, method="rpt", epsilon=0.3, batch_norm=True).fit(x, y)
    copy = clone(model)
    assert copy.get_params() == model.get_params() and not hasattr(copy, "classes_")
    for other in (copy.fit(x, y), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.predict_proba(x), model.predict_proba(x))


def test_grid_search_in_a_pipeline():
    x, labels = make_blobs(60, centers=3, random_state=0)
    model = make_pipeline(StandardScaler(), VATClassifier(**QUICK))
    search = GridSearchCV(model, {"vatclassifier__epsilon": [0.1, 0.3]}, cv=2).fit(x, labels)
    assert search.best_score_ > 0.8
    assert set(search.best_params_) == {"vatclassifier__epsilon"}


def test_features_of_any_scale():
    x, y, _ = moons()
    x = x.astype(float)
    expected = VATClassifier(**QUICK).fit(x, y).predict_proba(x)
    scaled = x * [1e4, 1e-4] + [3.0, -1e-3]
    found = VATClassifier(**QUICK).fit(scaled, y).predict_proba(scaled)
    np.testing.assert_allclose(found, expected, atol=1e-6)


# What the trainer receives


class Received(Exception):
    """The trainer's arguments, in place of a training."""


@pytest.fixture
def received(monkeypatch):
    def trainer(network, device, images, targets, **others):
        raise Received({"network": network, "images": images, "targets": targets, **others})

    monkeypatch.setattr("minivat.training.Trainer", trainer)

    def arguments(estimator, x, y):
        with pytest.raises(Received) as caught:
            estimator.fit(x, y)
        return caught.value.args[0]

    return arguments


def test_all_parameters_reach_the_trainer(received):
    x, y, points = moons()
    model = VATClassifier(
        (30, 20),
        epsilon=0.3,
        alpha=2.5,
        power_iterations=2,
        direction="finite-difference",
        samples=3,
        entropy_weight=0.7,
        batch_norm=True,
        batch_size=5,
        unlabelled_batch_size=40,
        learning_rate=0.02,
        max_iter=10,
    )
    found = received(model, x, y)
    assert found["regularization"] == Regularization(
        "vat",
        0.3 * np.sqrt(2),
        2.5,
        PowerIteration(2, "finite-difference"),
        samples=3,
        entropy_weight=0.7,
    )
    assert found["network"] == nn.mlp([2, 30, 20, 2], batch_norm=True, output_norm=False)
    assert (found["batch_size"], found["unlabelled_batch_size"]) == (5, 40)
    np.testing.assert_allclose(
        [found["learning_rate"](update) for update in (0, 5, 6, 9, 10)],
        [0.02, 0.02, 0.016, 0.004, 0],
    )
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    np.testing.assert_allclose(found["images"], scaled[y >= 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["unlabelled"], scaled, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["targets"], points.y)
    assert found["divergence"] == divergence.categorical


def test_no_batch_is_larger_than_there_are_rows(received):
    x, y, points = moons()
    found = received(VATClassifier(batch_size=1000, unlabelled_batch_size=1000), x, y)
    assert (found["batch_size"], found["unlabelled_batch_size"]) == (len(points.y), len(x))
    found = received(VATClassifier(), points.x, points.y)
    assert found["unlabelled"] is found["unlabelled_batch_size"] is None


def test_the_regressor_s_distribution_has_variance_one(received):
    x, y = line()
    found = received(VATRegressor(alpha=3, power_iterations=0.5, samples=2), x, y)
    assert found["divergence"] == divergence.gaussian(1.0)
    assert found["regularization"] == Regularization(
        "vat", 0.1 * np.sqrt(2), 3.0, PowerIteration(0.5), samples=2
    )
    np.testing.assert_allclose(found["targets"][:, 0], (y - y.mean()) / y.std())


@pytest.mark.parametrize("method", ["vat", "rpt", "at-l2", "at-linf"])
def test_epsilon_is_a_root_mean_square_over_the_features(received, method):
    # The same column twice: L2 distances grow by √2, and so does the perturbation.
    x, y, _ = moons()
    found = [
        received(VATClassifier(method=method), each, y)["regularization"].epsilon
        for each in (x, np.tile(x, 2))
    ]
    rows = [1, 1] if method == "at-linf" else [np.sqrt(2), 2]
    np.testing.assert_allclose(found, np.multiply(0.1, rows))


def test_mle_looks_at_no_perturbation(received):
    x, y, _ = moons()
    found = received(VATClassifier(method="mle", epsilon=0, alpha=None, entropy_weight=0.2), x, y)
    assert found["regularization"] == Regularization("mle", entropy_weight=0.2)


def test_numpy_s_numbers_are_python_s(received):
    x, y, _ = moons()
    numbers = {"power_iterations": 2, "samples": 3, "batch_size": 4, "unlabelled_batch_size": 9}
    expected = received(VATClassifier(7, max_iter=8, alpha=2.0, **numbers), x, y)
    numbers = {name: np.int64(number) for name, number in numbers.items()}
    numbers |= {"max_iter": np.int8(8), "alpha": np.float32(2)}
    found = received(VATClassifier(np.int16(7), **numbers), x, y)
    for name in ("network", "regularization", "batch_size", "unlabelled_batch_size"):
        assert found[name] == expected[name]


def test_one_hidden_layer_may_be_a_number(received):
    x, y, _ = moons()
    assert received(VATClassifier(9), x, y)["network"] == nn.mlp(
        [2, 9, 2], batch_norm=False, output_norm=False
    )


# Rows without a target in scores


@pytest.mark.parametrize("weighted", [False, True])
def test_the_classifier_s_score_is_that_on_the_labelled_rows(weighted):
    x, _, points = moons()
    model = VATClassifier(**QUICK).fit(points.x, points.y)
    y = np.r_[points.y, points.hidden_y]
    weights = np.linspace(1, 2, len(y)) if weighted else None
    hidden = np.where(np.arange(len(y)) % 3, y, -1)
    known = hidden >= 0
    expected = model.score(x[known], y[known], weights[known] if weighted else None)
    assert model.score(x, hidden, weights) == expected
    assert model.score(x.tolist(), hidden.tolist(), weights) == expected


def test_the_score_of_classes_that_are_strings():
    x, _, points = moons()
    y = np.array(["no", "yes", -1], object)[np.r_[points.y, np.full(300, -1)]]
    model = VATClassifier(**QUICK).fit(x, y)
    assert model.score(x, y) == model.score(points.x, y[: len(points.y)]) == 1.0
    with pytest.raises(ValueError, match="the string '-1'"):
        model.score(x, y.astype(str))


def test_the_regressor_s_score_is_that_on_the_rows_with_a_target():
    x, y = line()
    model = VATRegressor(**QUICK).fit(x, y)
    hidden = np.where(np.arange(200) % 3, y, np.nan)
    known = np.isfinite(hidden)
    assert model.score(x, hidden) == model.score(x[known], y[known])
    weights = np.linspace(1, 2, 200)
    assert model.score(x, hidden, weights) == model.score(x[known], y[known], weights[known])


def test_a_score_needs_a_target():
    x, y, _ = moons()
    classifier, regressor = VATClassifier(**QUICK).fit(x, y), VATRegressor(**QUICK).fit(x, y)
    for model, nothing in ((classifier, -1), (regressor, np.nan)):
        with pytest.raises(ValueError, match="unlabelled rows only"):
            model.score(x, np.full(len(x), nothing))


@pytest.mark.parametrize("strings", [False, True])
def test_grid_search_over_rows_without_a_class(strings):
    x, classes = make_blobs(60, centers=2, random_state=0)
    y = np.where(np.arange(60) % 3, -1, classes)
    folds = 2
    if strings:  # which scikit-learn cannot stratify next to -1
        y = np.array(["no", "yes", -1], object)[y]
        folds = KFold(2, shuffle=True, random_state=0)
    search = GridSearchCV(VATClassifier(**QUICK), {"epsilon": [0.1, 0.3]}, cv=folds).fit(x, y)
    assert search.cv_results_["mean_test_score"].min() > 0.8
    assert search.score(x, y) > 0.8


def test_grid_search_over_rows_without_a_target():
    x, y = line()
    y[60:] = np.nan
    folds = KFold(2, shuffle=True, random_state=0)
    search = GridSearchCV(VATRegressor(**QUICK), {"epsilon": [0.01, 0.1]}, cv=folds).fit(x, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert np.isfinite(cross_val_score(VATRegressor(**QUICK), x, y, cv=folds)).all()


# Regression


def line(seed=0):
    generator = np.random.default_rng(seed)
    x = generator.uniform(-2, 2, (200, 2))
    return x, 100 + 50 * np.sin(x[:, 0])


def test_regression_with_few_targets():
    x, y = line()
    hidden = np.where(np.arange(200) < 30, y, np.nan)
    model = VATRegressor(max_iter=300, random_state=0).fit(x, hidden)
    assert model.predict(x).shape == (200,)
    assert model.score(x[30:], y[30:]) > 0.85


def test_targets_of_any_scale():
    x, y = line()
    expected = VATRegressor(**QUICK).fit(x, y).predict(x)
    found = VATRegressor(**QUICK).fit(x, 1e6 * y - 5).predict(x)
    np.testing.assert_allclose(found, 1e6 * expected - 5, rtol=1e-6)


def test_large_targets_for_single_precision():
    # In float32 all numbers near 1e9 that differ by less than 32 are one.
    x, y = line()
    expected = VATRegressor(**QUICK).fit(x.astype("f"), y / 50).predict(x.astype("f"))
    found = VATRegressor(**QUICK).fit(x.astype("f"), 1e9 + y / 50).predict(x.astype("f"))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found - 1e9, expected, atol=1e-3)


def test_rows_without_a_target_matter():
    x, y = line()
    y[30:] = np.nan
    moved = x.copy()
    moved[30:] += 1
    few, with_rest, with_others = (
        VATRegressor(**QUICK, standardize=False).fit(*each).predict(x[:5])
        for each in ((x[:30], y[:30]), (x, y), (moved, y))
    )
    assert not np.array_equal(few, with_rest) and not np.array_equal(with_rest, with_others)


# Mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_iter": 0}, "max_iter must be an integer from 1, got 0"),
        ({"max_iter": 1.5}, "max_iter must be an integer from 1, got 1.5"),
        ({"max_iter": True}, "max_iter must be an integer from 1, got True"),
        ({"learning_rate": 0.0}, r"learning_rate must be positive, a finite number, got 0\.0"),
        ({"learning_rate": "adaptive"}, "learning_rate must be positive, .* got 'adaptive'"),
        ({"learning_rate": 1e300}, "learning_rate must be smaller: with 1e"),
        ({"epsilon": -1.0}, "epsilon must be positive"),
        ({"epsilon": "a"}, "epsilon must be positive, a finite number, got 'a'"),
        ({"alpha": 0}, "alpha must be positive, a finite number, got 0"),
        ({"method": "map"}, "method must be one of"),
        ({"power_iterations": -1}, r"power_iterations must be 0.5 or 0, 1, 2, \.\.\., got -1"),
        ({"power_iterations": True}, "power_iterations must be .* got True"),
        ({"direction": "up"}, "direction must be one of"),
        (
            {"power_iterations": 0.5, "direction": "finite-difference"},
            "direction must be 'exact' with power_iterations 0.5, got 'finite-difference'",
        ),
        ({"samples": 0}, "samples must be an integer from 1, got 0"),
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes must be an integer from 1, got 0"),
        ({"hidden_layer_sizes": 2.5}, "hidden_layer_sizes must be an integer from 1, got 2.5"),
        ({"batch_size": 1}, "batch_size must be an integer from 2, got 1"),
        ({"batch_size": None}, "batch_size must be an integer from 2, got None"),
        ({"batch_size": 2.5}, "batch_size must be an integer from 2, got 2.5"),
        ({"unlabelled_batch_size": 0}, "unlabelled_batch_size must be an integer from 2, got 0"),
        ({"device": "tpu"}, "device must be auto, cpu or cuda, got 'tpu'"),
    ],
)
@pytest.mark.parametrize("estimator", [VATClassifier, VATRegressor])
def test_parameters_refused(estimator, options, message):
    x, y, _ = moons()
    with pytest.raises(ValueError, match=message):
        estimator(**{**QUICK, **options}).fit(x, y)


@pytest.mark.parametrize("weight", [-0.1, np.inf, "a", None])
def test_entropy_weight_refused(weight):
    x, y, _ = moons()
    with pytest.raises(ValueError, match="entropy_weight must be 0 or more"):
        VATClassifier(**QUICK, entropy_weight=weight).fit(x, y)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b", -1, -1], "the number -1, got the string '-1'"),
        (np.array(["a", "b", "-1", -1], object), "the number -1, got the string '-1'"),
        (np.array(["a", 2, "c", -1], object), "of one type, .* got int, str"),
    ],
)
def test_classes_refused(labels, message):
    with pytest.raises(ValueError, match=message) as refusal:
        VATClassifier(**QUICK).fit(np.eye(4), labels)
    assert "\n" not in str(refusal.value)


def test_what_is_too_large_is_named():
    x, y = line()
    with pytest.raises(ValueError, match="X must be smaller: the variance"):
        VATRegressor(**QUICK).fit(1e200 * x, y)
    with pytest.raises(ValueError, match="y must be smaller: the variance"):
        VATRegressor(**QUICK).fit(x, 1e200 * y)


@pytest.mark.parametrize("labels", [[1, 1, -1, -1], [-1, -1, -1, -1], [1, -1, 1, -1]])
def test_minus_one_is_never_a_class(labels):
    with pytest.raises(ValueError, match="two classes at least besides -1"):
        VATClassifier(**QUICK).fit(np.eye(4), labels)


@pytest.mark.parametrize("known", [0, 1])
def test_too_few_targets(known):
    y = np.full(4, np.nan)
    y[:known] = 1.0
    with pytest.raises(ValueError, match=rf"two targets at least besides NaN.* got {known} "):
        VATRegressor(**QUICK).fit(np.eye(4), y)


def test_infinite_targets():
    with pytest.raises(ValueError, match="infinity"):
        VATRegressor(**QUICK).fit(np.eye(4), [1.0, 2.0, np.inf, np.nan])
