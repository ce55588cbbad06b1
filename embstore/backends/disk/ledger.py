"""The ledger: what is committed, as entries of a hardened diskcache.Cache.

    key                              value
    M                                format version and seed, sealed JSON, written once
    G                                the generation handed out last, sealed
    n namespace                      registry: namespace, dtype and dim, sealed JSON, written once
    h namespace                      head: generation, committed and deleted rows, vectors computed
                                     and seconds spent on them, sealed
    b namespace generation first     one committed batch: its text digests, 16 B each
    i identity                       what is known of a model, sealed JSON
    s, d, T, u, w                    look-ups of all processes, and times: see usage.py
    c namespace worker owner         what is being computed: see claims.py

Sealed values end in a checksum of key and value: one that does not match means a damaged ledger,
which is rebuilt from the vector files. Batches need none, since rows carry their own digests.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from embstore.backends.disk.claims import ClaimRecords
from embstore.backends.disk.hardened import FILE, HardenedCache
from embstore.backends.disk.sealed import sealed
from embstore.backends.disk.usage import UsageRecords
from embstore.backends.disk.vectors import FORMAT, generation_of, refuse_newer
from embstore.backends.rows import Rows
from embstore.errors import EmbstoreError, StoreDamagedError, StoreRefusedError
from embstore.keys import DIGEST_SIZE, Namespace
from embstore.locks import LEDGER

MERGE_LIMIT = 1024
"""Rows in a batch entry beyond which it is left as it is: 16 KiB of digests. Merging writes them
once more, to the log and again to the file, and saves little where an entry has hundreds: reading
260,000 rows from entries of 256 takes 4 ms."""

_GROUP = 8
"""Entries of one size that are merged at a time."""

_SMALL = 64
"""Rows up to which the last batch entry just grows: its 1 KiB is in a page that is written anyway,
and a new entry changes the index as well."""

_LOOKED_AT = 32
"""Entries that are looked at to find those to be merged."""

_HEAD = struct.Struct("<QQQQd")
_POSITION = struct.Struct(">QQ")


class Head(NamedTuple):
    """Where a namespace stands, and what it took to get there, over all processes."""

    generation: int
    rows: int
    deleted: int = 0
    computed: int = 0
    seconds: float = 0.0


class Tail(NamedTuple):
    """The last batch entries of a namespace as this process has committed them: as long as the head
    is the same, nobody has changed them, and they need not be asked for."""

    head: Head
    entries: tuple[tuple[bytes, int], ...]
    """Keys and the lengths of their values, the last first."""
    last: bytes
    """The value of the last one, as long as it may grow."""


class Ledger:
    """The ledger of one store, open.

    Methods raise StoreDamagedError when the ledger contradicts itself, and StoreError when it
    cannot be read or written. Those that say "in a transaction" are called inside
    :meth:`transaction`.

    Args:
        directory: where cache.db lies.
        timeout: seconds to wait for a lock.
        mode: see :class:`HardenedCache`.

    Attributes:
        seed: the seed of all digests of the store.
        usage: its counts and times.
        claims: what is being computed.
        transaction: ``ledger.transaction(work)`` does work under the write lock, all or nothing.
        snapshot: ``ledger.snapshot(work)`` does work that sees one state throughout.
    """

    def __init__(self, directory: Path, timeout: float, mode: str = "rw") -> None:
        self._cache = HardenedCache(directory, timeout, mode)
        self.path = self._cache.path
        self.usage = UsageRecords(self._cache)
        self.claims = ClaimRecords(self._cache)
        self.transaction = self._cache.transaction
        self.snapshot = self._cache.snapshot
        self.vacuum = self._cache.vacuum
        self.sync = self._cache.sync
        self.check = self._cache.check
        self.close = self._cache.close
        if mode != "create":
            try:
                meta = self.snapshot(lambda: self._cache.get_json(b"M"))
                if meta is None:
                    self._refuse_strange()
                    self._cache.damaged("it holds no store")
                refuse_newer(int(meta["format"]), self.path)
            except BaseException:
                self.close()
                raise
            self.seed: int = meta["seed"]
            self._cache.meta = self._cache.get(b"M") or b""

    @classmethod
    def create(cls, directory: Path, timeout: float, seed: int, generation: int = 0) -> Ledger:
        """Make a new ledger where there is none. The caller keeps others out (see location.py).

        Args:
            directory: where cache.db is to lie.
            timeout: seconds to wait for a lock.
            seed: the seed of all digests of the store.
            generation: the highest generation that any vector file has had.
        """
        try:
            ledger = cls(directory, timeout, "create")
            ledger.seed = seed
            ledger.transaction(lambda: ledger._begin(seed, generation))
        except FileExistsError:
            raise
        except BaseException:
            # Half a ledger would be taken for a damaged one.
            for ending in ("", "-wal", "-shm"):
                (directory / f"{FILE}{ending}").unlink(missing_ok=True)
            raise
        return ledger

    def _begin(self, seed: int, generation: int) -> None:
        self._cache.put_json(b"M", {"format": FORMAT, "seed": seed})
        self._cache.put_sealed(b"G", generation.to_bytes(8, "little"))

    def _refuse_strange(self) -> None:
        """Not ours to mend: somebody's own diskcache, with entries and no vectors beside it."""
        vectors = self.path.parent / "vectors"
        strange = not any(generation_of(path) is not None for path in vectors.glob("*"))
        if strange and self.snapshot(self._cache.entries):
            raise StoreRefusedError(
                f"{self.path} is not an embstore store: choose another location",
                path=str(self.path),
            )

    # --- the registry ---------------------------------------------------------------------------

    def head(self, namespace_id: bytes) -> Head | None:
        """Where a namespace stands; None if nothing was ever stored under it."""
        with LEDGER, self._cache.faults():
            if not self._cache.is_in_transaction:  # which looks itself, at both ends
                self._cache.check_in_place()
            value = self._cache.get_sealed(b"h" + namespace_id)
            if value is not None and len(value) != _HEAD.size:
                self._cache.damaged("a head has another size")
        return None if value is None else Head(*_HEAD.unpack(value))

    def entry(self, namespace_id: bytes) -> tuple[Namespace, str, int] | None:
        """A namespace with its dtype and dim, as it was registered."""
        with LEDGER, self._cache.faults():
            value = self._cache.get_json(b"n" + namespace_id)
        if value is None:
            return None
        try:
            return Namespace.from_dict(value["namespace"]), str(value["dtype"]), int(value["dim"])
        except (KeyError, TypeError, EmbstoreError) as error:
            self._cache.damaged(f"the registry: {error}")

    def namespace_ids(self) -> list[bytes]:
        """The ids of all namespaces."""
        with LEDGER, self._cache.faults():
            ids = [key[1:] for key in self._cache.keys(b"n")]
            if ids != [key[1:] for key in self._cache.keys(b"h")]:
                self._cache.damaged("the registry has lost a namespace")
        return ids

    def register(self, namespace: Namespace, dtype: str, dim: int) -> Head:
        """Enter a namespace, with a generation that no file ever had. In a transaction."""
        with self._cache.faults():
            self._cache.put_json(
                b"n" + namespace.id, {"namespace": namespace.to_dict(), "dtype": dtype, "dim": dim}
            )
        head = Head(self.next_generation(), 0)
        self._put_head(namespace.id, head)
        return head

    def _put_head(self, namespace_id: bytes, head: Head) -> None:
        with self._cache.faults():
            self._cache.set(*_sealed_head(namespace_id, head))

    def next_generation(self) -> int:
        """A number for a file, used once in the life of a store. In a transaction."""
        with self._cache.faults():
            last = self._cache.get_sealed(b"G")
            if last is None:
                self._cache.damaged("it has no generation")
            generation = int.from_bytes(last, "little") + 1
            self._cache.put_sealed(b"G", generation.to_bytes(8, "little"))
        return generation

    def drop(self, namespace_id: bytes) -> Head | None:
        """Forget a namespace; returns where it stood. In a transaction."""
        head = self.head(namespace_id)
        with self._cache.faults():
            for kind in (b"b", b"c", b"d"):
                self._cache.delete_range(kind + namespace_id)
            for kind in (b"n", b"h", b"s"):
                self._cache.delete(kind + namespace_id)
        self.usage.drop(namespace_id)
        return head

    def switch(self, namespace_id: bytes, head: Head) -> None:
        """Point a namespace at another generation, with no batches yet. In a transaction."""
        with self._cache.faults():
            self._cache.delete_range(b"b" + namespace_id)
        self._put_head(namespace_id, head)

    # --- batches --------------------------------------------------------------------------------

    def append(
        self, namespace_id: bytes, head: Head, digests: bytes, tail: Tail | None = None
    ) -> Tail:
        """Commit rows that stand in the file behind the last one. In a transaction.

        The last entry grows while it is small, and neighbours of one size are merged: a million
        commits of one text leave some 2,000 entries.

        Args:
            namespace_id: whose rows they are.
            head: where it stands, with what is to be added to ``computed`` and ``seconds``.
            digests: of the rows.
            tail: what this gave the last time, if the head was then what it is now.

        Returns:
            How it stands with these rows, once the transaction is committed.
        """
        prefix = _key(b"b", namespace_id, head.generation)
        with self._cache.faults():
            entries = () if tail is None else tail.entries
            last = tail.last if tail is not None and entries else b""
            entries = entries or tuple(self._cache.last(prefix, _LOOKED_AT))
            if head.rows and not entries:
                self._cache.damaged("the batches of a namespace are missing")
            count, size = _merged(entries, len(digests))
            end = head.rows
            for key, length in entries[: count + 1]:
                if (first := _first_row(key)) + length // DIGEST_SIZE != end:
                    self._cache.damaged("its batches do not follow each other")
                end = first
            first = head.rows - (size - len(digests)) // DIGEST_SIZE
            absorbed = [key for key, _ in entries[:count]]
            # The oldest one absorbed has the key of the merged entry, which takes its place.
            parts = [self._read(key) for key in reversed(absorbed[1:])]
            parts += [last or self._read(key) for key in absorbed[:1]]
            for key in absorbed[:-1]:
                self._cache.delete(key)
            key, value = prefix + first.to_bytes(8, "big"), b"".join([*parts, digests])
            head = head._replace(rows=head.rows + len(digests) // DIGEST_SIZE)
            self._cache.set_many([(key, value), _sealed_head(namespace_id, head)])
        grows = value if len(value) <= _SMALL * DIGEST_SIZE else b""
        older = entries[count:_LOOKED_AT]
        # Where none is left that is known, older ones have to be asked for.
        return Tail(head, ((key, len(value)), *older) if older or not first else (), grows)

    def _read(self, key: bytes) -> bytes:
        value: bytes | None = self._cache.get(key)
        if value is None:
            self._cache.damaged("a batch is missing")
        return value

    def batches(
        self, namespace_id: bytes, generation: int, first: int = 0
    ) -> list[tuple[int, bytes]]:
        """The digests from row ``first`` on, as (row number of the first, 16 B each) in order."""
        prefix = _key(b"b", namespace_id, generation)
        with LEDGER, self._cache.faults():
            # Merging may have put row `first` into the middle of an entry.
            entries = self._cache.entries_from(prefix, prefix + first.to_bytes(8, "big"))
        found = []
        for key, digests in entries:
            if len(digests) % DIGEST_SIZE:
                self._cache.damaged("a batch has half a digest")
            number = _first_row(key)
            known = max(0, first - number)
            found.append((number + known, digests[known * DIGEST_SIZE :]))
        return found

    def erase(self, namespace_id: bytes, head: Head, rows: Rows) -> Head:
        """Delete rows: their digests become 0 here too. In a transaction."""
        remaining = np.sort(rows)
        with self._cache.faults():
            for key in reversed(self._cache.keys(_key(b"b", namespace_id, head.generation))):
                first = _first_row(key)
                before = int(np.searchsorted(remaining, first))
                if before < len(remaining):
                    raw = bytearray(self._read(key))
                    digests = np.frombuffer(raw, np.uint8).reshape(-1, DIGEST_SIZE)
                    digests[remaining[before:] - first] = 0
                    self._cache.set(key, bytes(raw))
                    remaining = remaining[:before]
        head = head._replace(deleted=head.deleted + len(rows))
        self._put_head(namespace_id, head)
        return head

    # --- identities -----------------------------------------------------------------------------

    def identity(self, key: bytes) -> dict[str, Any] | None:
        """What was recorded of a model under this key of 16 bytes."""
        with LEDGER, self._cache.faults():
            return self._cache.get_json(b"i" + key)

    def put_identity(self, key: bytes, value: dict[str, Any]) -> None:
        """Record what is known of a model. In a transaction."""
        with self._cache.faults():
            self._cache.put_json(b"i" + key, value)

    def identities(self) -> dict[bytes, dict[str, Any]]:
        """Everything that was recorded of models, by its key."""
        with LEDGER, self._cache.faults():
            return {key[1:]: self._cache.get_json(key) or {} for key in self._cache.keys(b"i")}


def _sealed_head(namespace_id: bytes, head: Head) -> tuple[bytes, bytes]:
    return sealed(b"h" + namespace_id, _HEAD.pack(*head))


def _merged(entries: Sequence[tuple[bytes, int]], size: int) -> tuple[int, int]:
    """How many entries, of keys and lengths, a new one of ``size`` bytes is merged with, and the
    size of what comes of it."""
    count = 0
    if entries and entries[0][1] <= _SMALL * DIGEST_SIZE:
        count, size = 1, size + entries[0][1]
    while True:
        lengths = [*takewhile(size.__ge__, (length for _, length in entries[count:]))]
        grown = size + sum(lengths)
        if len(lengths) < _GROUP - 1 or grown > MERGE_LIMIT * DIGEST_SIZE:
            return count, size
        count, size = count + len(lengths), grown


def _key(kind: bytes, namespace_id: bytes, generation: int) -> bytes:
    return kind + namespace_id + generation.to_bytes(8, "big")


def _first_row(key: bytes) -> int:
    if len(key) != 1 + DIGEST_SIZE + _POSITION.size:
        raise StoreDamagedError("the ledger has an entry that embstore never writes")
    first: int = _POSITION.unpack(key[-_POSITION.size :])[1]
    return first
