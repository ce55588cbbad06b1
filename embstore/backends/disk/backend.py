"""The disk backend: the ledger says what is committed, vector files hold it, shelves find it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embstore.backends.base import CompactReport, Found, NamespaceInfo, VerifyReport
from embstore.backends.disk import repair
from embstore.backends.disk.eviction import evict, needs_room
from embstore.backends.disk.ledger import Head, Ledger
from embstore.backends.disk.session import Session
from embstore.backends.disk.shelf import Shelf, learn_all
from embstore.backends.disk.vectors import SUFFIX, Header, generation_of
from embstore.backends.rows import Array, Digests, as_digests, first_of_each
from embstore.errors import NamespaceError, StoreDamagedError, StoreError
from embstore.keys import DIGEST_SIZE, Namespace
from embstore.locks import INDEX, LEDGER

_SCAN_ROWS = 4096


class DiskBackend:
    """Rows in a directory, shared by any number of threads and processes.

    Args:
        directory: the store; made if there is none.
        timeout: seconds to wait for other processes' locks.
        read_only: open an existing store, which may be another user's or on a read-only disk, and
            write nothing.
        size_limit: bytes to keep the store under by dropping the rows used longest ago; None drops
            nothing.
        seed: seed of a new store, 0 to 2**63-1, for stores that are to be merged; random by
            default.

    Raises:
        StoreRefusedError: if the store is a symbolic link, another user's, of a newer format, has
            another seed than asked for, or (``read_only``) does not exist.
        StoreError: if there is none and none can be made.
    """

    schemes = ("disk",)

    def __init__(
        self,
        directory: Path,
        *,
        timeout: float = 60.0,
        read_only: bool = False,
        size_limit: int | None = None,
        seed: int | None = None,
    ) -> None:
        self.location = str(directory)
        self._shelves: dict[bytes, Shelf] = {}
        self._corrupt = 0
        self._size_limit = size_limit
        self._read_only = read_only
        self._session = Session(directory, timeout, read_only, seed, self._drop_shelves)
        self._vectors = self._session.vectors

    @property
    def seed(self) -> int:
        """The seed of all digests."""
        return self._session.seed

    # --- what this process knows ----------------------------------------------------------------

    def _refresh(self, namespace_id: bytes) -> None:
        """Learn what others committed: one query if there was nothing."""
        ledger = self._session.ledger
        if ledger is None:
            self._read_without_ledger(namespace_id)
            return
        head = ledger.head(namespace_id)
        shelf = self._shelves.get(namespace_id)
        here = (shelf.header.generation, shelf.known) if shelf is not None else None
        if here != (head[:2] if head is not None else None):
            with ledger.snapshot():
                self._learn(ledger, namespace_id)

    def _learn(self, ledger: Ledger, namespace_id: bytes) -> Shelf | None:
        """The shelf as the ledger has it now. In a snapshot or transaction."""
        head = ledger.head(namespace_id)
        shelf = self._shelves.get(namespace_id)
        if shelf is not None and (head is None or shelf.header.generation != head.generation):
            self._drop_shelf(namespace_id)
            shelf = None
        if head is None:
            return None
        if shelf is None:
            entry = ledger.entry(namespace_id)
            if entry is None:
                raise StoreDamagedError("the registry has lost a namespace", path=self.location)
            namespace, dtype, dim = entry
            header = Header(ledger.seed, head.generation, namespace, dtype, dim)
            shelf = Shelf(self._vectors, header)
        if shelf.known < head.rows:
            batches = ledger.batches(namespace_id, head.generation, shelf.known)
            with INDEX:
                learn_all(shelf, batches)
        if shelf.known != head.rows:
            raise StoreDamagedError("batches are missing in the ledger", path=self.location)
        shelf.deleted = head.deleted
        with INDEX:
            self._shelves[namespace_id] = shelf
        return shelf

    def _read_without_ledger(self, namespace_id: bytes) -> None:
        with INDEX:
            known = self._shelves.get(namespace_id)
            if known is not None and len(known.file.rows(known.known)):
                return
            for header in repair.headers(self._vectors):
                if header.namespace.id == namespace_id:
                    shelf = Shelf(self._vectors, header)
                    shelf.learn(0, shelf.file.rows(2**62)["digest"].copy())
                    self._shelves[namespace_id] = shelf

    def _drop_shelf(self, namespace_id: bytes) -> None:
        with INDEX:
            shelf = self._shelves.pop(namespace_id, None)
            if shelf is not None:
                self._corrupt += shelf.corrupt
                shelf.file.close()

    def _drop_shelves(self) -> None:
        for namespace_id in list(self._shelves):
            self._drop_shelf(namespace_id)

    @property
    def corrupt(self) -> int:
        """Damaged rows found and left out so far."""
        with INDEX:
            return self._corrupt + sum(shelf.corrupt for shelf in self._shelves.values())

    # --- the protocol ---------------------------------------------------------------------------

    def get_many(self, namespace: Namespace, digests: Sequence[bytes]) -> tuple[Array, Found]:
        """See :class:`~embstore.backends.base.Backend`. No SQL if everything is known and found."""
        query = as_digests(digests)
        found = self._read(namespace.id, query, partly=False)
        if found is None:
            self._session.mending(lambda: self._refresh(namespace.id))
            found = self._read(namespace.id, query, partly=True)
        if found is None:
            return np.zeros((len(query), 0), np.float32), np.zeros(len(query), np.bool_)
        return found

    def _read(
        self, namespace_id: bytes, query: Array, *, partly: bool
    ) -> tuple[Array, Found] | None:
        with INDEX:
            shelf = self._shelves.get(namespace_id)
            if shelf is None:
                return None
            rows = shelf.locate(query)
            found = rows >= 0
            return (shelf.vectors(rows), found) if partly or found.all() else None

    def put_many(
        self, namespace: Namespace, digests: Sequence[bytes], vectors: Array, seconds: float = 0.0
    ) -> Found:
        """See :class:`~embstore.backends.base.Backend`. One transaction: rows, then ledger."""
        if not len(digests):
            return np.zeros(0, np.bool_)
        return self._session.mending(lambda: self._put(namespace, digests, vectors, seconds))

    def _put(
        self, namespace: Namespace, digests: Sequence[bytes], vectors: Array, seconds: float
    ) -> Found:
        ledger = self._session.writable()
        query = as_digests(digests)
        with LEDGER:
            if self._size_limit is not None:
                self._make_room(ledger, self._size_limit, vectors.nbytes)
            return self._commit(ledger, namespace, query, vectors, seconds)

    def _commit(
        self, ledger: Ledger, namespace: Namespace, query: Digests, vectors: Array, seconds: float
    ) -> Found:
        with ledger.transaction():
            shelf = self._find_shelf(ledger, namespace.id)
            created = shelf is None
            if shelf is None:
                shelf = self._make_shelf(ledger, namespace, vectors)
            try:
                first, new = self._append(ledger, shelf, query, vectors, seconds)
            except BaseException:
                if created:  # nothing of it is committed
                    shelf.file.close()
                    shelf.file.path.unlink(missing_ok=True)
                raise
        with INDEX:
            if created:
                self._shelves[namespace.id] = shelf
            shelf.learn(first, query[new], sound=True)
        return new

    def _find_shelf(self, ledger: Ledger, namespace_id: bytes) -> Shelf | None:
        shelf = self._learn(ledger, namespace_id)
        if shelf is not None and not os.path.exists(shelf.file.path):
            # Somebody deleted it. What it held is lost; what comes now need not be.
            self._drop_shelf(namespace_id)
            ledger.drop(namespace_id)
            return None
        return shelf

    def _make_shelf(self, ledger: Ledger, namespace: Namespace, vectors: Array) -> Shelf:
        dtype, dim = vectors.dtype.newbyteorder("<").str, vectors.shape[1]
        head = ledger.register(namespace, dtype, dim)
        shelf = Shelf(self._vectors, Header(ledger.seed, head.generation, namespace, dtype, dim))
        shelf.file.create()
        return shelf

    @staticmethod
    def _append(
        ledger: Ledger, shelf: Shelf, query: Digests, vectors: Array, seconds: float
    ) -> tuple[int, Found]:
        """Write what is new behind the last row; returns the first row's number, and what is."""
        header, stored = shelf.header, shelf.file.format
        if (stored.vector_dtype, stored.dim) != (vectors.dtype.newbyteorder("<"), vectors.shape[1]):
            raise NamespaceError(
                f"{header.namespace.model_name}: vectors of {vectors.shape[1]} x {vectors.dtype} "
                f"do not fit the {stored.dim} x {stored.vector_dtype} that are stored under the "
                "same namespace; clear it, or give the model another name or version",
                namespace=header.namespace,
            )
        with INDEX:
            new = (shelf.locate(query) < 0) & first_of_each(query)
        # What the head says, as of this transaction: _learn has just read it.
        head = Head(header.generation, shelf.known, shelf.deleted)
        if new.any():
            shelf.file.write(head.rows, stored.pack(query[new], vectors[new]))
            ledger.append(header.namespace.id, head, query[new].tobytes())
            ledger.add_counters(header.namespace.id, int(new.sum()), seconds)
        return head.rows, new

    def _make_room(self, ledger: Ledger, limit: int, incoming: int) -> None:
        if needs_room(self._session.directory, limit, incoming):
            self._evict(ledger, limit - incoming, None)
        else:
            with ledger.transaction():
                self._note_uses(ledger)

    def _evict(self, ledger: Ledger, limit: int, namespace_id: bytes | None) -> int:
        directory = self._session.directory
        with ledger.transaction():
            self._note_uses(ledger)
            dropped, files = evict(directory, ledger, limit, namespace_id)
        ledger.sync()
        for file in files:
            file.unlink(missing_ok=True)
        return dropped

    def _note_uses(self, ledger: Ledger) -> None:
        with INDEX:
            used = {
                namespace_id: (shelf.header.generation, rows)
                for namespace_id, shelf in self._shelves.items()
                if len(rows := shelf.take_used())
            }
        if used:
            ledger.note_uses(used)

    def prune(self, max_size: int, namespace: Namespace | None = None) -> int:
        """See :class:`~embstore.backends.base.Backend`."""

        namespace_id = None if namespace is None else namespace.id
        session = self._session
        return session.mending(lambda: self._evict(session.writable(), max_size, namespace_id))

    def delete_many(self, namespace: Namespace, digests: Sequence[bytes]) -> int:
        """See :class:`~embstore.backends.base.Backend`. Seen by every process at once."""
        return self._session.mending(lambda: self._delete(namespace, digests))

    def _delete(self, namespace: Namespace, digests: Sequence[bytes]) -> int:
        ledger = self._session.writable()
        with ledger.transaction():
            shelf = self._learn(ledger, namespace.id)
            head = ledger.head(namespace.id)
            if shelf is None or head is None:
                return 0
            with INDEX:
                rows = np.unique(shelf.locate(as_digests(digests)))
            rows = rows[rows >= 0]
            if len(rows):
                # In the file first: after a crash in between they are gone, and not half there.
                shelf.file.erase(rows)
                ledger.erase(namespace.id, head, rows.tolist())
        return len(rows)

    def clear(self, namespace: Namespace) -> int:
        """See :class:`~embstore.backends.base.Backend`."""
        return self._session.mending(lambda: self._clear(namespace))

    def _clear(self, namespace: Namespace) -> int:
        ledger = self._session.writable()
        # Other threads must not write through the file that is closed here.
        with LEDGER:
            with ledger.transaction():
                head = ledger.head(namespace.id)
                ledger.drop(namespace.id)
            self._drop_shelf(namespace.id)
        if head is None:
            return 0
        for file in self._vectors.glob(f"{namespace.id.hex()}.*{SUFFIX}"):
            # Another process may have begun the next generation.
            if (generation_of(file) or 0) <= head.generation:
                file.unlink(missing_ok=True)
        return head.rows - head.deleted

    def scan(self, namespace: Namespace) -> Iterator[tuple[list[bytes], Array]]:
        """See :class:`~embstore.backends.base.Backend`."""
        self._session.mending(lambda: self._refresh(namespace.id))
        shelf = self._shelves.get(namespace.id)
        start = 0
        while shelf is not None and start < shelf.known:
            with INDEX:
                rows = shelf.file.rows(shelf.known)[shelf.sound(start, start + _SCAN_ROWS)]
                if shelf.file.is_gone:
                    raise StoreError("compacted meanwhile: scan again", path=self.location)
            start += _SCAN_ROWS
            if len(rows):
                raw = rows["digest"].tobytes()
                digests = [raw[at : at + DIGEST_SIZE] for at in range(0, len(raw), DIGEST_SIZE)]
                yield digests, np.ascontiguousarray(rows["vector"])

    def namespaces(self) -> list[NamespaceInfo]:
        """See :class:`~embstore.backends.base.Backend`."""
        return self._session.mending(self._namespaces)

    def _namespaces(self) -> list[NamespaceInfo]:
        ledger = self._session.ledger
        if ledger is None:
            ids = [header.namespace.id for header in repair.headers(self._vectors)]
            for namespace_id in ids:
                self._read_without_ledger(namespace_id)
            return [repair.info(self._shelves[one].header, self._shelves[one].known) for one in ids]
        found = []
        with ledger.snapshot():
            for namespace_id in ledger.namespace_ids():
                entry, head = ledger.entry(namespace_id), ledger.head(namespace_id)
                if entry is None or head is None:
                    raise StoreDamagedError("the registry has a hole", path=self.location)
                header = Header(ledger.seed, head.generation, *entry)
                found.append(
                    repair.info(header, head.rows, head.deleted, ledger.counters(namespace_id))
                )
        return found

    def size(self) -> int:
        """See :class:`~embstore.backends.base.Backend`."""
        return repair.size(self._session.directory)

    def get_identity(self, key: bytes) -> dict[str, Any] | None:
        """See :class:`~embstore.backends.base.Backend`."""

        def work() -> dict[str, Any] | None:
            ledger = self._session.ledger
            return None if ledger is None else ledger.identity(key)

        return self._session.mending(work)

    def put_identity(self, key: bytes, value: dict[str, Any]) -> None:
        """See :class:`~embstore.backends.base.Backend`."""

        def work() -> None:
            ledger = self._session.writable()
            with ledger.transaction():
                ledger.put_identity(key, value)

        self._session.mending(work)

    def verify(self) -> VerifyReport:
        """See :class:`~embstore.backends.base.Backend`."""
        return repair.verify(self._session.directory, self._session.ledger)

    def compact(self) -> CompactReport:
        """See :class:`~embstore.backends.base.Backend`."""
        session = self._session
        report = session.mending(lambda: repair.compact(session.directory, session.writable()))
        with LEDGER:
            self._drop_shelves()
        return report

    def close(self) -> None:
        """See :class:`~embstore.backends.base.Backend`."""
        ledger = self._session.ledger
        if ledger is not None and not self._read_only:
            # Only for a store that somebody keeps under a size; and no fault of this matters now.
            with contextlib.suppress(StoreError):
                if self._size_limit is not None or ledger.notes_uses:
                    with ledger.transaction():
                        self._note_uses(ledger)
        self._session.close()
