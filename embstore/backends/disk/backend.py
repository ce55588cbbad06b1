"""The disk backend: the ledger says what is committed, vector files hold it, shelves find it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embstore.backends.base import (
    FOUND,
    Claimed,
    CompactReport,
    Found,
    History,
    NamespaceInfo,
    Progressed,
    VerifyReport,
    all_of,
    unheard,
)
from embstore.backends.disk import repair, runs
from embstore.backends.disk.eviction import Eviction
from embstore.backends.disk.ledger import Ledger, Tail
from embstore.backends.disk.location import VECTORS
from embstore.backends.disk.pending import Pending
from embstore.backends.disk.registry import Registry
from embstore.backends.disk.session import Session
from embstore.backends.disk.sharing import Sharing
from embstore.backends.disk.shelf import Shelf
from embstore.backends.disk.shelves import Shelves
from embstore.backends.disk.vectors import SUFFIX, Header, generation_of
from embstore.backends.disk.verify import verify
from embstore.backends.rows import Array, Digests, as_digests, distinct
from embstore.errors import NamespaceError, StoreError
from embstore.faults import Warnings
from embstore.keys import DIGEST_SIZE, Namespace
from embstore.locks import INDEX, LEDGER

_LOG = logging.getLogger(__name__)

_SCAN_ROWS = 4096

_SCRATCH = 2**20
"""Bytes in which rows are laid out to be written: fresh memory costs a batch of 256 0.1 ms more."""


class DiskBackend:
    """Rows in a directory, shared by any number of threads and processes.

    Args:
        directory: the store; made if there is none.
        timeout: seconds to wait for other processes' locks.
        read_only: open an existing store, which may be another user's or on a read-only disk, and
            write nothing.
        size_limit: bytes to keep the store under by dropping the rows used longest ago; None drops
            nothing.
        seed: seed of a new store, 1 to 2**63-1, for stores that are to be merged; random by
            default.
        warnings: says what was mended, and what the store has to do without.

    Raises:
        StoreRefusedError: if the store is a symbolic link, another user's, of a newer format, has
            another seed than asked for, or (``read_only``) does not exist.
        StoreError: if there is none and none can be made.
    """

    schemes = ("disk",)
    is_near = True

    def __init__(
        self,
        directory: Path,
        *,
        timeout: float = 60.0,
        read_only: bool = False,
        size_limit: int | None = None,
        seed: int | None = None,
        warnings: Warnings | None = None,
    ) -> None:
        self._warnings = warnings or Warnings()
        self.location = str(directory)
        self._vectors = directory / VECTORS
        self._shelves = Shelves(self._vectors)
        forget = self._shelves.drop_all
        self._session = Session(directory, timeout, read_only, seed, forget, self._warnings)
        self._sharing = Sharing(self._session, self._shelves, timeout)
        self._pending = Pending(self._session, self._shelves)
        self._registry = Registry(self._session, self._shelves, self._pending)
        self._eviction = Eviction(directory, self._pending, size_limit)
        self._scratch = np.empty(_SCRATCH, np.uint8)

    @property
    def seed(self) -> int:
        """The seed of all digests."""
        return self._session.seed

    @property
    def corrupt(self) -> int:
        """Damaged rows found and left out so far."""
        return self._shelves.corrupt

    # --- look-ups and commits -------------------------------------------------------------------

    def get_many(self, namespace: Namespace, digests: Sequence[bytes]) -> tuple[Array, Found]:
        """See :class:`~embstore.backends.base.Backend`. No SQL if everything is known and found."""
        if len(digests) == 1:
            with INDEX:
                shelf = self._shelves.get(namespace.id)
                vector = None if shelf is None else shelf.vector(digests[0])
            if vector is not None:
                return vector, FOUND.copy()
        query = as_digests(digests)
        found = self._read(namespace.id, query, partly=False)
        if found is None:
            self._session.mending(lambda: self._refresh(namespace.id))
            found = self._read(namespace.id, query, partly=True)
        if found is None:
            return np.zeros((len(query), 0), np.float32), np.zeros(len(query), np.bool_)
        return found

    def _refresh(self, namespace_id: bytes) -> None:
        self._shelves.refresh(self._session.ledger, namespace_id)

    def _read(
        self, namespace_id: bytes, query: Array, *, partly: bool
    ) -> tuple[Array, Found] | None:
        with INDEX:
            shelf = self._shelves.get(namespace_id)
            if shelf is None:
                return None
            rows = shelf.locate(query)
            found = rows >= 0
            return (shelf.vectors(rows), found) if partly or all_of(found) else None

    def put_many(
        self,
        namespace: Namespace,
        digests: Sequence[bytes],
        vectors: Array,
        seconds: float = 0.0,
        owner: bytes | None = None,
    ) -> Found:
        """See :class:`~embstore.backends.base.Backend`. One transaction: rows, then ledger."""
        if not len(digests):
            if owner is not None:
                self.release(namespace, owner)
            return np.zeros(0, np.bool_)
        return self._session.mending(lambda: self._put(namespace, digests, vectors, seconds, owner))

    def _put(
        self,
        namespace: Namespace,
        digests: Sequence[bytes],
        vectors: Array,
        seconds: float,
        owner: bytes | None,
    ) -> Found:
        ledger = self._session.writable()
        query = as_digests(digests)
        self._pending.flush_if_due(ledger)
        self._eviction.make_room(ledger, vectors.nbytes)
        with LEDGER:
            shelf, new = self._commit(ledger, namespace, query, vectors, seconds, owner)
        # Of what is committed: only that the next process has to sort more is lost by failing.
        with contextlib.suppress(OSError, ValueError, MemoryError, StoreError):
            shelf.keep()
        return new

    def _commit(
        self,
        ledger: Ledger,
        namespace: Namespace,
        query: Digests,
        vectors: Array,
        seconds: float,
        owner: bytes | None,
    ) -> tuple[Shelf, Found]:
        made: list[Shelf] = []
        old: list[tuple[Path, str]] = []

        def work() -> tuple[Shelf, Found, Tail | None]:
            shelf = self._shelves.learn(ledger, namespace.id)
            with INDEX:  # it may take another file, which nobody may be reading meanwhile
                fault = None if shelf is None else shelf.file.fault(shelf.known)
            if fault is not None:
                lost, path = repair.renew(self._session.directory, ledger, namespace.id)
                old.append((path, f"{path} {fault}; {lost:,} vectors are lost"))
                shelf = self._shelves.learn(ledger, namespace.id)
                made.extend([shelf] if shelf is not None else [])
            if shelf is None:
                shelf = self._make_shelf(ledger, namespace, vectors)
                made.append(shelf)
            new, tail = self._append(ledger, shelf, query, vectors, seconds)
            self._sharing.end(ledger, namespace.id, owner)
            return shelf, new, tail

        try:
            shelf, new, tail = ledger.transaction(work)
        except Exception:  # not after an interrupt, which may have landed behind the commit
            for shelf in made:
                self._shelves.drop(namespace.id)
                shelf.file.close()
                shelf.file.path.unlink(missing_ok=True)
            raise
        with INDEX:
            shelf.learn(shelf.head.rows, query if all_of(new) else query[new], sound=True)
            shelf.tail = tail
            self._shelves.add(shelf)
        if made and not old:
            _LOG.info("began %r in %r", namespace.model_name, self.location)
        for path, warning in old:
            repair.unlink_for_good(ledger, [path])
            self._warnings.warn(warning)
        return shelf, new

    def _make_shelf(self, ledger: Ledger, namespace: Namespace, vectors: Array) -> Shelf:
        dtype, dim = vectors.dtype.newbyteorder("<").str, vectors.shape[1]
        head = ledger.register(namespace, dtype, dim)
        shelf = Shelf(self._vectors, Header(ledger.seed, head.generation, namespace, dtype, dim))
        shelf.file.create()
        return shelf

    def _append(
        self, ledger: Ledger, shelf: Shelf, query: Digests, vectors: Array, seconds: float
    ) -> tuple[Found, Tail | None]:
        """Write what is new behind the last row; returns what is, and how the ledger then ends."""
        header, stored = shelf.header, shelf.file.format
        if (stored.vector_dtype, stored.dim) != (vectors.dtype.newbyteorder("<"), vectors.shape[1]):
            raise NamespaceError(
                f"{header.namespace.model_name}: vectors of {vectors.shape[1]} x {vectors.dtype} "
                f"do not fit the {stored.dim} x {stored.vector_dtype} that are stored under the "
                "same namespace; clear it, or give the model another name or version",
                namespace=header.namespace,
            )
        with INDEX:
            new = shelf.lacks(query)
        head = shelf.head  # as learnt in this transaction
        tail = shelf.tail if shelf.tail is not None and shelf.tail.head == head else None
        if count := int(np.count_nonzero(new)):
            if count < len(new):
                query, vectors = query[new], vectors[new]
            shelf.file.write(head.rows, stored.pack(query, vectors, self._scratch))
            told = head._replace(computed=head.computed + count, seconds=head.seconds + seconds)
            tail = ledger.append(header.namespace.id, told, query.tobytes(), tail)
            if time.monotonic() >= shelf.marked_until:
                shelf.marked_until = ledger.usage.mark_written(
                    header.namespace.id, header.generation, head.rows
                )
        return new, tail

    # --- claims ---------------------------------------------------------------------------------

    def claim(
        self, namespace: Namespace, digests: Sequence[bytes], owner: bytes, most: int
    ) -> Claimed:
        """See :class:`~embstore.backends.base.Backend`. One transaction."""
        return self._sharing.claim(namespace.id, as_digests(digests), owner, most)

    def claimed(self, namespace: Namespace, digests: Sequence[bytes]) -> Found:
        """See :class:`~embstore.backends.base.Backend`. One query."""
        return self._sharing.claimed(namespace.id, as_digests(digests))

    def release(self, namespace: Namespace, owner: bytes) -> None:
        """See :class:`~embstore.backends.base.Backend`."""
        self._sharing.release(namespace.id, owner)

    def watch(
        self,
        take_used: Callable[[], Mapping[bytes, list[bytes]]],
        take_counts: Callable[[], Mapping[bytes, tuple[int, int]]],
    ) -> None:
        """See :class:`~embstore.backends.base.Backend`."""
        self._pending.used_elsewhere = take_used
        self._pending.counted_elsewhere = take_counts

    def prune(
        self,
        namespace: Namespace | None = None,
        *,
        max_size: int | None = None,
        older_than: float | None = None,
        progressed: Progressed = unheard,
    ) -> int:
        """See :class:`~embstore.backends.base.Backend`."""
        one, session = None if namespace is None else namespace.id, self._session
        how, drop = (one, max_size, older_than, progressed), self._eviction.drop
        dropped = session.mending(lambda: drop(session.writable(), *how))
        self._shelves.keep_all(session.writable())
        return dropped

    # --- the rest of the protocol ---------------------------------------------------------------

    def delete_many(self, namespace: Namespace, digests: Sequence[bytes]) -> int:
        """See :class:`~embstore.backends.base.Backend`. Seen by every process at once."""
        return self._session.mending(lambda: self._delete(namespace, digests))

    def _delete(self, namespace: Namespace, digests: Sequence[bytes]) -> int:
        ledger = self._session.writable()

        def work() -> int:
            shelf = self._shelves.learn(ledger, namespace.id)
            head = ledger.head(namespace.id)
            if shelf is None or head is None:
                return 0
            with INDEX:
                rows = distinct(shelf.locate(as_digests(digests)))
            if len(rows):
                # In the file first: after a crash in between they are gone, and not half there.
                shelf.file.erase(rows)
                ledger.erase(namespace.id, head, rows)
            return len(rows)

        return ledger.transaction(work)

    def clear(self, namespace: Namespace) -> int:
        """See :class:`~embstore.backends.base.Backend`."""
        return self._session.mending(lambda: self._clear(namespace))

    def _clear(self, namespace: Namespace) -> int:
        ledger = self._session.writable()
        # Other threads must not write through the file that is closed here.
        with LEDGER:
            head = ledger.transaction(lambda: ledger.drop(namespace.id))
            self._shelves.drop(namespace.id)
        if head is None:
            return 0
        for file in self._vectors.glob(f"{namespace.id.hex()}.*{SUFFIX}"):
            # Another process may have begun the next generation.
            if (generation_of(file) or 0) <= head.generation:
                runs.unlink(file)
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
        return self._session.mending(self._registry.infos)

    def history(self, namespace: Namespace) -> History:
        """See :class:`~embstore.backends.base.Backend`. Two queries."""
        return self._session.mending(lambda: self._registry.history(namespace.id))

    def size(self) -> int:
        """See :class:`~embstore.backends.base.Backend`."""
        return repair.size(self._session.directory)

    def get_identity(self, key: bytes) -> dict[str, Any] | None:
        """See :class:`~embstore.backends.base.Backend`."""
        return self._session.mending(lambda: self._registry.identity(key))

    def identities(self) -> dict[bytes, dict[str, Any]]:
        """See :class:`~embstore.backends.base.Backend`."""
        return self._session.mending(self._registry.identities)

    def put_identity(self, key: bytes, value: dict[str, Any]) -> None:
        """See :class:`~embstore.backends.base.Backend`."""
        self._session.mending(lambda: self._registry.put_identity(key, value))

    def verify(self, progressed: Progressed = unheard) -> VerifyReport:
        """See :class:`~embstore.backends.base.Backend`."""
        return verify(self._session.directory, self._session.ledger, progressed)

    def compact(self, progressed: Progressed = unheard) -> CompactReport:
        """See :class:`~embstore.backends.base.Backend`."""
        at, session = self._session.directory, self._session
        report = session.mending(lambda: repair.compact(at, session.writable(), progressed))
        with LEDGER:
            self._shelves.drop_all()
        self._shelves.keep_all(session.writable())
        _LOG.info("compacted %r: %s", self.location, report)
        return report

    def close(self) -> None:
        """See :class:`~embstore.backends.base.Backend`."""
        self._pending.flush_at_the_end()
        self._sharing.leave()
        self._session.close()
