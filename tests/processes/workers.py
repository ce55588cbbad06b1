"""What the processes of these tests do; here, so that a spawned process can import it."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np

from embstore import CachedEncoder, EmbeddingStore
from tests.helpers import MODEL, OTHER, check, put, texts_of, vectors_of

SAME = texts_of(300)
BATCH = 25


def texts_of_worker(number: int) -> list[str]:
    """Texts that only one worker writes."""
    return texts_of(300, 10_000 * (number + 1))


def write(location: Path, number: int, barrier: Barrier) -> None:
    """Write the same texts as all others, in an order of one's own, and some of one's own."""
    with EmbeddingStore(location, on_error="raise", memory_limit=0) as store:
        barrier.wait()
        work(store, number)


def work(store: EmbeddingStore, number: int) -> None:
    """Write, and read back at once, what the others write too."""
    rng = random.Random(number)
    same, mine = rng.sample(SAME, len(SAME)), texts_of_worker(number)
    for start in range(0, len(SAME), BATCH):
        part = same[start : start + BATCH]
        put(store, MODEL, part)
        assert all(check(store, MODEL, part))
        put(store, OTHER, mine[start : start + BATCH], 3, "float16")
        check(store, MODEL, rng.sample(SAME, 10))
        check(store, OTHER, texts_of_worker(number ^ 1), 3, "float16")


def write_with_inherited(store: EmbeddingStore, number: int, barrier: Barrier) -> None:
    """The same with a store that was opened before the fork."""
    signal.alarm(60)
    barrier.wait()
    work(store, number)
    os._exit(0)  # nothing of the parent's is to be cleaned up here


class Noting:
    """A model that notes what it computes, for all processes that have a copy of it.

    Args:
        file: where it notes that, a line for each text.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        file.touch()

    def __call__(self, texts: list[str]) -> np.ndarray:
        with open(self._file, "ab", buffering=0) as file:
            file.write("".join(f"{text}\n" for text in texts).encode())
        return vectors_of(MODEL, texts)

    def computed(self) -> Counter[str]:
        """How often each text was computed, in any process."""
        return Counter(self._file.read_text().splitlines())


class Items:
    """A data set, as a DataLoader takes it, whose items are embedded one by one.

    Args:
        encoder: embeds them.
        texts: the items.
    """

    def __init__(self, encoder: CachedEncoder, texts: list[str]) -> None:
        self._encoder = encoder
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, number: int) -> Any:
        return self._encoder.encode(self._texts[number])


class Collate:
    """Makes a batch of texts one array, as a DataLoader's ``collate_fn``.

    Args:
        encoders: embed the texts, one beside the other.
    """

    def __init__(self, *encoders: CachedEncoder) -> None:
        self._encoders = encoders

    def __call__(self, texts: list[str]) -> np.ndarray:
        return np.hstack([encoder.encode(texts) for encoder in self._encoders])
