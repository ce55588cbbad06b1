"""Bars of seconds on a log axis: what several ways to the same vectors take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from embstore.batching import figures
from embstore.batching.formats import format_factor, format_seconds
from embstore.batching.phases import Phase

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(panels: Mapping[str, Sequence[Phase]]) -> Figure:
    """A panel for each title, a bar for each phase; speed-ups are those over the panel's first.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    medians = [phase.median for phases in panels.values() for phase in phases]
    count = max(map(len, panels.values()))
    with figures.style():
        figure = figures.new_figure(height=0.7 + (0.5 + 0.33 * count) * len(panels))
        every = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for axes, (title, phases) in zip(every, panels.items(), strict=True):
            drawn = axes.barh(
                [phase.name for phase in phases],
                [phase.median for phase in phases],
                color=figures.COLOURS[: len(phases)],
                height=0.74,
            )
            axes.bar_label(drawn, [_label(phase, phases[0]) for phase in phases], padding=4)
            axes.set_title(title)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
            axes.grid(visible=False)  # lines through the labels; the figures are written out
            axes.invert_yaxis()
            axes.tick_params(axis="y", length=0)
        # The shortest bar is to be seen, and beyond the longest there is room for its label.
        every[0].set_xlim(min(medians) / 3, max(medians) * (max(medians) / min(medians)) ** 0.5)
        every[-1].set_xlabel("seconds, log scale")
    return figure


def _label(phase: Phase, first: Phase) -> str:
    took = format_seconds(phase.median)
    return took if phase is first else f"{took}, {format_factor(phase.speedup(first))}"
