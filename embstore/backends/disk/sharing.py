"""Sharing work: the texts that nobody computes yet are claimed, in one transaction."""

from __future__ import annotations

import logging

import numpy as np

from embstore.backends.base import Claimed, Found
from embstore.backends.disk.claims import among
from embstore.backends.disk.ledger import Ledger
from embstore.backends.disk.session import Session
from embstore.backends.disk.shelves import Shelves
from embstore.backends.disk.workers import Workers
from embstore.backends.rows import Digests
from embstore.locks import INDEX

_LOG = logging.getLogger(__name__)

_TIMEOUT = 5.0
"""Seconds to wait for the lock: giving up costs no more than computing a text twice."""

_TIMEOUT_OF_RELEASE = 1.0
"""The same, where it can be made up for with the next claim."""


class Sharing:
    """This process's claims on a store, and those of the others.

    Args:
        session: has the ledger.
        shelves: know what is stored.
        timeout: seconds to wait for other processes' locks.
    """

    def __init__(self, session: Session, shelves: Shelves, timeout: float) -> None:
        self._session = session
        self._shelves = shelves
        self._timeout = min(timeout, _TIMEOUT)
        self._workers = Workers(session.directory)
        self._left: set[tuple[bytes, bytes]] = set()
        """Claims that are over, and could not be taken out so far: namespaces and owners."""
        self.leave = self._workers.leave

    def claim(self, namespace_id: bytes, query: Digests, owner: bytes, most: int) -> Claimed:
        """See :meth:`embstore.backends.base.Backend.claim`; ``query`` is (n, 2)."""

        def work() -> Claimed:
            ledger = self._session.writable()
            return ledger.transaction(
                lambda: self._claim(ledger, namespace_id, query, owner, most), self._timeout
            )

        return self._session.mending(work)

    def _claim(
        self, ledger: Ledger, namespace_id: bytes, query: Digests, owner: bytes, most: int
    ) -> Claimed:
        who = self._workers.join() + owner
        shelf = self._shelves.learn(ledger, namespace_id)
        stored = np.zeros(len(query), np.bool_)
        if shelf is not None:
            with INDEX:
                stored = shelf.locate(query) >= 0
        claims, dead = ledger.claims.others(namespace_id, who, self._workers.is_alive)
        for one in dead:
            ledger.claims.drop(namespace_id, one)
            _LOG.info(
                "took over what a dead worker had claimed in %r", str(self._session.directory)
            )
        for left in list(self._left):
            self.end(ledger, *left)
            self._left.discard(left)
        theirs = among(query, claims) & ~stored
        mine = ~(stored | theirs)
        mine[np.flatnonzero(mine)[most:]] = False
        if mine.any():
            ledger.claims.put(namespace_id, who, query[mine])
        else:
            ledger.claims.drop(namespace_id, who)
        head = None if shelf is None else shelf.head
        pace = head.seconds / head.computed if head is not None and head.computed else 0.0
        return Claimed(mine, stored, theirs, len(claims), pace)

    def claimed(self, namespace_id: bytes, query: Digests) -> Found:
        """See :meth:`embstore.backends.base.Backend.claimed`; ``query`` is (n, 2)."""

        def work() -> Found:
            ledger = self._session.ledger
            if ledger is None:
                return np.zeros(len(query), np.bool_)
            return among(query, ledger.claims.others(namespace_id, b"", self._workers.is_alive)[0])

        return self._session.mending(work)

    def release(self, namespace_id: bytes, owner: bytes) -> None:
        """See :meth:`embstore.backends.base.Backend.release`."""
        if not self._workers.name:
            return
        left = namespace_id, owner
        self._left.add(left)
        if (ledger := self._session.ledger) is not None:
            timeout = min(self._timeout, _TIMEOUT_OF_RELEASE)
            ledger.transaction(lambda: self.end(ledger, namespace_id, owner), timeout)
            self._left.discard(left)

    def end(self, ledger: Ledger, namespace_id: bytes, owner: bytes | None) -> None:
        """End a claim, if there is one. In a transaction."""
        if owner is not None and self._workers.name:
            ledger.claims.drop(namespace_id, self._workers.name + owner)
