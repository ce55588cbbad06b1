"""What a store has: its namespaces, what is stored under each, how they came to be, and what is
known of models."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np

from embstore.backends.base import History, NamespaceInfo
from embstore.backends.disk import repair
from embstore.backends.disk.ledger import Head, Ledger
from embstore.backends.disk.pending import Pending
from embstore.backends.disk.session import Session
from embstore.backends.disk.shelves import Shelves
from embstore.backends.disk.vectors import Header
from embstore.errors import StoreDamagedError


class Registry:
    """The namespaces of a store.

    Args:
        session: has the ledger.
        shelves: read the vector files where there is none.
        pending: what this process has looked up, and the ledger does not know yet.
    """

    def __init__(self, session: Session, shelves: Shelves, pending: Pending) -> None:
        self._session = session
        self._shelves = shelves
        self._pending = pending

    def infos(self) -> list[NamespaceInfo]:
        """See :meth:`embstore.backends.base.Backend.namespaces`."""
        ledger = self._session.ledger
        if ledger is not None:
            return ledger.snapshot(lambda: self._from(ledger))
        found = []
        for each in {header.namespace.id for header in repair.headers(self._session.vectors)}:
            self._shelves.read_files(each)
            if (shelf := self._shelves.get(each)) is not None:
                found.append(_info(shelf.header, Head(shelf.header.generation, shelf.known)))
        return found

    def _from(self, ledger: Ledger) -> list[NamespaceInfo]:
        found = []
        self._pending.count()
        for each in ledger.namespace_ids():
            head, entry = ledger.head(each), ledger.entry(each)
            if head is None or entry is None:
                raise StoreDamagedError(
                    "the registry has a hole", path=str(self._session.directory)
                )
            header = Header(ledger.seed, head.generation, *entry)
            told, untold = ledger.usage.looked_up(each), self._pending.of(each)
            found.append(_info(header, head, told[0] + untold[0], told[1] + untold[1]))
        return found

    def history(self, namespace_id: bytes) -> History:
        """See :meth:`embstore.backends.base.Backend.history`; an empty one without a ledger."""
        ledger = self._session.ledger
        if ledger is None:
            return History()
        return ledger.snapshot(lambda: _history(ledger, namespace_id))

    def identity(self, key: bytes) -> dict[str, Any] | None:
        """See :meth:`embstore.backends.base.Backend.get_identity`."""
        ledger = self._session.ledger
        return None if ledger is None else ledger.identity(key)

    def identities(self) -> dict[bytes, dict[str, Any]]:
        """See :meth:`embstore.backends.base.Backend.identities`."""
        ledger = self._session.ledger
        return {} if ledger is None else ledger.identities()

    def put_identity(self, key: bytes, value: dict[str, Any]) -> None:
        """See :meth:`embstore.backends.base.Backend.put_identity`."""
        ledger = self._session.writable()
        ledger.transaction(lambda: ledger.put_identity(key, value))


def _info(header: Header, head: Head, hits: int = 0, misses: int = 0) -> NamespaceInfo:
    return NamespaceInfo(
        namespace=header.namespace,
        dtype=np.dtype(header.dtype).name,
        dim=header.dim,
        entries=head.rows - head.deleted,
        bytes=header.size + head.rows * header.row_format().stride,
        computed=head.computed,
        encode_seconds=head.seconds,
        hits=hits,
        misses=misses,
    )


def _history(ledger: Ledger, namespace_id: bytes) -> History:
    head = ledger.head(namespace_id)
    if head is None:
        return History()
    days = ledger.usage.days(namespace_id)
    growth: list[tuple[float, int]] = []
    if written := ledger.usage.written(namespace_id, head.generation):
        first, *others = [row for row, _ in written]
        rows = [*others, head.rows - head.deleted]
        growth = [(written[0][1], first)]
        growth += [(when, after) for (_, when), after in zip(written, rows, strict=True)]
    # Compacting drops when rows were written. From before, there are the days with look-ups.
    ends = ((_end_of(day.date), day.entries) for day in days)
    earlier = [(end, entries) for end, entries in ends if not growth or end < growth[0][0]]
    return History(tuple(days), (*earlier, *growth))


def _end_of(day: date) -> float:
    return datetime.combine(day + timedelta(days=1), time(), UTC).timestamp()
