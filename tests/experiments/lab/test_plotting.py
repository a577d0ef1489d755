"""Colours of methods, and learning curves: a PNG of the right size, whole or not there."""

from __future__ import annotations

import errno
import itertools
import struct

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from experiments.lab import plotting, runs
from experiments.lab.methods import METHODS
from experiments.lab.plotting import Curve


@pytest.fixture
def figures(monkeypatch):
    """The figures that are written."""
    written = []
    savefig = Figure.savefig

    def keep(figure, *args, **options):
        written.append(figure)
        return savefig(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return written


def rows(count, slope=1.0):
    return [{"update": i, "error": 5 / (i + 1), "r_vadv": slope * i} for i in range(count)]


# Colours


def luminance(colour):
    """Relative luminance of sRGB (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


def test_every_method_has_its_own_colour():
    assert {method: plotting.colour(method) for method in METHODS} == plotting.COLOURS
    assert len(set(plotting.COLOURS.values())) == len(METHODS)
    assert all(luminance(colour) < 0.5 for colour in plotting.COLOURS.values())  # on white


def test_methods_of_one_figure_differ_without_colour_too():
    for pair in itertools.combinations(("mle", "rpt", "vat-exact"), 2):
        dark, light = sorted(luminance(plotting.colour(method)) for method in pair)
        assert (light + 0.05) / (dark + 0.05) > 2
    both = [luminance(plotting.colour(f"vat-{name}")) for name in ("exact", "finite-difference")]
    assert both[1] > 2 * both[0]


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match=r"^method must be one of mle, .*, got 'vat'$"):
        plotting.colour("vat")


# Learning curves


@pytest.mark.parametrize("count", [1, 2, 100])
def test_curves(tmp_path, count):
    curve = Curve("vat-exact", rows(count))
    plotting.curves(tmp_path / "curves.png", {"a": curve}, "mnist: VAT, exact", "test error (%)")
    content = (tmp_path / "curves.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and content[-8:-4] == b"IEND"
    assert struct.unpack(">II", content[16:24]) == (1350, 540)


def test_a_method_has_its_colour_and_its_runs_different_lines(tmp_path, figures):
    by_name = {
        "VAT, seed 1": Curve("vat-exact", rows(3)),
        "labels alone": Curve("mle", rows(3, 2.0)),
        "VAT, seed 2": Curve("vat-exact", rows(3, 3.0)),
    }
    plotting.curves(tmp_path / "curves.png", by_name, "two seeds", "error on 10 images (%)")
    [figure] = figures
    assert figure.get_suptitle() == "two seeds"
    error, r_vadv = figure.axes
    assert error.get_ylabel() == "error on 10 images (%)"
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(by_name)
    for axes in (error, r_vadv):
        lines = axes.get_lines()
        colours = [plotting.COLOURS[name] for name in ("vat-exact", "mle", "vat-exact")]
        assert [line.get_color() for line in lines] == colours
        assert [line.get_linestyle() for line in lines] == ["-", "-", "--"]
    assert [line.get_ydata()[1] for line in error.get_lines()] == [2.5, 2.5, 2.5]
    assert [line.get_ydata()[1] for line in r_vadv.get_lines()] == [1.0, 2.0, 3.0]


def test_many_runs_and_long_names_fit_the_figure(tmp_path, figures):
    by_name = {f"{METHODS[name].title}, seed 10": Curve(name, rows(3)) for name in METHODS}
    label = "error on 10,000 validation images of seed 1 (%)"
    title = "cifar10, 4000 labels, conv-large x 0.25, augmented: VAT, finite differences, seed 1"
    plotting.curves(tmp_path / "curves.png", by_name, title, label)
    [figure] = figures
    figure.set_dpi(150)  # as it was written
    width, height = figure.bbox.size
    for part in (*figure.axes, *figure.legends, figure._suptitle):
        box = part.get_tightbbox()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
    [legend] = figure.legends
    below = [axes.get_tightbbox().y0 for axes in figure.axes]
    assert legend.get_tightbbox().y1 <= min(below)


def test_the_highest_point_is_below_the_upper_edge(tmp_path, figures):
    flat = [{"update": i, "error": 5.0, "r_vadv": 0.3 + 0.001 * i} for i in (50, 100)]
    plotting.curves(tmp_path / "curves.png", {"a": Curve("mle", flat)}, "title", "error")
    for axes, highest in zip(figures[0].axes, (5.0, 0.4), strict=True):
        assert axes.get_ylim() == (0, pytest.approx(1.05 * highest))
        assert axes.get_xlim() == (0, pytest.approx(105))


def test_one_run_needs_no_legend(tmp_path, figures):
    plotting.curves(tmp_path / "curves.png", {"a": Curve("mle", rows(2))}, "title", "error")
    assert figures[0].legends == []


def test_a_full_disk(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs.os, "fsync", full)
    with pytest.raises(runs.RunFailed, match=r"cannot write .*curves\.png: No space left"):
        plotting.curves(tmp_path / "curves.png", {"a": Curve("mle", rows(1))}, "title", "error")
    assert not list(tmp_path.iterdir())
