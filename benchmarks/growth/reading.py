"""Look-ups, by processes that have not written. Each function runs in a new process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from xxhash import xxh3_128_digest

from benchmarks.corpus import NAMESPACE, Floor, sentence
from benchmarks.growth.apart import Figures
from benchmarks.growth.stored import TEXTS, absent, check, some, some_numbers
from benchmarks.growth.timing import in_turns, memory, seconds_of
from embstore import EmbeddingStore

LARGEST_MATRIX = 1_000_000
"""Up to so many rows the floor has all vectors in memory; above, it only finds their rows."""
_SINGLES = 1_000
_ROUNDS = 11


def opening(location: str, rows: int) -> Figures:
    """From opening the store to the first text found."""
    [text] = some(rows, 1, seed=time.time_ns())
    start = time.perf_counter()
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        _, found = store.get_many(NAMESPACE, [text])
        seconds = time.perf_counter() - start
    assert found.all()
    return {"open": seconds}


def first_call(location: str, rows: int, without: int | None = None) -> Figures:
    """A process's first 10,000 texts, opening not counted, and what memory it has then."""
    texts = some(rows, TEXTS, seed=time.time_ns(), without=without)
    before = memory("before_")
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        seconds = seconds_of(lambda: store.get_many(NAMESPACE, texts))
        assert store.stats().misses == 0
        after = memory()
    return {"first": seconds / len(texts)} | before | after


def batches(location: str, rows: int, without: int | None = None) -> Figures:
    """10,000 texts a call: the same ones again, others each time, and texts that are not stored."""
    texts = some(rows, TEXTS, without=without)
    others = [some(rows, TEXTS, seed=1 + n, without=without) for n in range(2 + _ROUNDS)]
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        check(store, some_numbers(rows, 3, without=without))
        return in_turns(
            {
                "hits": lambda _: store.get_many(NAMESPACE, texts),
                "others": lambda number: store.get_many(NAMESPACE, others[number]),
                "misses": _misses(store, len(texts)),
            },
            items=len(texts),
            rounds=_ROUNDS,
        )


def _misses(store: EmbeddingStore, count: int) -> Callable[[int], Any]:
    texts = absent(count)
    return lambda _: store.get_many(NAMESPACE, texts)


def beside_floor(location: str, rows: int, dim: int) -> Figures:
    """10,000 texts a call and one text a call, beside the floor in this process's own memory."""
    every = [sentence(number) for number in range(rows)]
    with_matrix = rows <= LARGEST_MATRIX
    # Touched, so that each row has memory of its own; what is in it does not matter.
    floor = Floor(every, np.ones((rows if with_matrix else 1, dim), np.float32))
    known = floor._rows
    del every
    texts = some(rows, TEXTS)
    ones = [[text] for text in texts[:_SINGLES]]
    missing = [[text] for text in absent(len(ones))]

    def find_rows(_: int) -> list[int]:
        return [known[xxh3_128_digest(text.encode())] for text in texts]

    def one_by_one(look_up: Callable[[list[str]], object], ones: list[list[str]] = ones) -> Any:
        def side(_: int) -> None:
            for one in ones:
                look_up(one)

        return side

    disk = EmbeddingStore(location, memory_limit=0, on_error="raise")
    tiered = EmbeddingStore(location, on_error="raise")
    with disk, tiered:
        figures = in_turns(
            {
                "floor_rows": find_rows,
                **({"floor": lambda _: floor(texts)} if with_matrix else {}),
                "beside_floor": lambda _: disk.get_many(NAMESPACE, texts),
            },
            items=len(texts),
            rounds=_ROUNDS,
        )
        return figures | in_turns(
            {
                **({"one_floor": one_by_one(floor)} if with_matrix else {}),
                "one_disk": one_by_one(lambda one: disk.get_many(NAMESPACE, one)),
                "one_memory": one_by_one(lambda one: tiered.get_many(NAMESPACE, one)),
                "one_miss": one_by_one(lambda one: disk.get_many(NAMESPACE, one), missing),
            },
            items=len(ones),
            rounds=_ROUNDS,
        )
