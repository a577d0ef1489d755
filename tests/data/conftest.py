import pooch
import pytest

from minivat.data import cifar10, download, mnist, svhn


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache; no MINIVAT_DATA, no mirrors and no proxies: nothing of the user's matters."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(pooch, "os_cache", lambda project: folder)
    for module in (mnist, cifar10, svhn):
        monkeypatch.setattr(module, "MIRRORS", ())
    monkeypatch.setattr(download, "PATIENCE", 0.5)
    monkeypatch.delenv("MINIVAT_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    return folder
