"""What the ledger keeps of how a store is read: look-ups of all processes, and times.

    key                              value
    s namespace                      hits and misses, sealed
    d namespace day                  the same of one day, and the vectors stored then, sealed
    T                                the time given out last, sealed
    u namespace generation part      when each of 4096 rows was last used
    w namespace generation row       when rows from this one on were written

A store's time is a count that follows the clock: seconds since 1970, but always later than what it
was before. A clock set back makes nothing look older or newer than it is. (After a clock that ran
ahead by years, what was used meanwhile looks new until the years have passed.)

Days are those of the clock, in UTC: one that is set back counts what follows to an earlier day.

Nothing is written for a read. What a process has looked up goes into the ledger when it commits,
at most every half minute, and when it closes the store or ends.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from datetime import date

import numpy as np
import numpy.typing as npt

from embstore.backends.base import Day
from embstore.backends.disk.hardened import HardenedCache
from embstore.backends.rows import Rows
from embstore.locks import LEDGER

Times = npt.NDArray[np.uint32]
"""The store's time, per row; 0 where it is not known."""

_USES = 4096
"""Rows whose last uses stand in one entry."""

_MARK_EVERY = 600
"""Seconds between two notes of when rows were written: the age of a row is known to 10 minutes."""

_MOST_DAYS = 400
"""Days of a namespace that are kept: a year, and what it is compared with. The oldest go, and not
those of an age, or a clock that ran ahead for a minute would have them all dropped."""

_LOOKED_UP = struct.Struct("<QQ")
_DAY = struct.Struct("<QQQ")
_1970 = date(1970, 1, 1).toordinal()
_LATEST_DAY = date.max.toordinal()
_LATEST = 2**32 - 1


