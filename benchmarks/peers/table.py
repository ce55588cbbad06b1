"""Markdown tables: for each size the medians, and the ratios to embstore."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.measures import MEASURES, Measure
from benchmarks.peers.racing import Measured
from benchmarks.peers.report import Report

_FACTORS = {"µs": 1e6, "s": 1.0, "x": 1.0}


def shown(measure: Measure, value: float) -> str:
    """A median, in the measure's unit; of texts/s what it is given are seconds a text."""
    if measure.unit == "texts/s":
        return f"{float(f'{1 / value:.3g}'):,.0f}"
    number = f"{value * _FACTORS[measure.unit]:.3g}"
    return f"{float(number):,.0f}" if "e" in number else number


class Cells:
    """The figures of one size, by peer and measure."""

    def __init__(self, report: Report, dim: int, count: int) -> None:
        self._measured = [
            each for each in report.measured if (each.dim, each.count) == (dim, count)
        ]
        self.skipped = {
            each.peer: each.reason
            for each in report.skipped
            if (each.dim, each.count) in ((dim, count), (0, 0))
        }

    def races(self, measure: Measure) -> list[Measured]:
        """The races of one measure."""
        return [each for each in self._measured if each.measure == measure.name]

    def figures(self, side: str, measure: Measure) -> tuple[float, float] | None:
        """Median of a side and its ratio to embstore, of all races that it ran; None if none."""
        side = measure.floor if side == "floor" and measure.floor else side
        races = [each for each in self.races(measure) if side in each.rounds]
        if not races:
            return None
        return (
            statistics.median(each.result.median(side) for each in races),
            statistics.median(each.result.ratio(side, "embstore") for each in races),
        )


def tables(report: Report) -> Iterator[str]:
    """The lines of everything: environment, tables, footnotes."""
    yield from report.environment
    for dim, count in report.sizes():
        cells = Cells(report, dim, count)
        yield from _table(cells, f"{count:,} vectors of {dim}: medians", ratio=False)
        yield from _table(
            cells,
            f"{count:,} vectors of {dim}: times embstore's (**bold**: less than embstore's)",
            ratio=True,
        )
        for number, (peer, reason) in enumerate(sorted(cells.skipped.items()), 1):
            yield f"[{number}] {peer}: {reason}  "
    yield ""
    yield "How each peer is used ('-': it ends with its process, or there is no such floor):"
    yield ""
    names = {each.peer for each in report.measured}
    yield from (f"- {entry.name}: {entry.note}" for entry in PEERS if entry.name in names)
    yield "- floor: xxh3_128, a dict, one gather from a matrix; new process: only imports numpy"


def _table(cells: Cells, title: str, *, ratio: bool) -> Iterator[str]:
    """One table; a side that was skipped has the number of its footnote in each cell."""
    notes = {peer: f"[{number}]" for number, peer in enumerate(sorted(cells.skipped), 1)}
    sides = ["embstore", "floor", *(entry.name for entry in PEERS)]
    head = ["", *(f"{each.title}{'' if ratio else _unit(each)}" for each in MEASURES)]
    rows = []
    for side in sides:
        found = [cells.figures(side, measure) for measure in MEASURES]
        if side in notes or any(found):
            empty = notes.get(side, "-")
            rows.append([side, *_row(found, empty, ratio=ratio)])
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    yield from ("", f"### {title}", "")
    for row in [head, ["-" * width for width in widths], *rows]:
        yield "| " + " | ".join(map(str.ljust, row, widths)) + " |"
    yield ""


def _unit(measure: Measure) -> str:
    return "" if measure.unit == "x" else f", {measure.unit}"


def _row(found: list[tuple[float, float] | None], empty: str, *, ratio: bool) -> Iterator[str]:
    for measure, figures in zip(MEASURES, found, strict=True):
        if figures is None:
            yield empty
        elif not ratio:
            yield shown(measure, figures[0])
        else:
            times = f"{figures[1]:.3g}"
            times = f"{float(times):,.0f}" if "e" in times else times
            yield f"**{times}**" if figures[1] < 0.995 else times
