"""Counting what a store did."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

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
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td>{value}</td></tr>"
            for name, value in self._lines()
        )
        return f"<table>{rows}</table>"


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


_COUNTED = frozenset(field.name for field in fields(Stats))


class Counters:
    """The running figures behind :class:`Stats`; adding is atomic across threads."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def add(self, **amounts: int | float) -> None:
        """Add each amount to the figure of its name."""
        with COUNTERS:
            for name, amount in amounts.items():
                assert name in _COUNTED, name
                self._values[name] = self._values.get(name, 0) + amount

    def snapshot(self, **others: int | float) -> Stats:
        """The figures now, with ``others`` put in for those that are not counted here."""
        with COUNTERS:
            return Stats(**{**self._values, **others})
