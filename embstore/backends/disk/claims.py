"""Who is computing what: claims.

A claim is an entry of the ledger, ``c namespace worker owner``, with the digests that its owner is
computing. It counts as long as its worker lives (workers.py), and keeps nobody from storing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from embstore.backends.base import Found
from embstore.backends.disk.hardened import HardenedCache
from embstore.backends.disk.workers import NAME_SIZE
from embstore.backends.rows import Digests
from embstore.keys import DIGEST_SIZE
from embstore.locks import LEDGER


class ClaimRecords:
    """The claims in a ledger. Methods that write are called in a transaction."""

    def __init__(self, cache: HardenedCache) -> None:
        self._cache = cache

    def put(self, namespace_id: bytes, who: bytes, digests: Digests) -> None:
        """Enter what somebody computes from now on, in place of what it was before.

        Args:
            namespace_id: of the digests.
            who: worker and owner.
            digests: (n, 2).
        """
        with self._cache.faults():
            self._cache.set(b"c" + namespace_id + who, digests.tobytes())

    def drop(self, namespace_id: bytes, who: bytes) -> None:
        """Take a claim out."""
        with self._cache.faults():
            self._cache.delete_range(b"c" + namespace_id + who)

    def namespaces(self) -> set[bytes]:
        """The ids of the namespaces with claims; nothing need be stored under them yet."""
        with LEDGER, self._cache.faults():
            return {key[1 : 1 + DIGEST_SIZE] for key in self._cache.keys(b"c")}

    def others(
        self, namespace_id: bytes, who: bytes, is_alive: Callable[[bytes], bool]
    ) -> tuple[list[Digests], list[bytes]]:
        """The digests claimed by each of the others, and those others that are dead."""
        prefix = b"c" + namespace_id
        with LEDGER, self._cache.faults():
            entries = self._cache.entries_from(prefix, prefix)
        claims, dead = [], []
        for key, value in entries:
            other = key[len(prefix) :]
            if other == who:
                continue
            if is_alive(other[:NAME_SIZE]):
                whole = len(value) // DIGEST_SIZE * DIGEST_SIZE
                claims.append(np.frombuffer(value[:whole], "<u8").reshape(-1, 2))
            else:
                dead.append(other)
        return claims, dead


def among(query: Digests, claims: list[Digests]) -> Found:
    """Which of (n, 2) digests are claimed, (n,) bool. By their first halves: who is wrong once in
    10**15 waits for nothing, and computes it then."""
    if not claims:
        return np.zeros(len(query), np.bool_)
    return np.isin(query[:, 0], np.concatenate(claims)[:, 0])
