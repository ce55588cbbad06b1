"""What each figure is, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.growth.apart import Figures

_UNITS = {"µs": 1e6, "ms": 1e3, "s": 1, "MB": 1e-6, "": 1}


@dataclass(frozen=True)
class Metric:
    """A figure.

    Attributes:
        name: what it is called in the JSON, where it is in seconds, bytes or a number.
        label: what it is, in words.
        unit: what it is shown in.
    """

    name: str
    label: str
    unit: str

    def value(self, figures: Figures) -> float | None:
        """In its unit; None if it was not measured."""
        found = figures.get(self.name)
        return None if found is None else found * _UNITS[self.unit]

    def shown(self, figures: Figures) -> str:
        """As text, with three digits that count."""
        value = self.value(figures)
        if value is None:
            return ""
        return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"

    @property
    def title(self) -> str:
        """Label and unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label


GROWTH = [
    Metric("hits", "10,000 texts a call, the same again: a text", "µs"),
    Metric("others", "10,000 texts a call, others each time: a text", "µs"),
    Metric("first", "10,000 texts, a process's first call: a text", "µs"),
    Metric("misses", "10,000 texts a call, none stored: a text", "µs"),
    Metric("floor", "floor: hash, dict, gather from memory: a text", "µs"),
    Metric("floor_rows", "floor without the gather: a text", "µs"),
    Metric("beside_floor", "10,000 texts a call, in turns with the floor: a text", "µs"),
    Metric("one_disk", "one text a call, from disk", "µs"),
    Metric("one_memory", "one text a call, from memory", "µs"),
    Metric("one_miss", "one text a call, not stored", "µs"),
    Metric("one_floor", "one text a call, floor", "µs"),
    Metric("put_median", "put of 256, median: a row", "µs"),
    Metric("put_mean", "put of 256, mean: a row", "µs"),
    Metric("put_p99", "put of 256, 99th percentile: a call", "ms"),
    Metric("put_slowest", "put of 256, slowest: a call", "ms"),
    Metric("put_slowest_processor", "processor time in that", "ms"),
    Metric("put_first", "a process's first put of 256: a call", "ms"),
    Metric("put_one_median", "put of one text, median", "µs"),
    Metric("put_one_mean", "put of one text, mean", "µs"),
    Metric("put_one_slowest", "put of one text, slowest", "ms"),
    Metric("open", "opening, to the first text found", "ms"),
    Metric("open_process", "the whole process that does that", "ms"),
    Metric("before_anonymous", "memory of a process before it opens, its own", "MB"),
    Metric("anonymous", "memory after 10,000 look-ups, its own", "MB"),
    Metric("mapped", "memory after 10,000 look-ups, mapped files", "MB"),
    Metric("descriptors", "open files of a process after look-ups", ""),
    Metric("writer_anonymous", "memory of the writer, its own", "MB"),
    Metric("verify", "verify()", "s"),
    Metric("delete_hundredth", "deleting 1 % in one call: a row", "µs"),
    Metric("compact_hundredth", "compact(), 1 % deleted", "s"),
    Metric("compact_hundredth_anonymous", "memory of a process that did that, its own", "MB"),
    Metric("delete", "deleting 1,000 a call: a row", "µs"),
    Metric("first_after_deletions", "10 % deleted: first call: a text", "µs"),
    Metric("hits_after_deletions", "10 % deleted: the same again: a text", "µs"),
    Metric("misses_after_deletions", "10 % deleted: none stored: a text", "µs"),
    Metric("compact_tenth", "compact(), 9 % deleted", "s"),
    Metric("times_raw", "on disk, times raw float32", ""),
    Metric("compacted_times_raw", "on disk after compact(), times raw", ""),
]

SHAPES = [
    Metric("rows", "rows", ""),
    Metric("put_median", "put, median: a row", "µs"),
    Metric("put_mean", "put, mean (all writers together): a row", "µs"),
    Metric("put_slowest", "put, slowest: a call", "ms"),
    Metric("open", "opening, to the first text found", "ms"),
    Metric("first", "first look-up: a text", "µs"),
    Metric("hits", "the same again: a text", "µs"),
    Metric("misses", "none stored: a text", "µs"),
    Metric("anonymous", "memory after look-ups, its own", "MB"),
    Metric("mapped", "memory after look-ups, mapped files", "MB"),
    Metric("descriptors", "open files of a process after look-ups", ""),
    Metric("namespaces", "namespaces()", "ms"),
    Metric("verify", "verify()", "s"),
    Metric("compact", "compact()", "s"),
    Metric("files", "files", ""),
    Metric("times_raw", "on disk, times raw float32", ""),
]
