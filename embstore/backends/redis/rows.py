"""Rows on a server: written whole, read in one go, and believed only if they are sound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np

from embstore.backends.base import Found
from embstore.backends.joins import once
from embstore.backends.redis.layout import Entry, digest_of
from embstore.backends.redis.scripts import DELETE, PUT
from embstore.backends.redis.server import Server
from embstore.backends.rows import Array, as_digests
from embstore.keys import DIGEST_SIZE, Namespace

_READ_BYTES = 4 * 2**20
_WRITE_BYTES = 4 * 2**20
"""Most bytes in one request. What is written in one is seen whole or not at all: a chunk of an
encoder's, 256 vectors, up to 4,096 float32 each."""

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
        keys = [start + digest for digest in digests]
        step = max(1, _READ_BYTES // entry.format.stride)
        parts = [keys[at : at + step] for at in range(0, len(keys), step)]

        def work(client: Any) -> list[Any]:
            with client.pipeline(transaction=False) as pipeline:
                pipeline.hget(self._server.layout.namespaces, namespace.id)
                for part in parts:
                    pipeline.mget(part)
                return cast("list[Any]", pipeline.execute())

        now, *answers = self._server.ask(work)
        if now != raw:
            self._server.take(namespace.id, now)
            return None
        values = [value for answer in answers for value in answer]
        return self._sound(entry, digests, values)

    def _sound(
        self, entry: Entry, digests: Sequence[bytes], values: list[bytes | None]
    ) -> tuple[Array, Found]:
        """The vectors of those values that are the rows asked for."""
        layout, stride = entry.format, entry.format.stride
        there = [value is not None and len(value) == stride for value in values]
        found = np.array(there, np.bool_)
        if not all(there):
            digests = [digest for digest, is_ in zip(digests, there, strict=True) if is_]
        rows = np.frombuffer(
            b"".join(value for value, is_ in zip(values, there, strict=True) if is_ and value),
            layout.dtype,
        )
        sound = layout.valid(rows) & (rows["digest"] == as_digests(digests)).all(axis=1)
        vectors: Array
        if found.all() and sound.all():
            return rows["vector"].copy(), found
        wrong = len(sound) - int(np.count_nonzero(sound))
        self.corrupt += wrong + sum(value is not None for value in values) - len(rows)
        places = np.flatnonzero(found)
        found[places[~sound]] = False
        vectors = np.zeros((len(values), entry.dim), layout.vector_dtype)
        vectors[found] = rows["vector"][sound]
        return vectors, found

    def put_many(
        self, namespace: Namespace, digests: Sequence[bytes], vectors: Array, ttl: float | None
    ) -> Found:
        """Store (n, dim) vectors; returns which are new, (n,) bool."""
        dtype, dim = vectors.dtype.newbyteorder("<").str, vectors.shape[1]

        def work() -> Found | None:
            raw, entry = self._server.register(namespace, dtype, dim)
            new = self._put(raw, entry, digests, vectors, ttl)
            if new is None:
                self._server.look_up(namespace)
            return new

        return self._server.settled(work)

    def _put(
        self, raw: bytes, entry: Entry, digests: Sequence[bytes], vectors: Array, ttl: float | None
    ) -> Found | None:
        layout, keys = entry.format, self._server.layout
        told = [entry.namespace.id, raw, keys.rows(entry.generation)]
        told.append(b"" if ttl is None else b"%d" % (1000 * ttl))
        places = [keys.namespaces, keys.counters(entry.generation)]
        step = max(1, _WRITE_BYTES // layout.stride)
        new = b""
        for at in range(0, len(digests), step):
            part = digests[at : at + step]
            rows = layout.pack(as_digests(part), vectors[at : at + step])
            body, stride = rows.tobytes(), layout.stride
            arguments = list(told)
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
            values = self._server.ask(lambda client, new=new: client.mget(new)) if new else []  # type: ignore[misc]
            yield [digest_of(key) for key in new], cast("list[bytes | None]", values)

    def keys(self, start: bytes) -> Iterator[list[bytes]]:
        """The keys that begin so, in parts; some perhaps twice."""
        cursor = 0
        while True:
            cursor, keys = cast(
                "tuple[int, list[bytes]]",
                self._server.ask(
                    lambda client, at=cursor: client.scan(at, match=start + b"*", count=_SCANNED)  # type: ignore[misc]
                ),
            )
            if keys:
                yield keys
            if not cursor:
                return

    def sound_parts(self, entry: Entry) -> Iterator[tuple[list[bytes], Array]]:
        """All valid rows of a namespace, in parts: digests and (n, dim) vectors."""
        for digests, values in self.scan(entry):
            vectors, found = self._sound(entry, digests, values)
            if found.any():
                there = np.flatnonzero(found)
                yield [digests[place] for place in there.tolist()], vectors[there]

    def faulty(self, entry: Entry, digests: list[bytes], values: list[bytes | None]) -> list[bytes]:
        """Those whose value is no sound row, nor gone by now."""
        before = self.corrupt
        found = self._sound(entry, digests, values)[1].tolist()
        self.corrupt = before
        return [
            digest
            for digest, value, is_ in zip(digests, values, found, strict=True)
            if not is_ and value is not None
        ]
