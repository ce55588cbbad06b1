"""The store: a memory tier over one backend."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

import numpy.typing as npt

from embstore import hooks, locks
from embstore.backends import resolve_location, without_password
from embstore.backends.base import (
    Backend,
    CompactReport,
    Found,
    NamespaceInfo,
    Progressed,
    VerifyReport,
    unheard,
)
from embstore.backends.rows import Array, as_vectors
from embstore.errors import StoreError, StoreRefusedError
from embstore.faults import Faults, Rest
from embstore.hooks import Operation
from embstore.keys import Namespace, check_seed, digest_texts
from embstore.memory import MemoryTier
from embstore.opening import open_behind
from embstore.overview import overview, stats_of
from embstore.stats import Counters, Stats
from embstore.units import parse_bytes, parse_seconds

_LOG = logging.getLogger(__name__)

_AGAIN = 5.0
"""Seconds, at least, until opening is tried again."""


class EmbeddingStore:
    """Embeddings kept across calls, restarts and processes.

    May be used from many threads and by many processes at once; may be pickled (the copy opens the
    same location) and used after a fork.

    Args:
        location: a directory or a URL (``disk:///path``); None is ``$EMBSTORE_HOME``, else the
            platform's cache directory for this user. A directory is made, for this user only, if
            there is none.
        memory_limit: bytes of the memory tier (``"256MB"``, ``"1GiB"``, a number); 0 turns it off,
            None removes the bound.
        maxsize: most entries of the memory tier; None for no such bound.
        size_limit: bytes to keep the store under, given as ``memory_limit`` is: before this store
            writes more, the vectors used longest ago are deleted, whoever stored them. None never
            deletes any. SQLite's log of recent writes comes on top, usually 4 MB.
        timeout: seconds to wait for another process's lock.
        read_only: open an existing store, which may belong to another user or lie on a read-only
            disk, and write nothing.
        on_error: what happens when the store cannot read or write: "warn" gives one
            :class:`~embstore.errors.StoreWarning` and goes on as if nothing were stored, "raise"
            raises :class:`~embstore.errors.StoreError`.
        seed: seed of a new store's digests, 1 to 2**63-1, for stores that are to be merged; random
            by default. Keep it from those who choose texts (docs/security.md).
        upstream: location of a store that other machines share: what ``location``, a directory of
            this one, lacks is fetched from there and kept, and what is computed goes to both.

    Attributes:
        location: where it is: a path, or a URL of another scheme than disk, without password.
        claims: who is computing which texts.

    Raises:
        StoreRefusedError: if the store must not be used as it is (see there).
        StoreError: if it can be neither opened nor made, and ``on_error="raise"``.

    >>> import numpy as np, tempfile
    >>> with EmbeddingStore(tempfile.mkdtemp()) as store:
    ...     animals = Namespace("my-model")
    ...     store.put_many(animals, ["cat", "dog"], np.eye(2, dtype="float32"))
    ...     vectors, found = store.get_many(animals, ["dog", "eel"])
    >>> found, vectors[0]
    (array([ True, False]), array([0., 1.], dtype=float32))
    """

    def __init__(
        self,
        location: str | os.PathLike[str] | None = None,
        *,
        memory_limit: int | str | None = "256MB",
        maxsize: int | None = None,
        size_limit: int | str | None = None,
        timeout: float = 60.0,
        read_only: bool = False,
        on_error: Literal["warn", "raise"] = "warn",
        seed: int | None = None,
        upstream: str | os.PathLike[str] | None = None,
    ) -> None:
        location = resolve_location(location)
        upstream = None if upstream is None else resolve_location(upstream)
        self._arguments = {**locals()}  # of this call, for copies
        del self._arguments["self"]
        self.location = without_password(location)
        if seed is not None:
            check_seed(seed)
        self._read_only = read_only
        self._faults = Faults(self.location, on_error)
        self._counters = Counters()
        self._memory = MemoryTier(parse_bytes(memory_limit), maxsize)
        self._rest = Rest(least=_AGAIN)
        self._open()

    def _open(self) -> None:
        start = time.monotonic()
        self._faults.seed_is_old = False
        self._backend, self.claims, self._tiers, self._seed = open_behind(
            self._arguments, self._memory, self._faults, self._counters
        )
        self._memory.clear()  # under digests of another seed, perhaps
        if self._backend is None:
            self._rest.begin(start)

    def _open_again(self) -> None:
        """Open what could not be opened, as a server may answer by now, or was begun anew. Calls
        that go on meanwhile with digests of the old seed find nothing by them, then and later."""
        with locks.LOADING:
            if (self._backend is None or self._faults.seed_is_old) and self._rest.is_over:
                with contextlib.suppress(StoreRefusedError):  # in mid-job it is a fault like others
                    self._open()

    def __getstate__(self) -> dict[str, Any]:
        return self._arguments

    def __setstate__(self, arguments: dict[str, Any]) -> None:
        self.__init__(**arguments)  # type: ignore[misc]  # opens the same location again

    def __enter__(self) -> EmbeddingStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EmbeddingStore({self.location!r})"

    def _repr_html_(self) -> str:
        return overview(self.location, self._backend, self._counters.snapshot())

    def close(self) -> None:
        """Let go of files and connections. What was put is on disk already."""
        if self._backend is not None:
            self._backend.close()
        self._tiers.clear_memory()

    # --- texts in, vectors out ------------------------------------------------------------------

    def get_many(self, namespace: Namespace, texts: Sequence[str]) -> tuple[Array, Found]:
        """Look texts up.

        Args:
            namespace: what else decides the vectors.
            texts: n texts, in any order, with any repeats.

        Returns:
            The vectors, (n, dim), C-contiguous, the caller's own copy, zeros where nothing was
            found; and which were found, (n,) bool. ``dim`` is 0 as long as nothing is stored under
            the namespace.

        Raises:
            TypeError: if a text is not a ``str``.
        """
        return self.find(namespace, self.digests(texts))

    def put_many(self, namespace: Namespace, texts: Sequence[str], vectors: npt.ArrayLike) -> None:
        """Store vectors; when this returns they are there for every process.

        A text that is stored already keeps its vector (delete it first to replace it). Vectors with
        NaN or infinite numbers are left out.

        Args:
            namespace: what else decides the vectors.
            texts: n texts.
            vectors: (n, dim) floating point or integer.

        Raises:
            NamespaceError: if they are no numbers of shape (n, dim), or dim or dtype differ from
                what is stored under the namespace.
            StoreError: if the store was opened read-only.
            TypeError: if a text is not a ``str``.
        """
        given = as_vectors(vectors, len(texts))
        self.refuse_if_read_only()
        if len(given):
            self.keep(namespace, self.digests(texts), given)

    def delete_many(self, namespace: Namespace, texts: Sequence[str]) -> int:
        """Delete the vectors of these texts; returns how many were stored.
        Memory tiers of other processes are not told.

        Raises:
            StoreError: if the store cannot be written.
        """
        digests, backend = self.digests(texts), self._to_write
        try:
            return backend.delete_many(namespace, digests)
        finally:
            self._tiers.forget(namespace, digests)

    # --- the same by digest, for what stands on top of a store ----------------------------------

    def digests(self, texts: Sequence[str]) -> list[bytes]:
        """The 16-byte digest of each text, seeded with this store's seed."""
        if (self._backend is None or self._faults.seed_is_old) and self._rest.is_over:
            self._open_again()
        return digest_texts(texts, self._seed)

    def find(
        self, namespace: Namespace, digests: Sequence[bytes], *, again: bool = False
    ) -> tuple[Array, Found]:
        """:meth:`get_many` by digest: memory tier, then backend.

        ``again`` means that these were looked up before, and are counted as misses already.
        """
        if (hooks.active or _LOG.isEnabledFor(logging.DEBUG)) and not again:
            return self._find_watched(namespace, digests)
        if len(digests) == 1 and not again:
            vectors, found, from_memory = self._tiers.find_one(namespace, digests[0])
            self._counters.looked_up_one(namespace.id, from_memory, from_memory or found.item())
            return vectors, found
        vectors, found, in_memory = self._tiers.find(namespace, digests)
        self._counters.looked_up_many(namespace.id, digests, found, in_memory, again=again)
        return vectors, found

    def _find_watched(self, namespace: Namespace, digests: Sequence[bytes]) -> tuple[Array, Found]:
        with Operation("lookup", self.location, namespace, len(digests), _LOG) as operation:
            vectors, found, in_memory = self._tiers.find(namespace, digests)
            counted = self._counters.looked_up_many(namespace.id, digests, found, in_memory)
            operation.memory_hits, operation.disk_hits = counted.memory_hits, counted.disk_hits
            operation.repeats, operation.misses = counted.repeats, counted.misses
        return vectors, found

    def count_shared(self, namespace: Namespace, texts: int) -> None:
        """Count texts as found that were counted as misses: another call had them computed."""
        self._counters.looked_up(namespace.id, texts, -texts, deduplicated=texts)

    def keep(
        self,
        namespace: Namespace,
        digests: Sequence[bytes],
        vectors: Array,
        seconds: float = 0.0,
        owner: bytes | None = None,
    ) -> bool:
        """:meth:`put_many` by digest, with the ``seconds`` that computing the vectors took. The
        claim of ``owner`` ends with it. Whether it could be done."""
        return self._tiers.keep(namespace, digests, vectors, seconds, owner)

    def get_identity(self, key: bytes) -> dict[str, Any] | None:
        """What was recorded of a model under a key of 16 bytes; None if that cannot be read."""
        if (backend := self._backend) is None:
            return None
        return self._faults.guard(lambda: backend.get_identity(key), None)

    def put_identity(self, key: bytes, value: dict[str, Any]) -> None:
        """Record what is known of a model, a JSON object, under a key of 16 bytes."""
        backend = self._backend
        if backend is not None and not self._read_only:
            self._faults.guard(lambda: backend.put_identity(key, value), None)

    # --- looking after it -----------------------------------------------------------------------

    def namespaces(self) -> list[NamespaceInfo]:
        """The namespaces of the store and what is stored under each.

        Raises:
            StoreError: if the store cannot be read.
        """
        return self.backend.namespaces()

    def clear(self, namespace: Namespace | None = None) -> int:
        """Delete a namespace, or all; returns the number of vectors deleted.
        Memory tiers of other processes are not told.

        Raises:
            StoreError: if the store cannot be written.
        """
        backend = self._to_write
        gone = (
            [info.namespace for info in backend.namespaces()] if namespace is None else [namespace]
        )
        try:
            cleared = sum(backend.clear(each) for each in gone)
        finally:
            self._tiers.clear_memory(namespace)
        what = "all" if namespace is None else repr(namespace.model_name)
        _LOG.info("cleared %s of %r: %d vectors", what, self.location, cleared)
        return cleared

    def verify(self, progressed: Progressed = unheard) -> VerifyReport:
        """Check every row of the store against its checksum and the ledger. Writes nothing.
        ``progressed`` is called with a number of rows when so many more are checked.

        Whether a model still gives what is stored, :func:`embstore.drift.measure_drift` tells.

        Raises:
            StoreError: if the store cannot be read at all.
        """
        return self.backend.verify(progressed)

    def compact(self, progressed: Progressed = unheard) -> CompactReport:
        """Give back the space of deleted and damaged rows. Other writers wait meanwhile.
        ``progressed`` is called as in :meth:`verify`, when a namespace is done.

        Raises:
            StoreError: if the store cannot be written.
        """
        return self._to_write.compact(progressed)

    def prune(
        self,
        *,
        max_size: int | str | None = None,
        older_than: float | str | timedelta | None = None,
        namespace: Namespace | None = None,
        progressed: Progressed = unheard,
    ) -> int:
        """Delete the vectors used longest ago.

        Args:
            max_size: bytes, as ``memory_limit`` is given: vectors go until less is taken.
            older_than: seconds, a ``timedelta``, or a text like "30d" or "12h": vectors go that
                were not read for longer than this or, if they never were, stored before. Reads of a
                process are known when it next writes, and when it closes the store or ends; the
                time of storing to ten minutes.
            namespace: delete only vectors of this namespace, and count only their bytes.
            progressed: called as in :meth:`verify`, when a namespace is done.

        Returns:
            Number of vectors deleted.

        Raises:
            StoreError: if the store cannot be written.
            ValueError: if neither is given, or one is no size or no time.
        """
        if max_size is None and older_than is None:
            raise ValueError("say what is to go: by max_size=, older_than=, or both")
        seconds = None if older_than is None else parse_seconds(older_than)
        pruned = self._to_write.prune(
            namespace,
            max_size=parse_bytes(max_size),
            older_than=seconds,
            progressed=progressed,
        )
        self._tiers.clear_memory(namespace)
        return pruned

    def stats(self) -> Stats:
        """What was done since this store was opened, and what it holds now."""
        return stats_of(self._backend, self._faults, self._counters)

    def count(self, **amounts: int | float) -> None:
        """Add to the figures of :meth:`stats` what only a caller can know."""
        self._counters.add(**amounts)

    @property
    def backend(self) -> Backend:
        """What is behind the memory tier, by digest; StoreError if it could not be opened. What is
        deleted there stays in memory."""
        if self._backend is None:
            raise StoreError(f"the store at {self.location} is not open", path=self.location)
        return self._backend

    @property
    def _to_write(self) -> Backend:
        self.refuse_if_read_only()
        return self.backend

    def refuse_if_read_only(self) -> None:
        """Raise StoreError if it was opened to be read only."""
        if self._read_only:
            raise StoreError(f"{self.location} was opened read-only", path=self.location)


StoreLike = EmbeddingStore | str | os.PathLike[str] | None
"""A store, or its location; None is the default location."""


def as_store(store: StoreLike) -> EmbeddingStore:
    """The store that is meant.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(store, EmbeddingStore):
        return store
    if store is None or isinstance(store, (str, os.PathLike)):
        return EmbeddingStore(store)
    raise TypeError(f"store is an EmbeddingStore or its location, not a {type(store).__name__}")
