"""Points in the plane: where they lie, which are labelled, what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivat.data import DataError, synthetic

MAKERS = (synthetic.two_moons, synthetic.two_circles)
makers = pytest.mark.parametrize("make", MAKERS)


def place(points, x, y):
    """How far along its curve each point is, in [0, 1), and its distance from the curve."""
    x = x.astype(np.float64)
    if points.name == "circles":
        radius = np.where(y == 1, 0.5, 1.0)
        turn = np.arctan2(x[:, 1], x[:, 0]) / (2 * np.pi)
        return turn % 1, np.abs(np.linalg.norm(x, axis=1) - radius)
    x = np.where(y[:, None] == 1, [1.0, 0.5] - x, x)
    return np.arctan2(x[:, 1], x[:, 0]) / np.pi, np.abs(np.linalg.norm(x, axis=1) - 1)


@pytest.mark.parametrize("draw", synthetic.DRAWS)
@given(
    make=st.sampled_from(MAKERS),
    seed=st.integers(0, 2**32),
    pairs=st.integers(1, 10),
    unlabelled=st.integers(1, 200),
)
def test_without_noise_the_points_lie_on_their_curves(draw, make, seed, pairs, unlabelled):
    points = make(seed, labels=2 * pairs, unlabelled=unlabelled, noise=0, draw=draw)
    assert points.x.shape == (2 * pairs, 2) and points.unlabelled.shape == (unlabelled, 2)
    assert points.y.shape == (2 * pairs,) and points.hidden_y.shape == (unlabelled,)
    for x, y in ((points.x, points.y), (points.unlabelled, points.hidden_y)):
        assert (x.dtype, y.dtype) == (np.float32, np.int64)
        assert place(points, x, y)[1].max() < 1e-6
    classes = np.bincount(np.concatenate([points.y, points.hidden_y]), minlength=2)
    assert abs(classes[0] - classes[1]) <= 1
    if draw != "plain":
        assert np.bincount(points.y).tolist() == [pairs, pairs]


@makers
@given(seed=st.integers(0, 2**32), pairs=st.integers(1, 10))
def test_spread_labels_are_at_even_distances(make, seed, pairs):
    points = make(seed, labels=2 * pairs, noise=0)
    turns, _ = place(points, points.x, points.y)
    for label in (0, 1):
        along = np.sort(turns[points.y == label])
        np.testing.assert_allclose(np.diff(along), 1 / pairs, atol=1e-6)


@makers
def test_the_noise_is_normal_and_the_classes_stay_apart(make):
    points = make(3, unlabelled=20_000)
    clean = make(3, unlabelled=20_000, noise=0)
    noise = (points.unlabelled - clean.unlabelled).astype(np.float64)
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=4 * 0.06 / np.sqrt(20_000))
    np.testing.assert_allclose(noise.std(axis=0), 0.06, rtol=0.02)
    _, distance = place(points, points.unlabelled, points.hidden_y)
    assert np.mean(distance > 0.25) < 2e-4  # half the way to the other curve


@makers
def test_the_seed_decides(make):
    first, again, other = (make(seed) for seed in (1, 1, 2))
    for name in ("x", "y", "unlabelled", "hidden_y"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.unlabelled, other.unlabelled)
    assert not np.array_equal(first.x, other.x)


@pytest.mark.parametrize("draw", ["balanced", "plain"])
@makers
def test_labels_drawn_at_random_are_anywhere(make, draw):
    turns = np.concatenate(
        [
            place(points, points.x, points.y)[0]
            for points in (make(seed, unlabelled=100, noise=0, draw=draw) for seed in range(200))
        ]
    )
    # 1,600 numbers in ten bins: binomial with mean 160 and standard deviation 12; five of them.
    assert np.all(np.abs(np.histogram(turns, 10, (0, 1))[0] - 160) < 60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": 0}, "labels must be 1 or more, got 0"),
        ({"unlabelled": 0}, "unlabelled must be 1 or more, got 0"),
        ({"labels": 7}, "labels must be even to spread .* got 7"),
        ({"labels": 1, "draw": "balanced"}, "count must be 2 or more, .* got 1"),
        ({"noise": -0.1}, "noise must be a finite number from 0, got -0.1"),
        ({"noise": float("nan")}, "noise must be .* got nan"),
        ({"draw": "odd"}, "draw must be one of spread, balanced, plain, got 'odd'"),
    ],
)
@makers
def test_refused(make, options, message):
    with pytest.raises(DataError, match=message):
        make(1, **options)
