"""Some rows on their way: as a store gives them, and as a file has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from embstore.backends.base import Backend, NamespaceInfo
from embstore.backends.rows import Array, RowFormat, as_digests
from embstore.errors import StoreError
from embstore.moving.manifest import Part

_BYTES = 2**23
_MOST = 2**15


class Chunk(NamedTuple):
    """n rows.

    Attributes:
        digests: 16 bytes each.
        checksums: of the rows, as they were read from a file or are to be written, (n,) uint64.
        vectors: (n, dim).
    """

    digests: list[bytes]
    checksums: npt.NDArray[np.uint64]
    vectors: Array

    def sound(self, layout: RowFormat) -> Chunk:
        """Those rows whose checksum is right, and whose vector a store would take."""
        right = self.checksums == _checksums(layout, self.digests, self.vectors)
        right &= as_digests(self.digests).any(axis=1)  # else it is deleted
        if self.vectors.dtype.kind == "f":
            right &= np.isfinite(self.vectors).all(axis=1)
        if right.all():
            return self
        kept = np.flatnonzero(right).tolist()
        digests = [self.digests[number] for number in kept]
        return Chunk(digests, self.checksums[kept], self.vectors[kept])


ChunksOf = Callable[[Part], Iterator[Chunk]]
"""Gives the rows of a part, the same ones in the same order whenever it is called."""


def rows_at_once(stride: int) -> int:
    """How many rows of so many bytes to hold in memory at a time."""
    return max(1, min(_MOST, _BYTES // stride))


def _checksums(layout: RowFormat, digests: list[bytes], vectors: Array) -> npt.NDArray[np.uint64]:
    return np.asarray(layout.pack(as_digests(digests), vectors)["checksum"])


def _scan(store: Backend, info: NamespaceInfo | Part) -> Iterator[Chunk]:
    layout = RowFormat(info.namespace.id, store.seed, info.dtype, info.dim)
    for digests, vectors in store.scan(info.namespace):
        yield Chunk(digests, _checksums(layout, digests, vectors), vectors)


def count(store: Backend, info: NamespaceInfo) -> Part:
    """What a namespace holds now: all of it is read."""
    rows = checksum = 0
    for chunk in _scan(store, info):
        rows += len(chunk.digests)
        checksum = add_up(checksum, chunk)
    times = info.computed, info.encode_seconds
    return Part(info.namespace, info.dtype, info.dim, rows, checksum, *times)


def counted(store: Backend, part: Part) -> Iterator[Chunk]:
    """The rows that :func:`count` counted. What was stored since comes behind them.

    Raises:
        StoreError: at the end, if some are gone.
    """
    left, checksum = part.rows, 0
    for chunk in _scan(store, part):
        chunk = Chunk(chunk.digests[:left], chunk.checksums[:left], chunk.vectors[:left])
        left -= len(chunk.digests)
        checksum = add_up(checksum, chunk)
        if chunk.digests:
            yield chunk
    if left or checksum != part.checksum:
        raise StoreError(
            f"{store.location}: vectors were deleted while they were copied; do it again",
            path=store.location,
        )


def add_up(checksum: int, chunk: Chunk) -> int:
    """The sum of the checksums of all rows so far."""
    return (checksum + int(chunk.checksums.sum(dtype=np.uint64))) % 2**64


def heard(chunks: Iterable[Chunk], progressed: Callable[[int], object]) -> Iterator[Chunk]:
    """The same chunks; ``progressed`` is called when the one after is asked for."""
    for chunk in chunks:
        yield chunk
        progressed(len(chunk.digests))
