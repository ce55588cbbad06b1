"""All that can be seen of a store without writing to it: what ``inspect`` and ``report`` show."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from embstore.backends import open_backend, resolve_location
from embstore.backends.base import Day, History, NamespaceInfo, VerifyReport
from embstore.backends.disk.glance import Glance, glance
from embstore.backends.disk.health import Mount, mount_of
from embstore.backends.disk.vectors import FORMAT
from embstore.cli.stores import as_dict

Growth = Sequence[tuple[float, int]]
"""Seconds since 1970, in order, and what was there from then on."""


@dataclass(frozen=True)
class Space:
    """A namespace, and how it came to be.

    Attributes:
        info: what is stored under it.
        history: how it was used and how it grew.
    """

    info: NamespaceInfo
    history: History

    @property
    def raw(self) -> int:
        """What the numbers of its vectors take by themselves, in bytes."""
        return self.info.entries * self.info.dim * np.dtype(self.info.dtype).itemsize

    @property
    def hit_rate(self) -> float | None:
        """Hits per text asked for, 0 to 1; None if nothing was asked."""
        return hit_rate(self.info.hits, self.info.misses)

    @property
    def last_used(self) -> str | None:
        """The last day with a hit, as 2026-11-23, in UTC; None if none is known."""
        used = [day.date.isoformat() for day in self.history.days if day.hits]
        return used[-1] if used else None

    @property
    def last_written(self) -> float | None:
        """When vectors were written last, in seconds since 1970, known to 10 minutes, or to the day
        since the store was last compacted; None if that is not known."""
        found, before = None, 0
        for when, count in self.history.growth:
            if count > before:
                found = when
            before = count
        # A day ends in the future, and the store's own time may be ahead of the clock.
        return None if found is None else min(found, time.time())

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            **as_dict(self.info),
            "raw_bytes": self.raw,
            "hit_rate": self.hit_rate,
            "last_used": self.last_used,
            "last_written": self.last_written,
            "days": [{**day._asdict(), "date": day.date.isoformat()} for day in self.history.days],
            "growth": [list(point) for point in self.history.growth],
        }


@dataclass(frozen=True)
class Survey:
    """A store, looked at.

    Attributes:
        location: where it is.
        taken: when it was looked at, in seconds since 1970.
        bytes: what it takes in all.
        mount: the file system it lies on; None if it lies on none, or the system does not tell.
        spaces: its namespaces, the largest first.
        now: what is going on in it.
        verified: what a check of all rows found; None if there was none.
    """

    location: str
    taken: float
    bytes: int
    mount: Mount | None
    spaces: tuple[Space, ...]
    now: Glance
    verified: VerifyReport | None = None

    @property
    def entries(self) -> int:
        """Vectors stored."""
        return sum(space.info.entries for space in self.spaces)

    @property
    def raw(self) -> int:
        """What their numbers take by themselves, in bytes."""
        return sum(space.raw for space in self.spaces)

    @property
    def hits(self) -> int:
        """Texts found, over all processes."""
        return sum(space.info.hits for space in self.spaces)

    @property
    def misses(self) -> int:
        """Distinct texts not found, likewise."""
        return sum(space.info.misses for space in self.spaces)

    @property
    def seconds_saved(self) -> float:
        """Hits times the mean cost of a vector of their namespace, in seconds."""
        return sum(space.info.seconds_saved for space in self.spaces)

    @cached_property
    def days(self) -> list[Day]:
        """What each day saw under all namespaces, in order."""
        found: dict[Any, list[Day]] = defaultdict(list)
        for space in self.spaces:
            for day in space.history.days:
                found[day.date].append(day)
        return [
            Day(date, *(sum(numbers) for numbers in zip(*(day[1:] for day in days), strict=True)))
            for date, days in sorted(found.items())
        ]

    @cached_property
    def growth(self) -> Growth:
        """How all namespaces grew together."""
        return together(space.history.growth for space in self.spaces)

    @property
    def batch_sizes(self) -> list[dict[str, Any]]:
        """What was found out about batch sizes, by ``batch_size="auto"``."""
        return [each for each in self.now.identities if _is_batch_size(each)]

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, one sentence each."""
        found = () if self.verified is None else self.verified.problems
        return tuple(dict.fromkeys((*self.now.problems, *found)))

    @property
    def health(self) -> str:
        """What was checked, and what came out, in a line."""
        if self.problems:
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            return f"{self.problems[0]}{more}"
        if self.verified is not None:
            return f"{self.verified.rows:,} rows checked, none damaged"
        if self.now.unread:
            return f"not checked: {self.now.unread}"
        return "the ledger is sound; rows were not checked"

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "store": self.location,
            "format": FORMAT,
            "taken": self.taken,
            "entries": self.entries,
            "bytes": self.bytes,
            "raw_bytes": self.raw,
            "file_system": None if self.mount is None else asdict(self.mount),
            "hits": self.hits,
            "misses": self.misses,
            "hit_rate": hit_rate(self.hits, self.misses),
            "seconds_saved": round(self.seconds_saved, 3),
            "workers": self.now.workers,
            "claimed": self.now.claimed,
            "ok": not self.problems,
            "health": self.health,
            "problems": list(self.problems),
            "batch_sizes": self.batch_sizes,
            "namespaces": [space.to_dict() for space in self.spaces],
        }


def survey(
    location: str | None, verify: Callable[[int], Callable[[int], object]] | None = None
) -> Survey:
    """Look at a store, which must be there. Nothing is written.

    Args:
        location: as for :class:`~embstore.EmbeddingStore`.
        verify: to have all rows checked: is given their number, and gives what is called with the
            number of those that were checked since.

    Raises:
        StoreError: if there is none, or it cannot be read.
    """
    where = resolve_location(location)
    is_disk = "://" not in where
    backend = open_backend(where, read_only=True)
    try:
        infos = sorted(backend.namespaces(), key=lambda info: info.bytes, reverse=True)
        spaces = tuple(Space(info, backend.history(info.namespace)) for info in infos)
        rows = sum(info.entries for info in infos)
        checked = None if verify is None else backend.verify(verify(rows))
        return Survey(
            location=backend.location,
            taken=time.time(),
            bytes=backend.size(),
            mount=mount_of(Path(where)) if is_disk else None,
            spaces=spaces,
            now=glance(Path(where)) if is_disk else Glance(),
            verified=checked,
        )
    finally:
        backend.close()


def hit_rate(hits: int, misses: int) -> float | None:
    """Hits per text asked for, 0 to 1; None if nothing was asked."""
    return hits / (hits + misses) if hits + misses else None


def together(parts: Iterable[Growth]) -> Growth:
    """The sum of several that grew.

    >>> together([[(1.0, 5), (3.0, 6)], [(2.0, 10)]])
    [(1.0, 5), (2.0, 15), (3.0, 16)]
    """
    changes = []
    for part in parts:
        before = 0
        for when, count in part:
            changes.append((when, count - before))
            before = count
    total, found = 0, []
    for when, change in sorted(changes, key=lambda change: change[0]):
        total += change
        found.append((when, total))
    return found


def printable(text: str) -> str:
    """A text from a store as people may be shown it: what moves a cursor, or turns the direction of
    writing, is escaped."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def _is_batch_size(found: dict[str, Any]) -> bool:
    return isinstance(found.get("size"), int) and isinstance(found.get("speeds"), dict)
