"""The picture of hit rates: over the stream on the left, over the size of the tier on the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from embstore.batching import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CEILING: Any = {"color": figures.GREY, "linestyle": "--", "linewidth": 1.5}


def draw(
    ends: Sequence[int],
    over_time: Sequence[tuple[int, Sequence[float]]],
    repeats: Sequence[float],
    over_size: Sequence[tuple[int, float]],
    ceiling: float,
) -> Figure:
    """Draw hit rates, all from 0 to 1.

    Args:
        ends: texts up to the end of each window.
        over_time: sizes, each with the hit rate in each window.
        repeats: share of repeats in each window.
        over_size: sizes, each with the hit rate over the whole stream.
        ceiling: share of repeats in the whole stream.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    with figures.style():
        figure = figures.new_figure(height=3.7)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for number, (_, rates) in enumerate(over_time):
            left.plot(ends, rates, color=_colour(number))
        left.plot(ends, repeats, **_CEILING)
        left.set_ylim(0, 1)
        left.set_xlim(0, ends[-1])
        left.yaxis.set_major_formatter(lambda rate, _: f"{rate:.0%}")
        left.xaxis.set_major_formatter(lambda texts, _: f"{texts:,.0f}")
        left.locator_params(axis="x", nbins=3)
        left.set_title("Hit rate over the stream")
        left.set_xlabel("texts")
        _draw_over_size(right, over_size, ceiling)
    return figure


def _draw_over_size(axes: Axes, over_size: Sequence[tuple[int, float]], ceiling: float) -> None:
    axes.axhline(ceiling, **_CEILING)
    sizes, rates = zip(*over_size, strict=True)
    axes.plot(sizes, rates, color=figures.GREY, linewidth=1)
    for number, (size, rate) in enumerate(over_size):
        axes.plot(size, rate, **figures.line(number), markersize=9)
        axes.annotate(f"{size:,}", (size, rate), (7, -13), textcoords="offset points")
    axes.annotate(
        "share of repeats",
        (0, ceiling),
        (4, 4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        color=figures.GREY,
    )
    axes.set_xscale("log")
    axes.set_xlim(sizes[0] / 2, sizes[-1] * 8)  # room for the last label
    axes.set_xticks([])
    axes.minorticks_off()
    axes.set_title("By entries kept")
    axes.set_xlabel("entries, log scale")


def _colour(number: int) -> str:
    return figures.COLOURS[number % len(figures.COLOURS)]
