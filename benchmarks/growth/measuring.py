"""One size after the other: the store grows, is read and opened, and a copy of it is tended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.growth import reading, tending, writing
from benchmarks.growth.apart import Figures, call, median_of
from benchmarks.growth.stored import bytes_on_disk

_PROCESSES = 5
"""New processes for a median of what each does once."""
_SINGLES = 300
"""The last rows of each size, stored one text a call."""


def grown(folder: Path, sizes: Sequence[int], dim: int) -> Iterator[Figures]:
    """Figures of each size, in rising order."""
    store, rows = folder / "store", 0
    for size in sizes:
        singles = min(_SINGLES, (size - rows) // 10)
        figures = call(
            writing.grow, location=str(store), start=rows, stop=size, dim=dim, singles=singles
        )
        rows = size
        figures = {"rows": rows, "dim": dim, "grow_process": figures.pop("process")} | figures
        figures |= read(store, rows, dim)
        figures |= tended(store, folder, rows, dim, last=size == sizes[-1])
        yield figures


def read(store: Path, rows: int, dim: int) -> Figures:
    """What a store of so many sentences costs those who read it."""
    place = {"location": str(store), "rows": rows}
    opened = median_of(_PROCESSES, reading.opening, **place)
    figures = {"open": opened["open"], "open_process": opened["process"]}
    figures |= median_of(_PROCESSES, reading.first_call, **place)
    figures |= call(reading.batches, **place)
    figures |= call(reading.beside_floor, dim=dim, **place)
    taken = bytes_on_disk(store)
    del figures["process"]
    return figures | {"bytes": taken, "times_raw": taken / (rows * dim * 4)}


def tended(store: Path, folder: Path, rows: int, dim: int, *, last: bool) -> Figures:
    """What is measured of a copy, as it changes what is stored; of the store itself if that is
    not needed any more, for the copy's sake: the last one is the largest."""
    tended = store if last else folder / "copy"
    if not last:
        shutil.copytree(store, tended)
    place = {"location": str(tended), "rows": rows}
    figures = call(tending.delete_hundredth, **place)
    figures |= call(tending.delete_tenth, **place)
    figures |= _after_deletions(tended, rows)
    figures |= call(tending.compact_tenth, location=str(tended))
    figures["compacted_times_raw"] = bytes_on_disk(tended) / (rows * 0.9 * dim * 4)
    del figures["process"]
    shutil.rmtree(tended)
    return figures


def _after_deletions(store: Path, rows: int) -> Figures:
    place = {"location": str(store), "rows": rows, "without": tending.DELETED}
    first = median_of(3, reading.first_call, **place)["first"]
    again = call(reading.batches, **place)
    return {
        "first_after_deletions": first,
        "hits_after_deletions": again["hits"],
        "misses_after_deletions": again["misses"],
    }


def bytes_needed(sizes: Sequence[int], dim: int) -> int:
    """Bytes on disk that :func:`grown` takes at most, about: the store, its copy, and the copy's
    next generation while it is compacted."""
    row = 1.1 * (4 * dim + 60)
    return int(row * max([2 * max(sizes, default=0), *(3 * size for size in sizes[:-1])]))
