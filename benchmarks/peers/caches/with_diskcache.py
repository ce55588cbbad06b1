"""diskcache, plain: one row of SQLite for each text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import diskcache
import numpy as np
from xxhash import xxh3_128_digest

if TYPE_CHECKING:
    from benchmarks.peers.base import Array


class DiskCache:
    """Digests and raw bytes; each call is one transaction, which saves a lock for each text."""

    def __init__(self, folder: Path, dim: int) -> None:
        self._dim = dim
        # Without culling a set has two statements less. The map is the most SQLite takes.
        self._cache = diskcache.Cache(
            str(folder),
            eviction_policy="none",
            cull_limit=0,
            size_limit=2**40,
            sqlite_mmap_size=2**31 - 2**16,
        )

    def put(self, texts: list[str], vectors: Array) -> None:
        """A transaction of sets."""
        with self._cache.transact():
            for text, vector in zip(texts, vectors, strict=True):
                self._cache.set(xxh3_128_digest(text.encode()), vector.tobytes())

    def get(self, texts: list[str]) -> Array:
        """A transaction of gets, joined into one array."""
        get = self._cache.get
        with self._cache.transact():
            found = [get(xxh3_128_digest(text.encode())) for text in texts]
        return np.frombuffer(bytearray().join(found), np.float32).reshape(-1, self._dim)

    def close(self) -> None:
        """Close the connection."""
        self._cache.close()
