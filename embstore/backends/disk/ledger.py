"""The ledger: what is committed, as entries of a hardened diskcache.Cache.

    key                              value
    M                                format version and seed, sealed JSON, written once
    G                                the generation handed out last, sealed
    n namespace                      registry: namespace, dtype and dim, sealed JSON, written once
    h namespace                      head: generation, committed rows, deleted rows, sealed
    b namespace generation first     one committed batch: its text digests, 16 B each
    k namespace                      counters: vectors computed and seconds spent, sealed
    T                                how often uses were noted so far, sealed
    u namespace generation part      when each of 4096 rows was last used, by that count
    i identity                       what is known of a model, sealed JSON

Sealed values end in a checksum of key and value: one that does not match means a damaged ledger,
which is rebuilt from the vector files. Batches need none, since rows carry their own digests.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from embstore.backends.disk.hardened import FILE, HardenedCache
from embstore.backends.disk.vectors import FORMAT, generation_of, refuse_newer
from embstore.backends.rows import Rows
from embstore.errors import EmbstoreError, StoreDamagedError, StoreRefusedError
from embstore.keys import DIGEST_SIZE, Namespace
from embstore.locks import LEDGER

Uses = npt.NDArray[np.uint32]

MERGE_LIMIT = 65536
"""Rows in a batch entry beyond which it is left as it is: 1 MiB of digests."""

_USES = 4096
"""Rows whose last uses stand in one entry."""

_HEAD = struct.Struct("<QQQ")
_COUNTERS = struct.Struct("<Qd")
_POSITION = struct.Struct(">QQ")


class Head(NamedTuple):
    """Where a namespace stands."""

    generation: int
    rows: int
    deleted: int


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
        transaction: ``with ledger.transaction():`` holds the write lock, and commits or rolls back.
        snapshot: ``with ledger.snapshot():`` sees one state throughout.
    """

    def __init__(self, directory: Path, timeout: float, mode: str = "rw") -> None:
        self._cache = HardenedCache(directory, timeout, mode)
        self.path = self._cache.path
        self.transaction = self._cache.transaction
        self.snapshot = self._cache.snapshot
        self.vacuum = self._cache.vacuum
        self.sync = self._cache.sync
        self.check = self._cache.check
        self.close = self._cache.close
        if mode != "create":
            try:
                with self.snapshot():
                    meta = self._cache.get_json(b"M")
                if meta is None:
                    self._refuse_strange()
                    self._cache.damaged("it holds no store")
                refuse_newer(int(meta["format"]), self.path)
            except BaseException:
                self.close()
                raise
            self.seed: int = meta["seed"]

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
            with ledger.transaction():
                ledger._cache.put_json(b"M", {"format": FORMAT, "seed": seed})
                ledger._cache.put_sealed(b"G", generation.to_bytes(8, "little"))
        except FileExistsError:
            raise
        except BaseException:
            # Half a ledger would be taken for a damaged one.
            for ending in ("", "-wal", "-shm"):
                (directory / f"{FILE}{ending}").unlink(missing_ok=True)
            raise
        return ledger

    def _refuse_strange(self) -> None:
        """Not ours to mend: somebody's own diskcache, with entries and no vectors beside it."""
        vectors = self.path.parent / "vectors"
        strange = not any(generation_of(path) is not None for path in vectors.glob("*"))
        with self._cache.snapshot():
            if strange and self._cache.entries():
                raise StoreRefusedError(
                    f"{self.path} is not an embstore store: choose another location",
                    path=str(self.path),
                )

    # --- the registry ---------------------------------------------------------------------------

    def head(self, namespace_id: bytes) -> Head | None:
        """Where a namespace stands; None if nothing was ever stored under it."""
        with LEDGER, self._cache.faults():
            self._cache.check_in_place()
            value = self._cache.get_sealed(b"h" + namespace_id)
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
        head = Head(self.next_generation(), 0, 0)
        self._put_head(namespace.id, head)
        return head

    def _put_head(self, namespace_id: bytes, head: Head) -> None:
        with self._cache.faults():
            self._cache.put_sealed(b"h" + namespace_id, _HEAD.pack(*head))

    def next_generation(self) -> int:
        """A number for a file, used once in the life of a store. In a transaction."""
        with self._cache.faults():
            last = self._cache.get_sealed(b"G")
            if last is None:
                self._cache.damaged("it has no generation")
            generation = int.from_bytes(last, "little") + 1
            self._cache.put_sealed(b"G", generation.to_bytes(8, "little"))
        return generation

    def drop(self, namespace_id: bytes) -> None:
        """Forget a namespace. In a transaction."""
        with self._cache.faults():
            self._cache.delete_range(b"b" + namespace_id)
            self._cache.delete_range(b"u" + namespace_id)
            for kind in (b"n", b"h", b"k"):
                self._cache.delete(kind + namespace_id)

    def switch(self, namespace_id: bytes, head: Head) -> None:
        """Point a namespace at another generation, with no batches yet. In a transaction."""
        with self._cache.faults():
            self._cache.delete_range(b"b" + namespace_id)
        self._put_head(namespace_id, head)

    # --- batches --------------------------------------------------------------------------------

    def append(self, namespace_id: bytes, head: Head, digests: bytes) -> Head:
        """Commit rows that stand in the file behind the last one. In a transaction.

        Neighbours no larger than the new entry are merged into it, as carries are in a binary
        counter: a million commits of one text leave some thirty entries, and each digest is
        rewritten at most 16 times.
        """
        prefix = _key(b"b", namespace_id, head.generation)
        with self._cache.faults():
            first, size = head.rows, len(digests)
            absorbed = []
            key = None
            for key, length in self._cache.last(prefix, 20):
                start = _first_row(key)
                if start + length // DIGEST_SIZE != first:
                    self._cache.damaged("its batches do not follow each other")
                if length > size or size + length > MERGE_LIMIT * DIGEST_SIZE:
                    break
                absorbed.append(key)
                first, size = start, size + length
            if head.rows and key is None:
                self._cache.damaged("the batches of a namespace are missing")
            # The oldest one absorbed has the key of the merged entry, which takes its place.
            parts = [self._read(key) for key in reversed(absorbed)]
            for key in absorbed[:-1]:
                self._cache.delete(key)
            self._cache.replace(prefix + first.to_bytes(8, "big"), b"".join([*parts, digests]))
        head = head._replace(rows=head.rows + len(digests) // DIGEST_SIZE)
        self._put_head(namespace_id, head)
        return head

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

    def erase(self, namespace_id: bytes, head: Head, rows: list[int]) -> Head:
        """Delete rows: their digests become 0 here too. In a transaction."""
        remaining = sorted(rows)
        with self._cache.faults():
            for key in reversed(self._cache.keys(_key(b"b", namespace_id, head.generation))):
                first = _first_row(key)
                inside = [row - first for row in remaining if row >= first]
                if inside:
                    digests = bytearray(self._read(key))
                    for row in inside:
                        digests[row * DIGEST_SIZE : (row + 1) * DIGEST_SIZE] = bytes(DIGEST_SIZE)
                    self._cache.set(key, bytes(digests))
                    remaining = remaining[: len(remaining) - len(inside)]
        head = head._replace(deleted=head.deleted + len(rows))
        self._put_head(namespace_id, head)
        return head

    # --- uses -----------------------------------------------------------------------------------

    def uses(self, namespace_id: bytes, generation: int, rows: int) -> Uses:
        """When each of the first ``rows`` rows was last used, (rows,) uint32; 0 if not noted."""
        found = np.zeros(rows, np.uint32)
        prefix = _key(b"u", namespace_id, generation)
        with LEDGER, self._cache.faults():
            for key, value in self._cache.entries_from(prefix, prefix):
                start = _first_row(key) * _USES
                part = np.frombuffer(value[: len(value) // 4 * 4], "<u4")[: max(0, rows - start)]
                found[start : start + len(part)] = part
        return found

    @property
    def notes_uses(self) -> bool:
        """Whether anybody keeps this store under a size."""
        with LEDGER, self._cache.faults():
            return self._cache.get_sealed(b"T") is not None

    def note_uses(self, used: Mapping[bytes, tuple[int, Rows]]) -> None:
        """Note the rows used since the last time, by namespace: generation and rows. In a
        transaction."""
        with self._cache.faults():
            now = int.from_bytes(self._cache.get_sealed(b"T") or b"", "little") + 1
            self._cache.put_sealed(b"T", now.to_bytes(8, "little"))
            for namespace_id, (generation, rows) in used.items():
                prefix = _key(b"u", namespace_id, generation)
                for part in np.unique(rows // _USES).tolist():
                    key = prefix + part.to_bytes(8, "big")
                    values = np.zeros(_USES, "<u4")
                    before = np.frombuffer((self._cache.get(key) or b"")[: 4 * _USES], "u1")
                    values.view("u1")[: len(before)] = before
                    values[rows[rows // _USES == part] % _USES] = now
                    self._cache.set(key, values.tobytes())

    def put_uses(self, namespace_id: bytes, generation: int, uses: Uses) -> None:
        """Write the uses of a new generation's rows; drops those of older ones. In a
        transaction."""
        with self._cache.faults():
            self._cache.delete_range(b"u" + namespace_id)
            prefix = _key(b"u", namespace_id, generation)
            for start in range(0, len(uses) if uses.any() else 0, _USES):
                part = uses[start : start + _USES].astype("<u4").tobytes()
                self._cache.set(prefix + (start // _USES).to_bytes(8, "big"), part)

    # --- counters and identities ----------------------------------------------------------------

    def add_counters(self, namespace_id: bytes, computed: int, seconds: float) -> None:
        """Add to the counters of a namespace. In a transaction."""
        before = self.counters(namespace_id)
        with self._cache.faults():
            value = _COUNTERS.pack(before[0] + computed, before[1] + seconds)
            self._cache.put_sealed(b"k" + namespace_id, value)

    def counters(self, namespace_id: bytes) -> tuple[int, float]:
        """Vectors computed for a namespace, and the seconds these took, over all processes."""
        with LEDGER, self._cache.faults():
            value = self._cache.get_sealed(b"k" + namespace_id)
        return (0, 0.0) if value is None else _COUNTERS.unpack(value)

    def identity(self, key: bytes) -> dict[str, Any] | None:
        """What was recorded of a model under this key of 16 bytes."""
        with LEDGER, self._cache.faults():
            return self._cache.get_json(b"i" + key)

    def put_identity(self, key: bytes, value: dict[str, Any]) -> None:
        """Record what is known of a model. In a transaction."""
        with self._cache.faults():
            self._cache.put_json(b"i" + key, value)

    def check_identities(self) -> None:
        """Raise StoreDamagedError if one of them is damaged."""
        with LEDGER, self._cache.faults():
            for key in self._cache.keys(b"i"):
                self._cache.get_json(key)


def _key(kind: bytes, namespace_id: bytes, generation: int) -> bytes:
    return kind + namespace_id + generation.to_bytes(8, "big")


def _first_row(key: bytes) -> int:
    if len(key) != 1 + DIGEST_SIZE + _POSITION.size:
        raise StoreDamagedError("the ledger has an entry that embstore never writes")
    first: int = _POSITION.unpack(key[-_POSITION.size :])[1]
    return first
