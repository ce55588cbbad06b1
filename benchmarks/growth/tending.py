"""Deleting, compacting, verifying. Each function runs in a new process."""

from __future__ import annotations

import statistics
from functools import partial

from benchmarks.corpus import NAMESPACE, sentence
from benchmarks.growth.apart import Figures
from benchmarks.growth.timing import memory, seconds_of
from embstore import EmbeddingStore

CALL = 1_000
"""Texts in a call that deletes."""
DELETED = 3
"""Sentences whose number ends in this digit are deleted in the end: every tenth, everywhere."""
_CALLS = 5


def delete_hundredth(location: str, rows: int) -> Figures:
    """Verify, delete 1 % of the rows in one call, compact."""
    texts = [sentence(number) for number in range(DELETED, rows, 100)]
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        figures = {"verify": seconds_of(lambda: _verify(store))}
        store.get_many(NAMESPACE, texts[:1])  # what is stored is known to the process by then
        figures["delete_hundredth"] = seconds_of(lambda: _delete(store, texts)) / len(texts)
        return figures | _compact(store, "compact_hundredth")


def delete_tenth(location: str, rows: int) -> Figures:
    """Delete the rest of each tenth row: 1,000 a call, timed; after some calls the rest in one."""
    numbers = (number for number in range(DELETED, rows, 10) if number % 100 != DELETED)
    texts = [sentence(number) for number in numbers]
    size = min(CALL, len(texts))
    timed: list[float] = []
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        store.get_many(NAMESPACE, texts[:1])
        while len(texts) >= size and len(timed) < _CALLS:
            part, texts = texts[:size], texts[size:]
            timed.append(seconds_of(partial(_delete, store, part)) / size)
        if texts:
            _delete(store, texts)
    return {"delete": statistics.median(timed)}


def compact_tenth(location: str) -> Figures:
    """Compact what :func:`delete_tenth` left."""
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        return _compact(store, "compact_tenth")


def _verify(store: EmbeddingStore) -> None:
    report = store.verify()
    if not report.ok:
        raise AssertionError(f"verify: {'; '.join(report.problems)}")


def _delete(store: EmbeddingStore, texts: list[str]) -> None:
    gone = store.delete_many(NAMESPACE, texts)
    if gone != len(texts):
        raise AssertionError(f"{gone} of {len(texts)} texts were deleted")


def _compact(store: EmbeddingStore, name: str) -> Figures:
    return {name: seconds_of(store.compact)} | memory(f"{name}_")
