"""Figures: files that other programs can read, with everything in them that is to be seen."""

from __future__ import annotations

import struct
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from embstore.batching import Sweep, figures
from embstore.batching.timings import BatchTiming


@pytest.fixture
def measured() -> Sweep:
    """A sweep whose best sizes are 8 (balanced), 32 (throughput), and 64 within 100 ms."""
    figures = ((1, 10.0, 10), (8, 3.15, 30), (32, 3.0, 95), (64, 3.0, 99), (256, 3.1, 700))
    timings = tuple(
        BatchTiming(size, 1000, (seconds, 1.2 * seconds), 9, p95, p95 / 2, p95, p95)
        for size, seconds, p95 in figures
    )
    return Sweep("a $strange_model^", "cpu", {"python": "3"}, timings)


class TestSweep:
    def test_png_is_wide_enough_for_print(self, measured: Sweep, tmp_path: Path) -> None:
        measured.plot(tmp_path / "a.png")
        data = (tmp_path / "a.png").read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", data[16:24])
        assert (width, height) == (1200, 1280)
        assert [path.name for path in tmp_path.iterdir()] == ["a.png"]

    def test_svg_has_what_is_to_be_seen(self, measured: Sweep, tmp_path: Path) -> None:
        measured.plot(tmp_path / "a.SVG")
        svg = (tmp_path / "a.SVG").read_text()
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        # The letters are outlines; what they spell is in comments.
        for text in (
            "Throughput, texts/s (band: all rounds)",
            "Latency of a batch, ms",
            "95th percentile",
            "budget, 100 ms",
            "32: throughput",
            "64: latency",
            "8: balanced",
            "a $strange_model^ on cpu",
        ):
            assert f"<!-- {text} -->" in svg

    def test_marks_what_is_asked_for(self, measured: Sweep) -> None:
        svg = figures.to_svg(measured.figure(["throughput"]))
        assert "<!-- 32: throughput -->" in svg
        assert "balanced" not in svg
        assert "budget" not in svg
        svg = figures.to_svg(measured.figure(["latency"], budget_ms=1))
        assert "<!-- budget, 1 ms -->" in svg
        assert "recommended" not in svg

    def test_one_goal_for_several_uses_is_one_mark(self, measured: Sweep) -> None:
        one = Sweep("m", None, {}, measured.timings[:1])
        assert "<!-- 1: throughput, latency, balanced -->" in figures.to_svg(one.figure())


def test_the_same_figure_gives_the_same_bytes(measured: Sweep, tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "1.svg", "2.svg"):
        measured.plot(tmp_path / name)
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    assert (tmp_path / "1.svg").read_bytes() == (tmp_path / "2.svg").read_bytes()


def test_settings_and_other_figures_are_left_alone(measured: Sweep) -> None:
    before = dict(mpl.rcParams)
    figures.to_svg(measured.figure())
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", ["a.jpg", "a", "png"])
def test_other_suffixes_are_refused(measured: Sweep, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"\.png or \.svg"):
        measured.plot(tmp_path / name)
    assert not list(tmp_path.iterdir())
