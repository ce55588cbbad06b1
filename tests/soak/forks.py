"""Forks of a process whose threads are at work on the store."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from functools import partial
from pathlib import Path

from embstore import CachedEncoder, EmbeddingStore, Namespace
from embstore.backends.rows import Array
from tests.helpers import MODEL, check, put, texts_of, vectors_of
from tests.soak.apart import FAILED, STUCK, apart, fork, wait_for
from tests.soak.trial import Outcome, Trial

WRITERS = 3
OWN = 5
"""Texts that each child, and each thread in a round, writes itself."""
SHARED = texts_of(50)
FUNCTION = Namespace("a/function")
AT_ONCE = 2
"""Children that are alive at the same time."""


def embed(texts: list[str]) -> Array:
    """The function of the inherited encoder."""
    return vectors_of(FUNCTION, texts)


class Threads:
    """Threads that keep the locks of the store busy until they are stopped.

    Attributes:
        rounds: how often each writer has written; acknowledged.
        failures: what a thread raised.
    """

    def __init__(self, store: EmbeddingStore) -> None:
        self._store = store
        self._stop = threading.Event()
        self.rounds = [0] * WRITERS
        self.failures: list[str] = []
        works = [partial(self._write, number) for number in range(WRITERS)] + [self._look]
        self._threads = [threading.Thread(target=self._keep_on, args=(work,)) for work in works]
        for thread in self._threads:
            thread.start()

    def _keep_on(self, work: partial[None]) -> None:
        try:
            while not self._stop.is_set():
                work()
        except BaseException:
            self.failures.append(traceback.format_exc())

    def _write(self, number: int) -> None:
        put(self._store, MODEL, texts_of_thread(number, self.rounds[number]))
        self.rounds[number] += 1
        check(self._store, MODEL, SHARED)

    def _look(self) -> None:
        # From memory alone: all the time goes into the locks of the memory tier and the counters.
        check(self._store, MODEL, SHARED[:1])
        self._store.count(bypassed=1, encode_seconds=0.5, seconds_saved=0.5)
        # Without it, who releases the GIL for an SQL statement waits a switch interval to get it
        # back, some twenty times a commit.
        time.sleep(0.0005)

    def stop(self) -> None:
        """Wait for their ends."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def texts_of_thread(number: int, round_: int) -> list[str]:
    """What a thread writes in one of its rounds."""
    return texts_of(OWN, 10_000_000 * (number + 1) + OWN * round_)


def texts_of_child(number: int) -> list[str]:
    """What a child writes."""
    return texts_of(OWN, 1_000_000_000 + OWN * number)


def fork_children(place: Path, count: int) -> Outcome:
    """Fork children while threads write; each child writes and reads with what it inherited."""
    # Threads that change often are met more often amid what they do.
    sys.setswitchinterval(1e-3)
    codes: list[int] = []
    slowest = 0.0
    with EmbeddingStore(place, on_error="raise") as store:
        encoder = CachedEncoder(embed, store, model_name="function")
        encoder.encode(SHARED)
        put(store, MODEL, SHARED)
        threads = Threads(store)
        alive: list[tuple[int, float]] = []

        def bury() -> None:
            nonlocal slowest
            pid, born = alive.pop(0)
            codes.append(wait_for(pid))
            slowest = max(slowest, time.perf_counter() - born)

        for number in range(count):
            born = time.perf_counter()
            pid, reader = fork(lambda _, number=number: live(store, encoder, number))
            os.close(reader)
            alive.append((pid, born))
            if len(alive) == AT_ONCE:
                bury()
        while alive:
            bury()
        threads.stop()
    stuck, failed = codes.count(STUCK), codes.count(FAILED)
    missing = count_missing(place, count, threads.rounds)
    failures = list(threads.failures)
    if stuck:
        failures.append(f"{stuck} children were stuck")
    if any(codes):
        failures.append(f"{len(codes) - codes.count(0)} children did not end well: {set(codes)}")
    if missing:
        failures.append(f"{missing} acknowledged writes are missing")
    if not min(threads.rounds):
        failures.append("a thread never wrote")
    with EmbeddingStore(place) as store:
        if not (report := store.verify()).ok:
            failures.append(f"verify: {report}")
    return Outcome(
        {
            "children": count,
            "stuck": stuck,
            "failed": failed,
            "rows written by the parent's threads": OWN * sum(threads.rounds),
            "missing writes": missing,
            "slowest child, s": round(slowest, 3),
        },
        failures,
    )


def live(store: EmbeddingStore, encoder: CachedEncoder, number: int) -> None:
    """What a child does, with the store and the encoder that its parent had open."""
    mine = texts_of_child(number)
    put(store, MODEL, mine)
    assert all(check(store, MODEL, [*SHARED, *mine])), "not found by the child itself"
    texts = [*SHARED[:10], *mine]
    assert encoder.encode(texts).tobytes() == embed(texts).tobytes()


def count_missing(place: Path, children: int, rounds: list[int]) -> int:
    """How many of the texts that were written are not found in the store, opened anew."""
    written = [text for number in range(children) for text in texts_of_child(number)]
    computed = [*SHARED, *written]
    for number, count in enumerate(rounds):
        written += [text for round_ in range(count) for text in texts_of_thread(number, round_)]
    calls: list[int] = []

    def recompute(texts: list[str]) -> Array:
        calls.append(len(texts))
        return embed(texts)

    with EmbeddingStore(place, on_error="raise", memory_limit=0) as store:
        missing = check(store, MODEL, [*SHARED, *written]).count(False)
        encoder = CachedEncoder(recompute, store, model_name="function")
        assert encoder.encode(computed).tobytes() == embed(computed).tobytes()
    return missing + sum(calls)


TRIALS = [
    Trial(
        name="forks while threads write",
        bar="1,000 children: 0 stuck, 0 missing writes",
        run=partial(apart, fork_children),
        short=30,
        long=1000,
    )
]
