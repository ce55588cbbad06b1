"""Counting what a store did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from embstore import notebook
from embstore.locks import COUNTERS


@dataclass(frozen=True)
class Stats:
    """What a store has done since it was opened in this process, and what it holds.

    ``hits + misses == total`` counts texts; a repeat of a text inside one call is a hit.

    Attributes:
        hits: texts answered without computing.
        misses: distinct texts that were not stored.
        memory_hits: hits answered by the memory tier.
        disk_hits: hits answered by the backend.
        deduplicated: repeats inside a call, found or not.
        bypassed: inputs that went to the model uncached (images, token embeddings, ...).
        entries: vectors the backend holds, of all namespaces.
        bytes: what these take on disk, in bytes.
        corrupt: rows found damaged and left out.
        write_errors: writes that failed; the vectors were returned all the same.
        encode_seconds: time spent in models, in seconds.
        seconds_saved: hits times the mean cost of computing a text of their namespace, in seconds.
        upstream_hits: those hits of the backend that this machine's disk lacked, and the store
            behind it had.
    """

    hits: int = 0
    misses: int = 0
    memory_hits: int = 0
    disk_hits: int = 0
    deduplicated: int = 0
    bypassed: int = 0
    entries: int = 0
    bytes: int = 0
    corrupt: int = 0
    write_errors: int = 0
    encode_seconds: float = 0.0
    seconds_saved: float = 0.0
    upstream_hits: int = 0

    @property
    def total(self) -> int:
        """Texts asked for."""
        return self.hits + self.misses

    @property
    def hit_rate(self) -> float:
        """Hits per text asked for, 0 to 1; 0.0 when nothing was asked."""
        return self.hits / self.total if self.total else 0.0

    def to_dict(self) -> dict[str, int | float]:
        """All figures by name, ``total`` and ``hit_rate`` included."""
        return {**asdict(self), "total": self.total, "hit_rate": self.hit_rate}

    def _lines(self) -> list[tuple[str, str]]:
        return [
            ("hits", f"{self.hits:,} of {self.total:,} texts ({self.hit_rate:.1%})"),
            ("from memory / disk", f"{self.memory_hits:,} / {self.disk_hits:,}"),
            ("of these from upstream", f"{self.upstream_hits:,}"),
            ("repeats in a call", f"{self.deduplicated:,}"),
            ("misses", f"{self.misses:,}"),
            ("bypassed", f"{self.bypassed:,}"),
            ("stored", f"{self.entries:,} vectors, {format_bytes(self.bytes)}"),
            ("corrupt rows / failed writes", f"{self.corrupt:,} / {self.write_errors:,}"),
            ("time in models", f"{self.encode_seconds:,.2f} s"),
            ("time saved", f"{self.seconds_saved:,.2f} s"),
        ]

    def __str__(self) -> str:
        lines = self._lines()
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)

    def _repr_html_(self) -> str:
        return self.bar() + notebook.table(self._lines())

    def bar(self) -> str:
        """A bar for notebooks, as HTML, of how the texts asked for were answered; "" if none
        was."""
        repeated = self.hits - self.memory_hits - self.disk_hits
        parts = (
            ("memory", self.memory_hits),
            ("disk", self.disk_hits - self.upstream_hits),
            ("upstream", self.upstream_hits),
            ("repeated", max(0, repeated)),
            ("missing", max(0, self.misses)),
        )
        return notebook.bar(f"{self.total:,} texts looked up", parts)


def format_bytes(count: int | float) -> str:
    """A number of bytes as people write it.

    >>> format_bytes(1536)
    '1.5 KiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


class LookedUp(NamedTuple):
    """How the texts of a look-up were answered, each counted once."""

    memory_hits: int
    disk_hits: int
    repeats: int
    """Of texts that are missing."""
    misses: int


class _Tally:
    """What was looked up under one namespace."""

    __slots__ = ("deduplicated", "disk_hits", "hits", "memory_hits", "misses", "taken")

    def __init__(self) -> None:
        self.hits = self.misses = self.memory_hits = self.disk_hits = self.deduplicated = 0
        self.taken = (0, 0)


