import pooch
import pytest

from minivat.data import download, mnist


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache; no MINIVAT_DATA, no mirrors and no proxies: nothing of the user's matters."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(pooch, "os_cache", lambda project: folder)
    monkeypatch.setattr(mnist, "MIRRORS", ())
    monkeypatch.setattr(download, "PATIENCE", 0.5)
    monkeypatch.delenv("MINIVAT_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    return folder
