"""Writes: in batches of 256 and one text at a time, at an empty store and at a full one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count, cycle
from pathlib import Path

import pytest

from benchmarks.corpus import BATCH, NAMESPACE, Stored, fill, sentence, vectors
from benchmarks.race import Race
from embstore.backends.rows import Array

SIZES = pytest.mark.parametrize(
    "size",
    [
        pytest.param(0, id="empty"),
        pytest.param(100_000, id="100k"),
        pytest.param(1_000_000, id="1M", marks=pytest.mark.million),
    ],
)


def unseen(rows: int) -> Iterator[tuple[list[str], Array]]:
    """Batches of ``rows`` texts that are stored nowhere yet, with vectors. Quickly: after 10 ms of
    somebody else's work a batch takes twice its time, as nothing is in the processor's caches."""
    blocks = cycle([vectors(number, rows) for number in range(8)])
    for first in count(10**9 * rows, rows):
        yield [sentence(first + number) for number in range(rows)], next(blocks)


@SIZES
def test_write_batches(
    race: Race, stored: Callable[[int], Stored], folder: Path, size: int
) -> None:
    """Beside a bare write of the same bytes to a file."""
    known = stored(size) if size else fill(folder / "batches", NAMESPACE, 0)
    plain = os.open(folder / f"plain-{size}", os.O_CREAT | os.O_WRONLY)
    with known.open(on_error="raise") as store:
        result = race(
            {
                "bare write": lambda texts, rows: os.write(plain, rows.tobytes()),
                "embstore": lambda texts, rows: store.put_many(NAMESPACE, texts, rows),
            },
            items=BATCH,
            unit="row",
            rounds=1001,
            inputs=unseen(BATCH),
        )
    os.close(plain)
    result.report(f"write, batches of 256, {size:,} stored", against="bare write", seconds=3e-6)


@SIZES
def test_write_one(race: Race, stored: Callable[[int], Stored], folder: Path, size: int) -> None:
    """One text a call, each committed when the call returns."""
    known = stored(size) if size else fill(folder / "ones", NAMESPACE, 0)
    with known.open(on_error="raise") as store:
        result = race(
            {"embstore": lambda texts, rows: store.put_many(NAMESPACE, texts, rows)},
            items=1,
            unit="row",
            rounds=2001,
            inputs=unseen(1),
        )
    result.report(f"write, one text a call, {size:,} stored", seconds=150e-6)
