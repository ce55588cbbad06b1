"""What this process has looked up, until the ledger is told."""

from __future__ import annotations

import atexit
import contextlib
import os
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping

from embstore.backends.disk.ledger import Ledger
from embstore.backends.disk.session import Session
from embstore.backends.disk.shelves import Shelves
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
        in_memory: gives what is read without this backend hearing of it.
    """

    in_memory: Callable[[], Mapping[bytes, list[bytes]]] = dict

    def __init__(self, session: Session, shelves: Shelves) -> None:
        self._session = session
        self._shelves = shelves
        self._hits: Counter[bytes] = Counter()
        self._misses: Counter[bytes] = Counter()
        self._due = time.monotonic() + _EVERY
        _OPEN.add(self)

    def count(self, namespace_id: bytes, hits: int, misses: int) -> None:
        """Count a look-up."""
        with COUNTERS:
            self._hits[namespace_id] += hits
            self._misses[namespace_id] += misses

    def of(self, namespace_id: bytes) -> tuple[int, int]:
        """Hits and misses that the ledger does not know yet."""
        return self._hits[namespace_id], self._misses[namespace_id]

    @property
    def is_due(self) -> bool:
        """Whether the ledger was last told some time ago."""
        return time.monotonic() >= self._due

    def forget(self) -> None:
        """Leave it to another process: a forked child must not count what its parent did."""
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
        with COUNTERS:
            hits, misses = self._hits, self._misses
            self.forget()
        for namespace_id, digests in self.in_memory().items():
            self._shelves.use(namespace_id, digests)
        used = self._shelves.take_used()
        counted = {one for one in (*hits, *misses) if hits[one] or misses[one]}
        if not counted and not used:
            return

        def work() -> None:
            for each in counted:
                if ledger.head(each) is not None:
                    ledger.usage.add_looked_up(each, hits[each], misses[each])
            if used:
                ledger.usage.note_uses(used)

        try:
            ledger.transaction(work, timeout)
        except BaseException:
            self._shelves.mark_used(used)
            with COUNTERS:
                self._hits.update(hits)
                self._misses.update(misses)
            raise

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


atexit.register(_flush_all)
os.register_at_fork(after_in_child=_forget_all)
