"""Keeping a store under a size: the rows used longest ago go.

Each process notes in memory which rows it read; the ledger is told now and then (usage.py), by the
store's own count, as a clock set back must not make the newest rows look old. A row that was never
read counts from when it was written.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np

from embstore.backends.base import Progressed, unheard
from embstore.backends.disk import repair, runs
from embstore.backends.disk.ledger import Ledger
from embstore.backends.disk.location import VECTORS
from embstore.backends.disk.pending import Pending
from embstore.backends.disk.usage import Times
from embstore.errors import StoreError

_LOG = logging.getLogger(__name__)

ROOM = 0.9
"""What of the limit may be left after an eviction: it copies a namespace, so it should last."""

_LEDGER = 1.03
"""Bytes of a store to bytes of its rows. The ledger's own files are not measured: what they take
for a while (write-ahead log, free pages) says nothing of what is stored."""

_AGAIN = 60.0
"""Seconds until an eviction is tried again that found nothing to drop."""


class Eviction:
    """What this process drops of a store.

    Args:
        directory: the store.
        pending: knows what was used lately.
        size_limit: bytes to keep the store under; None drops nothing unasked.
    """

    def __init__(self, directory: Path, pending: Pending, size_limit: int | None) -> None:
        self._directory = directory
        self._pending = pending
        self._limit = size_limit
        self._rest_until = 0.0

    def make_room(self, ledger: Ledger, incoming: int) -> None:
        """Drop rows, if ``incoming`` more bytes would bring the store over its limit.

        Raises:
            StoreError: if they would not even fit an empty store.
        """
        limit = self._limit
        if limit is None:
            return
        if incoming > limit:
            raise StoreError(
                f"{incoming:,} bytes of vectors do not fit a store of at most {limit:,}",
                path=str(self._directory),
            )
        taken = int(repair.size(self._directory / VECTORS) * _LEDGER)
        now = time.monotonic()
        if taken + incoming <= limit or now < self._rest_until:
            return
        if not self.drop(ledger, None, limit - incoming):
            # Headers and what a crash left can be more than the limit. Not at every write, then.
            self._rest_until = now + _AGAIN

    def drop(
        self,
        ledger: Ledger,
        namespace_id: bytes | None,
        limit: int | None,
        older_than: float | None = None,
        progressed: Progressed = unheard,
    ) -> int:
        """Drop the rows used longest ago; returns how many. See :func:`evict`."""
        self._pending.flush(ledger)
        dropped, files = ledger.transaction(
            lambda: evict(self._directory, ledger, namespace_id, limit, older_than, progressed)
        )
        if files:
            repair.unlink_for_good(ledger, files)
        if dropped:
            _LOG.info("dropped %d vectors used longest ago from %r", dropped, str(self._directory))
        return dropped


def evict(
    directory: Path,
    ledger: Ledger,
    namespace_id: bytes | None,
    limit: int | None,
    older_than: float | None = None,
    progressed: Progressed = unheard,
) -> tuple[int, list[Path]]:
    """Drop the rows used longest ago.

    Args:
        directory: the store.
        ledger: its ledger, in a transaction.
        namespace_id: drop rows of this namespace only, and count only these; None for all.
        limit: bytes to stay under; None for no limit.
        older_than: seconds since the last use after which a row goes; None if age does not matter.
        progressed: called with all rows of a namespace when it is done.

    Returns:
        Number of rows dropped, and the files to unlink once that is committed.
    """
    ids = ledger.namespace_ids() if namespace_id is None else [namespace_id]
    times = [_times(ledger, each) for each in ids]
    every = np.concatenate(times) if times else np.empty(0, np.uint32)
    kept = np.ones(len(every), np.bool_)
    if older_than is not None:
        # Where the time is not known, it may be now.
        kept &= (every == 0) | (every >= time.time() - older_than)
    if limit is not None:
        counts = [len(its) for its in times]
        strides = [
            repair.stride(ledger, each) + runs.BYTES_A_ROW * (count >= runs.KEPT_ROWS)
            if count
            else 0
            for each, count in zip(ids, counts, strict=True)
        ]
        sizes = np.repeat(np.array(strides, np.int64), counts)
        # The newest first, until they fill the room there is.
        newest = np.argsort(every, kind="stable")[::-1]
        newest = newest[kept[newest]]
        room = max(0, int(limit * ROOM / _LEDGER))
        kept[newest[np.cumsum(sizes[newest]) > room]] = False
    start, dropped, old = 0, 0, []
    for each, its in zip(ids, times, strict=True):
        mine = kept[start : start + len(its)]
        start += len(its)
        if not mine.all():
            count, file = repair.keep_only(directory, ledger, each, mine)
            dropped += count
            old.append(file)
        progressed(len(its))
    return dropped, old


def _times(ledger: Ledger, namespace_id: bytes) -> Times:
    head = ledger.head(namespace_id)
    if head is None:
        return np.empty(0, np.uint32)
    return ledger.usage.times(namespace_id, head.generation, head.rows)
