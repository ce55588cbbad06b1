"""Races between embstore and what it is compared with, and the table of ratios they end in.

Machines drift: the same code takes half as long again a minute later. So the sides of a comparison
take turns, round by round, and a ratio is the median of the rounds' ratios. pytest-benchmark
measures embstore's own side in the same rounds.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Side = Callable[..., object]


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        path: what was measured.
        figure: its median.
        against: what it was compared with, and that one's median.
        ratio: the median of the rounds' ratios.
        bar: what the design asks for.
        met: whether it is met; None where the design asks for nothing.
    """

    path: str
    figure: str
    against: str = ""
    ratio: str = ""
    bar: str = ""
    met: bool | None = None


LINES: list[Line] = []


def as_markdown(lines: list[Line]) -> list[str]:
    """The lines as a table."""
    verdicts = {True: "met", False: "missed", None: ""}
    cells = [
        [line.path, line.figure, line.against, line.ratio, line.bar, verdicts[line.met]]
        for line in lines
    ]
    head = ["path", "median", "against", "ratio", "bar", "verdict"]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    rows = [head, ["-" * width for width in widths], *cells]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]


@dataclass(frozen=True)
class Result:
    """What a race took.

    Attributes:
        seconds: of each side, in each round.
        items: texts (or rows, or calls) in a round.
        unit: what these are.
    """

    seconds: Mapping[str, list[float]]
    items: int
    unit: str

    def median(self, side: str) -> float:
        """Seconds of the middle round, per item."""
        return statistics.median(self.seconds[side]) / self.items

    def ratio(self, side: str, against: str) -> float:
        """The median of the rounds' ratios: a slow minute slows both sides of a round."""
        pairs = zip(self.seconds[side], self.seconds[against], strict=True)
        return statistics.median(one / other for one, other in pairs)

    def report(
        self,
        path: str,
        *,
        side: str = "embstore",
        against: str | None = None,
        ratio: float | None = None,
        seconds: float | None = None,
        bar: str = "",
    ) -> None:
        """Add a line to the table.

        Args:
            path: what was measured.
            side: the side of the race that the line is about.
            against: the side it is compared with.
            ratio: the design's bar for the ratio.
            seconds: the design's bar for the median, seconds per item.
            bar: how the bar is written, if that is not plain from the number.
        """
        met = None
        if ratio is not None and against is not None:
            met, bar = self.ratio(side, against) <= ratio, bar or f"ratio ≤ {ratio:g}"
        elif seconds is not None:
            met, bar = self.median(side) <= seconds, bar or f"≤ {_duration(seconds)}"
        LINES.append(
            Line(
                path,
                f"{_duration(self.median(side))} a {self.unit}",
                "" if against is None else f"{against}: {_duration(self.median(against))}",
                "" if against is None else f"{self.ratio(side, against):.3g}",
                bar,
                met,
            )
        )


def _duration(seconds: float) -> str:
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if seconds * factor >= 0.3:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


class Race:
    """Runs the sides of one comparison in turns."""

    def __init__(self, benchmark: Any) -> None:
        self._benchmark = benchmark

    def __call__(
        self,
        sides: Mapping[str, Side],
        *,
        items: int,
        unit: str = "text",
        rounds: int,
        warmup: int = 2,
        inputs: Iterator[tuple[Any, ...]] | None = None,
    ) -> Result:
        """Run every side once a round; "embstore", the side pytest-benchmark sees, comes last.

        Args:
            sides: by name.
            items: texts (or rows, or calls) that a side goes through in a round.
            unit: what these are.
            rounds: number of rounds that count.
            warmup: rounds before these, that do not: memory touched for the first time is dear.
            inputs: the arguments of all sides, for each round its own; made outside the timing.
        """
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        made = inputs or itertools.repeat(())

        def run(name: str, arguments: tuple[Any, ...]) -> None:
            start = time.perf_counter()
            sides[name](*arguments)  # what it returns is freed before the clock is read
            seconds[name].append(time.perf_counter() - start)

        def others() -> tuple[tuple[Any, ...], dict[str, Any]]:
            arguments = next(made)
            for name in sides:
                if name != "embstore":
                    run(name, arguments)
            return ("embstore", arguments), {}

        gc.collect()
        self._benchmark.pedantic(run, setup=others, rounds=rounds, warmup_rounds=warmup)
        counted = min(rounds, len(seconds["embstore"]))  # one with --benchmark-disable
        return Result({name: taken[-counted:] for name, taken in seconds.items()}, items, unit)
