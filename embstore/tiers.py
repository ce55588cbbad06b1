"""The memory tier over a backend: where a row is looked for, and which rows memory keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embstore.backends.base import Backend, Found
from embstore.backends.rows import Array
from embstore.faults import Faults
from embstore.keys import Namespace
from embstore.memory import MemoryTier, memory_prefix

_SMALL_CALL = 64
"""Texts up to which what the backend found is kept in memory. One text takes 9 µs from there and 46
from disk, ten thousand the same from both; and a scan must not push out what is hot."""


class Tiers:
    """Looks rows up, in memory first.

    Args:
        memory: the memory tier.
        backend: the tier behind it; None if there is none.
        faults: what happens when that fails.
    """

    def __init__(self, memory: MemoryTier, backend: Backend | None, faults: Faults) -> None:
        self._memory = memory
        self._backend = backend
        self._faults = faults
        self._layouts: dict[bytes, tuple[np.dtype[Any], int]] = {}
        if backend is not None:
            backend.watch(memory.take_used)

    def find(self, namespace: Namespace, digests: Sequence[bytes]) -> tuple[Array, Found, Found]:
        """The vectors, (n, dim), which were found, (n,) bool, and which of these in memory."""
        vectors, in_memory = self._find_in_memory(namespace, digests)
        if in_memory.all() and len(digests):
            return vectors, in_memory, in_memory
        return (*self._find_in_backend(namespace, digests, vectors, in_memory), in_memory)

    def _find_in_memory(
        self, namespace: Namespace, digests: Sequence[bytes]
    ) -> tuple[Array, Found]:
        if len(self._memory) and namespace.id in self._layouts:
            dtype, dim = self._layouts[namespace.id]
            prefix = memory_prefix(namespace.id, dtype, dim)
            rows = self._memory.get_many([prefix + digest for digest in digests])
            if None not in rows:
                # A bytearray, so that the array can be written.
                joined = bytearray().join(rows)  # type: ignore[arg-type]
                return np.frombuffer(joined, dtype).reshape(-1, dim), np.ones(len(rows), np.bool_)
            found = np.array([row is not None for row in rows], np.bool_)
            vectors = np.zeros((len(digests), dim), dtype)
            if found.any():
                kept = b"".join(row for row in rows if row is not None)
                vectors[found] = np.frombuffer(kept, dtype).reshape(-1, dim)
            return vectors, found
        return np.zeros((len(digests), 0), np.float32), np.zeros(len(digests), np.bool_)

    def _find_in_backend(
        self, namespace: Namespace, digests: Sequence[bytes], vectors: Array, in_memory: Found
    ) -> tuple[Array, Found]:
        backend = self._backend
        if backend is None:
            return vectors, in_memory
        every = digests
        if in_memory.any():
            places = np.flatnonzero(~in_memory)
            digests = [digests[place] for place in places.tolist()]
        got = self._faults.guard(lambda: backend.get_many(namespace, digests), None)
        if got is None:
            return vectors, in_memory
        more, found = got
        if in_memory.any() and (more.dtype, more.shape[1]) != (vectors.dtype, vectors.shape[1]):
            # Another process cleared the namespace and stored vectors of another kind.
            self._memory.clear(namespace.id)
            return self._find_in_backend(namespace, every, vectors, np.zeros_like(in_memory))
        if len(digests) <= _SMALL_CALL and found.any():
            kept = np.flatnonzero(found)
            self.admit(namespace, [digests[number] for number in kept.tolist()], more[kept])
        if not in_memory.any():
            return more, found
        vectors[places[found]] = more[found]
        all_found = in_memory.copy()
        all_found[places] = found
        return vectors, all_found

    def admit(self, namespace: Namespace, digests: Sequence[bytes], vectors: Array) -> None:
        """Keep vectors, (n, dim), in memory."""
        if not len(digests) or not self._memory.keeps:
            return
        layout = (vectors.dtype, vectors.shape[1])
        if self._layouts.setdefault(namespace.id, layout) != layout:
            self._memory.clear(namespace.id)
            self._layouts[namespace.id] = layout
        raw, stride = vectors.tobytes(), vectors.dtype.itemsize * vectors.shape[1]
        prefix = memory_prefix(namespace.id, *layout)
        self._memory.put_many(
            (prefix + digest, raw[number * stride : (number + 1) * stride])
            for number, digest in enumerate(digests)
        )

    def forget(self, namespace: Namespace, digests: Sequence[bytes]) -> None:
        """Keep these in memory no longer."""
        if namespace.id in self._layouts:
            prefix = memory_prefix(namespace.id, *self._layouts[namespace.id])
            self._memory.delete_many([prefix + digest for digest in digests])

    def clear_memory(self, namespace: Namespace | None = None) -> None:
        """Keep nothing of a namespace, or of all, in memory any longer."""
        self._memory.clear(b"" if namespace is None else namespace.id)
