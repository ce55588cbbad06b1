"""Sides that take turns, outside pytest; and how many rounds are worth their time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.race import Race, Result, Side

SECONDS = 3.0
"""What the rounds of one side should take at most, unless the fewest rounds take longer."""


@dataclass(frozen=True)
class Measured:
    """One comparison at one size.

    Attributes:
        measure: its name in ``measures.py``.
        dim: numbers in a vector.
        count: vectors stored.
        peer: the side it is about.
        items: texts, rows, processes or bytes in a round.
        rounds: seconds (or bytes) of each side, round by round.
    """

    measure: str
    dim: int
    count: int
    peer: str
    items: int
    rounds: Mapping[str, list[float]]

    @property
    def result(self) -> Result:
        """Its medians and ratios."""
        return Result(self.rounds, self.items, "")


class _Turns:
    """What :class:`Race` wants of pytest-benchmark: rounds."""

    def pedantic(
        self,
        function: Callable[..., object],
        setup: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]],
        rounds: int,
        warmup_rounds: int,
    ) -> None:
        for _ in range(warmup_rounds + rounds):
            arguments, named = setup()
            function(*arguments, **named)


def race(sides: Mapping[str, Side], *, items: int, rounds: int, warmup: int) -> Result:
    """:class:`Race`, of which embstore's is one side."""
    return Race(_Turns())(sides, items=items, rounds=rounds, warmup=warmup)


def timed(function: Callable[[], object]) -> float:
    """Seconds of a call; what it returns is freed before the clock is read."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def rounds_for(seconds: float, fewest: int, most: int) -> int:
    """How many rounds to make, if one takes a side so long."""
    return max(fewest, min(most, int(SECONDS / max(seconds, 1e-9))))
