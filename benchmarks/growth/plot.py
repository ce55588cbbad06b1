"""The figures over the number of rows, on a logarithmic axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.growth.apart import Figures
from embstore.batching import figures as looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Panel:
    """A part of the picture.

    Attributes:
        title: what it shows, and in which unit.
        lines: figure by figure, each with its label.
        logarithmic: whether its height is too; else it begins at 0, where a slope shows best.
    """

    title: str
    lines: dict[str, str]
    logarithmic: bool = False


PANELS = [
    Panel(
        "10,000 texts a call, µs a text",
        {
            "hits": "the same again",
            "others": "others each time",
            "misses": "none stored",
            "floor": "floor, in memory",
        },
    ),
    Panel(
        "One text a call, µs",
        {
            "one_disk": "from disk",
            "one_memory": "from memory",
            "one_miss": "not stored",
            "one_floor": "floor",
        },
    ),
    Panel("Puts of 256, µs a row", {"put_median": "median", "put_mean": "mean"}),
    Panel(
        "Pauses, ms a call",
        {
            "put_slowest": "slowest put of 256",
            "put_first": "a process's first",
            "put_one_slowest": "slowest put of one",
            "put_one_median": "median put of one",
        },
        logarithmic=True,
    ),
    Panel(
        "A new process, ms",
        {"open": "opening, to the first text", "open_process": "the whole process"},
    ),
    Panel(
        "A process's first 10,000 texts, µs a text",
        {"first": "all stored", "first_after_deletions": "10 % deleted"},
    ),
    Panel(
        "Memory of a process, MB",
        {
            "anonymous": "a reader's own",
            "mapped": "mapped files",
            "writer_anonymous": "the writer's own",
            "before_anonymous": "before it opens",
        },
    ),
    Panel(
        "The whole store, s",
        {
            "compact_hundredth": "compact(), 1 % deleted",
            "compact_tenth": "compact(), 9 % deleted",
            "verify": "verify()",
        },
        logarithmic=True,
    ),
]


def draw(sizes: Sequence[Figures], subject: str) -> Figure:
    """Draw the figures of all sizes.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    with looks.style():
        figure = looks.new_figure(height=14, width=11)
        for axes, panel in zip(figure.subplots(4, 2, sharex=True).flat, PANELS, strict=True):
            _draw(axes, panel, sizes)
        figure.supxlabel(f"rows stored\n{subject}", fontsize="small", color=looks.GREY)
    return figure


def _draw(axes: Axes, panel: Panel, sizes: Sequence[Figures]) -> None:
    from matplotlib.ticker import LogLocator

    unit = panel.title.rpartition(", ")[2].split()[0]
    factor = {"µs": 1e6, "ms": 1e3, "s": 1.0, "MB": 1e-6}[unit]
    for number, (name, label) in enumerate(panel.lines.items()):
        measured = [each for each in sizes if name in each]
        rows = [each["rows"] for each in measured]
        axes.plot(
            rows, [each[name] * factor for each in measured], **looks.line(number), label=label
        )
    axes.set_xscale("log")
    ticks = [each["rows"] for each in sizes]
    axes.set_xticks(ticks, [_short(rows) for rows in ticks])
    axes.tick_params(labelbottom=True)
    if panel.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)
    axes.minorticks_off()
    axes.set_title(panel.title)
    axes.legend(fontsize="small")


def _short(rows: float) -> str:
    return f"{rows / 1e6:g}M" if rows >= 1e6 else f"{rows / 1e3:g}k"
