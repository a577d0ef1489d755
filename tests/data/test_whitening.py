import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivat.data import DataError, Dataset, fit_zca, whiten, whitening
from minivat.data.whitening import ZCA


def correlated(seed, count=400, size=6, spread=3.0):
    """Images whose numbers are correlated and whose variances differ by many orders."""
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((size, size)) * np.logspace(0, -spread, size)[:, None]
    return generator.standard_normal((count, size)) @ mixing + generator.standard_normal(size)


def covariance(rows):
    return np.cov(rows, rowvar=False, bias=True)


def dataset(seed=0, count=40, shape=(3, 2, 3)):
    images = correlated(seed, 2 * count, int(np.prod(shape))).astype(np.float32)
    images = images.reshape(-1, *shape)
    labels = np.arange(count) % 10
    return Dataset("x", images[:count], labels, images[count:], labels, shape, {})


# The map -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [1e-6, 1e-2, 10.0])
def test_it_equals_the_direct_formula(epsilon):
    images = correlated(0)
    variances, vectors = np.linalg.eigh(covariance(images))
    expected = vectors @ np.diag(1 / np.sqrt(variances + epsilon)) @ vectors.T
    zca = fit_zca(images, epsilon)
    np.testing.assert_allclose(zca.matrix, expected, rtol=1e-5, atol=1e-5 * expected.max())
    np.testing.assert_allclose(zca.mean, images.mean(axis=0), rtol=1e-6)
    assert zca.mean.dtype == zca.matrix.dtype == np.float32


def test_a_case_by_hand():
    """Two uncorrelated numbers of variance 4 and 0, and an epsilon inside the root."""
    zca = fit_zca(np.array([[2.0, 7.0], [-2.0, 7.0]]), epsilon=5.0)
    np.testing.assert_allclose(zca.matrix, [[1 / 3, 0], [0, 1 / 5**0.5]], rtol=1e-6)
    np.testing.assert_array_equal(zca.mean, [0, 7])
    np.testing.assert_allclose(zca.apply(np.float32([[5, 7]])), [[5 / 3, 0]], rtol=1e-6)


@given(st.integers(0, 2**32), st.integers(1, 8))
def test_what_is_whitened_can_be_reverted(seed, size):
    images = correlated(seed, 30, size, spread=2).astype(np.float32)
    zca = fit_zca(images, 1e-3)
    reverted = zca.revert(zca.apply(images))
    assert reverted.dtype == np.float64
    np.testing.assert_allclose(reverted, images, atol=1e-3 * np.abs(images).max())


@given(st.integers(0, 2**32), st.integers(1, 8), st.floats(-6, 1))
def test_what_is_left_of_each_variance(seed, size, exponent):
    """λ/(λ + epsilon) in λ's own direction, and no correlation with the others."""
    images, epsilon = correlated(seed, size=size, spread=2), 10.0**exponent
    variances, vectors = np.linalg.eigh(covariance(images).reshape(size, size))
    zca = fit_zca(images, epsilon)
    whitened = (images - images.mean(axis=0)) @ zca.matrix.astype(float)
    left = vectors.T @ covariance(whitened).reshape(size, size) @ vectors
    np.testing.assert_allclose(left, np.diag(variances / (variances + epsilon)), atol=1e-4)


