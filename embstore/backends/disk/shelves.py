"""What this process knows of a store: one shelf a namespace, read from the ledger."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from embstore.backends.disk import repair, runs
from embstore.backends.disk.ledger import Ledger
from embstore.backends.disk.shelf import Shelf, learn_all
from embstore.backends.disk.vectors import Header
from embstore.backends.rows import Rows, as_digests
from embstore.errors import StoreDamagedError, StoreError
from embstore.locks import INDEX


class Shelves:
    """The shelves of one store, by namespace.

    Args:
        vectors: the folder of its vector files.
    """

    def __init__(self, vectors: Path) -> None:
        self._vectors = vectors
        self._shelves: dict[bytes, Shelf] = {}
        self._corrupt = 0

    def get(self, namespace_id: bytes) -> Shelf | None:
        """What is known of a namespace so far."""
        return self._shelves.get(namespace_id)

    def add(self, shelf: Shelf) -> None:
        """Know another one."""
        with INDEX:
            self._shelves[shelf.header.namespace.id] = shelf

    def refresh(self, ledger: Ledger | None, namespace_id: bytes) -> None:
        """Learn what others committed: one query if there was nothing."""
        if ledger is None:
            self.read_files(namespace_id)
            return
        head = ledger.head(namespace_id)
        shelf = self.get(namespace_id)
        here = (shelf.header.generation, shelf.known) if shelf is not None else None
        if here != (head[:2] if head is not None else None):
            ledger.snapshot(lambda: self.learn(ledger, namespace_id))

    def learn(self, ledger: Ledger, namespace_id: bytes) -> Shelf | None:
        """The shelf as the ledger has it now. In a snapshot or transaction."""
        head = ledger.head(namespace_id)
        shelf = self.get(namespace_id)
        used: list[bytes] = []
        if shelf is not None and (head is None or shelf.header.generation != head.generation):
            with INDEX:
                used = shelf.take_used_digests()
            self.drop(namespace_id)
            shelf = None
        if head is None:
            return None
        if shelf is None:
            entry = ledger.entry(namespace_id)
            if entry is None:
                raise StoreDamagedError(
                    "the registry has lost a namespace", path=str(self._vectors.parent)
                )
            shelf = Shelf(self._vectors, Header(ledger.seed, head.generation, *entry))
            with INDEX:
                shelf.recall(head.rows)
        if shelf.known < head.rows:
            batches = ledger.batches(namespace_id, head.generation, shelf.known)
            with INDEX:
                learn_all(shelf, batches)
                shelf.recall_if_due()
        if shelf.known != head.rows:
            raise StoreDamagedError(
                "batches are missing in the ledger", path=str(self._vectors.parent)
            )
        shelf.head = head
        self.add(shelf)
        if used:
            self.use(namespace_id, used)
        return shelf

    def keep_all(self, ledger: Ledger) -> None:
        """Sort into files what is not yet, of namespaces that were written anew. What fails is done
        by whoever commits next."""
        with contextlib.suppress(StoreError, OSError):
            for namespace_id in ledger.namespace_ids():
                head = ledger.head(namespace_id)
                if head is not None and head.rows >= runs.KEPT_ROWS:
                    self.refresh(ledger, namespace_id)
                    if (shelf := self.get(namespace_id)) is not None:
                        shelf.keep()

    def read_files(self, namespace_id: bytes) -> None:
        """Learn what a vector file says by itself, where no ledger can be had."""
        with INDEX:
            known = self._shelves.get(namespace_id)
            if known is not None and len(known.file.rows(known.known)):
                return
            found = [
                repair.whole(self._vectors, header)
                for header in repair.headers(self._vectors)
                if header.namespace.id == namespace_id
            ]
            # The newest may have been begun and never committed.
            if found:
                self._shelves[namespace_id] = max(found, key=lambda shelf: shelf.known)

    def drop(self, namespace_id: bytes) -> None:
        """Forget a namespace."""
        with INDEX:
            shelf = self._shelves.pop(namespace_id, None)
            if shelf is not None:
                self._corrupt += shelf.corrupt
                shelf.file.close()

    def drop_all(self) -> None:
        """Forget everything."""
        for namespace_id in list(self._shelves):
            self.drop(namespace_id)

    @property
    def corrupt(self) -> int:
        """Damaged rows found and left out so far."""
        with INDEX:
            return self._corrupt + sum(shelf.corrupt for shelf in self._shelves.values())

    def use(self, namespace_id: bytes, digests: Sequence[bytes]) -> None:
        """Count rows as used, if they are known here."""
        with INDEX:
            if (shelf := self._shelves.get(namespace_id)) is not None:
                shelf.locate(as_digests(digests))

    def have_used(self) -> list[bytes]:
        """The namespaces of which rows were used since they were last taken."""
        with INDEX:
            return [one for one, shelf in self._shelves.items() if shelf.has_used]

    def take_used(self) -> dict[bytes, tuple[int, Rows]]:
        """The rows used since this was last asked, by namespace: generation and row numbers."""
        with INDEX:
            return {
                namespace_id: (shelf.header.generation, rows)
                for namespace_id, shelf in self._shelves.items()
                if len(rows := shelf.take_used())
            }

    def mark_used(self, used: dict[bytes, tuple[int, Rows]]) -> None:
        """Give back what :meth:`take_used` gave."""
        with INDEX:
            for namespace_id, (generation, rows) in used.items():
                shelf = self._shelves.get(namespace_id)
                if shelf is not None and shelf.header.generation == generation:
                    shelf.mark_used(rows)
