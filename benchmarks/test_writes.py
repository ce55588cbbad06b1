"""Writes: in batches of 256 and one text at a time, at an empty store and at a full one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice, repeat
from pathlib import Path

import diskcache
import pytest
from xxhash import xxh3_128_digest

from benchmarks.corpus import BATCH, NAMESPACE, Stored, fill, sentence, vectors
from benchmarks.race import Race
from embstore.backends.rows import Array

SIZES = pytest.mark.parametrize(
    "count",
    [
        pytest.param(0, id="empty"),
        pytest.param(100_000, id="100k"),
        pytest.param(1_000_000, id="1M", marks=pytest.mark.million),
    ],
)


_RUN = 16
"""Batches that a side writes before it is another's turn: a store that is filled goes on being
filled, and in so many rows SQLite's log is written back as often as in the long run. After 10 ms of
somebody else's work, a single batch takes twice its time, as nothing of it is in the processor's
caches."""

Batch = tuple[list[str], Array]


def unseen(size: int) -> Iterator[Batch]:
    """Batches of ``size`` texts that are stored nowhere yet, with vectors."""
    first = 10**9 * size
    while True:
        yield [sentence(first + number) for number in range(size)], vectors(first, size)
        first += size


def each(write: Callable[[list[str], Array], object]) -> Callable[[list[Batch]], None]:
    """What writes one batch, for several."""

    def write_all(batches: list[Batch]) -> None:
        for texts, rows in batches:
            write(texts, rows)

    return write_all


@SIZES
def test_write_batches(
    race: Race, stored: Callable[[int], Stored], folder: Path, count: int
) -> None:
    """Beside a bare write of the same bytes to a file, and diskcache holding as much."""
    known = stored(count) if count else fill(folder / "batches", NAMESPACE, 0)
    plain = os.open(folder / f"plain-{count}", os.O_CREAT | os.O_WRONLY)
    peer = diskcache.Cache(str(folder / f"peer-{count}"), size_limit=2**40)

    def set_all(texts: list[str], rows: Array) -> None:
        with peer.transact():
            for text, row in zip(texts, rows, strict=True):
                peer.set(xxh3_128_digest(text.encode()), row.tobytes())

    with_peer = count <= 100_000
    if with_peer and count:
        set_all([sentence(number) for number in range(count)], vectors(0, count))
    with known.open(on_error="raise") as store:
        result = race(
            {
                "bare write": each(lambda texts, rows: os.write(plain, rows.tobytes())),
                **({"diskcache": each(set_all)} if with_peer else {}),
                "embstore": each(lambda texts, rows: store.put_many(NAMESPACE, texts, rows)),
            },
            items=_RUN * BATCH,
            unit="row",
            rounds=15,
            inputs=((list(islice(new, _RUN)),) for new in repeat(unseen(BATCH))),
        )
    peer.close()
    os.close(plain)
    path = f"write, batches of 256, {count:,} stored"
    result.report(path, against="bare write", seconds=3e-6)
    if with_peer:
        path = f"peer: diskcache.Cache.set in transact(), {count:,} stored"
        result.report(path, side="diskcache", against="bare write")


@SIZES
def test_write_one(race: Race, stored: Callable[[int], Stored], folder: Path, count: int) -> None:
    """One text a call, each committed when the call returns."""
    known = stored(count) if count else fill(folder / "ones", NAMESPACE, 0)
    with known.open(on_error="raise") as store:
        result = race(
            {"embstore": lambda texts, rows: store.put_many(NAMESPACE, texts, rows)},
            items=1,
            unit="row",
            rounds=501,
            inputs=unseen(1),
        )
    result.report(f"write, one text a call, {count:,} stored", seconds=150e-6)
