"""Finding rows: the digests' high halves, sorted, with their row numbers, whole batches at once.

A digest may stand in several rows (an older copy was damaged or deleted); the lowest that proves
sound is the one. The index only proposes: what it says is believed after the row itself was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embstore.backends.rows import Digests, Rows

RECENT = 8192
"""Rows that wait in a dict. Sorting them takes 0.2 ms, and one look-up in the dict 0.1 µs."""

_SHARE = 32
"""A run is merged with those before it that have up to so many times its rows. Merging takes 10 ns
a row, and each run more that a batch of 256 is looked up in, 0.1 µs for each text."""

_LARGEST = np.uint64(2**64 - 1)
_STEPS = 12
"""Entries in one bucket of a run that are looked at one by one. Where there are more, a text was
deleted and stored again that often, or the run is garbage: the rest is searched."""

_NEAR = np.arange(8)

Column = npt.NDArray[Any]
"""Unsigned or signed 64-bit or 32-bit integers."""


class Run:
    """The digests of a range of rows, sorted.

    Digests are evenly spread, so their leading bits nearly say where they stand: from the first of
    their bucket it is half a step on average. 0.013 µs a look-up in a million rows, where
    ``np.searchsorted`` takes 0.20 and a dict 0.45.

    Args:
        first: number of the first row.
        stop: number of the row behind the last.
        high: the high halves, in order, and the largest uint64 behind them.
        rows: their row numbers, those of equal halves in order; one more behind them, any.
        starts: where each bucket begins.
    """

    def __init__(self, first: int, stop: int, high: Column, rows: Column, starts: Column) -> None:
        self.first = first
        self.stop = stop
        self.high = high
        self.rows = rows
        self.starts = starts
        self._bits = 64 - (len(starts).bit_length() - 1)
        self._shift = np.uint64(self._bits)

    @property
    def entries(self) -> int:
        """How many digests it has: deleted rows have none."""
        return len(self.high) - 1

    def is_whole(self) -> bool:
        """Whether all of it can be read."""
        return True

    def find(self, high: Column) -> Rows:
        """The first row of each of (n,) halves, (n,); -1 where there is none."""
        place = self._places(high)
        return self._rows_at(place, self.high.take(place, mode="clip") == high)

    def has_none(self, high: Column) -> bool:
        """Whether none of (n,) halves is there, as far as one look tells: a third of the time of
        :meth:`find` for a batch that is to be written, where each call of numpy's counts."""
        place = self.starts.take((high >> self._shift).view(np.int64))
        near = self.high.take(place[:, None] + _NEAR, mode="clip")
        return not (near == high[:, None]).any() and bool((near[:, -1] > high).all())

    def after(self, high: Column, rows: Rows) -> Rows:
        """The first row of each of (n,) halves behind one that it may have, (n,)."""
        place = self._places(high)
        for _ in range(_STEPS):
            same = self.high.take(place, mode="clip") == high
            passed = np.flatnonzero(same & (self.rows.take(place, mode="clip") <= rows))
            if not len(passed):
                return self._rows_at(place, same)
            place[passed] += 1
        entries = self.high[:-1]
        for one in passed.tolist():
            end = int(entries.searchsorted(high[one], "right"))
            start = min(place.item(one), end)
            place[one] = start + int(self.rows[start:end].searchsorted(rows[one], "right"))
            same[one] = place[one] < end
        return self._rows_at(place, same)

    def _places(self, high: Column) -> Rows:
        # mode="clip" keeps garbage inside the arrays, and is quicker than a check that raises.
        place: Rows = self.starts.take((high >> self._shift).view(np.int64)).astype(np.int64)
        before = np.flatnonzero(self.high.take(place, mode="clip") < high)
        for _ in range(_STEPS):
            if not len(before):
                return place
            place[before] += 1
            before = before[self.high.take(place[before], mode="clip") < high[before]]
        place[before] = self.high[:-1].searchsorted(high[before])
        return place

    def _rows_at(self, place: Rows, same: npt.NDArray[np.bool_]) -> Rows:
        rows = self.rows.take(place, mode="clip").astype(np.int64)
        found: Rows = np.where(same & (rows >= self.first) & (rows < self.stop), rows, -1)
        return found

    def find_one(self, high: int) -> int:
        """:meth:`find` for one half, without numpy's cost of a call."""
        place = self.starts.item(high >> self._bits)
        entries = self.high
        last = min(place + _STEPS, len(entries) - 1)
        while place < last and entries.item(place) < high:
            place += 1
        if place == last < len(entries) - 1 and entries.item(place) < high:
            place = last = int(entries[:-1].searchsorted(np.uint64(high)))
        if place > last or entries.item(place) != high:
            return -1
        row: int = self.rows.item(place)
        return row if self.first <= row < self.stop else -1

    def part(self, part: int, parts: int) -> tuple[Column, Column]:
        """High halves and rows of one of so many shares of all there could be, a power of two."""
        ends = [0, self.entries]
        for end, share in enumerate((part, part + 1)):
            if 0 < share < parts:
                value = np.uint64(share * (2**64 // parts))
                ends[end] = int(np.searchsorted(self.high[:-1], value))
        here = slice(*ends)
        return self.high[here], self.rows[here]


def sort(first: int, stop: int, high: Column, rows: Rows) -> Run:
    """The run of these rows between two, those of equal halves in order."""
    # The row's place in the low bits: sorting these takes half the time of an argsort.
    low = np.uint64(len(high).bit_length())
    key = high >> low << low | np.arange(len(high), dtype=np.uint64)
    key.sort()
    order = (key & np.uint64((1 << int(low)) - 1)).view(np.int64)
    high, rows = high[order], rows[order]
    # Now and then two halves differ in nothing but the bits that the place took.
    while len(wrong := np.flatnonzero(high[:-1] > high[1:])):
        for place in wrong.tolist():
            if high[place] > high[place + 1]:
                pair, turned = [place, place + 1], [place + 1, place]
                high[pair], rows[pair] = high[turned], rows[turned]
    return _run(first, stop, high, rows)


def merge(runs: Sequence[Run]) -> Run:
    """The run of all rows of neighbouring ones."""
    high = np.concatenate([run.high[:-1] for run in runs])
    rows = np.concatenate([run.rows[:-1] for run in runs])
    # Of parts in order it takes a tenth of the time of sorting.
    order = np.argsort(high, kind="stable")
    return _run(runs[0].first, runs[-1].stop, high[order], rows[order])


def _from(run: Run, first: int) -> Run:
    """What a run has from one row on."""
    if run.first >= first:
        return run
    kept = run.rows[:-1] >= first
    return _run(first, max(first, run.stop), run.high[:-1][kept], run.rows[:-1][kept])


def _run(first: int, stop: int, high: Column, rows: Rows) -> Run:
    starts = bucket_starts(high, bucket_bits(len(high)))
    return Run(first, stop, np.append(high, _LARGEST), np.append(rows, 0), starts)


def bucket_bits(entries: int) -> int:
    """Leading bits that tell the buckets of a run of so many entries: one or two in each."""
    return max(1, entries.bit_length() - 1)


def bucket_starts(high: Column, bits: int, first: int = 0, count: int | None = None) -> Rows:
    """Where each bucket begins among these halves, which are in order.

    Args:
        high: halves that fall into no other buckets.
        bits: leading bits that tell buckets apart.
        first: the first bucket.
        count: number of buckets; None for all.
    """
    buckets = (high >> np.uint64(64 - bits)).view(np.int64) - first
    sizes = np.bincount(buckets, minlength=2**bits if count is None else count)
    starts: Rows = np.cumsum(sizes) - sizes
    return starts


class DigestIndex:
    """Digests to row numbers: runs, each of the rows behind those of the one before, and a dict of
    what was appended lately.

    There are few runs, as a new one is merged with those before it that are not much larger. The
    first ones may lie in files (see runs.py); these are merged by others.
    """

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._kept = 0
        """How many of them lie in files."""
        self._recent: dict[int, int] = {}
        self._again: dict[int, list[int]] = {}

    @property
    def kept_rows(self) -> int:
        """The first rows, that lie in files."""
        return self._runs[self._kept - 1].stop if self._kept else 0

    def extend(self, digests: Digests, first: int) -> None:
        """Add (n, 2) digests, the rows from number ``first`` on. A digest of 0 is a deleted row."""
        high = digests[:, 0]
        if len(self._recent) + len(high) > RECENT:
            there = np.flatnonzero(high | digests[:, 1])
            self._fold(first + len(digests), high[there], there + first)
            return
        halves, recent = high.tolist(), self._recent
        new = dict(zip(halves, range(first, first + len(halves)), strict=True))
        if len(new) == len(halves) and 0 not in new and recent.keys().isdisjoint(new):
            recent.update(new)
            return
        for row, (half, low) in enumerate(digests.tolist(), first):
            if (half or low) and recent.setdefault(half, row) != row:
                self._again.setdefault(half, []).append(row)

    def _fold(self, stop: int, high: Column, rows: Rows) -> None:
        """Put what is recent, and these, into a run of the rows before ``stop``."""
        again = [(half, row) for half, numbers in self._again.items() for row in numbers]
        recent = np.fromiter(self._recent.keys(), np.uint64, len(self._recent))
        high = np.concatenate([recent, np.array([half for half, _ in again], np.uint64), high])
        recent = np.fromiter(self._recent.values(), np.int64, len(self._recent))
        rows = np.concatenate([recent, np.array([row for _, row in again], np.int64), rows])
        # From where the last one ends, deleted rows included; an interrupt may have left some
        # that are in both.
        first = min(self._runs[-1].stop if self._runs else 0, int(rows.min(initial=stop)))
        if first >= stop:
            return
        new = sort(first, stop, high, rows)
        smaller = len(self._runs)
        while smaller > self._kept and self._runs[smaller - 1].entries <= _SHARE * new.entries:
            smaller -= 1
            new = merge([self._runs[smaller], new])
        self._runs = [*self._runs[:smaller], new]
        self._recent, self._again = {}, {}

    def in_memory(self, stop: int) -> list[Run]:
        """The runs of all rows up to ``stop`` that are in no file."""
        self._fold(stop, np.empty(0, np.uint64), np.empty(0, np.int64))
        return self._runs[self._kept :]

    def take_over(self, kept: Sequence[Run], stop: int) -> None:
        """Use these runs, of the first rows and from files, in the place of one's own.

        Args:
            kept: the runs.
            stop: the row behind the last that is known here.
        """
        rest = [_from(run, kept[-1].stop) for run in self.in_memory(stop)]
        rest = [run for run in rest if run.stop > run.first]
        self._kept, self._runs = len(kept), [*kept, *rest]

    def sort_kept(self, digests: Digests) -> None:
        """Have in memory what lay in files that cannot be read any more: (n, 2) digests of the
        first rows, as far as they are known."""
        there = np.flatnonzero(digests.any(axis=1))
        run = sort(0, self.kept_rows, np.ascontiguousarray(digests[there, 0]), there)
        self._kept, self._runs = 0, [run, *self._runs[self._kept :]]

    def forget(self, digests: Digests, rows: Rows) -> None:
        """Propose these rows no longer, which are deleted, where that costs nothing: of a text that
        is stored again and again, few are left."""
        for half, row in zip(digests[:, 0].tolist(), rows.tolist(), strict=True):
            if self._recent.get(half) == row:
                if again := self._again.get(half):
                    self._recent[half] = again.pop(0)
                else:
                    del self._recent[half]

    def find(self, digests: Digests) -> Rows:
        """The first row proposed for each of (n, 2) digests, (n,), -1 where there is none."""
        if len(digests) == 1:
            return np.array([self.find_one(digests.item(0, 0))])
        high = np.ascontiguousarray(digests[:, 0])
        found = np.full(len(high), -1)
        missing = np.arange(len(high))
        for run in self._runs:
            found[missing] = run.find(high[missing])
            missing = missing[found[missing] < 0]
            if not len(missing):
                return found
        if self._recent:
            get = self._recent.get
            found[missing] = [get(half, -1) for half in high[missing].tolist()]
        return found

    def has_none(self, digests: Digests) -> bool:
        """Whether no row is proposed for any of (n, 2) digests; False may mean that it would take
        :meth:`find` to say."""
        high = np.ascontiguousarray(digests[:, 0])
        return all(run.has_none(high) for run in self._runs) and (
            self._recent.keys().isdisjoint(high.tolist())
        )

    def after(self, digests: Digests, rows: Rows) -> Rows:
        """The next row proposed for each of (n, 2) digests, behind the one given, (n,)."""
        high = np.ascontiguousarray(digests[:, 0])
        found = np.full(len(high), -1)
        missing = np.arange(len(high))
        for run in self._runs:
            found[missing] = run.after(high[missing], rows[missing])
            missing = missing[found[missing] < 0]
        for place in missing.tolist():
            half, row = high.item(place), rows.item(place)
            if half in self._recent:
                waiting = [self._recent[half], *self._again.get(half, ())]
                found[place] = min((one for one in waiting if one > row), default=-1)
        return found

    def find_one(self, high: int) -> int:
        """:meth:`find` for one digest, by its high half."""
        for run in self._runs:
            row = run.find_one(high)
            if row >= 0:
                return row
        return self._recent.get(high, -1)
