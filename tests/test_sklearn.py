"""The estimators: scikit-learn's own checks, few labels, and what is refused."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_classifiers_classes, parametrize_with_checks

from minivat.data import synthetic
from minivat.sklearn import VATClassifier, VATRegressor

QUICK = {"hidden_layer_sizes": (20,), "max_iter": 60, "learning_rate": 0.02, "random_state": 0}


def refused_by_convention(estimator):
    if isinstance(estimator, VATClassifier):
        return {
            "check_classifiers_classes": "-1 is a class in it, where for semi-supervised "
            "classifiers -1 means unlabelled; scikit-learn exempts its own by name"
        }
    return {}


@parametrize_with_checks(
    [VATClassifier(**QUICK), VATRegressor(**QUICK)],
    expected_failed_checks=refused_by_convention,
)
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


def test_epsilon_is_a_root_mean_square_over_the_features():
    # The same column twice: distances grow by √2, and so does the perturbation.
    x, y, _ = moons()
    one = VATClassifier(**QUICK)
    calls = []

    class Spy(Exception):
        pass

    def regularization(method, epsilon, *others):
        calls.append(epsilon)
        raise Spy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minivat.training.Regularization", regularization)
        for each in (x, np.tile(x, 2)):
            with pytest.raises(Spy):
                one.fit(each, y)
    np.testing.assert_allclose(calls, [0.1 * np.sqrt(2), 0.1 * 2])


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
        ({"learning_rate": 0.0}, r"learning_rate must be positive, got 0\.0"),
        ({"learning_rate": 1e300}, "learning_rate must be smaller: with 1e"),
        ({"epsilon": -1.0}, "epsilon must be positive"),
        ({"alpha": 0}, "alpha must be positive, got 0"),
        ({"method": "map"}, "method must be one of"),
        ({"power_iterations": -1}, "power_iterations must be"),
        ({"hidden_layer_sizes": (0,)}, "sizes must be positive integers"),
        ({"batch_size": 1}, "batch_size must lie in"),
        ({"device": "tpu"}, "device must be auto, cpu or cuda, got 'tpu'"),
    ],
)
@pytest.mark.parametrize("estimator", [VATClassifier, VATRegressor])
def test_parameters_refused(estimator, options, message):
    x, y, _ = moons()
    with pytest.raises(ValueError, match=message):
        estimator(**{**QUICK, **options}).fit(x, y)


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
