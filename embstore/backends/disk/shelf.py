"""What one process knows of one namespace: its file, its index, and which rows it has checked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from embstore.backends.disk.index import DigestIndex
from embstore.backends.disk.vectors import Header, VectorFile
from embstore.backends.rows import Array, Digests, Rows, as_digests
from embstore.errors import StoreDamagedError
from embstore.keys import DIGEST_SIZE


class Shelf:
    """The rows of one namespace and generation, for look-ups. Used under ``locks.INDEX``.

    Attributes:
        known: number of rows this process has heard of.
        deleted: how many of these the ledger had as deleted, when it was last read.
        marked_until: see UsageRecords.mark_written.
        corrupt: rows found damaged so far.
    """

    def __init__(self, directory: Path, header: Header) -> None:
        self.file = VectorFile(directory, header)
        self.header = header
        self.known = 0
        self.corrupt = 0
        self.deleted = 0
        self.marked_until = 0.0
        self._changes = 0
        self._index = DigestIndex()
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
        if known > len(self._sound):
            size = max(known, 2 * len(self._sound))
            self._used = np.append(self._used, np.zeros(size - len(self._used), np.bool_))
            self._sound = np.append(self._sound, np.zeros(size - len(self._sound), np.bool_))
        self._sound[first:known] = sound
        self._index.extend(digests, first)
        self.known = known

    def locate(self, digests: Digests) -> Rows:
        """The number of a sound row for each of (n, 2) digests; -1 where there is none.

        The digest in the row is compared at every read (rows can be deleted by others), the
        checksum once per row and process, and again after others changed the file.
        """
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
        present = (rows >= 0) & (rows < len(mapped))
        if not present.any():
            return np.where(present, rows, -1)
        stored = mapped["digest"][np.where(present, rows, 0)]
        sound = present & (stored[:, 0] == digests[:, 0]) & (stored[:, 1] == digests[:, 1])
        unchecked = np.unique(rows[sound][~self._sound[rows[sound]]])
        if len(unchecked):
            self._check(mapped, unchecked)
            sound[sound] = self._sound[rows[sound]]
        for number in np.flatnonzero((rows >= 0) & ~sound).tolist():
            rows[number] = self._search(mapped, digests[number])
        self._used[rows[rows >= 0]] = True
        return rows

    def _check(self, mapped: Array, rows: Rows) -> None:
        passed = mapped["checksum"][rows] == self.file.format.checksums(mapped, rows.tolist())
        self._sound[rows] = passed
        damaged = {row for row in rows[~passed].tolist() if mapped["digest"][row].any()}
        self.corrupt += len(damaged - self._damaged)
        self._damaged |= damaged

    def _search(self, mapped: Array, digest: Digests) -> int:
        """The one-by-one way: the row proposed first was deleted, damaged, or another text's."""
        for row in self._index.candidates(int(digest[0])):
            if row < len(mapped) and (mapped["digest"][row] == digest).all():
                if not self._sound[row]:
                    self._check(mapped, np.array([row]))
                if self._sound[row]:
                    return row
        return -1

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
        raw = self.file.mapped["digest"][used[used < len(self.file.mapped)]].tobytes()
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
