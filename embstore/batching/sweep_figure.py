"""The picture of a sweep: throughput above, latency below, both over batch size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from embstore.batching import figures
from embstore.batching.recommend import Recommendation
from embstore.batching.timings import BatchTiming

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(
    timings: Sequence[BatchTiming],
    subject: str,
    recommendations: Iterable[Recommendation],
    budget_ms: float | None,
) -> Figure:
    """Draw what was measured of ``subject``, the sizes recommended, and the budget if there is one.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    with figures.style():
        figure = figures.new_figure(height=6.4)
        above, below = figure.subplots(2, sharex=True)
        _throughput(above, timings)
        _latency(below, timings, budget_ms)
        sizes = [timing.batch_size for timing in timings]
        below.set_xscale("log", base=2)
        below.set_xticks(sizes, [str(size) for size in sizes])
        below.minorticks_off()
        below.set_xlabel("batch size, texts")
        figure.supxlabel(subject, fontsize="small", color=figures.GREY, parse_math=False)
        marked: dict[int, list[Recommendation]] = {}
        for found in recommendations:
            marked.setdefault(found.batch_size, []).append(found)
        for shape, (size, best) in zip("sDo", sorted(marked.items()), strict=False):
            label = f"{size}: {', '.join(found.goal for found in best)}"
            _mark(above, size, best[0].throughput, shape, label)
            _mark(below, size, best[0].p95_ms, shape)
        if marked:
            above.legend(loc="lower right", title="recommended", markerscale=0.6)
    return figure


def _throughput(axes: Axes, timings: Sequence[BatchTiming]) -> None:
    middle = [timing.throughput for timing in timings]
    slowest = [timing.texts / max(timing.round_seconds) for timing in timings]
    fastest = [timing.texts / min(timing.round_seconds) for timing in timings]
    sizes = [timing.batch_size for timing in timings]
    axes.fill_between(sizes, slowest, fastest, color=figures.BLUE, alpha=0.2, linewidth=0)
    axes.plot(sizes, middle, **figures.line(0))
    axes.set_ylim(bottom=0)
    axes.set_title("Throughput, texts/s (band: all rounds)")


def _latency(axes: Axes, timings: Sequence[BatchTiming], budget_ms: float | None) -> None:
    from matplotlib.ticker import LogLocator

    sizes = [timing.batch_size for timing in timings]
    for number, (name, label) in enumerate((("p95_ms", "95th percentile"), ("p50_ms", "median"))):
        values = [getattr(timing, name) for timing in timings]
        axes.plot(sizes, values, **figures.line(number + 1), label=label)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.minorticks_off()
    axes.set_title("Latency of a batch, ms", pad=26)
    if budget_ms is not None:
        note = f"budget, {budget_ms:g} ms"
        axes.axhline(budget_ms, color=figures.GREY, linestyle="--", linewidth=1.2, label=note)
    # Between title and plot, as a slow small batch may be anywhere in the plot.
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1, ncols=3)


def _mark(axes: Axes, size: int, height: float, shape: str, label: str | None = None) -> None:
    axes.axvline(size, color=figures.GREY, linestyle=":", linewidth=1.2)
    axes.plot(
        size,
        height,
        linestyle="none",
        marker=shape,
        markersize=14,
        markerfacecolor="none",
        markeredgecolor="black",
        markeredgewidth=1.8,
        label=label,
    )
