"""Rows without a class: how y may mark them, and what in scikit-learn makes a class of the mark."""

import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.semi_supervised import SelfTrainingClassifier

from minivat.sklearn import VATClassifier

VAT = VATClassifier((10,), max_iter=40, learning_rate=0.02, random_state=0)
FULL = np.arange(80) % 2
X = np.c_[4 * FULL, np.sin(np.arange(80))]  # two clusters
Y = np.where(np.arange(80) < 20, FULL, -1)
NAMES = np.array(["no", "yes", -1], object)


class SaysNothing:
    """As pandas.NA: whether it is equal to something, itself too, is not known."""

    def __eq__(self, other):
        return self

    __hash__ = object.__hash__

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    def __repr__(self):
        return "<NA>"


@pytest.mark.parametrize("classes", [[0, 1], [0.0, 1.0], ["no", "yes"], [False, True]])
@pytest.mark.parametrize(
    ("mark", "shown"),
    [(np.nan, "nan"), (None, "None"), (SaysNothing(), "<NA>"), (np.datetime64("NaT", "s"), "NaT")],
)
def test_another_mark_is_refused_and_the_right_one_shown(classes, mark, shown):
    y = np.array([*classes, mark], object)[Y]
    fitted = VATClassifier((5,), max_iter=2).fit(X, Y)
    for call in (VAT.fit, fitted.score):
        with pytest.raises(ValueError, match="number -1") as refusal:
            call(X, y)
        assert str(refusal.value) == (
            f"y must mark the unlabelled by the number -1, got {shown}: "
            "use y = pandas.Series(y, dtype=object).fillna(-1)"
        )


@pytest.mark.parametrize("mark", [-1, np.nan])
def test_numbers_that_a_list_with_strings_makes_strings_of_are_refused(mark):
    with pytest.raises(ValueError, match=f"the number -1, got the string '{mark}': next to"):
        VAT.fit(X, np.array(["no", "yes", mark], object)[Y].tolist())


@pytest.mark.parametrize("y", [np.where(Y < 0, np.nan, Y), np.where(Y < 0, None, Y).tolist()])
def test_missing_numbers_of_any_container_are_refused(y):
    with pytest.raises(ValueError, match=r"by the number -1, got (nan|None): use"):
        VAT.fit(X, y)


@pytest.mark.parametrize("classes", [[0, 1], [0.0, 1.0], [False, True], [np.int8(0), 1]])
def test_numbers_in_an_array_of_objects_are_numbers(classes):
    y = np.array([*classes, -1], object)[Y]
    model = VATClassifier(**VAT.get_params()).fit(X, y)
    expected = VATClassifier(**VAT.get_params()).fit(X, Y)
    np.testing.assert_array_equal(model.predict_proba(X), expected.predict_proba(X))
    assert model.classes_.dtype == np.array(classes).dtype
    assert model.score(X, y) == expected.score(X, Y) == 1.0


# Meta-estimators

MAKE_A_CLASS_OF_IT = {
    "VotingClassifier": VotingClassifier([("vat", VAT)]),
    "VotingClassifier-soft": VotingClassifier([("vat", VAT)], voting="soft"),
    "VotingClassifier-inside": GridSearchCV(
        VotingClassifier([("vat", VAT)]), {"vat__alpha": [1.0]}, cv=2, error_score="raise"
    ),
    "BaggingClassifier": BaggingClassifier(VAT, 2),
    "StackingClassifier": StackingClassifier([("vat", VAT)], cv=2),
    "CalibratedClassifierCV": CalibratedClassifierCV(VAT, cv=2),
    "LabelEncoder": CalibratedClassifierCV(VAT, cv=2, ensemble=False),
    "OneVsRestClassifier": OneVsRestClassifier(VAT),
    "OneVsOneClassifier": OneVsOneClassifier(VAT),
    "OutputCodeClassifier": OutputCodeClassifier(VAT, random_state=0),
}


@pytest.mark.parametrize("name", MAKE_A_CLASS_OF_IT)
def test_what_makes_a_class_of_the_mark_is_refused_by_name(name):
    with pytest.raises(ValueError, match="takes -1") as refusal:
        MAKE_A_CLASS_OF_IT[name].fit(X, Y)
    assert str(refusal.value) == (
        f"{name.partition('-')[0]} takes -1, which marks the unlabelled, for a class of y: give it "
        "the rows with y != -1 only, and for VATClassifier() a FrozenEstimator of a fitted one"
    )


def test_so_are_probabilities_by_cross_validation():
    with pytest.raises(ValueError, match="LabelEncoder takes -1"):
        cross_val_predict(VAT, X, Y, cv=2, method="predict_proba")
    assert set(cross_val_predict(VAT, X, Y, cv=2)) == {0, 1}


def test_what_was_fitted_out_of_sight_is_refused_in_prediction():
    """In another process nothing is seen of who calls."""
    model = VotingClassifier([("vat", VAT)])
    model.classes_ = np.array([-1, 0, 1])
    model.estimators_ = [VATClassifier((5,), max_iter=2).fit(X, FULL)]
    with pytest.raises(ValueError, match="VotingClassifier takes -1"):
        model.predict(X)


@pytest.mark.parametrize("name", MAKE_A_CLASS_OF_IT)
def test_all_of_them_work_where_every_class_is_known(name):
    assert np.mean(MAKE_A_CLASS_OF_IT[name].fit(X, FULL).predict(X) == FULL) > 0.9


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize(
    "around",
    [
        lambda vat: VotingClassifier(
            [("vat", vat), ("other", LogisticRegression())], voting="soft"
        ),
        lambda vat: StackingClassifier([("vat", vat)], cv=2),
        CalibratedClassifierCV,
    ],
)
def test_a_fitted_one_works_on_the_known_rows(around, strings):
    full, y = (NAMES[FULL], NAMES[Y]) if strings else (FULL, Y)
    known = Y != -1
    vat = FrozenEstimator(VATClassifier(**VAT.get_params()).fit(X, y))
    model = around(vat).fit(X[known], full[known])
    np.testing.assert_array_equal(model.predict(X), full)


@pytest.mark.parametrize(
    "around", [SelfTrainingClassifier, lambda vat: GridSearchCV(vat, {"alpha": [1.0]}, cv=2)]
)
def test_these_take_the_mark_as_it_is_meant(around):
    np.testing.assert_array_equal(around(VAT).fit(X, Y).predict(X), FULL)


def test_several_outputs_with_marks_each():
    model = MultiOutputClassifier(VAT)
    for _ in range(2):  # the second time with the first one's classes, a list of arrays
        model.fit(X, np.c_[Y, Y[::-1]])
        np.testing.assert_array_equal(model.predict(X), np.c_[FULL, FULL[::-1]])


# Scorers


@pytest.mark.parametrize("scoring", ["roc_auc", "accuracy", "neg_log_loss"])
def test_a_scorer_that_would_count_the_mark_says_so(scoring):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert np.isnan(cross_val_score(VAT, X, Y, cv=2, scoring=scoring)).all()
    message = "a scorer takes -1, which marks the unlabelled, for a class of y: leave `scoring` out"
    assert all(message in str(each.message) for each in caught) and caught


def test_a_scorer_of_the_known_rows():
    def auc(model, x, y):
        return get_scorer("roc_auc")(model, x[y != -1], y[y != -1])

    assert cross_val_score(VAT, X, Y, cv=2, scoring=auc).tolist() == [1, 1]
    assert cross_val_score(VAT, X, FULL, cv=2, scoring="roc_auc").tolist() == [1, 1]
