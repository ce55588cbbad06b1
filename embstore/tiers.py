"""The memory tier over a backend: where a row is looked for, and which rows memory keeps."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from embstore import hooks
from embstore.backends.base import FOUND, Backend, Found, all_of
from embstore.backends.joins import absent, fit, join, nothing
from embstore.backends.rows import Array
from embstore.claims import Claims
from embstore.faults import Faults, Rest
from embstore.keys import Namespace
from embstore.memory import MemoryTier, memory_prefix
from embstore.stats import Counters

_LOG = logging.getLogger(__name__)

_SMALL_CALL = 64
"""Texts up to which the rows of a call are kept in memory although the backend is near. One text
takes 3 µs from there and 10 from a disk, ten thousand take more; and a scan must not push out what
is hot."""


class _Layout(NamedTuple):
    """How the rows of a namespace lie in memory."""

    dtype: np.dtype[Any]
    dim: int
    prefix: bytes
    one: tuple[int, int]
    """The shape of one vector by itself."""


class Tiers:
    """Looks rows up in both tiers, and keeps them there.

    A backend that is near is asked first for many rows, and memory for what it does not have: what
    could not be stored. Otherwise memory comes first.

    Args:
        memory: the memory tier.
        backend: the tier behind it; None if there is none.
        faults: what happens when that fails.
        claims: rest when writing rests.
        counters: count what could not be written.
        read_only: whether the backend is written to.
    """

    def __init__(
        self,
        memory: MemoryTier,
        backend: Backend | None,
        faults: Faults,
        claims: Claims,
        counters: Counters,
        *,
        read_only: bool,
    ) -> None:
        self._memory = memory
        self._backend = backend
        self._faults = faults
        self._claims = claims
        self._counters = counters
        self._writes_to = None if read_only else backend
        self._writing = Rest()
        self._near = backend is not None and backend.is_near
        self._layouts: dict[bytes, _Layout] = {}

    def find_one(self, namespace: Namespace, digest: bytes) -> tuple[Array, Found, bool]:
        """:meth:`find` for one digest: its vector, (1, dim), whether it was found, (1,) bool, and
        whether in memory. Without numpy where it can be: 2 µs instead of 9."""
        layout = self._layouts.get(namespace.id)
        if layout is not None:
            row = self._memory.get(layout.prefix + digest)
            if row is not None:
                # frombuffer and reshape take twice as long.
                return np.ndarray(layout.one, layout.dtype, bytearray(row)), FOUND.copy(), True
        vector, found = self._ask_backend(namespace, [digest])
        if found.item():
            self._admit(namespace, [digest], vector)
        return vector, found, False

    def find(self, namespace: Namespace, digests: Sequence[bytes]) -> tuple[Array, Found, Found]:
        """The vectors, (n, dim), which were found, (n,) bool, and which of these in memory."""
        if self._near and len(digests) > _SMALL_CALL:
            vectors, found = self._ask_backend(namespace, digests)
            if all_of(found) or not len(self._memory):
                return vectors, found, np.zeros_like(found)
            more, kept = self._ask_memory(namespace, absent(digests, found))
            if not fit(vectors, more):
                self._memory.clear(namespace.id)
                return vectors, found, np.zeros_like(found)
            vectors, everywhere = join((vectors, found), (more, kept))
            return vectors, everywhere, everywhere & ~found
        vectors, in_memory = self._ask_memory(namespace, digests)
        if all_of(in_memory) and len(digests):
            return vectors, in_memory, in_memory
        wanted = absent(digests, in_memory)
        more, found = self._ask_backend(namespace, wanted)
        if in_memory.any() and not fit(vectors, more):
            # Another process cleared the namespace and stored vectors of another kind.
            self._memory.clear(namespace.id)
            return self.find(namespace, digests)
        if found.any() and (len(wanted) <= _SMALL_CALL or not self._near):
            there = np.flatnonzero(found)
            self._admit(namespace, [wanted[number] for number in there.tolist()], more[there])
        return *join((vectors, in_memory), (more, found)), in_memory

    def _ask_memory(self, namespace: Namespace, digests: Sequence[bytes]) -> tuple[Array, Found]:
        layout = self._layouts.get(namespace.id)
        if layout is None or not len(self._memory):
            return nothing(digests)
        rows = self._memory.get_many([layout.prefix + digest for digest in digests])
        if None not in rows:
            # A bytearray, so that the array can be written.
            joined = bytearray().join(rows)  # type: ignore[arg-type]
            vectors = np.frombuffer(joined, layout.dtype).reshape(-1, layout.dim)
            return vectors, np.ones(len(rows), np.bool_)
        found = np.array([row is not None for row in rows], np.bool_)
        vectors = np.zeros((len(digests), layout.dim), layout.dtype)
        if found.any():
            kept = b"".join(row for row in rows if row is not None)
            vectors[found] = np.frombuffer(kept, layout.dtype).reshape(-1, layout.dim)
        return vectors, found

    def _ask_backend(self, namespace: Namespace, digests: Sequence[bytes]) -> tuple[Array, Found]:
        backend = self._backend
        if backend is None:
            return nothing(digests)
        got = self._faults.guard(lambda: backend.get_many(namespace, digests), None)
        return nothing(digests) if got is None else got

    def keep(
        self,
        namespace: Namespace,
        digests: Sequence[bytes],
        vectors: Array,
        seconds: float,
        owner: bytes | None,
    ) -> bool:
        """See :meth:`embstore.store.EmbeddingStore.keep`."""
        if not _is_finite(vectors):
            finite = np.isfinite(vectors).all(axis=1)
            digests = [digests[number] for number in np.flatnonzero(finite).tolist()]
            vectors = vectors[finite]
        new = self._write(namespace, digests, vectors, seconds, owner)
        if new is not None and not all_of(new):
            # The others were stored before, by somebody else: theirs is the vector to be found.
            digests = [digests[number] for number in np.flatnonzero(new).tolist()]
            vectors = vectors[new]
        if new is None or not self._near or len(digests) <= _SMALL_CALL:
            self._admit(namespace, digests, vectors)
        return new is not None

    def _write(
        self,
        namespace: Namespace,
        digests: Sequence[bytes],
        vectors: Array,
        seconds: float,
        owner: bytes | None,
    ) -> Found | None:
        """Which are new to the backend, (n,) bool; None if it could not take them."""
        start, backend = time.monotonic(), self._writes_to
        if backend is None or not self._writing.is_over:
            return None

        def work() -> Found:
            with hooks.watched(
                _LOG, "commit", self._faults.location, namespace, len(digests)
            ) as operation:
                new = backend.put_many(namespace, digests, vectors, seconds, owner)
                if operation is not None:
                    operation.stored = int(np.count_nonzero(new))
            return new

        new: Found | None = self._faults.guard(work, None)
        if new is None:
            self._counters.add(write_errors=1)
            self._writing.begin(start)
            self._claims.rest.begin(start)
        return new

    def _admit(self, namespace: Namespace, digests: Sequence[bytes], vectors: Array) -> None:
        if not len(digests) or not self._memory.keeps:
            return
        kind = vectors.dtype, vectors.shape[1]
        layout = self._layouts.get(namespace.id)
        if layout is None or layout[:2] != kind:
            if layout is not None:
                self._memory.clear(namespace.id)
            layout = self._layouts[namespace.id] = _Layout(
                *kind, memory_prefix(namespace.id, *kind), (1, kind[1])
            )
        raw, stride = vectors.tobytes(), vectors.dtype.itemsize * vectors.shape[1]
        self._memory.put_many(
            (layout.prefix + digest, raw[number * stride : (number + 1) * stride])
            for number, digest in enumerate(digests)
        )

    def forget(self, namespace: Namespace, digests: Sequence[bytes]) -> None:
        """Keep these in memory no longer."""
        layout = self._layouts.get(namespace.id)
        if layout is not None:
            self._memory.delete_many([layout.prefix + digest for digest in digests])

    def clear_memory(self, namespace: Namespace | None = None) -> None:
        """Keep nothing of a namespace, or of all, in memory any longer."""
        self._memory.clear(b"" if namespace is None else namespace.id)


def _is_finite(vectors: Array) -> bool:
    """Whether there is no NaN or infinity among these numbers."""
    if vectors.dtype.kind != "f":
        return True
    if vectors.itemsize >= 4:
        # One pass without a temporary array. The product may overflow, but never hides anything.
        flat = vectors.ravel()
        if math.isfinite(np.vdot(flat, flat)):
            return True
    return bool(np.isfinite(vectors).all())
