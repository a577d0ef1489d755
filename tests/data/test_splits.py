import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivat.data import DataError, hold_out

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
    with pytest.raises(DataError, match=f"count: {count} of 10, expected 1 to 9"):
        hold_out(np.zeros(10, int), count, seed=0)
