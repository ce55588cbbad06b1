"""The memory tier: rows used last, in this process, bounded by bytes and by entries."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from embstore.keys import DIGEST_SIZE
from embstore.locks import MEMORY

OVERHEAD = 200
"""Bytes that one entry takes beyond its vector (two bytes objects, a slot of the ordered dict):
measured with tracemalloc on CPython 3.11, 196."""


def memory_prefix(namespace_id: bytes, dtype: np.dtype[Any], dim: int) -> bytes:
    """What the keys of a namespace's rows begin with.

    With the layout, so that a row is never read as another kind of vector: another process may
    clear a namespace and store vectors of another kind while this one looks something up.
    """
    return b"%b%b %d " % (namespace_id, dtype.str.encode(), dim)


class MemoryTier:
    """A least-recently-used map from keys to rows, both ``bytes``.

    ``bytes`` cannot be changed: nothing done to an array handed out reaches what is kept.
    All methods may be called from any thread.

    Args:
        limit: most bytes kept, bookkeeping included; None for no bound; 0 keeps nothing.
        maxsize: most entries kept; None for no bound.
    """

    def __init__(self, limit: int | None, maxsize: int | None = None) -> None:
        self._limit = float("inf") if limit is None else limit
        self._maxsize = float("inf") if maxsize is None else maxsize
        self._rows: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = MEMORY

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes kept, vectors and bookkeeping together."""
        return self._bytes

    @property
    def keeps(self) -> bool:
        """Whether anything may be kept at all."""
        return self._limit > 0 and self._maxsize > 0

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The row of each key, or None; those found become the most recently used."""
        if not self._rows:
            return [None] * len(keys)
        with self._lock:
            rows = list(map(self._rows.get, keys))
            touch = self._rows.move_to_end
            for key, row in zip(keys, rows, strict=True):
                if row is not None:
                    touch(key)
        return rows

    def digests(self) -> dict[bytes, list[bytes]]:
        """The digests of all rows kept, by namespace id. Of keys of :func:`memory_prefix`."""
        found: dict[bytes, list[bytes]] = {}
        with self._lock:
            for key in self._rows:
                found.setdefault(key[:DIGEST_SIZE], []).append(key[-DIGEST_SIZE:])
        return found

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep these rows as the most recently used; what no longer fits goes, oldest first."""
        if not self.keeps:
            return
        with self._lock:
            rows = self._rows
            for key, row in items:
                old = rows.pop(key, None)
                if old is not None:
                    self._bytes -= len(old) + OVERHEAD
                rows[key] = row
                self._bytes += len(row) + OVERHEAD
            while rows and (self._bytes > self._limit or len(rows) > self._maxsize):
                _, row = rows.popitem(last=False)
                self._bytes -= len(row) + OVERHEAD

    def delete_many(self, keys: Iterable[bytes]) -> None:
        """Forget these keys."""
        with self._lock:
            for key in keys:
                row = self._rows.pop(key, None)
                if row is not None:
                    self._bytes -= len(row) + OVERHEAD

    def clear(self, prefix: bytes = b"") -> None:
        """Forget every key that starts with ``prefix``."""
        with self._lock:
            keys = [key for key in self._rows if key.startswith(prefix)]
        self.delete_many(keys)
