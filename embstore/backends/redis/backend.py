"""The backend on a Redis or Valkey server."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from embstore.backends.base import (
    Claimed,
    CompactReport,
    Found,
    History,
    NamespaceInfo,
    Progressed,
    VerifyReport,
    unheard,
)
from embstore.backends.redis.claims import Claims
from embstore.backends.redis.location import Location
from embstore.backends.redis.rows import Rows
from embstore.backends.redis.scripts import FORGET
from embstore.backends.redis.server import Server
from embstore.backends.redis.upkeep import Upkeep
from embstore.backends.rows import Array
from embstore.endings import at_the_end, heed_workers
from embstore.errors import StoreError, StoreRefusedError
from embstore.keys import Namespace
from embstore.locks import COUNTERS

_LOG = logging.getLogger(__name__)

LEASE = 10.0
"""Seconds that a claim outlives its process."""

_TOLD_EVERY = 30.0
_TOUCHED = 10_000


class RedisBackend:
    """Rows on a server that many machines share. See
    :class:`~embstore.backends.base.Backend`.

    What is stored may go at any time: by a ttl, by the server's eviction, by whoever empties it.
    So ``entries`` and ``bytes`` say what was stored and not deleted, until ``compact()`` counts
    anew. A put is seen whole or not at all up to 4 MB; of what is more, a fault may leave a part.

    Args:
        location: a URL; docs/server.md says what may stand in it.
        timeout: most seconds to wait for an answer, 5 at most.
        read_only: write nothing, and make no store.
        seed: that the store must have, and a new one is given.
        lease: seconds that a claim outlives its process; it is renewed three times as often.

    Raises:
        ImportError: if the extra is not installed.
        StoreRefusedError: if the store must not be used, or the URL is not understood.
        StoreError: if the server does not answer.
    """

    schemes = ("redis", "rediss", "unix", "valkey", "valkeys")
    is_near = False

    def __init__(
        self,
        location: str,
        *,
        timeout: float = 60.0,
        read_only: bool = False,
        seed: int | None = None,
        lease: float = LEASE,
    ) -> None:
        where = Location.parse(location)
        self.location = where.shown
        self._ttl = where.ttl
        self._server = Server(where, timeout=timeout, read_only=read_only, seed=seed)
        self._rows = Rows(self._server)
        self._claims = Claims(self._server, lease)
        self._upkeep = Upkeep(self._server, self._rows)
        self._take_used: Callable[[], Mapping[bytes, list[bytes]]] = dict
        self._take_counts: Callable[[], Mapping[bytes, tuple[int, int]]] = dict
        self._untold: dict[bytes, tuple[int, int]] = {}
        """Hits and misses by namespace id, of what the server knows nothing of yet."""
        self._told = time.monotonic()
        _OPEN.add(self)
        heed_workers()

    @property
    def seed(self) -> int:
        """The seed of all digests."""
        return self._server.seed

    @property
    def corrupt(self) -> int:
        """Damaged rows found and left out so far."""
        return self._rows.corrupt

    # --- look-ups and commits -------------------------------------------------------------------

    def get_many(self, namespace: Namespace, digests: Sequence[bytes]) -> tuple[Array, Found]:
        """See :class:`~embstore.backends.base.Backend`. One round trip, once a namespace is
        known."""
        return self._rows.get_many(namespace, digests)

    def put_many(
        self,
        namespace: Namespace,
        digests: Sequence[bytes],
        vectors: Array,
        seconds: float = 0.0,
        owner: bytes | None = None,
    ) -> Found:
        """See :class:`~embstore.backends.base.Backend`. A round trip for every 4 MB."""
        new = np.zeros(0, np.bool_)
        if len(digests):
            new = self._rows.put_many(namespace, digests, vectors, seconds, self._ttl)
        # What is stored is stored: nothing that fails from here on may say otherwise.
        with contextlib.suppress(StoreError):
            if owner is not None:
                self.release(namespace, owner)
            if time.monotonic() - self._told > _TOLD_EVERY:
                self._tell()
        return new

    def delete_many(self, namespace: Namespace, digests: Sequence[bytes]) -> int:
        """See :class:`~embstore.backends.base.Backend`."""
        return self._rows.delete_many(namespace, digests)

    def clear(self, namespace: Namespace) -> int:
        """See :class:`~embstore.backends.base.Backend`."""
        known = self._server.look_up(namespace)
        if known is None:
            return 0
        # From here on nobody finds a row, and nobody writes one.
        self._server.run(FORGET, [self._server.layout.store], [namespace.id, known[0]])
        self._server.take(namespace.id, None)
        return self._upkeep.clear(known[1])

    def scan(self, namespace: Namespace) -> Iterator[tuple[list[bytes], Array]]:
        """See :class:`~embstore.backends.base.Backend`."""
        known = self._server.look_up(namespace)
        if known is not None:
            yield from self._rows.sound_parts(known[1])

    # --- claims ---------------------------------------------------------------------------------

    def claim(
        self, namespace: Namespace, digests: Sequence[bytes], owner: bytes, most: int
    ) -> Claimed:
        """See :class:`~embstore.backends.base.Backend`. Of a process that was killed, a claim
        counts for the rest of its lease."""
        return self._claims.claim(namespace, digests, owner, most)

    def claimed(self, namespace: Namespace, digests: Sequence[bytes]) -> Found:
        """See :class:`~embstore.backends.base.Backend`."""
        return self._claims.claimed(namespace, digests)

    def release(self, namespace: Namespace, owner: bytes) -> None:
        """See :class:`~embstore.backends.base.Backend`."""
        self._claims.release(namespace, owner)

    # --- figures --------------------------------------------------------------------------------

    def watch(
        self,
        take_used: Callable[[], Mapping[bytes, list[bytes]]],
        take_counts: Callable[[], Mapping[bytes, tuple[int, int]]],
    ) -> None:
        """See :class:`~embstore.backends.base.Backend`. What was used in memory is touched on the
        server, so that its eviction knows."""
        self._take_used, self._take_counts = take_used, take_counts

    def _tell(self) -> None:
        """Tell the server what was looked up, and of what namespaces it knows by then.

        Raises:
            StoreError: if it does not answer; then nothing is forgotten.
        """
        self._told = time.monotonic()
        if self._server.read_only:
            return
        layout, used = self._server.layout, self._take_used()
        with COUNTERS:
            for each, (hits, misses) in self._take_counts().items():
                before = self._untold.get(each, (0, 0))
                self._untold[each] = before[0] + hits, before[1] + misses
        if not self._untold and not used:
            return
        entries = {entry.namespace.id: entry for entry in self._server.entries()}
        with COUNTERS:
            telling = {each: self._untold.pop(each) for each in entries if each in self._untold}

        def work(client: Any) -> None:
            with client.pipeline(transaction=False) as pipeline:
                for each, (hits, misses) in telling.items():
                    counters = layout.counters(entries[each].generation)
                    pipeline.hincrby(counters, "hits", hits)
                    pipeline.hincrby(counters, "misses", misses)
                for each, digests in used.items():
                    if each in entries and digests:
                        start = layout.rows(entries[each].generation)
                        pipeline.touch(*(start + digest for digest in digests[:_TOUCHED]))
                pipeline.execute()

        try:
            self._server.write(work)
        except StoreError:
            with COUNTERS:
                for each, (hits, misses) in telling.items():
                    since = self._untold.get(each, (0, 0))
                    self._untold[each] = since[0] + hits, since[1] + misses
            raise

    def forget(self) -> None:
        """Leave what was looked up to another process: a forked child must not count what its
        parent did."""
        self._take_counts()
        self._untold.clear()

    def namespaces(self) -> list[NamespaceInfo]:
        """See :class:`~embstore.backends.base.Backend`."""
        with contextlib.suppress(StoreError):
            self._tell()
        entries = self._server.entries()

        def work(client: Any) -> list[Any]:
            with client.pipeline(transaction=False) as pipeline:
                for entry in entries:
                    pipeline.hgetall(self._server.layout.counters(entry.generation))
                return cast("list[Any]", pipeline.execute())

        figures = self._server.ask(work) if entries else []
        found = []
        for entry, told in zip(entries, figures, strict=True):
            count = max(0, int(told.get(b"entries", 0)))
            found.append(
                NamespaceInfo(
                    namespace=entry.namespace,
                    dtype=np.dtype(entry.dtype).name,
                    dim=entry.dim,
                    entries=count,
                    bytes=self._upkeep.size(entry, count),
                    computed=int(told.get(b"computed", 0)),
                    encode_seconds=float(told.get(b"seconds", 0.0)),
                    hits=int(told.get(b"hits", 0)),
                    misses=int(told.get(b"misses", 0)),
                )
            )
        return found

    def history(self, namespace: Namespace) -> History:
        """An empty one: a server keeps none."""
        return History()

    def size(self) -> int:
        """Bytes of all rows and their keys; the server's own bookkeeping comes on top."""
        return sum(info.bytes for info in self.namespaces())

    # --- the rest of the protocol ---------------------------------------------------------------

    def get_identity(self, key: bytes) -> dict[str, Any] | None:
        """See :class:`~embstore.backends.base.Backend`."""
        raw = self._server.ask(lambda client: client.hget(self._server.layout.models, key))
        return _as_object(cast("bytes | None", raw))

    def identities(self) -> dict[bytes, dict[str, Any]]:
        """See :class:`~embstore.backends.base.Backend`."""
        found = self._server.ask(lambda client: client.hgetall(self._server.layout.models))
        read = {key: _as_object(raw) for key, raw in cast("dict[bytes, bytes]", found).items()}
        return {key: value for key, value in read.items() if value is not None}

    def put_identity(self, key: bytes, value: dict[str, Any]) -> None:
        """See :class:`~embstore.backends.base.Backend`."""
        raw = json.dumps(value).encode()
        self._server.write(lambda client: client.hset(self._server.layout.models, key, raw))

    def verify(self, progressed: Progressed = unheard) -> VerifyReport:
        """See :class:`~embstore.backends.base.Backend`. Every row comes over the network."""
        return self._upkeep.verify(progressed)

    def compact(self, progressed: Progressed = unheard) -> CompactReport:
        """See :class:`~embstore.backends.base.Backend`."""
        return self._upkeep.compact(progressed)

    def prune(
        self,
        namespace: Namespace | None = None,
        *,
        max_size: int | None = None,
        older_than: float | None = None,
        progressed: Progressed = unheard,
    ) -> int:
        """See :class:`~embstore.backends.base.Backend`."""
        self._server.refuse_if_read_only()
        entries = [
            entry
            for entry in self._server.entries()
            if namespace is None or entry.namespace == namespace
        ]
        return self._upkeep.prune(entries, max_size, older_than, progressed)

    def close(self) -> None:
        """See :class:`~embstore.backends.base.Backend`."""
        with contextlib.suppress(StoreError):
            self._tell()
        self._claims.leave()
        self._server.close()
        _OPEN.discard(self)


def _as_object(raw: bytes | None) -> dict[str, Any] | None:
    """A JSON object; None for whatever somebody else has written there."""
    value = None
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(raw or b"null")
    return value if isinstance(value, dict) else None


def open_redis(
    location: str, *, timeout: float, read_only: bool, size_limit: int | None, seed: int | None
) -> RedisBackend:
    """A store on a server.

    Raises:
        StoreRefusedError: if ``size_limit`` is given: a server holds what others store, too.
    """
    if size_limit is not None:
        shown = Location.parse(location).shown
        raise StoreRefusedError(
            f"{shown} is kept small by the server: set its maxmemory and maxmemory-policy, give "
            "the URL a ttl, or prune it; size_limit is for directories",
            path=shown,
        )
    return RedisBackend(location, timeout=timeout, read_only=read_only, seed=seed)


_OPEN: weakref.WeakSet[RedisBackend] = weakref.WeakSet()


def _close_all() -> None:
    for backend in list(_OPEN):
        backend.close()


def _forget_in_child() -> None:
    for backend in list(_OPEN):
        backend.forget()


at_the_end(_close_all)
os.register_at_fork(after_in_child=_forget_in_child)
