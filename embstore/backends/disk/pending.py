"""What this process has looked up, until the ledger is told."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping

from embstore.backends.disk.ledger import Ledger
from embstore.backends.disk.session import Session
from embstore.backends.disk.shelves import Shelves
from embstore.backends.rows import Rows
from embstore.endings import at_the_end, heed_workers
from embstore.errors import StoreError
from embstore.locks import COUNTERS

_EVERY = 30.0
"""Seconds between two times of telling, in a process that goes on writing."""

_TIMEOUT_AT_THE_END = 1.0
"""Seconds to wait for the lock where a few counts are what is lost by giving up."""


class Pending:
    """What this process has looked up, until the ledger is told.

    Args:
        session: has the ledger.
        shelves: know which rows were used.

    Attributes:
        used_elsewhere: gives what was read without this backend hearing of it.
        counted_elsewhere: gives hits and misses of all look-ups.
    """

    used_elsewhere: Callable[[], Mapping[bytes, list[bytes]]] = dict
    counted_elsewhere: Callable[[], Mapping[bytes, tuple[int, int]]] = dict

    def __init__(self, session: Session, shelves: Shelves) -> None:
        self._session = session
        self._shelves = shelves
        self._hits: Counter[bytes]
        self._misses: Counter[bytes]
        self._begin()
        self._due = time.monotonic() + _EVERY
        _OPEN.add(self)
        heed_workers()

    def count(self) -> None:
        """Hear of all look-ups until now."""
        for namespace_id, (hits, misses) in self.counted_elsewhere().items():
            with COUNTERS:
                self._hits[namespace_id] += hits
                self._misses[namespace_id] += misses

    def of(self, namespace_id: bytes) -> tuple[int, int]:
        """Hits and misses that were heard of, and that the ledger does not know yet."""
        return self._hits[namespace_id], self._misses[namespace_id]

    def flush_if_due(self, ledger: Ledger) -> None:
        """Tell the ledger, if that was last done some time ago. Raises as :meth:`flush` does."""
        if time.monotonic() >= self._due:
            self.flush(ledger)

    def forget(self) -> None:
        """Leave it to another process: a forked child must not count what its parent did."""
        self.counted_elsewhere()
        self._begin()

    def _begin(self) -> None:
        self._hits, self._misses = Counter(), Counter()

    def flush(self, ledger: Ledger, timeout: float | None = None) -> None:
        """Tell the ledger.

        Args:
            ledger: the ledger, not in a transaction.
            timeout: seconds to wait for its lock; None for as long as usual.

        Raises:
            StoreError: if it cannot be written; then nothing is forgotten.
        """
        self._due = time.monotonic() + _EVERY
        for namespace_id, digests in self.used_elsewhere().items():
            self._shelves.use(namespace_id, digests)
        self.count()
        with COUNTERS:
            hits, misses = self._hits, self._misses
            self._begin()
        counted = {one for one in (*hits, *misses) if hits[one] or misses[one]}
        if not counted and not self._shelves.have_used():
            return
        used: dict[bytes, tuple[int, Rows]] = {}

        def work() -> set[bytes]:
            for namespace_id in self._shelves.have_used():
                self._shelves.learn(ledger, namespace_id)  # rows may have other numbers by now
            used.update(self._shelves.take_used())
            if used:
                ledger.usage.note_uses(used)
            there = {one: head for one in counted if (head := ledger.head(one)) is not None}
            for one, head in there.items():
                entries = head.rows - head.deleted
                ledger.usage.add_looked_up(one, hits[one], misses[one], entries)
            return set(there)

        told: set[bytes] = set()
        try:
            told = ledger.transaction(work, timeout)
        except BaseException:
            self._shelves.mark_used(used)
            raise
        finally:
            # What is looked up before it is first stored is told later.
            with COUNTERS:
                for one in counted - told:
                    self._hits[one] += hits[one]
                    self._misses[one] += misses[one]

    def flush_at_the_end(self) -> None:
        """The same where no fault of it matters, and nobody is to wait for long."""
        ledger = self._session.ledger
        if ledger is not None and not self._session.read_only:
            with contextlib.suppress(StoreError):
                self.flush(ledger, _TIMEOUT_AT_THE_END)


_OPEN: weakref.WeakSet[Pending] = weakref.WeakSet()


def _flush_all() -> None:
    for pending in list(_OPEN):
        pending.flush_at_the_end()


def _forget_all() -> None:
    # What its parent has looked up, a forked child leaves to the parent.
    for pending in list(_OPEN):
        pending.forget()


at_the_end(_flush_all)
os.register_at_fork(after_in_child=_forget_all)
