"""The look that all figures share, and how they become files.

Figures are made of matplotlib's objects alone: no pyplot, no window, no state that other figures
in the process would see.

    with figures.style():
        figure = figures.new_figure(height=3.5)
        axes = figure.subplots()
        axes.plot([1, 2], [3, 4], **figures.line(0), label="first")
    figures.save(figure, "out.svg")
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embstore.files import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)
"""Okabe and Ito's colours, which colour-blind readers tell apart (their yellow is too pale for
lines on white)."""
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#595959"
"""For what is not data: reference lines and notes; 7:1 against white."""

_WIDTH = 6.0
# Any: the keys' type differs between versions of matplotlib.
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    # On 6 inches: 11 px high in a picture 430 px wide.
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "lines.linewidth": 2.0,
    "lines.markersize": 6.5,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "figure.facecolor": "white",
}
# Letters as outlines: they look the same on a machine without the font.
_SAVING: Any = {"svg.fonttype": "path", "svg.hashsalt": "embstore"}


def line(number: int) -> dict[str, Any]:
    """Arguments for the ``number``-th line of a plot (from 0): its colour and its marker."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.8,
    }


@contextmanager
def style() -> Iterator[None]:
    """What is drawn inside gets the shared look; matplotlib's settings are as before afterwards.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def require_matplotlib() -> None:
    """Find out before the work is done that no figure could be drawn.

    Raises:
        ImportError: if matplotlib is not installed; it names the extra.
    """
    if find_spec("matplotlib") is None:
        raise ImportError("figures need an extra: pip install 'embstore[bench]'")


def new_figure(height: float, width: float = _WIDTH) -> Figure:
    """An empty figure, in inches, that makes room for its labels; to be called in :func:`style`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG (1200 pixels wide) or SVG, by the path's suffix, whole or not at all.

    The same figure gives the same bytes.

    Raises:
        ValueError: if the suffix is neither .png nor .svg.
        OSError: if the file cannot be written.
    """
    check_suffix(path)
    if Path(path).suffix.lower() == ".svg":
        data = to_svg(figure).encode()
    else:
        data = _render(figure, "png", dpi=200, metadata={"Software": None})
    with written_whole(path) as file:
        file.write(data)


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Find out before the work is done that a figure could not be saved under this name.

    Raises:
        ValueError: if the suffix is neither .png nor .svg.
    """
    if Path(path).suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"{path}: figures are saved as .png or .svg")


def to_svg(figure: Figure) -> str:
    """The figure as an SVG document; the same figure gives the same text."""
    nothing = dict.fromkeys(("Date", "Creator"))
    return _render(figure, "svg", metadata=nothing).decode()


def _render(figure: Figure, file_format: str, **how: Any) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context(_SAVING):
        figure.savefig(buffer, format=file_format, **how)
    return buffer.getvalue()
