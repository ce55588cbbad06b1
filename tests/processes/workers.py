"""What the processes of these tests do; here, so that a spawned process can import it."""

from __future__ import annotations

import os
import random
import signal
from multiprocessing.synchronize import Barrier
from pathlib import Path

from embstore import EmbeddingStore
from tests.helpers import MODEL, OTHER, check, put, texts_of

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
