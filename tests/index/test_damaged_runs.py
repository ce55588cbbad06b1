"""A run may be missing, stale or garbage: it costs a sort, and never a text or a wrong vector."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_64, xxh3_64_intdigest

from embstore import EmbeddingStore
from embstore.backends.disk import runs
from tests.faults.damage import flip
from tests.index.damages import DAMAGES
from tests.index.kept import (
    COUNT,
    HEADER,
    MODEL,
    STOPS,
    STRIDE,
    check,
    found_in,
    good_for,
    put,
    ranges,
    run_files,
    texts_of,
    vector_file,
)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage(location: Path, damage: Callable[[Path], None], number: int) -> None:
    damage(run_files(location)[number])
    good_for(location)


def test_a_bit_anywhere(location: Path) -> None:
    chance = random.Random(1)
    for number in (0, 1):
        file = run_files(location)[number]
        size = 8 * file.stat().st_size
        bits = [*range(0, 8 * 96, 5), *(chance.randrange(8 * HEADER, size) for _ in range(80))]
        for bit in bits:
            flip(file, bit)
            assert found_in(location, texts_of(COUNT), read_only=True) == COUNT
            flip(file, bit)
    assert ranges(location) == [(0, STOPS[0]), STOPS]


def test_a_bit_of_a_run_too_large_to_be_checked(
    location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is merged, it may cost a text, which is then stored once more."""
    monkeypatch.setattr(runs, "_CHECKED_BYTES", 0)
    chance = random.Random(2)
    file = run_files(location)[0]
    content = file.read_bytes()
    for _ in range(100):
        flip(file, *(chance.randrange(8 * HEADER, 8 * len(content)) for _ in range(5)))
        found = found_in(location, texts_of(COUNT), read_only=True)
        assert found > COUNT - 100
        file.write_bytes(content)
    garbage_behind = random.Random(0).randbytes(len(content) - HEADER)
    file.write_bytes(content[:HEADER] + garbage_behind)
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        put(store, MODEL, texts_of(COUNT))
        assert all(check(store, MODEL, texts_of(COUNT)))
    assert found_in(location, texts_of(COUNT)) == COUNT
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        for first in range(COUNT, 1500, 40):  # until all are merged
            put(store, MODEL, texts_of(40, first))
    monkeypatch.undo()
    assert found_in(location, texts_of(1500)) >= 1500


def test_the_last_row_of_the_first_run_is_damaged(location: Path) -> None:
    """That is how a run is known to be of these rows. It may cost the run, and this one text."""
    flip(vector_file(location), 8 * (4096 + STRIDE * (STOPS[0] - 1) + 8))
    assert found_in(location, texts_of(COUNT)) == COUNT - 1
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        put(store, MODEL, texts_of(COUNT))
        assert all(check(store, MODEL, texts_of(COUNT)))
    assert found_in(location, texts_of(COUNT)) == COUNT


def test_another_run_in_its_place(location: Path) -> None:
    first, second = run_files(location)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    assert found_in(location, texts_of(COUNT)) == COUNT
    second.write_bytes(kept)
    good_for(location)


@pytest.mark.parametrize("seed", [5, None])
def test_a_run_of_another_store(location: Path, tmp_path: Path, seed: int | None) -> None:
    """Same namespace, generation and rows, and other digests."""
    other = tmp_path / "other"
    with EmbeddingStore(other, memory_limit=0, seed=seed) as store:
        put(store, MODEL, texts_of(200)[::-1])
        for first in range(200, COUNT, 8):
            put(store, MODEL, texts_of(8, first))
    for file in run_files(other):
        shutil.copy(file, location / "vectors" / file.name)
    good_for(location)


def forge(file: Path, high: np.ndarray, rows: np.ndarray, starts: np.ndarray) -> None:
    """Write other arrays of the same lengths into a run, with all checksums right."""
    content = bytearray(file.read_bytes())
    sums = b"".join(xxh3_64(each.tobytes()).digest() for each in (high, rows, starts))
    content[80:88] = xxh3_64_intdigest(sums).to_bytes(8, "little")
    content[88:96] = xxh3_64_intdigest(bytes(content[:88])).to_bytes(8, "little")
    at = HEADER
    for each in (high, rows, starts):
        content[at : at + each.nbytes] = each.tobytes()
        at += -(-each.nbytes // 4096) * 4096
    file.write_bytes(content)


def test_a_run_that_lies_with_the_right_checksums(location: Path) -> None:
    """Its texts may be missing. Nothing else may happen, at look-ups or when it is merged."""
    file = run_files(location)[1]
    entries = struct.unpack_from("<Q", file.read_bytes(), 56)[0]
    rng = np.random.default_rng(0)
    bits = entries.bit_length() - 1
    for _ in range(10):
        high = rng.integers(0, 2**64, entries + 1, np.uint64, endpoint=False)
        rows = rng.integers(0, 2**32, entries + 1, np.uint32)
        starts = rng.integers(0, 2**32, 2**bits, np.uint32)
        forge(file, high, rows, starts)
        found = found_in(location, texts_of(COUNT))
        assert COUNT - 64 <= found <= COUNT
        with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
            put(store, MODEL, texts_of(COUNT))
            assert all(check(store, MODEL, texts_of(COUNT)))
        if run_files(location)[1:] != [file]:
            break
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        put(store, MODEL, texts_of(300, COUNT))
        assert all(check(store, MODEL, texts_of(COUNT + 300)))
