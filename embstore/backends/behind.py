"""The store behind a machine's disk: asked as long as it answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from embstore.backends.base import Backend
from embstore.errors import StoreError, StoreRefusedError
from embstore.faults import Faults, Rest
from embstore.locks import COUNTERS

T = TypeVar("T")

_REST_SECONDS = 2.0
"""How long an upstream that failed is left alone, at least."""


class StoreBehind:
    """The store behind, asked only as long as it answers.

    Args:
        open: opens it.
        faults: what happens when it fails.

    Attributes:
        rest: while it lasts, nothing is asked of it.
    """

    def __init__(self, open: Callable[[], Backend], faults: Faults) -> None:
        self._open = open
        self._faults = faults
        self._backend: Backend | None = None
        self._counts: dict[bytes, tuple[int, int]] = {}
        self.rest = Rest(_REST_SECONDS)

    def opened(self) -> Backend:
        """The store itself.

        Raises:
            StoreRefusedError: if it must not be used.
            StoreError: if it cannot be opened.
        """
        if self._backend is None:
            self._backend = self._open()
            self._backend.watch(dict, self._take_counts)
        return self._backend

    def reach(self) -> None:
        """Open it, if it answers.

        Raises:
            StoreRefusedError: if it must not be used.
            StoreError: if it fails, and faults are to be raised.
        """
        self._guarded(lambda: self.opened().seed)

    def ask(self, work: Callable[[Backend], T]) -> tuple[T] | None:
        """What the store answers, in a tuple; None if it does not, or rests.

        Raises:
            NamespaceError: if what is to be written does not fit what it has.
            StoreError: if it fails, and faults are to be raised.
        """

        def asked() -> T:
            try:
                return work(self.opened())
            except StoreRefusedError as refusal:  # in mid-job it is a fault like others
                raise StoreError(str(refusal), path=refusal.path) from refusal

        return self._guarded(asked) if self.rest.is_over else None

    def _guarded(self, work: Callable[[], T]) -> tuple[T] | None:
        start = time.monotonic()
        answer: tuple[T] | None = self._faults.guard(lambda: (work(),), None)
        if answer is None:
            self.rest.begin(start)
        return answer

    def count(self, namespace_id: bytes, hits: int, misses: int) -> None:
        """Note what it was asked for, for its own figures: of all machines together."""
        with COUNTERS:
            before = self._counts.get(namespace_id, (0, 0))
            self._counts[namespace_id] = before[0] + hits, before[1] + misses

    def _take_counts(self) -> dict[bytes, tuple[int, int]]:
        with COUNTERS:
            taken, self._counts = self._counts, {}
        return taken

    @property
    def corrupt(self) -> int:
        """Damaged rows found there."""
        return 0 if self._backend is None else self._backend.corrupt

    def close(self) -> None:
        """Let go of it."""
        if self._backend is not None:
            self._backend.close()
