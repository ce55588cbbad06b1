"""Writes: a store grown from one size to the next. Each function runs in a new process."""

from __future__ import annotations

import time
from functools import partial

from benchmarks.corpus import NAMESPACE
from benchmarks.growth.apart import Figures
from benchmarks.growth.stored import batches
from benchmarks.growth.timing import Calls, memory, seconds_of
from embstore import EmbeddingStore


def grow(location: str, start: int, stop: int, dim: int, singles: int) -> Figures:
    """Store the sentences from ``start`` to ``stop``: batches of 256, then ``singles`` one by one.

    The process's first put, which has to learn what is stored, is timed by itself and counts in no
    other figure.
    """
    figures: Figures = {}
    many, one = Calls(), Calls()
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        for texts, vectors in batches(start, stop - singles, dim):
            put = partial(store.put_many, NAMESPACE, texts, vectors)
            if "put_first" in figures:
                many.time(put, len(texts))
            else:
                figures["put_first"] = seconds_of(put)
        for texts, vectors in batches(stop - singles, stop, dim):
            for number in range(len(texts)):
                row = slice(number, number + 1)
                one.time(partial(store.put_many, NAMESPACE, texts[row], vectors[row]), 1)
        figures |= memory("writer_")
    return figures | many.figures("put") | one.figures("put_one")


def write_share(location: str, start: int, stop: int, dim: int, begin: float) -> Figures:
    """Store a share of the sentences, while other processes store theirs.

    Args:
        location: of the store.
        start: the first sentence's number.
        stop: the number behind the last one's.
        dim: numbers in a vector.
        begin: when all start, by ``time.time()``.
    """
    calls, made = Calls(), list(batches(start, stop, dim))
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        time.sleep(max(0.0, begin - time.time()))
        for texts, vectors in made:
            calls.time(partial(store.put_many, NAMESPACE, texts, vectors), len(texts))
    return calls.figures("put") | {"ended": time.time() - begin}
