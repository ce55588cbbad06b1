"""A LangChain byte store in an embstore store.

A store keeps vectors of one length, and of texts their digests only. So a record is its key and its
value, one behind the other, cut into blocks: vectors of uint8. The first block stands under the
key, in a namespace of its own, so that listing keys reads no values; the others under the digest of
the record, so that blocks of two values of one key are never put together.

That way bytes have what vectors have: checksums, a size limit, many processes, ``verify``,
read-only copies, and whatever else handles rows without knowing what they mean. Values that are
JSON lists of floats could be told apart and kept as float32, in a fifth of the room, but they must
come back bit for bit, and their keys would need a place all the same. ``CachedEmbeddings`` keeps
vectors as vectors.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from typing import TypeVar

import numpy as np

from embstore.integrations.embedder import require
from embstore.keys import Namespace
from embstore.store import EmbeddingStore

require("langchain_core", "langchain")

from langchain_core.stores import BaseStore  # noqa: E402

T = TypeVar("T")

_SIZES = struct.Struct("<II")
_DIGEST = 16
_HEADER = _SIZES.size + _DIGEST

# With what a row has besides, 24 bytes, these make rows of 512 and of 4096.
_FIRST = 488
_BLOCK = 4072

_LONGEST = 2**28
"""Bytes of a record: a mistake should not fill a store."""

_AT_ONCE = 256
"""Records that are read or written together."""


class EmbeddingByteStore(BaseStore[str, bytes]):
    """A LangChain ``ByteStore`` that keeps its values in an embstore store.

    It is there for LangChain's own ``CacheBackedEmbeddings``, and for what else wants a
    ``ByteStore``. A value takes 512 bytes on disk, and 4,096 for each 4,072 that do not fit there
    with the key.

    What is set or deleted is not done in one step with what was there before: meanwhile another
    thread or process may find nothing. Another process goes on with a value that it has in its
    memory tier, as with ``EmbeddingStore.delete_many``; with ``memory_limit=0`` it has none.

    A store that cannot be written keeps values in its memory tier, and says so as it does for
    vectors. One with a ``size_limit`` drops what was used longest ago.

    Args:
        store: where values are kept.
        namespace: names these values: the keys of another namespace are others.

    Attributes:
        store: as given.
        namespace: as given.

    >>> import tempfile
    >>> byte_store = EmbeddingByteStore(EmbeddingStore(tempfile.mkdtemp()), "my documents")
    >>> byte_store.mset([("a", b"one"), ("b", b"two")])
    >>> byte_store.mget(["b", "c"]), sorted(byte_store.yield_keys())
    ([b'two', None], ['a', 'b'])
    """

    def __init__(self, store: EmbeddingStore, namespace: str) -> None:
        self.store = store
        self.namespace = namespace
        self._first, self._others = (
            Namespace(namespace, extra={"langchain byte store": part, "block": size})
            for part, size in (("keys", _FIRST), ("values", _BLOCK))
        )

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of n keys, None where there is none.

        Raises:
            TypeError: if a key is not a ``str``.
        """
        values: list[bytes | None] = []
        for some in _in_parts(keys):
            heads = self._heads(some)
            records = self._read(heads.values(), [head.size for head in heads.values()])
            found = {
                key: record[head.key_size :]
                for (key, head), record in zip(heads.items(), records, strict=True)
                if record is not None
            }
            values += map(found.get, some)
        return values

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Set values, in the place of what the keys had before.

        Raises:
            StoreError: if a value is to be replaced, and the store cannot be written.
            TypeError: if a key is not a ``str``, or a value not ``bytes``.
            ValueError: if key and value are longer than 256 MiB together.
        """
        # Of a key that is given twice, the last counts.
        for pairs in _in_parts(list(dict(key_value_pairs).items())):
            heads: dict[str, _Head] = {}
            others: dict[str, bytes] = {}
            for key, value in pairs:
                heads[key], further = _cut(key, value)
                others |= further
            # The first blocks come last: whoever finds one finds the others too.
            self._keep(self._others, others, _BLOCK)
            before = self._heads(list(heads))
            self._delete({key: head for key, head in before.items() if head != heads[key]})
            self._keep(self._first, {key: head.block for key, head in heads.items()}, _FIRST)

    def mdelete(self, keys: Sequence[str]) -> None:
        """Delete keys and their values; nothing happens for a key that is not there.

        Raises:
            StoreError: if the store cannot be written.
            TypeError: if a key is not a ``str``.
        """
        for some in _in_parts(keys):
            self._delete(self._heads(some))

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """The keys that are on disk, or those of them that start with ``prefix``, in no order.

        Raises:
            StoreError: if the store cannot be read, or is compacted meanwhile.
        """
        # By digest nobody can tell which texts there are; the blocks say it.
        for _, blocks in self.store.backend.scan(self._first):
            heads = [_Head(block.tobytes()) for block in blocks]
            for record in self._read(heads, [head.key_size for head in heads]):
                if record is not None:
                    key = record.decode("utf-8", "surrogatepass")
                    if key.startswith(prefix or ""):
                        yield key

    def _heads(self, keys: Sequence[str]) -> dict[str, _Head]:
        """The first blocks of those keys that are there."""
        blocks, found = self.store.get_many(self._first, keys)
        return {
            key: _Head(block.tobytes())
            for key, block, is_there in zip(keys, blocks, found, strict=True)
            if is_there
        }

    def _read(self, heads: Collection[_Head], sizes: Sequence[int]) -> list[bytes | None]:
        """The first so many bytes of each record, None where a block is missing."""
        names = [head.others(size) for head, size in zip(heads, sizes, strict=True)]
        blocks, found = self.store.get_many(self._others, list(chain.from_iterable(names)))
        records: list[bytes | None] = []
        at = 0
        for head, size, wanted in zip(heads, sizes, names, strict=True):
            stop = at + len(wanted)
            record = (head.block[_HEADER:] + blocks[at:stop].tobytes())[:size]
            records.append(record if found[at:stop].all() else None)
            at = stop
        return records

    def _keep(self, namespace: Namespace, blocks: Mapping[str, bytes], size: int) -> None:
        if blocks:
            rows = np.frombuffer(b"".join(blocks.values()), np.uint8).reshape(-1, size)
            self.store.keep(namespace, self.store.digests(list(blocks)), rows)

    def _delete(self, heads: Mapping[str, _Head]) -> None:
        if heads:
            self.store.delete_many(self._first, list(heads))
            others = [name for head in heads.values() for name in head.others(head.size)]
            self.store.delete_many(self._others, others)

    def __repr__(self) -> str:
        return f"EmbeddingByteStore({self.store!r}, {self.namespace!r})"


@dataclass(frozen=True)
class _Head:
    """The first block of a record: length of the key and of the value, digest of all, and how the
    record begins."""

    block: bytes

    @property
    def key_size(self) -> int:
        """Bytes of the key."""
        return int(_SIZES.unpack_from(self.block)[0])

    @property
    def size(self) -> int:
        """Bytes of key and value."""
        return sum(_SIZES.unpack_from(self.block))

    def others(self, size: int) -> list[str]:
        """The names of the other blocks that are needed for the first ``size`` bytes."""
        beyond = max(0, size - (_FIRST - _HEADER))
        digest = self.block[_SIZES.size : _HEADER].hex()
        return [f"{digest} {number}" for number in range(-(-beyond // _BLOCK))]


def _cut(key: str, value: bytes) -> tuple[_Head, dict[str, bytes]]:
    """The first block of a record, and the others by name."""
    if not isinstance(key, str) or not isinstance(value, bytes):
        raise TypeError(
            f"values are bytes and keys are texts, not {type(value).__name__} under "
            f"{type(key).__name__}"
        )
    name = key.encode("utf-8", "surrogatepass")
    record = name + value
    if len(record) > _LONGEST:
        raise ValueError(f"{len(record):,} bytes are too long for a value; {_LONGEST:,} are not")
    sizes = _SIZES.pack(len(name), len(value))
    header = sizes + blake2b(sizes + record, digest_size=_DIGEST).digest()
    room = _FIRST - _HEADER
    head = _Head(header + record[:room].ljust(room, b"\0"))
    starts = range(room, len(record), _BLOCK)
    blocks = [record[at : at + _BLOCK].ljust(_BLOCK, b"\0") for at in starts]
    return head, dict(zip(head.others(len(record)), blocks, strict=True))


def _in_parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[at : at + _AT_ONCE] for at in range(0, len(items), _AT_ONCE))
