"""Claims on texts, so that no two workers compute the same: what a store offers for that."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import numpy as np

from embstore.backends.base import Backend, Claimed, Found
from embstore.errors import StoreError
from embstore.keys import Namespace


class Claims:
    """The claims of a backend, without its faults.

    Nobody is warned when there can be no claims: what follows is that a text may be computed twice,
    and storing it will say what is wrong.

    Args:
        backend: has the claims; None if nothing can be stored.
    """

    def __init__(self, backend: Backend | None) -> None:
        self._backend = backend
        self._rest_until = 0.0

    def claim(
        self, namespace: Namespace, digests: Sequence[bytes], owner: bytes, most: int
    ) -> Claimed | None:
        """See :meth:`embstore.backends.base.Backend.claim`; None if there can be no claims now."""
        start = time.monotonic()
        if self._backend is None or start < self._rest_until:
            return None
        try:
            return self._backend.claim(namespace, digests, owner, most)
        except (StoreError, OSError):
            # Asking in vain may take no more than a fifth of a job's time.
            now = time.monotonic()
            self._rest_until = now + 4 * (now - start)
            return None

    def claimed(self, namespace: Namespace, digests: Sequence[bytes]) -> Found:
        """Which of these digests are claimed by anybody alive, (n,) bool."""
        if self._backend is not None:
            with contextlib.suppress(StoreError, OSError):
                return self._backend.claimed(namespace, digests)
        return np.zeros(len(digests), np.bool_)

    def release(self, namespace: Namespace, owner: bytes) -> None:
        """End a claim. Should that fail, it ends with this process."""
        if self._backend is not None:
            with contextlib.suppress(StoreError, OSError):
                self._backend.release(namespace, owner)
