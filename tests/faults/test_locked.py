"""Locks that somebody else holds for good: a job waits for its ``timeout``, and goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from embstore import EmbeddingStore, StoreError
from embstore.backends.disk.vectors import read_header
from tests.faults.jobs import Job, start, warnings_of
from tests.helpers import MODEL, check, put, start_python, texts_of, vector_files

PATIENCE = 20.0
"""Seconds that no job may take here. A store that forgot its timeout would wait for 60 or more."""

WRITING = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1] + "/cache.db", isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""
ALONE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1] + "/cache.db", isolation_level=None)
connection.execute("PRAGMA locking_mode = EXCLUSIVE")
connection.execute("BEGIN EXCLUSIVE")
connection.execute("PRAGMA user_version = 1")
print("locked", flush=True)
sys.stdin.read()
"""
MAKING = """
import fcntl, sys
lock = open(sys.argv[1] + "/lock", "ab")
fcntl.flock(lock, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held(location: Path, holder: str) -> Iterator[None]:
    """Another process holds a lock; no more than :data:`PATIENCE` may pass meanwhile."""
    process = start_python(holder, location)
    assert process.stdout.readline() == "locked\n"
    begun = time.monotonic()
    try:
        yield
    finally:
        process.communicate(timeout=60)
    assert time.monotonic() - begun < PATIENCE


def test_a_job_goes_on_while_another_process_writes(tmp_path: Path) -> None:
    location = tmp_path / "store"
    start(location)
    with held(location, WRITING):
        job = Job(location, timeout=0.2)
        assert job.encode(50) == 0
        job.go_on()
        job.close()
        job.warned_once("locked")
    fresh = Job(location)
    assert fresh.encode(50) == 0
    fresh.go_on()
    fresh.never_warned()


def test_a_store_that_nobody_else_may_open(tmp_path: Path) -> None:
    """Not even to read: what SQLite calls an exclusive lock. The vector files are still read."""
    location = tmp_path / "store"
    start(location)
    with held(location, ALONE):
        job = Job(location, timeout=0.2)
        assert job.encode(50) == 0
        job.go_on()
        job.close()
        job.warned_once("locked")
        with pytest.raises(StoreError, match="locked") as caught:
            Job(location, timeout=0.2, on_error="raise").go_on()
        assert caught.value.path.startswith(str(location))
    fresh = Job(location)
    assert fresh.encode(50) == 0
    fresh.never_warned()


def test_a_file_that_was_begun_and_never_committed_hides_nothing(tmp_path: Path) -> None:
    """What a compaction leaves that was killed, or met a full disk: a newer file, without rows.
    Without a ledger nobody knows that it does not count."""
    location = tmp_path / "store"
    start(location)
    header = read_header(vector_files(location)[0])
    begun = dataclasses.replace(header, generation=header.generation + 1)
    (location / "vectors" / begun.file_name).write_bytes(begun.to_bytes())
    with held(location, ALONE):
        assert Job(location, timeout=0.2).encode(50) == 0


@pytest.mark.parametrize("warm", [False, True])
def test_a_ledger_that_another_process_makes_or_mends(tmp_path: Path, warm: bool) -> None:
    location = tmp_path / "store"
    location.mkdir(mode=0o700)
    if warm:
        start(location)
        (location / "cache.db").write_bytes(b"damaged" * 1000)
    with held(location, MAKING):
        job = Job(location, timeout=0.2)
        assert job.encode(50) == (0 if warm else 50)
        job.go_on()
        job.close()
        job.warned_once("another process")
        with pytest.raises(StoreError, match="another process"):
            Job(location, timeout=0.2, on_error="raise").go_on()
    fresh = Job(location)
    assert fresh.encode(50) == (0 if warm else 50)
    fresh.go_on()
    assert fresh.store.verify().ok


def test_opening_takes_no_longer_than_asked(tmp_path: Path) -> None:
    """Half a second is waited for, and not a minute; nor nothing."""
    location = tmp_path / "store"
    location.mkdir(mode=0o700)
    with held(location, MAKING):
        begun = time.monotonic()
        with pytest.raises(StoreError):
            EmbeddingStore(location, timeout=0.5, on_error="raise")
        assert time.monotonic() - begun >= 0.4


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A store with a vector whose write lock another process holds for good."""
    location = tmp_path / "store"
    with EmbeddingStore(location) as store:
        put(store, MODEL, ["a"])
    process = start_python(
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('BEGIN IMMEDIATE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()",
        location / "cache.db",
    )
    assert process.stdout.readline() == "locked\n"
    yield location
    process.communicate(timeout=60)
    with EmbeddingStore(location, on_error="raise") as store:
        put(store, MODEL, ["z"])
        assert check(store, MODEL, ["a", "z"]) == [True, True]


def test_locked_by_another_process_warns_once_and_goes_on(locked: Path) -> None:
    with EmbeddingStore(locked, timeout=0.05) as store:
        assert check(store, MODEL, ["a", "b"]) == [True, False]
        messages = warnings_of(lambda: [put(store, MODEL, [text]) for text in texts_of(20)])
        assert len(messages) == 1
        assert str(locked) in messages[0]
        assert "locked" in messages[0]
        assert store.stats().write_errors >= 1
        assert all(check(store, MODEL, ["a", *texts_of(20)])), "in memory at least"


def test_locked_by_another_process_raises_if_asked(locked: Path) -> None:
    with EmbeddingStore(locked, timeout=0.05, on_error="raise") as store:
        assert check(store, MODEL, ["a", "b"]) == [True, False]
        with pytest.raises(StoreError, match="locked") as caught:
            put(store, MODEL, ["b"])
        assert caught.value.path.startswith(str(locked))
        for forbidden in (lambda: store.delete_many(MODEL, ["a"]), store.clear, store.compact):
            with pytest.raises(StoreError, match="locked"):
                forbidden()
        assert check(store, MODEL, ["a"]) == [True]


def test_deleting_says_so_when_it_fails_whatever_on_error_is(locked: Path) -> None:
    with (
        EmbeddingStore(locked, timeout=0.05) as store,
        pytest.raises(StoreError, match="locked"),
    ):
        store.delete_many(MODEL, ["a"])
