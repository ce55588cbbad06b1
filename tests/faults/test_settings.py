"""Processes that open one directory with different settings: each has its own, and no other's."""

from __future__ import annotations

from pathlib import Path

import pytest

from embstore import EmbeddingStore, StoreError, StoreRefusedError
from tests.faults.children import in_child
from tests.faults.jobs import Job, start
from tests.helpers import MODEL, OTHER, check, put, start_python, texts_of


def test_a_size_limit_holds_for_who_asked_for_it(tmp_path: Path) -> None:
    """It is not kept in the store: afterwards, nothing more is deleted for it."""
    location = tmp_path / "store"
    with EmbeddingStore(location, on_error="raise", memory_limit=0) as unlimited:
        put(unlimited, MODEL, texts_of(2000), 64)

        def limited() -> int:
            with EmbeddingStore(location, on_error="raise", size_limit=400_000) as store:
                put(store, OTHER, texts_of(100), 64)
                assert all(check(store, OTHER, texts_of(100), 64))
                return sum(info.entries for info in store.namespaces())

        assert in_child(limited) < 1500
        # The one without a limit goes on, and finds what is left.
        assert check(unlimited, MODEL, texts_of(2000), 64).count(True) < 1500
        put(unlimited, MODEL, texts_of(2000), 64)
        assert all(check(unlimited, MODEL, texts_of(2000), 64))
        assert all(check(unlimited, OTHER, texts_of(100), 64))
    with EmbeddingStore(location, on_error="raise", memory_limit=0) as again:
        put(again, MODEL, texts_of(1000, 5000), 64)
        assert all(check(again, MODEL, [*texts_of(2000), *texts_of(1000, 5000)], 64))
        assert again.stats().bytes > 400_000


def test_each_waits_as_long_as_it_wants(tmp_path: Path) -> None:
    """While another process writes, a patient job stores in the end, and a hasty one says so."""
    location = tmp_path / "store"
    start(location)
    writer = start_python(
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('BEGIN IMMEDIATE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.readline()\n"
        "import time\n"
        "time.sleep(0.5)\n",
        location / "cache.db",
    )
    assert writer.stdout.readline() == "locked\n"
    hasty = Job(location, timeout=0.05)
    hasty.encode(60)
    hasty.warned_once("locked")
    patient = Job(location, timeout=60, on_error="raise")
    writer.stdin.write("half a second more\n")
    writer.stdin.flush()
    patient.encode(70)
    writer.communicate(timeout=60)
    fresh = Job(location)
    assert fresh.encode(70) == 0
    fresh.never_warned()


def test_memory_limits_change_nothing_that_is_returned(tmp_path: Path) -> None:
    location = tmp_path / "store"
    jobs = [Job(location, memory_limit=limit) for limit in (0, 2000, "1MB", None)]
    computed = sum(
        job.encode(60, first + 10 * number)
        for first in range(0, 200, 40)
        for number, job in enumerate(jobs)
    )
    assert computed == 250, "each once"
    for job in jobs:
        assert job.encode(250) == 0
        job.close()
        job.never_warned()


def test_a_reader_beside_a_writer(tmp_path: Path) -> None:
    """Who opens to read sees what others store, at once, and stores nothing itself."""
    location = tmp_path / "store"
    start(location)
    reader = Job(location, read_only=True, on_error="raise", memory_limit=0)
    writer = Job(location, on_error="raise")
    for count in (60, 100, 400):
        writer.encode(count)
        assert reader.encode(count) == 0
        assert reader.encode(count + 10) == 10
        assert reader.encode(count + 10) == 10
    with pytest.raises(StoreError, match="read-only"):
        reader.store.compact()
    reader.close()
    assert writer.encode(410) == 10
    for job in (reader, writer):
        job.never_warned()


def test_warning_and_raising_on_one_directory(tmp_path: Path) -> None:
    location = tmp_path / "store"
    mild, strict = Job(location, on_error="warn"), Job(location, on_error="raise")
    assert mild.encode(50) == 50
    assert strict.encode(60) == 10
    assert mild.encode(60) == 0
    with EmbeddingStore(location, read_only=True) as store, pytest.raises(StoreError):
        store.clear()


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_another_seed_than_the_stores_is_refused(tmp_path: Path, on_error: str) -> None:
    EmbeddingStore(tmp_path / "store", seed=1).close()
    with pytest.raises(StoreRefusedError, match="seed"):
        EmbeddingStore(tmp_path / "store", seed=2, on_error=on_error)
    EmbeddingStore(tmp_path / "store", seed=1, on_error=on_error).close()
