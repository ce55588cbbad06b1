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

_MARK = b""
"""The key of no row."""


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
        return len(self._rows) - (_MARK in self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes kept, vectors and bookkeeping together."""
        return self._bytes

    @property
    def keeps(self) -> bool:
        """Whether anything may be kept at all."""
        return self._limit > 0 and self._maxsize > 0

    def get(self, key: bytes) -> bytes | None:
        """:meth:`get_many` for one key."""
        rows = self._rows
        with self._lock:
            row = rows.get(key)
            if row is not None:
                rows.move_to_end(key)
        return row

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

    def take_used(self) -> dict[bytes, list[bytes]]:
        """Digests of the rows read or kept since this was last asked, by namespace id: those behind
        a mark in the order of use. Of keys of :func:`memory_prefix`."""
        found: dict[bytes, list[bytes]] = {}
        with self._lock:
            for key in reversed(self._rows):
                if key == _MARK:
                    break
                found.setdefault(key[:DIGEST_SIZE], []).append(key[-DIGEST_SIZE:])
            self._rows.pop(_MARK, None)
            self._rows[_MARK] = b""
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
            while rows and (self._bytes > self._limit or len(self) > self._maxsize):
                key, row = rows.popitem(last=False)
                if key != _MARK:
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
            keys = [key for key in self._rows if key.startswith(prefix) and key != _MARK]
        self.delete_many(keys)