class UsageRecords:
    """These entries of a ledger. Methods that write are called in a transaction."""

    def __init__(self, cache: HardenedCache) -> None:
        self._cache = cache

    # --- counts ---------------------------------------------------------------------------------

    def looked_up(self, namespace_id: bytes) -> tuple[int, int]:
        """Hits and misses under a namespace."""
        with LEDGER, self._cache.faults():
            value = self._cache.get_sealed(b"s" + namespace_id) or bytes(_LOOKED_UP.size)
            if len(value) != _LOOKED_UP.size:
                self._cache.damaged("a counter has another size")
        hits, misses = _LOOKED_UP.unpack(value)
        return hits, misses

    def add_looked_up(self, namespace_id: bytes, hits: int, misses: int, entries: int) -> None:
        """Count look-ups, of all time and of today, when so many vectors are stored."""
        before = self.looked_up(namespace_id)
        with self._cache.faults():
            after = (max(0, before[0] + hits), max(0, before[1] + misses))
            self._cache.put_sealed(b"s" + namespace_id, _LOOKED_UP.pack(*after))
            key = b"d" + namespace_id + _today().to_bytes(4, "big")
            value = self._cache.get_sealed(key)
            day = (0, 0) if value is None else self._day(key, value)[1:3]
            of_today = (max(0, day[0] + hits), max(0, day[1] + misses), entries)
            self._cache.put_sealed(key, _DAY.pack(*of_today))
            if value is None:
                for old in self._cache.keys(b"d" + namespace_id)[:-_MOST_DAYS]:
                    self._cache.delete(old)

    def days(self, namespace_id: bytes) -> list[Day]:
        """What each day saw, in order."""
        prefix = b"d" + namespace_id
        with LEDGER, self._cache.faults():
            return [
                self._day(key, self._cache.unseal(key, sealed))
                for key, sealed in self._cache.entries_from(prefix, prefix)
            ]

    def _day(self, key: bytes, value: bytes) -> Day:
        number = _1970 + int.from_bytes(key[-4:], "big")
        if len(value) != _DAY.size or number > _LATEST_DAY:
            self._cache.damaged("what is noted of a day has another form")
        return Day(date.fromordinal(number), *_DAY.unpack(value))

    # --- times ----------------------------------------------------------------------------------

    def _now(self) -> int:
        last = int.from_bytes(self._cache.get_sealed(b"T") or b"", "little")
        now = min(max(last + 1, int(time.time())), _LATEST)
        self._cache.put_sealed(b"T", now.to_bytes(8, "little"))
        return now

    def mark_written(self, namespace_id: bytes, generation: int, row: int) -> float:
        """Note that the rows from this one on are written now, unless that was done lately.

        Returns:
            The ``time.monotonic()`` until which it need not be done again.
        """
        prefix = _key(b"w", namespace_id, generation)
        with self._cache.faults():
            last = self._cache.last(prefix, 1)
            written = int.from_bytes(self._cache.get(last[0][0]) or b"", "little") if last else 0
            age = time.time() - written
            if not 0 <= age < _MARK_EVERY:
                age = 0.0
                key = prefix + row.to_bytes(8, "big")
                self._cache.set(key, self._now().to_bytes(4, "little"))
        return time.monotonic() + _MARK_EVERY - age

    def written(self, namespace_id: bytes, generation: int) -> list[tuple[int, int]]:
        """From which row on, and when, rows were written: in order, each known to 10 minutes."""
        prefix = _key(b"w", namespace_id, generation)
        with LEDGER, self._cache.faults():
            entries = self._cache.entries_from(prefix, prefix)
        return [(_number(key), int.from_bytes(value[:4], "little")) for key, value in entries]

    def note_uses(self, used: Mapping[bytes, tuple[int, Rows]]) -> None:
        """Note rows as used now, by namespace: generation and row numbers, in order."""
        with self._cache.faults():
            now = self._now()
            for namespace_id, (generation, rows) in used.items():
                prefix = _key(b"u", namespace_id, generation)
                for part in np.split(rows, np.flatnonzero(np.diff(rows // _USES)) + 1):
                    key = prefix + (int(part[0]) // _USES).to_bytes(8, "big")
                    mine = part % _USES
                    before = (self._cache.get(key) or b"")[: 4 * _USES]
                    size = max(4 * (int(mine.max()) + 1), -(-len(before) // 4) * 4)
                    values = np.frombuffer(bytearray(before.ljust(size, b"\0")), "<u4")
                    values[mine] = now
                    self._cache.set(key, values.tobytes())

    def times(self, namespace_id: bytes, generation: int, rows: int) -> Times:
        """When each of the first ``rows`` rows was last used or, if it never was, written."""
        found = np.zeros(rows, np.uint32)
        with LEDGER, self._cache.faults():
            for row, when in self.written(namespace_id, generation):
                found[row:] = when
            prefix = _key(b"u", namespace_id, generation)
            for key, value in self._cache.entries_from(prefix, prefix):
                start = _number(key) * _USES
                part = np.frombuffer(value[: len(value) // 4 * 4], "<u4")[: max(0, rows - start)]
                mine = found[start : start + len(part)]
                np.maximum(mine, part, out=mine)
        return found

    def put_times(self, namespace_id: bytes, generation: int, times: Times) -> None:
        """Write the times of a new generation's rows; drops those of older ones. What was not known
        is now: better too late than dropped too early."""
        self.drop(namespace_id)
        with self._cache.faults():
            known = np.where(times, times, self._now()).astype("<u4")
            prefix = _key(b"u", namespace_id, generation)
            for start in range(0, len(known), _USES):
                part = known[start : start + _USES].tobytes()
                self._cache.set(prefix + (start // _USES).to_bytes(8, "big"), part)

    def drop(self, namespace_id: bytes) -> None:
        """Forget the times of a namespace."""
        with self._cache.faults():
            self._cache.delete_range(b"u" + namespace_id)
            self._cache.delete_range(b"w" + namespace_id)


def _today() -> int:
    """Days since 1970, in UTC."""
    return max(0, int(time.time())) // 86_400


def _key(kind: bytes, namespace_id: bytes, generation: int) -> bytes:
    return kind + namespace_id + generation.to_bytes(8, "big")


def _number(key: bytes) -> int:
    return int.from_bytes(key[-8:], "big")
