"""Rows on a server: written whole, read in one go, and believed only if they are sound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any, cast

import numpy as np

from embstore.backends.base import Found
from embstore.backends.joins import once
from embstore.backends.redis.layout import MADE, Entry, digest_of
from embstore.backends.redis.scripts import DELETE, DROP, PUT
from embstore.backends.redis.server import Server
from embstore.backends.rows import Array, as_digests
from embstore.keys import DIGEST_SIZE, Namespace

_READ_BYTES = 2**19
"""Bytes that are asked for by one ``MGET``. Measured for 10,000 x 384, with hiredis: 23 ms so, 33
in one; and the rows are checked while they are still in the processor's cache, 9 ms instead of
22."""

_READ_AHEAD = 8
"""As many are sent before the first is read. The server keeps what is not read yet in memory, and
may have to drop rows for it."""

_WRITE_BYTES = 4 * 2**20
"""Most bytes in one request. What is written in one is seen whole or not at all: a chunk of an
encoder's, 256 vectors, up to 4,096 float32 each."""

_MOST_DAMAGED = 10_000
"""Damaged rows that are remembered, to be dropped when they are stored again."""

_SCANNED = 1000
"""Keys that are asked for at once: the server does nothing else meanwhile."""


class Rows:
    """The rows of a store.

    Args:
        server: has them.

    Attributes:
        corrupt: damaged rows found and left out so far.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.corrupt = 0
        self._damaged: dict[tuple[str, bytes], bytes] = {}

    def get_many(self, namespace: Namespace, digests: Sequence[bytes]) -> tuple[Array, Found]:
        """The stored vectors, (n, dim), and which were found, (n,) bool."""
        get = self._get
        return once(
            digests, lambda distinct: self._server.settled(lambda: get(namespace, distinct))
        )

    def _get(self, namespace: Namespace, digests: Sequence[bytes]) -> tuple[Array, Found] | None:
        """None if the namespace is another by now than this process knew."""
        known = self._server.known(namespace)
        if known is None:
            if self._server.look_up(namespace) is not None:
                return None
            return np.zeros((len(digests), 0), np.float32), np.zeros(len(digests), np.bool_)
        raw, entry = known
        start = self._server.layout.rows(entry.generation)
        step = max(1, _READ_BYTES // entry.format.stride)
        vectors = np.empty((len(digests), entry.dim), entry.format.vector_dtype)
        found = np.zeros(len(digests), np.bool_)
        for first in range(0, max(1, len(digests)), _READ_AHEAD * step):
            end = min(len(digests), first + _READ_AHEAD * step)
            parts = [slice(at, min(end, at + step)) for at in range(first, end, step)]

            def work(client: Any, parts: list[slice] = parts) -> list[Any]:
                with client.pipeline(transaction=False) as pipeline:
                    pipeline.hmget(self._server.layout.store, MADE, namespace.id)
                    for part in parts:
                        pipeline.mget([start + digest for digest in digests[part]])
                    return cast("list[Any]", pipeline.execute())

            (made, now), *answers = self._server.ask(work)
            # If all is lost, the namespace was not cleared: the server has dropped the registry,
            # and perhaps not the rows.
            if now != raw and made is not None:
                self._server.take(namespace.id, now)
                return None
            for part, values in zip(parts, answers, strict=True):
                found[part] = self._sound(entry, digests[part], values, vectors[part])
        return vectors, found

    def _sound(
        self, entry: Entry, digests: Sequence[bytes], values: list[bytes | None], vectors: Array
    ) -> Found:
        """Which of these values are the rows asked for, (n,) bool; their vectors are put into
        ``vectors``, (n, dim)."""
        layout, stride = entry.format, entry.format.stride
        there = [value is not None and len(value) == stride for value in values]
        whole = all(there)
        kept = values if whole else list(compress(values, there))
        asked = digests if whole else list(compress(digests, there))
        rows = np.frombuffer(b"".join(cast("list[bytes]", kept)), layout.dtype)
        sound = layout.valid(rows) & (rows["digest"] == as_digests(asked)).all(axis=1)
        if whole and sound.all():
            vectors[:] = rows["vector"]
            return np.asarray(sound)
        found = np.array(there, np.bool_)
        found[np.flatnonzero(found)[~sound]] = False
        vectors[found] = rows["vector"][sound]
        vectors[~found] = 0
        self._note_damage(entry, digests, values, found)
        return found

    def _note_damage(
        self, entry: Entry, digests: Sequence[bytes], values: list[bytes | None], found: Found
    ) -> None:
        for digest, value, is_ in zip(digests, values, found.tolist(), strict=True):
            if value is not None and not is_:
                self.corrupt += self._damaged.get((entry.generation, digest)) != value
                if len(self._damaged) < _MOST_DAMAGED:
                    self._damaged[entry.generation, digest] = value

    def put_many(
        self,
        namespace: Namespace,
        digests: Sequence[bytes],
        vectors: Array,
        seconds: float,
        ttl: float | None,
    ) -> Found:
        """Store (n, dim) vectors that took so many seconds; returns which are new, (n,) bool."""
        dtype, dim = vectors.dtype.newbyteorder("<").str, vectors.shape[1]

        def work() -> Found | None:
            raw, entry = self._server.register(namespace, dtype, dim)
            if self._damaged:
                self._drop_damaged(entry, digests)
            new = self._put(raw, entry, digests, vectors, seconds, ttl)
            if new is None:
                self._server.look_up(namespace)
            return new

        return self._server.settled(work)

    def _drop_damaged(self, entry: Entry, digests: Sequence[bytes]) -> None:
        """Drop those of these rows that were found to be damaged, if they still are as they were:
        what is there is never written over."""
        known = [(digest, self._damaged.get((entry.generation, digest))) for digest in digests]
        told = [each for digest, value in known if value is not None for each in (digest, value)]
        if told:
            keys = self._server.layout
            start, counters = keys.rows(entry.generation), keys.counters(entry.generation)
            self._server.run(DROP, [counters], [start, *told])
            for digest, _ in known:
                self._damaged.pop((entry.generation, digest), None)

    def _put(
        self,
        raw: bytes,
        entry: Entry,
        digests: Sequence[bytes],
        vectors: Array,
        seconds: float,
        ttl: float | None,
    ) -> Found | None:
        layout, keys = entry.format, self._server.layout
        told = [entry.namespace.id, raw, keys.rows(entry.generation)]
        told.append(b"" if ttl is None else b"%d" % (1000 * ttl))
        places = [keys.store, keys.counters(entry.generation)]
        step = max(1, _WRITE_BYTES // layout.stride)
        new = b""
        for at in range(0, len(digests), step):
            part = digests[at : at + step]
            rows = layout.pack(as_digests(part), vectors[at : at + step])
            body, stride = rows.tobytes(), layout.stride
            arguments = [*told, b"%.6f" % (seconds * len(part) / len(digests))]
            for number, digest in enumerate(part):
                arguments += (digest, body[number * stride : (number + 1) * stride])
            done = self._server.run(PUT, places, arguments)
            if done is None:
                return None
            new += done
        return np.asarray(np.frombuffer(new, np.uint8) == ord("1"))

    def delete_many(self, namespace: Namespace, digests: Sequence[bytes]) -> int:
        """Delete vectors; returns how many there were."""
        known = self._server.look_up(namespace)
        if known is None or not digests:
            return 0
        return self.unlink(known[1], list(dict.fromkeys(digests)))

    def unlink(self, entry: Entry, digests: Sequence[bytes]) -> int:
        """Delete rows of a namespace as it is now; returns how many there were."""
        keys, gone = self._server.layout, 0
        for at in range(0, len(digests), _SCANNED):
            part = digests[at : at + _SCANNED]
            gone += int(
                self._server.run(
                    DELETE,
                    [keys.counters(entry.generation)],
                    [keys.rows(entry.generation), *part],
                )
            )
        return gone

    def scan(self, entry: Entry) -> Iterator[tuple[list[bytes], list[bytes | None]]]:
        """All rows of a namespace, in parts: digests, and what the server has under each."""
        start = self._server.layout.rows(entry.generation)
        seen: set[bytes] = set()  # the server may give a key twice, while its table grows
        for keys in self.keys(start):
            new = [key for key in keys if len(key) == len(start) + DIGEST_SIZE and key not in seen]
            seen.update(new)
            yield [digest_of(key) for key in new], self._values(new) if new else []

    def _values(self, keys: list[bytes]) -> list[bytes | None]:
        return cast("list[bytes | None]", self._server.ask(lambda client: client.mget(keys)))

    def keys(self, start: bytes) -> Iterator[list[bytes]]:
        """The keys that begin so, in parts; some perhaps twice."""
        cursor, keys = self._page(start, 0)
        yield keys
        while cursor:
            cursor, keys = self._page(start, cursor)
            yield keys

    def _page(self, start: bytes, cursor: int) -> tuple[int, list[bytes]]:
        page = self._server.ask(
            lambda client: client.scan(cursor, match=start + b"*", count=_SCANNED)
        )
        return cast("tuple[int, list[bytes]]", page)

    def sound_parts(self, entry: Entry) -> Iterator[tuple[list[bytes], Array]]:
        """All valid rows of a namespace, in parts: digests and (n, dim) vectors."""
        for digests, values in self.scan(entry):
            vectors = np.empty((len(digests), entry.dim), entry.format.vector_dtype)
            found = self._sound(entry, digests, values, vectors)
            if found.any():
                there = np.flatnonzero(found)
                yield [digests[place] for place in there.tolist()], vectors[there]

    def faulty(self, entry: Entry, digests: list[bytes], values: list[bytes | None]) -> list[bytes]:
        """Those whose value is no sound row, nor gone by now."""
        before = self.corrupt
        vectors = np.empty((len(digests), entry.dim), entry.format.vector_dtype)
        found = self._sound(entry, digests, values, vectors).tolist()
        self.corrupt = before
        return [
            digest
            for digest, value, is_ in zip(digests, values, found, strict=True)
            if not is_ and value is not None
        ]
