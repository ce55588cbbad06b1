"""What one process knows of one namespace: its file, its index, and which rows it has checked."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

import numpy as np

from embstore.backends.base import FOUND, Found
from embstore.backends.disk import runs
from embstore.backends.disk.index import DigestIndex
from embstore.backends.disk.ledger import Head, Tail
from embstore.backends.disk.vectors import Header, VectorFile
from embstore.backends.rows import Array, Digests, Rows, as_digests, distinct, first_of_each
from embstore.errors import StoreDamagedError
from embstore.keys import DIGEST_SIZE
from embstore.locks import INDEX

_LOOKED_AT = 32
"""Rows, evenly spread, by which it is told whether a run in a file is of the rows there are."""

_DAMAGED = 2
"""So many of them may be others than the run has: a damaged row is no reason to sort anew."""


_BATCH = 1024
"""Digests of which it is first asked whether all are new, as they mostly are."""


class Shelf:
    """The rows of one namespace and generation, for look-ups. Used under ``locks.INDEX``.

    Attributes:
        known: number of rows this process has heard of.
        head: where the ledger stood when it was last read.
        tail: how it ended when this process last committed to it.
        marked_until: see UsageRecords.mark_written.
        corrupt: rows found damaged so far.
    """

    def __init__(self, directory: Path, header: Header) -> None:
        self.file = VectorFile(directory, header)
        self.header = header
        self.known = 0
        self.corrupt = 0
        self.head = Head(header.generation, 0)
        self.tail: Tail | None = None
        self.marked_until = 0.0
        self._changes = 0
        self._index = DigestIndex()
        self._vectors = directory
        self._keep_at = runs.KEPT_ROWS
        self._recall_at = 0
        self._kept: list[runs.KeptRun] = []
        self._sound = np.zeros(0, np.bool_)
        self._used = np.zeros(0, np.bool_)
        self._damaged: set[int] = set()

    def learn(self, first: int, digests: Digests, *, sound: bool = False) -> None:
        """Hear of the rows from number ``first`` on; ``sound`` if this process wrote them itself.

        Raises:
            StoreDamagedError: if rows before these were never heard of.
        """
        if first != self.known:
            raise StoreDamagedError(
                f"{self.file.path}: row {self.known} is missing", path=str(self.file.path)
            )
        # In this order, so that an interrupt anywhere leaves something that can be gone on with.
        known = first + len(digests)
        self._grow(known)
        if sound:
            self._sound[first:known] = True
        self._index.extend(digests, first)
        self.known = known

    def _grow(self, known: int) -> None:
        if known > len(self._sound):
            # Zeros that nobody touches take no memory.
            more = np.zeros(max(known, 2 * len(self._sound)) - len(self._sound), np.bool_)
            self._used = np.append(self._used, more) if len(self._used) else more.copy()
            self._sound = np.append(self._sound, more) if len(self._sound) else more

    # --- sorted runs in files -------------------------------------------------------------------

    def recall(self, rows: int) -> None:
        """Take what lies sorted in files of the first of ``rows`` rows, if that is more than what
        was taken before."""
        self._recall_at = rows + runs.KEPT_ROWS // 8
        kept = list(takewhile(self._is_of, runs.kept_runs(self._vectors, self.header, rows)))
        if kept and kept[-1].stop > self._index.kept_rows:
            self._grow(kept[-1].stop)
            self._index.take_over(kept, self.known)
            self._kept = kept
            self.known = max(self.known, kept[-1].stop)

    def _is_of(self, run: runs.KeptRun) -> bool:
        """Whether it is still of these rows: not in a store that was set back, and written on.

        Others stand then from some row on. The last one tells, unless it is the same text again:
        so some more are looked at, the closer to the end the more.
        """
        digests = self.file.rows(run.stop)["digest"]
        if len(digests) < run.stop:
            return False
        last = digests[run.stop - 1].tobytes()
        back = [run.stop - 2**power for power in range(run.stop.bit_length())]
        even = np.linspace(run.first, run.stop - 1, _LOOKED_AT).astype(np.int64)
        numbers = sorted({row for row in [*back, *even.tolist()] if row >= run.first})
        looked = np.ascontiguousarray(digests[numbers])
        looked = looked[looked.any(axis=1)]
        # A digest may stand in an older row as well: what counts is what stands where it says.
        proposed = run.find(np.ascontiguousarray(looked[:, 0]))
        there = digests[np.maximum(proposed, 0)]
        other = int(np.count_nonzero((proposed < 0) | (there != looked).any(axis=1)))
        return last in (run.last_digest, bytes(DIGEST_SIZE)) and other <= _DAMAGED

    def recall_if_due(self) -> None:
        """The same where much is held in memory, and some was learnt since it was last tried."""
        if self.holds_much and self.known >= self._recall_at:
            self.recall(self.known)

    @property
    def holds_much(self) -> bool:
        """Whether so much is held in memory that it should lie in a file."""
        return self.known - self._index.kept_rows >= runs.KEPT_ROWS

    def keep(self) -> None:
        """Sort what is not sorted in files yet into one, if it is much. Not under ``locks.INDEX``,
        which others need meanwhile.

        Raises:
            OSError: if it cannot be written. It is tried again later.
        """
        if not self.holds_much or self.known < self._keep_at:
            return
        with INDEX:
            self._check_kept()
            self.recall(self.known)
            known, kept = self.known, self._kept
            self._keep_at = known + runs.KEPT_ROWS // 8
            new = self._index.in_memory(known)
            last = self.file.rows(known)[known - 1 :]["digest"].tobytes()
        if self.holds_much and new and runs.keep(self._vectors, self.header, kept, new, last):
            with INDEX:
                self.recall(known)

    def _check_kept(self) -> None:
        """Do without the runs in files if one was cut short: what is mapped would end the
        process. Called before each use of the index, under ``locks.INDEX``."""
        if not all(run.is_whole() for run in self._kept):
            self._index.sort_kept(self.file.rows(self._index.kept_rows)["digest"].copy())
            self._kept = []

    # --- look-ups -------------------------------------------------------------------------------

    def locate(self, digests: Digests) -> Rows:
        """The number of a sound row for each of (n, 2) digests; -1 where there is none.

        The digest in the row is compared at every read (rows can be deleted by others), the
        checksum once per row and process, and again after others changed the file.
        """
        self._check_kept()
        rows = self._index.find(digests)
        if (rows < 0).all():
            return rows  # without mapping what was written since
        mapped = self.file.rows(self.known)
        if self._changes != self.file.changes:
            self._sound[:] = False
            self._changes = self.file.changes
        known = len(rows) and rows.min() >= 0 and rows.max() < len(mapped)
        if known and self._sound[rows].all() and (mapped["digest"][rows] == digests).all():
            # Nearly always, and half the time of what follows.
            self._used[rows] = True
            return rows
        waiting = np.flatnonzero(rows >= 0)
        while len(waiting):
            refused = ~self._are_of(mapped, rows[waiting], digests[waiting])
            waiting = waiting[refused]
            # That row was deleted, is damaged, or another text's.
            self._forget_deleted(mapped, rows[waiting], digests[waiting])
            rows[waiting] = self._index.after(digests[waiting], rows[waiting])
            waiting = waiting[rows[waiting] >= 0]
        self._used[rows[rows >= 0]] = True
        return rows

    def lacks(self, digests: Digests) -> Found:
        """Which of (n, 2) digests are to be stored, (n,) bool: in no sound row, and for the first
        time among these."""
        self._check_kept()
        if len(digests) == 1 and self._index.find_one(digests.item(0, 0)) < 0:
            return FOUND.copy()
        first = first_of_each(digests)
        if len(digests) <= _BATCH and self._index.has_none(digests):
            return first
        return first & (self.locate(digests) < 0)

    def _forget_deleted(self, mapped: Array, rows: Rows, digests: Digests) -> None:
        there = rows < len(mapped)
        rows, digests = rows[there], digests[there]
        deleted = ~mapped["digest"][rows].any(axis=1)
        self._index.forget(digests[deleted], rows[deleted])

    def _are_of(self, mapped: Array, rows: Rows, digests: Digests) -> Found:
        """Which rows are sound and have these digests."""
        present = rows < len(mapped)
        stored = mapped["digest"][np.where(present, rows, 0)] if present.any() else digests
        same: Found = present & (stored == digests).all(axis=1)
        unchecked = distinct(rows[same][~self._sound[rows[same]]])
        if len(unchecked):
            self._check(mapped, unchecked)
            same[same] = self._sound[rows[same]]
        return same

    def _check(self, mapped: Array, rows: Rows) -> None:
        passed = mapped["checksum"][rows] == self.file.format.checksums(mapped, rows.tolist())
        self._sound[rows] = passed
        damaged = {row for row in rows[~passed].tolist() if mapped["digest"][row].any()}
        self.corrupt += len(damaged - self._damaged)
        self._damaged |= damaged

    def vector(self, digest: bytes) -> Array | None:
        """The vector of one digest, (1, dim), fresh; None if :meth:`locate` has to look closer.

        Eight calls of numpy less: 3 µs where that takes 30.
        """
        self._check_kept()
        row = self._index.find_one(int.from_bytes(digest[:8], "little"))
        if row < 0 or row >= len(self.file.rows(self.known)):
            return None
        if self._changes != self.file.changes or not self._sound.item(row):
            return None
        if not self.file.holds(row, digest):
            return None
        self._used[row] = True
        return self.file.vector(row)

    def vectors(self, rows: Rows) -> Array:
        """The vectors of rows just located, (n, dim), fresh and C-contiguous; zeros for row -1."""
        # As they were located: that the file is compacted away meanwhile does not matter.
        stored = self.file.mapped["vector"]
        if len(rows) and rows.min() >= 0:
            return np.ascontiguousarray(stored[rows])
        found = rows >= 0
        vectors = np.zeros((len(rows), self.file.format.dim), self.file.format.vector_dtype)
        vectors[found] = stored[rows[found]]
        return vectors

    def sound(self, start: int, stop: int) -> Rows:
        """Those of the rows numbered ``start`` to ``stop`` that a look-up would give."""
        rows = self.file.rows(min(stop, self.known))[start:]
        located = self.locate(np.ascontiguousarray(rows["digest"]))
        numbers = np.arange(start, start + len(rows))
        sound: Rows = numbers[located == numbers]
        return sound

    def take_used(self) -> Rows:
        """The rows located since this was last asked."""
        used: Rows = np.flatnonzero(self._used[: self.known])
        self._used[used] = False
        return used

    @property
    def has_used(self) -> bool:
        """Whether any row was."""
        return bool(self._used[: self.known].any())

    def take_used_digests(self) -> list[bytes]:
        """The same by digest, for when the rows get other numbers."""
        used = self.take_used()
        mapped = self.file.mapped_rows()
        raw = mapped["digest"][used[used < len(mapped)]].tobytes()
        return [raw[at : at + DIGEST_SIZE] for at in range(0, len(raw), DIGEST_SIZE)]

    def mark_used(self, rows: Rows) -> None:
        """Count these as used since then."""
        self._used[rows] = True


def learn_all(shelf: Shelf, batches: Iterable[tuple[int, bytes]]) -> None:
    """Hear of batches as the ledger gives them."""
    parts, first = [], shelf.known
    for start, digests in batches:
        if start != first:
            break  # the caller sees that rows are missing
        parts.append(digests)
        first += len(digests) // DIGEST_SIZE
    # At once: learning a million rows batch by batch takes three times as long.
    shelf.learn(shelf.known, as_digests(parts))
