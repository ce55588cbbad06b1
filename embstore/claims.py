"""Claims on texts, so that no two workers compute the same: what a store offers for that."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from embstore.backends.base import Backend, Claimed, Found
from embstore.errors import StoreError
from embstore.faults import Rest
from embstore.keys import Namespace

T = TypeVar("T")


class Claims:
    """The claims of a backend, without its faults.

    Nobody is warned when there can be no claims: what follows is that a text may be computed twice,
    and storing it will say what is wrong.

    Args:
        backend: has the claims; None if nothing can be stored.

    Attributes:
        rest: while it lasts, nothing is asked of it.
        paces: by namespace id, the seconds that computing took in this process: of a character, and
            of the quickest chunk.
    """

    def __init__(self, backend: Backend | None) -> None:
        self._backend = backend
        self.rest = Rest()
        self.paces: dict[bytes, tuple[float, float]] = {}

    def _ask(self, work: Callable[[Backend], T], otherwise: T) -> T:
        if self._backend is None or not self.rest.is_over:
            return otherwise
        start = time.monotonic()
        try:
            return work(self._backend)
        except (StoreError, OSError):
            self.rest.begin(start)
            return otherwise

    def claim(
        self, namespace: Namespace, digests: Sequence[bytes], owner: bytes, most: int
    ) -> Claimed | None:
        """See :meth:`embstore.backends.base.Backend.claim`; None if there can be no claims now."""
        return self._ask(lambda backend: backend.claim(namespace, digests, owner, most), None)

    def claimed(self, namespace: Namespace, digests: Sequence[bytes]) -> Found:
        """Which of these digests are claimed by anybody alive, (n,) bool; if that cannot be told,
        all of them: to look again later is what can be done then."""
        unknown = np.ones(len(digests), np.bool_)
        return self._ask(lambda backend: backend.claimed(namespace, digests), unknown)

    def release(self, namespace: Namespace, owner: bytes) -> None:
        """End a claim. Should that fail, the backend does it with the next claim."""
        if self._backend is not None:
            with contextlib.suppress(StoreError, OSError):
                self._backend.release(namespace, owner)
