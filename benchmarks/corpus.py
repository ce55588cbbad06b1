"""What is stored and looked up: sentences, random vectors, and the floor they are held against."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_128_digest

from embstore import EmbeddingStore, Namespace
from embstore.backends.rows import Array

DIM = 384
BATCH = 256
A_ROUND = 20
"""Single texts in a round: short, so that the machine is at one speed throughout."""
NAMESPACE = Namespace("benchmark")


def sentence(number: int) -> str:
    """The sentence that embeddings notebooks measure with."""
    return f"This is a sample sentence for benchmarking embeddings generation {number}."


def vectors(first: int, count: int) -> Array:
    """(count, 384) float32; a function of ``first``."""
    return np.random.default_rng(first).standard_normal((count, DIM), np.float32)


def in_parts(texts: list[str], size: int) -> list[list[str]]:
    """``texts``, by ``size``."""
    return [texts[start : start + size] for start in range(0, len(texts), size)]


class Floor:
    """What no store can do without: hash the text, find the row, gather. All in private memory."""

    def __init__(self, texts: list[str], matrix: Array) -> None:
        self._rows = {xxh3_128_digest(text.encode()): row for row, text in enumerate(texts)}
        self._matrix = matrix

    def __call__(self, texts: list[str], *_: object) -> Array:
        rows = self._rows
        return self._matrix[[rows[xxh3_128_digest(text.encode())] for text in texts]]


@dataclass(frozen=True)
class Stored:
    """A store of ``count`` sentences, and the same in memory."""

    count: int
    location: Path
    namespace: Namespace
    floor: Floor

    def open(self, **arguments: Any) -> EmbeddingStore:
        """The store as a new process has it: nothing known, nothing checked."""
        return EmbeddingStore(self.location, **arguments)

    def opened_anew(self, **arguments: Any) -> Iterator[tuple[EmbeddingStore]]:
        """:meth:`open`, again and again."""
        while True:
            with self.open(**arguments) as store:
                yield (store,)

    def some(self, count: int) -> list[str]:
        """``count`` of the sentences, anywhere in the store, in any order."""
        return [
            sentence(number) for number in random.Random(count).sample(range(self.count), count)
        ]

    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_blocks * 512 for file in self.location.rglob("*"))


def fill(location: Path, namespace: Namespace, count: int) -> Stored:
    """Store ``count`` sentences in batches of 256."""
    texts = [sentence(number) for number in range(count)]
    matrix = np.empty((count, DIM), np.float32)
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        for start in range(0, count, BATCH):
            part = matrix[start : start + BATCH]
            part[:] = vectors(start, len(part))
            store.put_many(namespace, texts[start : start + BATCH], part)
    return Stored(count, location, namespace, Floor(texts, matrix))