_LOOKED_UP = ("hits", "misses", "memory_hits", "disk_hits", "deduplicated")
_COUNTED = frozenset(field.name for field in fields(Stats)) - {*_LOOKED_UP}


class Counters:
    """The running figures behind :class:`Stats`; adding is atomic across threads."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._tallies: dict[bytes, _Tally] = {}

    def add(self, **amounts: int | float) -> None:
        """Add each amount to the figure of its name."""
        with COUNTERS:
            for name, amount in amounts.items():
                assert name in _COUNTED, name
                self._values[name] = self._values.get(name, 0) + amount

    def fetched(self, rows: int) -> None:
        """Count rows that were found behind this machine's disk."""
        self.add(upstream_hits=rows)

    def looked_up(
        self,
        namespace_id: bytes,
        hits: int,
        misses: int,
        *,
        memory_hits: int = 0,
        disk_hits: int = 0,
        deduplicated: int = 0,
    ) -> None:
        """Count a look-up."""
        with COUNTERS:
            tally = self._tallies.get(namespace_id) or self._begin(namespace_id)
            tally.hits += hits
            tally.misses += misses
            tally.memory_hits += memory_hits
            tally.disk_hits += disk_hits
            tally.deduplicated += deduplicated

    def looked_up_many(
        self,
        namespace_id: bytes,
        digests: Sequence[bytes],
        found: npt.NDArray[np.bool_],
        in_memory: npt.NDArray[np.bool_],
        *,
        again: bool = False,
    ) -> LookedUp:
        """Count a look-up, and say what was counted.

        Args:
            namespace_id: of the texts.
            digests: of n texts.
            found: which were found, (n,) bool.
            in_memory: which of these in memory, (n,) bool.
            again: whether they were looked up before, and counted as misses.
        """
        absent = [] if found.all() else np.flatnonzero(~found).tolist()
        present = len(digests) - len(absent)
        misses = len({digests[number] for number in absent})
        memory_hits = int(np.count_nonzero(in_memory))
        disk_hits = present - memory_hits
        self.looked_up(
            namespace_id,
            present if again else len(digests) - misses,
            -present if again else misses,
            memory_hits=memory_hits,
            disk_hits=disk_hits,
            deduplicated=0 if again else len(digests) - len(set(digests)),
        )
        return LookedUp(memory_hits, disk_hits, len(absent) - misses, misses)

    def looked_up_one(self, namespace_id: bytes, from_memory: bool, found: bool) -> None:
        """Count a look-up of one text. (Arguments by name take as long as the counting.)"""
        with COUNTERS:
            tally = self._tallies.get(namespace_id) or self._begin(namespace_id)
            if from_memory:
                tally.memory_hits += 1
            elif found:
                tally.disk_hits += 1
            else:
                tally.misses += 1
                return
            tally.hits += 1

    def _begin(self, namespace_id: bytes) -> _Tally:
        return self._tallies.setdefault(namespace_id, _Tally())

    def hits(self, namespace_id: bytes) -> int:
        """Texts found under a namespace."""
        with COUNTERS:
            tally = self._tallies.get(namespace_id)
            return 0 if tally is None else tally.hits

    def take_counts(self) -> dict[bytes, tuple[int, int]]:
        """Hits and misses since this was last asked, by namespace id."""
        found = {}
        with COUNTERS:
            for namespace_id, tally in self._tallies.items():
                hits, misses = tally.hits - tally.taken[0], tally.misses - tally.taken[1]
                if hits or misses:
                    found[namespace_id] = hits, misses
                    tally.taken = tally.hits, tally.misses
        return found

    def snapshot(self, **others: int | float) -> Stats:
        """The figures now, with ``others`` put in for those that are not counted here."""
        with COUNTERS:
            looked_up = {
                name: sum(getattr(tally, name) for tally in self._tallies.values())
                for name in _LOOKED_UP
            }
            return Stats(**{**self._values, **looked_up, **others})
