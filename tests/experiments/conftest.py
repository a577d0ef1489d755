"""What the tests of the command lines share."""

from __future__ import annotations

import pytest


@pytest.fixture
def _away_from_here(tmp_path, monkeypatch):
    """An empty working folder, and the device that the arguments name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINIVAT_DEVICE", raising=False)
