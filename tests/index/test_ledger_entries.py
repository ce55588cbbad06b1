"""The ledger's own get and set, and how long its statements wait."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diskcache
import pytest

from embstore import EmbeddingStore, StoreError
from tests.helpers import ledger_rows, start_python
from tests.index.kept import MODEL, check, found_in, put, texts_of

HOLDER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("ROLLBACK")
"""


@contextmanager
def held(location: Path, seconds: float) -> Iterator[None]:
    """Another process has the write lock for so long."""
    process = start_python(HOLDER, location / "cache.db", seconds)
    assert process.stdout.readline() == "held\n"
    yield
    process.communicate(timeout=60)
    assert process.returncode == 0


def with_diskcaches_own(location: Path) -> None:
    """Give a store what diskcache makes, and an earlier embstore left as it was: its triggers,
    indexes and settings, and entries with times."""
    for file in location.glob("cache.db-*"):
        file.unlink()
    cache = diskcache.Cache(str(location), eviction_policy="none", cull_limit=0, size_limit=2**62)
    cache.close()
    ledger_rows(
        location,
        "UPDATE Cache SET store_time = 1.5, access_time = 1.5, access_count = 0, size = 0",
    )
    for column in ("expire_time", "store_time"):
        ledger_rows(location, f"CREATE INDEX IF NOT EXISTS Cache_{column} ON Cache ({column})")
    made = {name for (name,) in ledger_rows(location, "SELECT name FROM sqlite_master")}
    assert {"Settings_size_update", "Settings_count_insert"} <= made


def test_a_store_with_diskcaches_triggers_and_indexes(tmp_path: Path) -> None:
    location = tmp_path / "store"
    with EmbeddingStore(location, memory_limit=0) as store:
        put(store, MODEL, texts_of(300))
        store.delete_many(MODEL, texts_of(10))
    with_diskcaches_own(location)
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        assert sum(check(store, MODEL, texts_of(300))) == 290
        for number in range(100):
            put(store, MODEL, texts_of(1, 1000 + number))
        store.delete_many(MODEL, texts_of(5, 1000))
        assert store.compact().rows == 385
        assert store.verify().ok
        put(store, MODEL, texts_of(10))
    assert found_in(location, texts_of(300)) == 300
    assert found_in(location, texts_of(100, 1000)) == 95
    # And back: what is written now is what diskcache would read.
    raw = dict(ledger_rows(location, "SELECT key, value FROM Cache WHERE raw = 1 AND mode = 1"))
    with diskcache.Cache(str(location), eviction_policy="none") as cache:
        for key, value in raw.items():
            assert cache.get(key) == value
    assert found_in(location, texts_of(300)) == 300


def test_a_new_store_has_none_of_them(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path) as store:
        put(store, MODEL, texts_of(3))
    made = {name for (name,) in ledger_rows(tmp_path, "SELECT name FROM sqlite_master")}
    assert not {name for name in made if name.startswith("Settings_")}
    assert "Cache_key_raw" in made
    plan = ledger_rows(
        tmp_path, "EXPLAIN QUERY PLAN SELECT value FROM Cache WHERE key = ? AND raw = 1", b"M"
    )
    assert "USING INDEX Cache_key_raw" in plan[0][-1]


def test_an_entry_that_had_a_file_is_replaced(tmp_path: Path) -> None:
    """Nothing of what others wrote there stays beside the new value."""
    with EmbeddingStore(tmp_path) as store:
        put(store, MODEL, texts_of(3))
    key = b"h" + MODEL.id
    ledger_rows(
        tmp_path, "UPDATE Cache SET expire_time = 1, filename = NULL, size = 9 WHERE key = ?", key
    )
    with EmbeddingStore(tmp_path, on_error="raise") as store:
        put(store, MODEL, texts_of(3, 10))
    query = "SELECT expire_time, filename, size, mode FROM Cache WHERE key = ?"
    assert ledger_rows(tmp_path, query, key) == [(None, None, 0, 1)]


def patience(store: EmbeddingStore) -> int:
    """Milliseconds that a statement waits for a lock now."""
    connection = store._backend._session.ledger._cache._connection
    return connection.execute("PRAGMA busy_timeout").fetchone()[0]


def test_a_hundred_puts_and_what_comes_after_each(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path, memory_limit=0, timeout=7, on_error="raise") as store:
        for number in range(100):
            put(store, MODEL, texts_of(1, number))
        assert patience(store) == 200, "one after the other"
        assert check(store, MODEL, ["missing"]) == [False]
        assert patience(store) == 7000
        store._backend.claim(MODEL, store.digests(["a"]), b"o" * 16, 5)
        assert patience(store) == 200
        store._backend.claimed(MODEL, store.digests(["a"]))
        assert patience(store) == 7000
        store._backend.release(MODEL, b"o" * 16)
        store.namespaces()
        assert patience(store) == 7000
        assert all(check(store, MODEL, texts_of(100)))


def a_put(store: EmbeddingStore) -> None:
    put(store, MODEL, ["new"])
    assert check(store, MODEL, ["new"]) == [True]


def a_claim(store: EmbeddingStore) -> None:
    claimed = store._backend.claim(MODEL, store.digests(["new"]), b"o" * 16, 5)
    assert claimed.mine.tolist() == [True]


def a_read(store: EmbeddingStore) -> None:
    assert check(store, MODEL, ["missing"]) == [False]
    assert len(store.namespaces()) == 1


def vacuuming(store: EmbeddingStore) -> None:
    store._backend._session.ledger.vacuum()


@pytest.mark.parametrize("work", [a_put, a_claim, a_read, vacuuming])
def test_waiting_for_a_lock_that_another_process_holds(tmp_path: Path, work: object) -> None:
    with EmbeddingStore(tmp_path, memory_limit=0, timeout=20, on_error="raise") as store:
        put(store, MODEL, texts_of(3))
        put(store, MODEL, texts_of(3, 3))
        with held(tmp_path, 0.8):
            began = time.monotonic()
            work(store)
            if work is not a_read:
                assert time.monotonic() - began > 0.3, "it had to wait"
        assert all(check(store, MODEL, texts_of(6)))


def test_waiting_in_vain_is_an_error_and_leaves_no_lock(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path, memory_limit=0, timeout=0.3, on_error="raise") as store:
        put(store, MODEL, texts_of(3))
        with held(tmp_path, 1.5):
            for _ in range(2):
                with pytest.raises(StoreError, match="locked"):
                    put(store, MODEL, ["new"])
            assert all(check(store, MODEL, texts_of(3)))
        put(store, MODEL, ["new"])
        connection = sqlite3.connect(tmp_path / "cache.db", timeout=0, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def test_readers_and_writers_of_one_connection(tmp_path: Path) -> None:
    """Threads that read and write by turns, with the patience of each."""
    errors: list[BaseException] = []
    with EmbeddingStore(tmp_path, memory_limit=0, timeout=20, on_error="raise") as store:
        put(store, MODEL, texts_of(1))

        def work(number: int) -> None:
            try:
                for each in range(20):
                    if number % 2:
                        put(store, MODEL, texts_of(1, 100 * number + each))
                    else:
                        check(store, MODEL, ["missing"])
            except BaseException as error:
                errors.append(error)

        with held(tmp_path, 0.8):
            threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert errors == []
        assert all(check(store, MODEL, texts_of(20, 100) + texts_of(20, 300)))
