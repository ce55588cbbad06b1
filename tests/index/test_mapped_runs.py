"""What others do to files while they are mapped: no bus error, and nothing wrong is found."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from embstore import EmbeddingStore
from tests.faults.children import in_child
from tests.index.kept import (
    COUNT,
    MODEL,
    STOPS,
    STRIDE,
    check,
    elsewhere,
    found_in,
    put,
    rows_recalled,
    run_files,
    texts_of,
    vector_file,
)


def reads(store: EmbeddingStore) -> None:
    assert all(check(store, MODEL, texts_of(COUNT)))


def reads_one(store: EmbeddingStore) -> None:
    assert check(store, MODEL, ["text 1"]) == [True]


def writes(store: EmbeddingStore) -> None:
    put(store, MODEL, texts_of(COUNT + 100))
    reads(store)


def deletes(store: EmbeddingStore) -> None:
    assert store.delete_many(MODEL, ["text 1"]) == 1
    put(store, MODEL, ["text 1"])
    reads(store)


def claims(store: EmbeddingStore) -> None:
    claimed = store._backend.claim(MODEL, store.digests(["text 1", "new"]), b"o" * 16, 5)
    assert claimed.stored.tolist() == [True, False]


def closes(store: EmbeddingStore) -> None:
    store.close()


def compacts(store: EmbeddingStore) -> None:
    store.delete_many(MODEL, ["text 2"])
    store.compact()
    put(store, MODEL, ["text 2"])
    reads(store)


def scans(store: EmbeddingStore) -> None:
    assert sum(len(digests) for digests, _ in store._backend.scan(MODEL)) == COUNT


@pytest.mark.parametrize("length", [0, 4096, 8192])
@pytest.mark.parametrize(
    "work", [reads, reads_one, writes, deletes, claims, closes, compacts, scans]
)
@pytest.mark.parametrize("memory_limit", [0, 10**6])
def test_cut_short_while_it_is_mapped(
    location: Path, work: Callable[[EmbeddingStore], None], length: int, memory_limit: int
) -> None:
    """In a process of its own: reading past the end of a mapped file ends it."""

    def child() -> None:
        with EmbeddingStore(location, memory_limit=memory_limit, on_error="raise") as store:
            for _ in range(2):
                assert all(check(store, MODEL, texts_of(COUNT)))
                assert all(check(store, MODEL, texts_of(5)))
            assert rows_recalled(store) == STOPS[-1]
            for file in run_files(location):
                os.truncate(file, length)
            work(store)

    in_child(child)
    assert found_in(location, texts_of(COUNT)) == COUNT


def test_cut_short_in_the_middle_of_a_scan(fast_path: Path) -> None:
    location = fast_path / "large"
    with EmbeddingStore(location, memory_limit=0) as store:
        put(store, MODEL, texts_of(9000))

    def child() -> None:
        with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
            parts = store._backend.scan(MODEL)
            count = len(next(parts)[0])
            os.truncate(run_files(location)[0], 4096)
            count += sum(len(digests) for digests, _ in parts)
            assert count == 9000

    in_child(child)


def test_a_vector_file_that_was_cut_short_and_given_up_by_others(location: Path) -> None:
    """What this process has used of it is noted for the next generation: not from the map."""

    def child() -> None:
        with EmbeddingStore(location, memory_limit=0) as store:
            assert all(check(store, MODEL, texts_of(COUNT)))
            os.truncate(vector_file(location), 4096 + 20 * STRIDE)
            elsewhere(
                """
import warnings
warnings.simplefilter("ignore")
with EmbeddingStore(location) as store:
    put(store, MODEL, ["new"])
""",
                location,
            )
            assert check(store, MODEL, ["never stored"]) == [False]
            assert sum(check(store, MODEL, texts_of(COUNT))) == 20

    in_child(child)


def test_deleted_or_replaced_while_it_is_mapped(location: Path) -> None:
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        assert all(check(store, MODEL, texts_of(COUNT)))
        for file in run_files(location):
            file.unlink()
            file.write_bytes(b"?")
        assert all(check(store, MODEL, texts_of(COUNT)))
        put(store, MODEL, texts_of(300, COUNT))
        assert all(check(store, MODEL, texts_of(COUNT + 300)))
    assert found_in(location, texts_of(COUNT + 300)) == COUNT + 300


def test_overwritten_while_it_is_mapped(location: Path) -> None:
    """It may cost its texts; they can be stored again."""
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        assert all(check(store, MODEL, texts_of(COUNT)))
        for file in run_files(location):
            with file.open("r+b") as opened:
                opened.write(random.Random(3).randbytes(file.stat().st_size))
        check(store, MODEL, texts_of(COUNT))
        put(store, MODEL, texts_of(COUNT))
        assert all(check(store, MODEL, texts_of(COUNT)))
    assert found_in(location, texts_of(COUNT)) == COUNT
