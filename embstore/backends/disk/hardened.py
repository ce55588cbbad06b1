"""diskcache.Cache, hardened. All SQL of embstore is in this file.

What is changed of diskcache 5.6.3, and why:
- Only raw bytes are read; pickles and file names are refused (CVE-2025-69872), nothing is unlinked.
- Settings are constants of this file. The Settings table, which diskcache obeys (attributes,
  pragmas), is never read: a tampered one changes nothing, and opening writes nothing.
- One connection for the process, under one lock, closed before a fork; both sides open their own.
- C code ends a transaction, wherever an interrupt lands; diskcache keeps the write lock if it lands
  between BEGIN and ``try``.
- Waiting for a lock can be interrupted, and lasts as long as asked for, opening included.
- Nothing expires by the clock, and nothing is culled.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
import threading
import time
import urllib.parse
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from diskcache import Cache
from diskcache.core import DBNAME, MODE_RAW

from embstore.backends.disk.raw import RawDisk, expect_bytes
from embstore.backends.disk.sealed import Sealed
from embstore.backends.disk.sqlite_faults import FaultsNamed
from embstore.errors import StoreError
from embstore.locks import BEFORE_FORK, LEDGER

T = TypeVar("T")

FILE: str = DBNAME
"""cache.db"""

_PATIENCE = 0.2
"""Seconds that SQLite waits for the write lock by itself: nothing can interrupt it then."""

_SETTINGS = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "none",
    "size_limit": 2**62,
    "cull_limit": 0,
    "sqlite_auto_vacuum": 0,
    "sqlite_journal_mode": "wal",
    "sqlite_mmap_size": 0,  # a mapped file that is cut short ends the process
    "sqlite_synchronous": 1,
    "disk_min_file_size": 2**62,
    "disk_pickle_protocol": 0,
}
_PRAGMAS = (
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA mmap_size = 0",
    "PRAGMA synchronous = NORMAL",
)
_UNUSED = (
    *(
        f"DROP TRIGGER IF EXISTS Settings_{name}"
        for name in ("count_insert", "count_delete", "size_insert", "size_update", "size_delete")
    ),
    "DROP INDEX IF EXISTS Cache_expire_time",
    "DROP INDEX IF EXISTS Cache_store_time",
)
"""What diskcache keeps for statistics and eviction by the clock: a third of a small commit's
time."""


class HardenedCache(Sealed, Cache):  # type: ignore[misc]  # diskcache has no types
    """A map from bytes to bytes in one SQLite file, with ordered keys and transactions.

    ``meta`` is what the key M must hold in each connection, once that is known.

    Methods raise StoreDamagedError when the file contradicts itself, and StoreError when SQLite
    cannot do its work (locked for longer than ``timeout`` seconds, disk full, ...).

    Args:
        directory: where cache.db lies.
        timeout: seconds to wait for a lock.
        mode: "rw" to open an existing file; "ro" to open one for reading, which makes and changes
            no file at all; "immutable" to read it without the log that a writer left, where that
            cannot be read; "create" to make a new one.
    """

    def __init__(self, directory: Path, timeout: float, mode: str) -> None:
        self.path = directory / FILE
        self._file = str(self.path)
        self._mode = "rw" if mode == "create" else mode
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self.meta = b""
        self._idle_since: tuple[int, ...] | None = None
        self._is_impatient = False
        self._faults_named = FaultsNamed(self.path, is_written=self._mode == "rw")
        self._directory = str(directory)
        self._timeout = timeout
        self._local = threading.local()
        self._disk = RawDisk(str(directory))
        for name, value in _SETTINGS.items():
            setattr(self, name, value)
        _OPEN.add(self)
        if mode == "create":
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
            os.chmod(self.path, 0o600)
            with LEDGER, self.faults():
                # The tables are diskcache's own work. Not told where they are: it expands
                # variables in a directory's name, and makes the directory it gets.
                super().__init__(os.sep, timeout, RawDisk, **_SETTINGS)
                for statement in _UNUSED:
                    self._con.execute(statement)
            self._directory = str(directory)

    # --- one connection, one lock, faults named -------------------------------------------------

    @property
    def _con(self) -> sqlite3.Connection:
        if self._connection is None:
            mode = f"mode={self._mode}"
            self._idle_since = None
            self._is_impatient = False
            if self._mode in ("ro", "immutable"):
                # Without a log, the file is all there is. SQLite would make log and shared memory.
                state = self._state()
                if self._mode == "immutable" or not all(state[-2:]):
                    self._idle_since = state
                mode = "mode=ro&" + ("immutable=1" if self._idle_since else "readonly_shm=1")
            else:
                self._close_readers()
            self._connection = sqlite3.connect(
                f"file:{urllib.parse.quote(os.fsencode(self.path))}?{mode}",
                uri=True,
                timeout=self._timeout,
                isolation_level=None,
                check_same_thread=False,
            )
            for pragma in _PRAGMAS:
                self._connection.execute(pragma)
            self._inode = os.stat(self.path).st_ino
            if self.meta and self.get(b"M") != self.meta:
                # Of another store, which came here while there was no connection (after a fork).
                self.close()
                self.damaged("it was moved or deleted while it was open")
        return self._connection

    def _close_readers(self) -> None:
        # SQLite maps the shared memory once in a process: as the first connection asked for it.
        for other in list(_OPEN):
            if other._mode != "rw" and other._is_idle and other.path.samefile(self.path):
                other.close()

    @property
    def _is_idle(self) -> bool:
        """Whether there is a connection, and not in a transaction."""
        return self._connection is not None and not self._connection.in_transaction

    @property
    def is_in_transaction(self) -> bool:
        """Whether this is called within :meth:`transaction` or :meth:`snapshot`."""
        return self._connection is not None and self._connection.in_transaction

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        with LEDGER:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def __del__(self) -> None:
        # Without the lock, which whoever triggers a collection may not take now. Nobody else has
        # the connection any more.
        connection = self.__dict__.get("_connection")
        if connection is not None:
            connection.close()

    def __getstate__(self) -> NoReturn:
        raise TypeError("a ledger is opened anew in each process")

    def faults(self) -> FaultsNamed:
        """``with`` this, what SQLite and the system raise is raised as an error of embstore."""
        if self._is_impatient and self._is_idle:
            self._wait_for(self._timeout)
        return self._faults_named

    def damaged(self, why: str) -> NoReturn:
        """Raise StoreDamagedError."""
        self._faults_named.damaged(why)

    def _state(self) -> tuple[int, ...]:
        stat = os.stat(self.path)
        log, shared = (os.path.exists(f"{self.path}{end}") for end in ("-wal", "-shm"))
        return stat.st_ino, stat.st_size, stat.st_mtime_ns, int(log), int(shared)

    def check_in_place(self) -> None:
        """Raise StoreDamagedError if another process moved the file aside: what is committed to it
        now is lost to everybody."""
        if self._connection is None:
            return
        if self._idle_since is not None:
            if self._is_idle and self._idle_since != self._state():
                self.close()  # somebody has begun to write: from now on there is a log to be read
                self._mode = "ro"
            return
        try:
            in_place = os.stat(self._file).st_ino == self._inode
        except FileNotFoundError:
            in_place = False
        if not in_place:
            self.damaged("it was moved or deleted while it was open")

    # No generators here: an interrupt in contextlib's own code leaves one suspended, with the lock
    # held as long as the traceback lives. What `with` calls below is C: nothing lands in between.

    def transaction(self, work: Callable[[], T], timeout: float | None = None) -> T:
        """Do ``work`` under the write lock; commit at its end, or roll back if anything is raised.

        Args:
            work: what to do; it calls the methods that say "in a transaction".
            timeout: seconds to wait for the lock; None for those of this cache.
        """
        with LEDGER, self._faults_named:
            self.check_in_place()
            connection = self._con
            if connection.in_transaction:
                raise StoreError(f"{self.path} is being written further up", path=str(self.path))
            deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
            while True:
                with connection:
                    if self._begin(connection, deadline):
                        result = work()
                        self.check_in_place()  # a rebuild elsewhere may have moved it meanwhile
                        break
        return result

    def _begin(self, connection: sqlite3.Connection, deadline: float) -> bool:
        """Try for a while to take the write lock."""
        if not self._is_impatient:
            self._wait_for(_PATIENCE, impatient=True)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            return False
        return True

    def _wait_for(self, seconds: float, *, impatient: bool = False) -> None:
        """How long statements wait for a lock. One transaction after the other leaves it as it is:
        setting it takes as long as a query."""
        self._is_impatient = impatient
        self._con.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")

    def snapshot(self, work: Callable[[], T]) -> T:
        """Do ``work``, which sees one state of the file throughout, whatever others commit
        meanwhile. Keep it short: the write-ahead log cannot be reset under a reader."""
        with LEDGER, self.faults():
            self.check_in_place()
            connection = self._con
            if connection.in_transaction:
                return work()
            with connection:
                connection.execute("BEGIN")
                return work()

    @contextlib.contextmanager
    def _transact(self, retry: bool = False, filename: str | None = None) -> Iterator[Any]:
        # diskcache's own methods come through here, always inside transaction().
        if not self._con.in_transaction:
            raise RuntimeError("the ledger is written in a transaction")
        yield self._con.execute, lambda filename: None

    def get(self, key: bytes) -> bytes | None:
        """The value under a key. (diskcache's own compares times of expiry on top.)"""
        row = self._con.execute(
            "SELECT mode, filename, value FROM Cache WHERE key = ? AND raw = 1", (key,)
        ).fetchone()
        return None if row is None else self._disk.fetch(*row)

    def set(self, key: bytes, value: bytes) -> None:
        """Write a value. In a transaction."""
        self.set_many([(key, value)])

    def set_many(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Write keys with their values, in one statement. In a transaction."""
        if not self._con.in_transaction:
            raise RuntimeError("the ledger is written in a transaction")
        self._con.executemany(
            f"INSERT INTO Cache(key, value, raw, size, mode) VALUES (?, ?, 1, 0, {MODE_RAW})"
            " ON CONFLICT(key, raw) DO UPDATE SET value = excluded.value, mode = excluded.mode,"
            " size = 0, expire_time = NULL, filename = NULL",
            entries,
        )

    # --- ordered keys ---------------------------------------------------------------------------

    def keys(self, prefix: bytes) -> list[bytes]:
        """All keys that start with ``prefix``, in order."""
        query = "SELECT key FROM Cache WHERE key >= ? AND key < ? AND raw = 1 ORDER BY key"
        rows = self._con.execute(query, (prefix, _after(prefix))).fetchall()
        return [expect_bytes(key) for (key,) in rows]

    def last(self, prefix: bytes, count: int) -> list[tuple[bytes, int]]:
        """The last keys that start with ``prefix``, the last first, with their values' lengths."""
        rows = self._con.execute(
            "SELECT key, length(value) FROM Cache WHERE key >= ? AND key < ? AND raw = 1"
            " ORDER BY key DESC LIMIT ?",
            (prefix, _after(prefix), count),
        ).fetchall()
        return [(expect_bytes(key), int(length or 0)) for key, length in rows]

    def entries_from(self, prefix: bytes, start: bytes) -> list[tuple[bytes, bytes]]:
        """Keys and values that start with ``prefix``, from the last key up to ``start`` on."""
        first = self._con.execute(
            "SELECT key FROM Cache WHERE key >= ? AND key <= ? AND raw = 1"
            " ORDER BY key DESC LIMIT 1",
            (prefix, start),
        ).fetchone()
        rows = self._con.execute(
            "SELECT key, mode, filename, value FROM Cache"
            " WHERE key >= ? AND key < ? AND raw = 1 ORDER BY key",
            (first[0] if first else prefix, _after(prefix)),
        ).fetchall()
        return [
            (expect_bytes(key), self._disk.fetch(mode, filename, value, False))
            for key, mode, filename, value in rows
        ]

    def delete_range(self, prefix: bytes) -> None:
        """Delete all keys that start with ``prefix``. In a transaction."""
        self._con.execute(
            "DELETE FROM Cache WHERE key >= ? AND key < ? AND raw = 1", (prefix, _after(prefix))
        )

    def entries(self) -> int:
        """How many entries there are, whatever they hold."""
        return int(self._con.execute("SELECT COUNT(*) FROM Cache").fetchone()[0])

    # --- maintenance ----------------------------------------------------------------------------

    def vacuum(self) -> None:
        """Give back free pages. Not in a transaction."""
        with LEDGER, self.faults():
            self._con.execute("VACUUM")
        self.sync()

    def sync(self) -> None:
        """Wait until the disk has all that is committed: a power cut may take the last commits,
        and what is unlinked for one of them would be lost with it. Raises StoreError if a reader
        or writer was in the way for longer than the timeout."""
        deadline = time.monotonic() + self._timeout
        while True:
            with LEDGER, self.faults():
                if not self._con.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    return
            # Of another checkpoint, SQLite does not wait for the end.
            if time.monotonic() >= deadline:
                raise StoreError(f"{self.path}: busy", path=str(self.path))
            time.sleep(0.01)

    def check(self, fix: bool = False, retry: bool = False) -> list[str]:
        """What SQLite finds wrong with the file, without the write lock diskcache's own takes."""
        with LEDGER, self.faults():
            found = [str(text) for (text,) in self._con.execute("PRAGMA quick_check(10)")]
        return [] if found == ["ok"] else found


def _after(prefix: bytes) -> bytes:
    """The smallest key above all that start with ``prefix`` (whose first byte is a letter)."""
    return (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix), "big")


_OPEN: weakref.WeakSet[HardenedCache] = weakref.WeakSet()


def _close_connections() -> None:
    # SQLite knows in each process which locks it holds. A child inherits that knowledge, but not
    # the locks: what it commits would go into a log that others take for theirs to delete.
    for cache in list(_OPEN):
        if cache._is_idle:
            cache.close()


def _leak_connections() -> None:
    # Of a fork within a transaction (by a signal handler): closing it here would drop the parent's
    # lock, and one more reference keeps it from ever being collected.
    for cache in list(_OPEN):
        if cache._connection is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(cache._connection))
            cache._connection = None


BEFORE_FORK.append(_close_connections)
os.register_at_fork(after_in_child=_leak_connections)
