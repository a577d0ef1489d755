import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivat.data import DataError, draw_labels, hold_out

labels_and_count = st.lists(st.integers(0, 9), min_size=2, max_size=300).flatmap(
    lambda labels: st.tuples(st.just(np.array(labels)), st.integers(1, len(labels) - 1))
)


@given(labels_and_count, st.integers(0, 2**32))
def test_the_parts_are_disjoint_complete_ascending_and_of_the_sizes_asked_for(drawn, seed):
    labels, count = drawn
    train, held_out = hold_out(labels, count, seed)
    assert len(held_out) == count
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), range(len(labels)))
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(held_out) > 0)


@given(labels_and_count, st.integers(0, 2**32))
def test_every_class_has_its_share(drawn, seed):
    labels, count = drawn
    _, held_out = hold_out(labels, count, seed)
    exact = np.bincount(labels) * count / len(labels)
    shares = np.bincount(labels[held_out], minlength=len(exact))
    assert np.all(np.abs(shares - exact) < 1)


def test_the_seed_decides():
    labels = np.arange(1000) % 10
    first, again, other = (hold_out(labels, 100, seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_examples_of_a_class_are_held_out_equally_often():
    counts = np.zeros(20)
    for seed in range(1000):
        counts[hold_out(np.zeros(20, int), 5, seed)[1]] += 1
    # Each count is binomial (1000, 1/4): standard deviation 13.7; five of them.
    assert np.all(np.abs(counts - 250) < 69)


@pytest.mark.parametrize("count", [-1, 0, 10, 11])
def test_an_empty_part_is_refused(count):
    with pytest.raises(DataError, match=rf"count must lie in \[1, 9\], got {count}"):
        hold_out(np.zeros(10, int), count, seed=0)


# Labels ------------------------------------------------------------------------------------------

some_labels = st.lists(st.integers(0, 4), min_size=5, max_size=200).map(
    lambda labels: np.array([0, 1, 2, 3, 4, *labels])
)


@given(some_labels, st.integers(0, 2**32), st.data())
def test_a_balanced_draw_has_the_same_number_of_each_class(labels, seed, data):
    fewest = np.bincount(labels).min()
    # With one class more than the others at most, any count up to this one can be met.
    count = data.draw(st.integers(5, int(5 * fewest)))
    drawn = draw_labels(labels, count, seed)
    assert len(drawn) == count
    assert np.all(np.diff(drawn) > 0) and drawn[0] >= 0 and drawn[-1] < len(labels)
    shares = np.bincount(labels[drawn], minlength=5)
    assert shares.max() - shares.min() == (count % 5 > 0)


@given(some_labels, st.integers(0, 2**32), st.data())
def test_a_plain_draw_can_have_any_count(labels, seed, data):
    count = data.draw(st.integers(1, len(labels)))
    drawn = draw_labels(labels, count, seed, balanced=False)
    assert len(drawn) == count
    assert np.all(np.diff(drawn) > 0) and drawn[0] >= 0 and drawn[-1] < len(labels)


@pytest.mark.parametrize("balanced", [True, False])
def test_more_labels_are_these_and_others(balanced):
    labels = np.arange(1000) % 10
    few, many = (set(draw_labels(labels, count, 1, balanced)) for count in (100, 400))
    assert few < many


@pytest.mark.parametrize("balanced", [True, False])
def test_the_seed_decides_which_labels(balanced):
    labels = np.arange(1000) % 10
    first, again, other = (draw_labels(labels, 100, seed, balanced) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_labels_are_the_same_on_every_machine():
    assert draw_labels(np.arange(100) % 10, 12, 1).tolist() == [
        1,
        5,
        14,
        36,
        50,
        51,
        52,
        53,
        57,
        78,
        79,
        89,
    ]
    assert draw_labels(np.arange(100) % 10, 6, 1, balanced=False).tolist() == [
        6,
        13,
        39,
        42,
        89,
        98,
    ]


@pytest.mark.parametrize("balanced", [True, False])
def test_every_example_is_drawn_equally_often(balanced):
    labels, counts = np.array([0] * 10 + [1] * 10), np.zeros(20)
    for seed in range(1000):
        counts[draw_labels(labels, 5, seed, balanced)] += 1
    # Each count is binomial (1000, 1/4): standard deviation 13.7; five of them.
    assert np.all(np.abs(counts - 250) < 69)


@pytest.mark.parametrize(
    ("labels", "count", "balanced", "message"),
    [
        ([0, 1, 0], 0, True, r"count must lie in \[1, 3\], got 0"),
        ([0, 1, 0], 4, False, r"count must lie in \[1, 3\], got 4"),
        ([0, 2, 2, 0], 4, True, "labels must hold each class, got none of class 1"),
        ([0, 1, 2, 2], 2, True, "count must be 3 or more, one for each class, got 2"),
        (
            [0, 1, 1, 1, 1],
            4,
            True,
            "count must be smaller: 2 examples of class 0 are needed, and there are 1, got 4",
        ),
    ],
)
def test_a_draw_that_cannot_be_met_is_refused(labels, count, balanced, message):
    with pytest.raises(DataError, match=message) as error:
        draw_labels(np.array(labels), count, 1, balanced)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 1, 0], "labels must hold each class, got none of class 2"),
        ([0, 1, 2, 3], r"labels must lie in \[0, 3\), got 3"),
        ([0, -1, 2, 1], "labels must be integers from 0, got -1"),
        ([0.0, 1.0, 2.0, 0.0], "labels must be integers from 0, got float64"),
    ],
)
def test_labels_that_are_not_of_the_classes_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        draw_labels(np.array(labels), 3, 1, classes=3)
