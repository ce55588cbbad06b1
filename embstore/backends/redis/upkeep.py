"""Looking after what a server holds: checking, clearing up, dropping what is not used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from embstore.backends.base import CompactReport, Progressed, VerifyReport
from embstore.backends.redis.layout import Entry
from embstore.backends.redis.rows import Rows
from embstore.backends.redis.scripts import FORGET
from embstore.backends.redis.server import Server
from embstore.errors import StoreError

_ROOM = 0.9
"""What of a limit may be left after pruning, as on a disk."""


class Upkeep:
    """Looks after a store.

    Args:
        server: has it.
        rows: its rows.
    """

    def __init__(self, server: Server, rows: Rows) -> None:
        self._server = server
        self._rows = rows

    def size(self, entry: Entry, count: int) -> int:
        """Bytes that so many rows take with their keys. What the server adds for each comes on top:
        290 bytes for 384 float32 with Redis 7 (docs/scaling.md)."""
        key = len(self._server.layout.rows(entry.generation)) + 16
        return count * (entry.format.stride + key)

    def verify(self, progressed: Progressed) -> VerifyReport:
        """See :meth:`embstore.backends.base.Backend.verify`."""
        rows, corrupt = 0, 0
        problems = [
            f"the registry has an entry that is none: {namespace_id.hex()}"
            for namespace_id in self._server.damaged()
        ]
        for entry in self._server.entries():
            bad = 0
            for digests, values in self._rows.scan(entry):
                there = sum(value is not None for value in values)
                bad += len(self._rows.faulty(entry, digests, values))
                rows += there
                progressed(there)
            if bad:
                problems.append(f"{entry.namespace.model_name}: {bad} damaged rows")
            corrupt += bad
        return VerifyReport(rows, corrupt, tuple(problems))

    def compact(self, progressed: Progressed) -> CompactReport:
        """Delete what no reader finds: damaged rows, and those of namespaces that were cleared
        while somebody wrote. Count anew what there is: of what the server has forgotten by itself,
        nobody is told."""
        rows = before = after = 0
        for namespace_id, raw in self._server.damaged().items():
            self._server.run(FORGET, [self._server.layout.store], [namespace_id, raw])
        entries = self._server.entries()
        for entry in entries:
            kept = 0
            for digests, values in self._rows.scan(entry):
                there = sum(value is not None for value in values)
                bad = self._rows.faulty(entry, digests, values)
                before += self.size(entry, there)
                if bad:
                    self._rows.unlink(entry, bad)
                kept += there - len(bad)
                progressed(there)
            self._note_count(entry, kept)
            rows += kept
            after += self.size(entry, kept)
        self._drop_leftovers({entry.generation for entry in entries})
        return CompactReport(rows, before, after)

    def _note_count(self, entry: Entry, count: int) -> None:
        counters = self._server.layout.counters(entry.generation)
        self._server.write(lambda client: client.hset(counters, "entries", count))

    def _unlink(self, keys: list[bytes]) -> int:
        gone: int = self._server.write(lambda client: client.unlink(*keys)) if keys else 0
        return gone

    def _drop_leftovers(self, current: set[str]) -> None:
        start = self._server.layout.all_rows
        for keys in self._rows.keys(start):
            old = [key for key in keys if _generation(key, start) not in current]
            # Begun since the registry was read, perhaps.
            if old and {entry.generation for entry in self._server.entries()} <= current:
                self._unlink(old)

    def clear(self, entry: Entry) -> int:
        """Delete all rows of a generation; returns how many there were."""
        keys, gone = self._server.layout, 0
        for some in self._rows.keys(keys.rows(entry.generation)):
            gone += self._unlink(some)
        self._unlink([keys.counters(entry.generation)])
        return gone

    def prune(
        self,
        entries: list[Entry],
        max_size: int | None,
        older_than: float | None,
        progressed: Progressed,
    ) -> int:
        """See :meth:`embstore.backends.base.Backend.prune`: by the time since the server was last
        asked for a row, which it knows to the second.

        Raises:
            StoreError: if the server counts how often rows are used, and not when.
        """
        found: list[tuple[int, int, int, bytes]] = []
        pruned = 0
        for number, entry in enumerate(entries):
            size, count = self.size(entry, 1), 0
            for idle, digests in self._idle(entry):
                count += len(digests)
                old = [
                    digest
                    for digest, seconds in zip(digests, idle, strict=True)
                    if older_than is not None and seconds > older_than
                ]
                pruned += self._rows.unlink(entry, old)
                if max_size is not None:
                    gone = set(old)
                    found += (
                        (seconds, number, size, digest)
                        for digest, seconds in zip(digests, idle, strict=True)
                        if digest not in gone
                    )
            progressed(count)
        if max_size is None or sum(size for _, _, size, _ in found) <= max_size:
            return pruned
        found.sort()
        room = int(max_size * _ROOM)
        going: list[list[bytes]] = [[] for _ in entries]
        for _, number, size, digest in found:
            room -= size
            if room < 0:
                going[number].append(digest)
        return pruned + sum(
            self._rows.unlink(entry, digests) for entry, digests in zip(entries, going, strict=True)
        )

    def _idle(self, entry: Entry) -> Iterator[tuple[list[int], list[bytes]]]:
        """Seconds since each row was used, and its digest."""
        start = self._server.layout.rows(entry.generation)
        seen: set[bytes] = set()
        for keys in self._rows.keys(start):
            new = [key for key in keys if key not in seen]
            seen.update(new)

            def work(client: Any, new: list[bytes] = new) -> list[Any]:
                with client.pipeline(transaction=False) as pipeline:
                    for key in new:
                        pipeline.object("idletime", key)
                    return cast("list[Any]", pipeline.execute(raise_on_error=False))

            answers = self._server.ask(work)
            failed = next((one for one in answers if isinstance(one, Exception)), None)
            if failed is not None:
                raise StoreError(
                    f"what was used when is not known ({failed}): maxmemory-policy is to be "
                    "noeviction, or one with lru",
                    path=self._server.location.shown,
                )
            pairs = [(one, key) for one, key in zip(answers, new, strict=True) if one is not None]
            yield [int(one) for one, _ in pairs], [key[len(start) :] for _, key in pairs]


def _generation(key: bytes, start: bytes) -> str:
    return key[len(start) :].split(b":", 1)[0].decode(errors="replace")
