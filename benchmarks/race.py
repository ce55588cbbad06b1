"""Races between embstore and what it is compared with, and the table of ratios they end in.

Machines drift: the same code takes half as long again a minute later. So the sides of a comparison
take turns, round by round, and a ratio is the median of the rounds' ratios. pytest-benchmark
measures embstore's own side in the same rounds.

Bars in µs are held against the rounds in which the machine ran at its full speed. That is told by a
piece of work, always the same, before and after each round: nothing of what is measured.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Side = Callable[..., object]

_PATIENCE = 30
"""Seconds to wait for full speed before each race."""

_ENOUGH = 0.01
"""Share of the rounds, at full speed, that tell a figure. Where there are fewer, all rounds do."""

_DISTURBED = 1.25
"""Times its best pace, at either end of a round, from which the machine was not at full speed: of
two threads that share a core, each runs at 0.55 of it. Rounds must be short for this to tell: what
shares the core comes and goes within milliseconds."""


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        path: what was measured.
        figure: its median.
        against: what it was compared with, and that one's median.
        ratio: the median of the rounds' ratios.
        undisturbed: the median of the rounds at full speed, and how many these are.
        bar: what the design asks for.
        met: whether it is met; None where the design asks for nothing.
    """

    path: str
    figure: str
    against: str = ""
    ratio: str = ""
    undisturbed: str = ""
    bar: str = ""
    met: bool | None = None


LINES: list[Line] = []


def as_markdown(lines: list[Line]) -> list[str]:
    """The lines as a table."""
    verdicts = {True: "met", False: "missed", None: ""}
    cells = [[*dataclasses.astuple(line)[:-1], verdicts[line.met]] for line in lines]
    head = ["path", "median", "against", "ratio", "undisturbed", "bar", "verdict"]
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
        slowness: of the machine in each round, 1.0 at its full speed.
    """

    seconds: Mapping[str, list[float]]
    items: int
    unit: str
    slowness: list[float]

    def median(self, side: str) -> float:
        """Seconds of the middle round, per item."""
        return statistics.median(self.seconds[side]) / self.items

    def undisturbed(self, side: str) -> list[float]:
        """Seconds of the rounds at full speed, per item."""
        rounds = zip(self.seconds[side], self.slowness, strict=True)
        return [taken / self.items for taken, slowness in rounds if slowness < _DISTURBED]

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
            seconds: the design's bar for the median of the undisturbed rounds, or of all where
                there are hardly any, seconds per item.
            bar: how the bar is written, if that is not plain from the number.
        """
        met, calm, undisturbed = None, "", self.undisturbed(side)
        if ratio is not None and against is not None:
            met, bar = self.ratio(side, against) <= ratio, bar or f"ratio ≤ {ratio:g}"
        elif seconds is not None:
            rounds, judged = len(self.slowness), self.median(side)
            if len(undisturbed) >= max(3, rounds * _ENOUGH):
                judged = statistics.median(undisturbed)
                calm = f"{_duration(judged)} ({len(undisturbed) / rounds:.0%} of rounds)"
            met = judged <= seconds
            bar = bar or f"≤ {_duration(seconds)}"
        LINES.append(
            Line(
                path,
                f"{_duration(self.median(side))} a {self.unit}",
                "" if against is None else f"{against}: {_duration(self.median(against))}",
                "" if against is None else f"{self.ratio(side, against):.3g}",
                calm,
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
        paces: list[float] = []
        full = _wait_for_full_speed()
        made = inputs or itertools.repeat(())

        def run(name: str, arguments: tuple[Any, ...]) -> None:
            start = time.perf_counter()
            sides[name](*arguments)  # what it returns is freed before the clock is read
            seconds[name].append(time.perf_counter() - start)

        def others() -> tuple[tuple[Any, ...], dict[str, Any]]:
            paces.append(_pace())
            arguments = next(made)
            for name in sides:
                if name != "embstore":
                    run(name, arguments)
            paces.append(_pace())
            return ("embstore", arguments), {}

        gc.collect()
        self._benchmark.pedantic(run, setup=others, rounds=rounds, warmup_rounds=warmup)
        paces.append(_pace())
        counted = min(rounds, len(seconds["embstore"]))  # one with --benchmark-disable
        slowness = [max(around) / full for around in zip(paces[1::2], paces[2::2], strict=True)]
        counts = {name: taken[-counted:] for name, taken in seconds.items()}
        return Result(counts, items, unit, slowness[-counted:])


def _pace() -> float:
    """Seconds that a piece of work takes now: 0.1 ms at full speed."""
    start = time.perf_counter()
    sum(number & 7 for number in range(2000))
    return time.perf_counter() - start


def _wait_for_full_speed() -> float:
    """Wait half a minute at most for a moment at full speed; returns the pace that is."""
    full, end = _full_speed(), time.perf_counter() + _PATIENCE
    while time.perf_counter() < end:
        if statistics.median(_pace() for _ in range(1000)) < _DISTURBED * full:
            break
    return full


@functools.cache
def _full_speed() -> float:
    """The pace of this machine at its full speed: the best of three seconds."""
    end = time.perf_counter() + 3
    return min(iter(lambda: _pace() if time.perf_counter() < end else 0.0, 0.0))
