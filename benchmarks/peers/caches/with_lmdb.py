"""LMDB, by py-lmdb: a memory-mapped B+ tree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import lmdb
import numpy as np
from xxhash import xxh3_128_digest

if TYPE_CHECKING:
    from benchmarks.peers.base import Array

_MAP = 2**37
"""Address space, not disk: 128 GiB."""


class Lmdb:
    """Digests and raw bytes.

    Commits are not synced (``sync=False``: five times as fast here), so that they outlive the
    process but not a power cut: what embstore promises too. Single gets that lend their memory
    (``buffers=True``) are twice as fast as ``Cursor.getmulti``; for puts ``putmulti`` is faster.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        self._dim = dim
        self._open = lmdb.open(str(folder), map_size=_MAP, sync=False, metasync=False)

    def put(self, texts: list[str], vectors: Array) -> None:
        """One write transaction; in the order of the keys pages are found sooner."""
        rows = sorted(
            (xxh3_128_digest(text.encode()), vector.tobytes())
            for text, vector in zip(texts, vectors, strict=True)
        )
        with self._open.begin(write=True) as transaction:
            transaction.cursor().putmulti(rows)

    def get(self, texts: list[str]) -> Array:
        """One read transaction; rows go from the map into the array."""
        keys = [xxh3_128_digest(text.encode()) for text in texts]
        with self._open.begin(buffers=True) as transaction:
            joined = bytearray().join(map(transaction.get, keys))
        return np.frombuffer(joined, np.float32).reshape(-1, self._dim)

    def close(self) -> None:
        """Close the environment."""
        self._open.close()
