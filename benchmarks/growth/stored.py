"""What is stored and asked for: numbered sentences, and vectors that any process can make again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.corpus import BATCH, NAMESPACE, sentence
from embstore import EmbeddingStore, Namespace
from embstore.backends.rows import Array

TEXTS = 10_000
"""Texts in a large call."""
_NOWHERE = 10**12
"""Sentences from this number on are never stored."""


def batches(start: int, stop: int, dim: int) -> Iterator[tuple[list[str], Array]]:
    """The sentences from ``start`` to ``stop`` with their vectors, 256 at most at a time.

    A batch ends where 256 divides its end, so that a vector depends on nothing but its number.
    """
    while start < stop:
        block, skipped = divmod(start, BATCH)
        end = min(stop, (block + 1) * BATCH)
        yield (
            [sentence(number) for number in range(start, end)],
            _block(block, dim)[skipped:][: end - start],
        )
        start = end


def _block(block: int, dim: int) -> Array:
    return np.random.default_rng(block).standard_normal((BATCH, dim), np.float32)


def check(store: EmbeddingStore, numbers: list[int], namespace: Namespace = NAMESPACE) -> None:
    """Make sure that these sentences are stored, each with its own vector."""
    vectors, found = store.get_many(namespace, [sentence(number) for number in numbers])
    if not found.all():
        raise AssertionError(f"{(~found).sum()} of {len(numbers)} texts were not found")
    for number, vector in zip(numbers, vectors, strict=True):
        block, row = divmod(number, BATCH)
        if not np.array_equal(vector, _block(block, vectors.shape[1])[row]):
            raise AssertionError(f"sentence {number} has another vector")


def some_numbers(rows: int, count: int, *, seed: int = 0, without: int | None = None) -> list[int]:
    """Up to ``count`` numbers below ``rows``, anywhere, in any order; none that ends in the digit
    ``without``."""
    chance = random.Random(seed)
    if without is None:
        return chance.sample(range(rows), min(count, rows))
    left = rows // 10 * 9
    drawn = chance.sample(range(left), min(count, left))
    return [n // 9 * 10 + n % 9 + (n % 9 >= without) for n in drawn]


def some(rows: int, count: int, *, seed: int = 0, without: int | None = None) -> list[str]:
    """The sentences of :func:`some_numbers`."""
    return [sentence(number) for number in some_numbers(rows, count, seed=seed, without=without)]


def absent(count: int, *, seed: int = 0) -> list[str]:
    """Sentences that are not stored."""
    first = _NOWHERE + seed * count
    return [sentence(number) for number in range(first, first + count)]


def bytes_on_disk(location: Path) -> int:
    """What a store takes, in bytes."""
    return sum(file.stat().st_blocks * 512 for file in location.rglob("*"))
