"""The figure of a run: a PNG of the right size, whole or not there."""

from __future__ import annotations

import errno
import struct

import pytest

from experiments import plots
from experiments.lab import runs


@pytest.mark.parametrize("count", [1, 2, 100])
def test_curves(tmp_path, count):
    rows = [{"update": i, "error": 5 / (i + 1), "r_vadv": 0.3} for i in range(count)]
    plots.curves(tmp_path / "curves.png", {"a": rows}, "mnist: VAT, exact", "test error (%)")
    content = (tmp_path / "curves.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and content[-8:-4] == b"IEND"
    assert struct.unpack(">II", content[16:24]) == (1350, 540)


def test_a_full_disk(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs.os, "fsync", full)
    rows = [{"update": 1, "error": 1.0, "r_vadv": 0.3}]
    with pytest.raises(runs.RunFailed, match=r"cannot write .*curves\.png: No space left"):
        plots.curves(tmp_path / "curves.png", {"a": rows}, "title", "error")
    assert not list(tmp_path.iterdir())
