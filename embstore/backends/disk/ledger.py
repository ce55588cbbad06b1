"""The ledger: what is committed. A diskcache.Cache, hardened; all SQL of embstore is in this file.

    key                              value
    M                                format version and seed, sealed JSON, written once
    G                                the generation handed out last, sealed
    n namespace                      registry: namespace, dtype and dim, sealed JSON, written once
    h namespace                      head: generation, committed rows, deleted rows, sealed
    b namespace generation first     one committed batch: its text digests, 16 B each
    k namespace                      counters: vectors computed and seconds spent, sealed
    i identity                       what is known of a model, sealed JSON

Sealed values end in a checksum of key and value: one that does not match means a damaged ledger,
which is rebuilt from the vector files. Batches need none, since rows carry their own digests.

What is changed of diskcache 5.6.3, and why:
- Only raw bytes and integers are read; pickles and file names are refused (CVE-2025-69872).
- Settings are constants of this file. The Settings table, which diskcache obeys (attributes,
  pragmas), is never read: a tampered one changes nothing, and opening writes nothing.
- One connection for the process under one lock, leaked and not closed in a forked child.
- A transaction is rolled back wherever an interrupt lands; diskcache keeps the write lock if it
  lands between BEGIN and ``try``.
- Nothing expires by the clock or is culled.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sqlite3
import struct
import threading
import urllib.parse
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from diskcache import Cache, Disk
from diskcache.core import MODE_RAW
from xxhash import xxh3_64_digest

from embstore.backends.disk.vectors import FORMAT, refuse_newer
from embstore.errors import EmbstoreError, StoreDamagedError, StoreError
from embstore.keys import DIGEST_SIZE, Namespace, canonical_json
from embstore.locks import LEDGER

FILE = "cache.db"
MERGE_LIMIT = 65536
"""Rows in a batch entry beyond which it is left as it is: 1 MiB of digests."""

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
_HEAD = struct.Struct("<QQQ")
_COUNTERS = struct.Struct("<Qd")
_POSITION = struct.Struct(">QQ")
_DAMAGE = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_ERROR,  # a table or column that is gone: the SQL itself is constant
    sqlite3.SQLITE_MISMATCH,
}


class Head(NamedTuple):
    """Where a namespace stands."""

    generation: int
    rows: int
    deleted: int


class _RawDisk(Disk):  # type: ignore[misc]  # diskcache has no types
    """Bytes and integers as they are; whatever diskcache would unpickle, open or unlink is refused."""

    def put(self, key: bytes) -> tuple[Any, bool]:
        return sqlite3.Binary(key), True

    def get(self, key: Any, raw: Any) -> bytes:
        return _expect_bytes(key)

    def store(self, value: bytes, read: bool, key: Any = None) -> tuple[int, int, None, Any]:
        return 0, MODE_RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: Any, filename: Any, value: Any, read: Any) -> bytes:
        if mode != MODE_RAW or filename is not None:
            raise StoreDamagedError("the ledger has an entry that embstore never writes")
        return _expect_bytes(value)

    def filename(self, key: Any = None, value: Any = None) -> NoReturn:
        raise StoreDamagedError("the ledger has an entry that embstore never writes")

    def remove(self, file_path: Any) -> None:
        """Paths found in the ledger are data, and nothing is unlinked for them."""


class Ledger(Cache):  # type: ignore[misc]  # diskcache has no types
    """The ledger of one store, open.

    Every method raises StoreDamagedError when the ledger contradicts itself, and StoreError when
    SQLite cannot do its work (locked for longer than ``timeout`` seconds, disk full, ...).
    """

    def __init__(self, directory: Path, timeout: float, *, mode: str = "rw") -> None:
        """Open an existing ledger. Nothing is written, and no write lock is taken.

        Args:
            directory: where cache.db lies.
            timeout: seconds to wait for a lock.
            mode: "rw", "ro", or "immutable" for a read-only place where SQLite cannot even make
                its shared memory.
        """
        self._prepare(directory, timeout, mode)
        with LEDGER, self._faults():
            self._con  # noqa: B018  # opens it
            meta = self._get_json(b"M")
        if meta is None:
            self._damaged("it holds no store")
        refuse_newer(int(meta["format"]), self.path)
        self.seed: int = meta["seed"]

    @classmethod
    def create(cls, directory: Path, timeout: float, seed: int, generation: int = 0) -> Ledger:
        """Make a new ledger where there is none. The caller keeps others out (see location.py)."""
        path = directory / FILE
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        os.chmod(path, 0o600)
        self = cls.__new__(cls)
        self._prepare(directory, timeout, "rw")
        with LEDGER, self._faults():
            # The tables are diskcache's own work.
            super(Ledger, self).__init__(str(directory), timeout, _RawDisk, **_SETTINGS)
            with self.transaction():
                self._put_json(b"M", {"format": FORMAT, "seed": seed})
                self._put(b"G", generation.to_bytes(8, "little"))
        self.seed = seed
        return self

    def _prepare(self, directory: Path, timeout: float, mode: str) -> None:
        self.path = directory / FILE
        self._mode = mode
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._directory = str(directory)
        self._timeout = timeout
        self._local = threading.local()
        self._txn_id: int | None = None
        self._disk = _RawDisk(str(directory))
        for name, value in _SETTINGS.items():
            setattr(self, name, value)
        _OPEN.add(self)

    # --- one connection, one lock, faults named -------------------------------------------------

    @property
    def _con(self) -> sqlite3.Connection:
        if self._connection is None:
            mode = "immutable=1" if self._mode == "immutable" else f"mode={self._mode}"
            self._connection = sqlite3.connect(
                f"file:{urllib.parse.quote(str(self.path))}?{mode}",
                uri=True,
                timeout=self._timeout,
                isolation_level=None,
                check_same_thread=False,
            )
            for pragma in _PRAGMAS:
                self._connection.execute(pragma)
            self._inode = os.stat(self.path).st_ino
        return self._connection

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        with LEDGER:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def __getstate__(self) -> NoReturn:
        raise TypeError("a ledger is opened anew in each process")

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in _DAMAGE:
                self._damaged(str(error), error)
            raise StoreError(f"{self.path}: {error}", path=str(self.path)) from error
        except OSError as error:
            raise StoreError(f"{self._directory}: {error}", path=self._directory) from error

    def _damaged(self, why: str, cause: Exception | None = None) -> NoReturn:
        raise StoreDamagedError(f"{self.path} is damaged: {why}", path=str(self.path)) from cause

    def _check_in_place(self) -> None:
        # Another process may have moved a damaged ledger aside; what is committed to that one is
        # lost to everybody.
        try:
            in_place = os.stat(self.path).st_ino == self._inode
        except OSError:
            in_place = False
        if not in_place and self._connection is not None:
            self._damaged("it was moved or deleted while it was open")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the write lock; commit at the end, or roll back if anything is raised."""
        with LEDGER, self._faults():
            connection = self._con
            self._check_in_place()
            try:
                connection.execute("BEGIN IMMEDIATE")
                self._txn_id = threading.get_ident()
                yield
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                raise
            finally:
                self._txn_id = None

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """See one state of the ledger throughout, whatever others commit meanwhile. Keep it short:
        the write-ahead log cannot be reset under a reader."""
        with LEDGER, self._faults():
            connection = self._con
            self._check_in_place()
            if connection.in_transaction:
                yield
                return
            try:
                connection.execute("BEGIN")
                yield
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def _transact(self, retry: bool = False, filename: str | None = None) -> Iterator[Any]:
        # diskcache's own methods come through here, always inside transaction().
        if self._txn_id != threading.get_ident():
            raise RuntimeError("the ledger is written in a transaction")
        yield self._con.execute, lambda filename: None

    # --- values ---------------------------------------------------------------------------------

    def _get(self, key: bytes) -> bytes | None:
        sealed = self.get(key)
        if sealed is None:
            return None
        value, seal = sealed[:-8], sealed[-8:]
        if xxh3_64_digest(key + value) != seal:
            self._damaged(f"the entry {key[:1].decode()!r} does not match its checksum")
        return bytes(value)

    def _put(self, key: bytes, value: bytes) -> None:
        self.set(key, value + xxh3_64_digest(key + value))

    def _get_json(self, key: bytes) -> dict[str, Any] | None:
        value = self._get(key)
        return None if value is None else dict(json.loads(value))

    def _put_json(self, key: bytes, value: dict[str, Any]) -> None:
        self._put(key, canonical_json(value))

    def _keys(self, prefix: bytes) -> list[bytes]:
        query = "SELECT key FROM Cache WHERE key >= ? AND key < ? AND raw = 1 ORDER BY key"
        rows = self._con.execute(query, (prefix, _after(prefix))).fetchall()
        return [_expect_bytes(key) for (key,) in rows]

    # --- the registry ---------------------------------------------------------------------------

    def head(self, namespace_id: bytes) -> Head | None:
        """Where a namespace stands; None if nothing was ever stored under it."""
        with LEDGER, self._faults():
            self._check_in_place()
            value = self._get(b"h" + namespace_id)
        return None if value is None else Head(*_HEAD.unpack(value))

    def entry(self, namespace_id: bytes) -> tuple[Namespace, str, int] | None:
        """A namespace with its dtype and dim, as it was registered."""
        with LEDGER, self._faults():
            value = self._get_json(b"n" + namespace_id)
        if value is None:
            return None
        try:
            return Namespace.from_dict(value["namespace"]), str(value["dtype"]), int(value["dim"])
        except (KeyError, TypeError, EmbstoreError) as error:
            self._damaged(f"the registry: {error}")

    def namespace_ids(self) -> list[bytes]:
        """The ids of all namespaces."""
        with LEDGER, self._faults():
            return [key[1:] for key in self._keys(b"n")]

    def register(self, namespace: Namespace, dtype: str, dim: int) -> Head:
        """Enter a namespace, with a generation that no file ever had. In a transaction."""
        with self._faults():
            self._put_json(
                b"n" + namespace.id, {"namespace": namespace.to_dict(), "dtype": dtype, "dim": dim}
            )
            head = Head(self.next_generation(), 0, 0)
            self._put(b"h" + namespace.id, _HEAD.pack(*head))
        return head

    def next_generation(self) -> int:
        """A number for a file, used once in the life of a store. In a transaction."""
        last = self._get(b"G")
        if last is None:
            self._damaged("it has no generation")
        generation = int.from_bytes(last, "little") + 1
        self._put(b"G", generation.to_bytes(8, "little"))
        return generation

    def drop(self, namespace_id: bytes) -> None:
        """Forget a namespace. In a transaction."""
        with self._faults():
            self._delete_range(b"b" + namespace_id)
            for kind in (b"n", b"h", b"k"):
                self.delete(kind + namespace_id)

    def switch(self, namespace_id: bytes, head: Head) -> None:
        """Point a namespace at another generation, with no batches yet. In a transaction."""
        with self._faults():
            self._delete_range(b"b" + namespace_id)
            self._put(b"h" + namespace_id, _HEAD.pack(*head))

    def _delete_range(self, prefix: bytes) -> None:
        self._con.execute(
            "DELETE FROM Cache WHERE key >= ? AND key < ? AND raw = 1", (prefix, _after(prefix))
        )

    # --- batches --------------------------------------------------------------------------------

    def append(self, namespace_id: bytes, head: Head, digests: bytes) -> Head:
        """Commit a batch of rows that stand in the file behind the last one. In a transaction.

        Neighbours no larger than the new entry are merged into it, as carries are in a binary
        counter: a million commits of one text leave some thirty entries, and each digest is
        rewritten at most 16 times.
        """
        prefix = b"b" + namespace_id + head.generation.to_bytes(8, "big")
        with self._faults():
            tail = self._con.execute(
                "SELECT key, length(value) FROM Cache WHERE key >= ? AND key < ? AND raw = 1"
                " ORDER BY key DESC LIMIT 20",
                (prefix, _after(prefix)),
            ).fetchall()
            end = head.rows
            first, size = head.rows, len(digests)
            absorbed = []
            for key, length in tail:
                start = _position(_expect_bytes(key))[1]
                if start + length // DIGEST_SIZE != end:
                    self._damaged("its batches do not follow each other")
                if length > size or size + length > MERGE_LIMIT * DIGEST_SIZE:
                    break
                absorbed.append(key)
                first, size, end = start, size + length, start
            if head.rows and not tail:
                self._damaged("the batches of a namespace are missing")
            parts = [self._take(key) for key in reversed(absorbed)]
            self.set(prefix + first.to_bytes(8, "big"), b"".join([*parts, digests]))
            head = head._replace(rows=head.rows + len(digests) // DIGEST_SIZE)
            self._put(b"h" + namespace_id, _HEAD.pack(*head))
        return head

    def _take(self, key: bytes) -> bytes:
        value: bytes | None = self.get(key)
        if value is None:
            self._damaged("a batch is missing")
        self.delete(key)
        return value

    def batches(
        self, namespace_id: bytes, generation: int, first: int = 0
    ) -> list[tuple[int, bytes]]:
        """The digests from row ``first`` on, as (row number of the first, 16 B each) in order."""
        prefix = b"b" + namespace_id + generation.to_bytes(8, "big")
        with LEDGER, self._faults():
            # Merging may have put row `first` into the middle of an entry.
            start = self._con.execute(
                "SELECT key FROM Cache WHERE key >= ? AND key <= ? AND raw = 1"
                " ORDER BY key DESC LIMIT 1",
                (prefix, prefix + first.to_bytes(8, "big")),
            ).fetchone()
            rows = self._con.execute(
                "SELECT key, mode, filename, value FROM Cache"
                " WHERE key >= ? AND key < ? AND raw = 1 ORDER BY key",
                (start[0] if start else prefix, _after(prefix)),
            ).fetchall()
        found = []
        for key, mode, filename, value in rows:
            number = _position(_expect_bytes(key))[1]
            digests = self._disk.fetch(mode, filename, value, False)
            if len(digests) % DIGEST_SIZE:
                self._damaged("a batch has half a digest")
            skipped = max(0, first - number)
            found.append((number + skipped, digests[skipped * DIGEST_SIZE :]))
        return found

    def erase(self, namespace_id: bytes, head: Head, rows: list[int]) -> Head:
        """Delete rows: their digests become 0 here too. In a transaction."""
        prefix = b"b" + namespace_id + head.generation.to_bytes(8, "big")
        remaining = sorted(rows)
        with self._faults():
            for key in reversed(self._keys(prefix)):
                first = _position(key)[1]
                inside = [row - first for row in remaining if row >= first]
                if not inside:
                    continue
                digests = bytearray(self.get(key))
                for row in inside:
                    digests[row * DIGEST_SIZE : (row + 1) * DIGEST_SIZE] = bytes(DIGEST_SIZE)
                self.set(key, bytes(digests))
                remaining = remaining[: len(remaining) - len(inside)]
            head = head._replace(deleted=head.deleted + len(rows))
            self._put(b"h" + namespace_id, _HEAD.pack(*head))
        return head

    # --- counters and identities ----------------------------------------------------------------

    def add_counters(self, namespace_id: bytes, computed: int, seconds: float) -> None:
        """Add to the counters of a namespace. In a transaction."""
        before = self.counters(namespace_id)
        with self._faults():
            value = _COUNTERS.pack(before[0] + computed, before[1] + seconds)
            self._put(b"k" + namespace_id, value)

    def counters(self, namespace_id: bytes) -> tuple[int, float]:
        """Vectors computed for a namespace, and the seconds these took, over all processes."""
        with LEDGER, self._faults():
            value = self._get(b"k" + namespace_id)
        return (0, 0.0) if value is None else _COUNTERS.unpack(value)

    def identity(self, key: bytes) -> dict[str, Any] | None:
        """What was recorded of a model under this key of 16 bytes."""
        with LEDGER, self._faults():
            return self._get_json(b"i" + key)

    def put_identity(self, key: bytes, value: dict[str, Any]) -> None:
        """Record what is known of a model. In a transaction."""
        with self._faults():
            self._put_json(b"i" + key, value)

    def identities(self) -> list[tuple[bytes, dict[str, Any]]]:
        """All that was recorded of models."""
        with LEDGER, self._faults():
            return [(key[1:], self._get_json(key) or {}) for key in self._keys(b"i")]

    def vacuum(self) -> None:
        """Give back free pages. Not in a transaction."""
        with LEDGER, self._faults():
            self._con.execute("VACUUM")
            self._con.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def check(self, fix: bool = False, retry: bool = False) -> list[str]:
        """What SQLite finds wrong with the file, without the write lock diskcache's own takes."""
        with LEDGER, self._faults():
            found = [str(text) for (text,) in self._con.execute("PRAGMA quick_check(10)")]
        return [] if found == ["ok"] else found


def _expect_bytes(value: Any) -> bytes:
    if type(value) is not bytes:
        raise StoreDamagedError("the ledger has an entry that embstore never writes")
    return value


def _after(prefix: bytes) -> bytes:
    """The smallest key above all that start with ``prefix`` (which never is all 0xFF)."""
    number = int.from_bytes(prefix, "big") + 1
    return number.to_bytes(len(prefix), "big")


def _position(key: bytes) -> tuple[int, int]:
    """Generation and first row of a batch's key."""
    if len(key) != 1 + DIGEST_SIZE + _POSITION.size:
        raise StoreDamagedError("the ledger has an entry that embstore never writes")
    generation, first = _POSITION.unpack(key[-_POSITION.size :])
    return generation, first


_OPEN: weakref.WeakSet[Ledger] = weakref.WeakSet()


def _leak_connections() -> None:
    # SQLite forbids using or closing a connection in a forked child: closing it would drop the
    # parent's locks. One more reference keeps it from ever being collected.
    for ledger in _OPEN:
        if ledger._connection is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(ledger._connection))
            ledger._connection = None


os.register_at_fork(after_in_child=_leak_connections)
