import sys

import pytest

from minivat.data import DataError, load, mnist
from minivat.data.dataset import Unavailable
from minivat.data.locate import locate
from tests.mnist_files import write_mnist


@pytest.fixture
def places(tmp_path, cache, monkeypatch):
    """All three places, each with MNIST's files."""
    monkeypatch.setenv("MINIVAT_DATA", str(tmp_path / "variable"))
    for place in (tmp_path / "given", tmp_path / "variable", cache):
        write_mnist(place / "mnist")
    return tmp_path


def test_the_given_folder_comes_first(places):
    assert locate("mnist", mnist.FILES, places / "given") == places / "given" / "mnist"


def test_the_variable_comes_second(places):
    assert locate("mnist", mnist.FILES) == places / "variable" / "mnist"


@pytest.mark.parametrize("value", ["", "/no/such/folder", None])
def test_the_cache_comes_third(places, cache, value, monkeypatch):
    if value is None:
        monkeypatch.delenv("MINIVAT_DATA")
    else:
        monkeypatch.setenv("MINIVAT_DATA", value)
    assert locate("mnist", mnist.FILES) == cache / "mnist"


def test_nothing_found():
    assert locate("mnist", mnist.FILES) is None


def test_a_folder_may_hold_the_files_themselves(places, monkeypatch):
    given, variable = places / "given" / "mnist", places / "variable" / "mnist"
    monkeypatch.setenv("MINIVAT_DATA", str(variable))
    assert locate("mnist", mnist.FILES, given) == given
    assert locate("mnist", mnist.FILES) == variable


def test_the_home_folder_may_be_abbreviated(places, monkeypatch):
    monkeypatch.setenv("HOME", str(places))
    assert locate("mnist", mnist.FILES, "~/given") == places / "given" / "mnist"


@pytest.mark.parametrize("mode", ["auto", "mnist"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_given_folder_without_the_files_is_an_error(places, mode, exists):
    """Though the other places have them."""
    folder = places / "empty"
    if exists:
        folder.mkdir()
    with pytest.raises(DataError, match=rf"data_dir must hold mnist/ or train-im.* got {folder}"):
        load(mode, folder)


@pytest.mark.parametrize("mode", ["auto", "mnist"])
@pytest.mark.parametrize("given", [True, False])
def test_a_folder_with_some_of_the_files_is_an_error(places, mode, given):
    place = places / ("given" if given else "variable")
    (place / "mnist" / mnist.TEST_LABELS).unlink()
    with pytest.raises(DataError, match=rf"{place / 'mnist'}: lacks {mnist.TEST_LABELS}$"):
        load(mode, place if given else None)


def test_a_cache_with_some_of_the_files_is_left_to_a_download(cache):
    write_mnist(cache / "mnist")
    (cache / "mnist" / mnist.TEST_LABELS).unlink()
    assert locate("mnist", mnist.FILES) is None


def test_without_pooch_only_the_cache_is_out_of_reach(places, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert load("mnist").name == "mnist"
    monkeypatch.delenv("MINIVAT_DATA")
    with pytest.raises(Unavailable, match="pip install pooch"):
        locate("mnist", mnist.FILES)
