"""Clocks: sides that take turns, calls that are timed one by one, and what memory a process has."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmarks.growth.apart import Figures

_STATUS = Path("/proc/self/status")


def seconds_of(function: Callable[[], object]) -> float:
    """What a call took; what it returns is freed before the clock is read."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def in_turns(
    sides: Mapping[str, Callable[[int], object]], *, items: int, rounds: int, warmup: int = 2
) -> Figures:
    """Median seconds per item of each side; they take turns, as machines drift.

    Args:
        sides: by name; each gets the number of the round.
        items: texts that a side goes through in a round.
        rounds: number of rounds that count.
        warmup: rounds before these: memory touched for the first time is dear.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    gc.collect()
    for number in range(warmup + rounds):
        for name, side in sides.items():
            taken[name].append(seconds_of(partial(side, number)))
    return {name: statistics.median(all_[warmup:]) / items for name, all_ in taken.items()}


class Calls:
    """Wall and processor time of calls, one by one: a pause is seen, and whether it was spent
    working or waiting (for the disk, for a lock)."""

    def __init__(self) -> None:
        self._taken: list[tuple[float, float, int]] = []

    def time(self, function: Callable[[], object], items: int) -> None:
        """Make a call that goes through so many items."""
        processor = time.process_time()
        wall = seconds_of(function)
        self._taken.append((wall, time.process_time() - processor, items))

    def figures(self, prefix: str) -> Figures:
        """Per item: median (of calls that were full) and mean. Per call: the slowest, and the
        processor time in it. Nothing if there was no call."""
        if not self._taken:
            return {}
        full = max(items for *_, items in self._taken)
        slowest = max(self._taken)
        walls = [wall for wall, *_ in self._taken]
        return {
            f"{prefix}_median": statistics.median(
                wall / items for wall, _, items in self._taken if items == full
            ),
            f"{prefix}_mean": sum(walls) / sum(items for *_, items in self._taken),
            f"{prefix}_p99": sorted(walls)[int(0.99 * len(walls))],
            f"{prefix}_slowest": slowest[0],
            f"{prefix}_slowest_processor": slowest[1],
            f"{prefix}_calls": len(walls),
        }


def memory(prefix: str = "") -> Figures:
    """Resident memory of this process in bytes: its own, and pages of files it has mapped, which
    it shares; and how many files it has open. Linux only; elsewhere nothing."""
    if not _STATUS.exists():
        return {}
    fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return {
        f"{prefix}anonymous": int(fields["RssAnon"].split()[0]) * 1024,
        f"{prefix}mapped": int(fields["RssFile"].split()[0]) * 1024,
        f"{prefix}descriptors": len(list(Path("/proc/self/fd").iterdir())),
    }