@given(st.integers(0, 2**32))
def test_whitened_images_are_white(seed):
    images = correlated(seed, spread=1).astype(np.float32)
    zca = fit_zca(images, 1e-9)
    whitened = zca.apply(images)
    np.testing.assert_allclose(covariance(whitened), np.eye(6), atol=1e-3)
    np.testing.assert_allclose(whitened.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_array_equal(zca.matrix, zca.matrix.T)
    assert np.linalg.eigvalsh(zca.matrix.astype(float)).min() > 0


@given(st.integers(0, 2**32), st.data())
def test_it_does_not_depend_on_the_order_of_images_and_turns_with_their_axes(seed, data):
    images = correlated(seed)
    zca = fit_zca(images, 1e-3)
    order = data.draw(st.permutations(range(6)), "order")
    for other in (fit_zca(images[::-1], 1e-3), fit_zca(images + 3.0, 1e-3)):
        np.testing.assert_allclose(other.matrix, zca.matrix, rtol=1e-4, atol=1e-4)
    turned = fit_zca(images[:, order], 1e-3)
    np.testing.assert_allclose(turned.matrix, zca.matrix[np.ix_(order, order)], atol=1e-4)


def test_images_keep_their_shape_and_their_values(monkeypatch):
    images = dataset().train_images
    before = images.copy()
    zca = fit_zca(images)
    whitened = zca.apply(images)
    assert whitened.shape == images.shape and whitened.dtype == np.float32
    np.testing.assert_array_equal(images, before)
    monkeypatch.setattr(whitening, "CHUNK", 7)
    # Products over other numbers of rows may round otherwise: terms as large as these are added.
    terms = np.abs(images - images.mean(axis=0)).max() * np.abs(zca.matrix).sum(axis=0).max()
    rounding = terms * np.finfo(np.float32).eps
    np.testing.assert_allclose(zca.apply(images), whitened, rtol=0, atol=rounding)
    assert rounding < 1e-3 * np.abs(whitened).max()
    np.testing.assert_allclose(fit_zca(images).matrix, zca.matrix, rtol=1e-4, atol=1e-4)
    assert zca.apply(images[:0]).shape == (0, 3, 2, 3)


@given(st.integers(0, 2**32))
def test_fewer_images_than_numbers_are_enough(seed):
    """Rounding may put their zero variances below zero, and farther than a small epsilon."""
    zca = fit_zca(correlated(seed, count=3, spread=0), 1e-20)
    assert np.isfinite(zca.matrix).all()


@pytest.mark.parametrize("epsilon", [0.0, -1e-6, np.inf, np.nan])
def test_an_epsilon_that_regularizes_nothing_is_refused(epsilon):
    with pytest.raises(DataError, match="epsilon must be positive and finite, got"):
        fit_zca(correlated(0), epsilon)


def test_no_images_and_images_of_another_size_are_refused():
    with pytest.raises(DataError, match="images must be 1 or more, got none"):
        fit_zca(np.zeros((0, 6)))
    with pytest.raises(DataError, match="images must have 6 numbers each, got 5"):
        fit_zca(correlated(0)).apply(np.zeros((2, 5), np.float32))


# The data set and the cache ----------------------------------------------------------------------


@pytest.fixture
def fits(monkeypatch):
    """The sizes of the images that were fitted."""
    sizes = []

    def counted(images, epsilon):
        sizes.append(len(images))
        return fit_zca(images, epsilon)

    monkeypatch.setattr(whitening, "fit_zca", counted)
    return sizes


def same(first, second):
    for name in ("train_images", "test_images"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_both_parts_are_whitened_by_the_training_images():
    plain = dataclasses.replace(dataset(), checksums={"a.bin": "123"})
    whitened = whiten(plain, 1e-3)
    images = {name: getattr(whitened, name) for name in ("train_images", "test_images")}
    zca = fit_zca(plain.train_images, 1e-3)
    np.testing.assert_array_equal(whitened.train_images, zca.apply(plain.train_images))
    np.testing.assert_array_equal(whitened.test_images, zca.apply(plain.test_images))
    matrix = hashlib.sha256(zca.matrix.tobytes()).hexdigest()
    checksums = {"a.bin": "123", "zca.matrix": matrix}
    assert whitened.__dict__ == {**plain.__dict__, **images, "checksums": checksums}


def test_a_fit_is_kept_and_said_once(fits, cache, capsys):
    first = whiten(dataset())
    (file,) = (cache / "zca").iterdir()
    assert file.suffix == ".npz"
    assert capsys.readouterr().err == "fitting the whitening of 40 images, once\n"
    same(whiten(dataset()), first)
    assert fits == [40]
    assert capsys.readouterr().err == ""


def test_other_images_and_another_epsilon_are_fitted_anew(fits, cache):
    whiten(dataset())
    whiten(dataset(), 1e-3)
    whiten(dataset(1))
    whiten(dataset(count=30))
    changed = dataset()
    changed.train_images[39, 2, 1, 2] += 1e-3
    whiten(changed)
    assert fits == [40, 40, 40, 30, 40]
    assert len(list((cache / "zca").iterdir())) == 5
    other_test = dataclasses.replace(dataset(), test_images=dataset(1).test_images)
    whiten(other_test)
    assert len(fits) == 5


def test_a_matrix_that_an_earlier_version_has_kept_is_not_used(fits, cache, monkeypatch):
    first = whiten(dataset())
    monkeypatch.setattr(whitening, "VERSION", whitening.VERSION + 1)
    same(whiten(dataset()), first)
    assert fits == [40, 40]
    assert len(list((cache / "zca").iterdir())) == 2


@pytest.mark.parametrize(("count", "epsilon"), [(0, 1e-3), (40, np.nan)])
def test_what_cannot_be_fitted_is_refused_before_the_cache_is_asked(cache, capsys, count, epsilon):
    images = dataset().train_images[:count]
    with pytest.raises(DataError, match=r"^(images|epsilon) must .* got (none|nan)$"):
        whitening.cached_zca(images, epsilon)
    assert capsys.readouterr().err == "" and not cache.exists()


def damaged(file):
    """Contents that are not what was written there."""
    content = file.read_bytes()
    yield b""
    yield content[:-1]
    yield content[: len(content) // 2]
    yield content[:200] + bytes([content[200] ^ 1]) + content[201:]
    for mean, matrix in (
        (np.zeros(18), np.zeros((18, 18), np.float32)),
        (np.zeros(17, np.float32), np.zeros((17, 17), np.float32)),
        (np.array(["x"] * 18, object), np.zeros((18, 18), np.float32)),
    ):
        with open(file, "wb") as opened:
            np.savez(opened, mean=mean, matrix=matrix)
        yield file.read_bytes()
    with open(file, "wb") as opened:
        np.savez(opened, other=np.zeros(3))
    yield file.read_bytes()


def test_a_damaged_file_is_made_anew(fits, cache):
    first = whiten(dataset())
    (file,) = (cache / "zca").iterdir()
    good = file.read_bytes()
    for times, content in enumerate(damaged(file), 2):
        file.write_bytes(content)
        same(whiten(dataset()), first)
        assert len(fits) == times
        assert np.load(file)["matrix"].shape == (18, 18)
        file.write_bytes(good)
    assert list((cache / "zca").iterdir()) == [file]


def test_a_cache_that_cannot_be_written_is_said_and_done_without(cache, capsys, monkeypatch):
    (cache.parent / "cache").write_bytes(b"")
    first = whiten(dataset())
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and said[1].startswith(f"the whitening cannot be kept in {cache}/zca/")
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    same(whiten(dataset()), first)
    assert capsys.readouterr().err == ""


def test_a_write_that_fails_leaves_nothing(cache, capsys, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    whiten(dataset())
    assert "(No space left on device)" in capsys.readouterr().err
    assert list((cache / "zca").iterdir()) == []


def test_the_class_says_what_it_is():
    assert repr(ZCA(np.zeros(2), np.eye(2))) == "ZCA()"
