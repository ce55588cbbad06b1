"""The row: what any backend stores for a key, and how a reader knows that it is sound.

    checksum 8 B | text digest 16 B | vector, padded to a multiple of 8 B

Little-endian. The checksum is xxh3_64 of all that follows it in the row, seeded with a digest of
the namespace, the dtype, the dim and the store's seed: a row is valid only for the text, the
namespace, the layout and the store it was written for, whatever file it is found in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from embstore.errors import NamespaceError
from embstore.keys import DIGEST_SIZE

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
"""Row numbers, (n,) int64; -1 stands for none."""
Digests = npt.NDArray[np.uint64]
"""Text digests as (n, 2) uint64: the high half sorts, both halves identify."""


def as_vectors(output: Any, count: int) -> Array:
    """Anything like an array as (count, dim) numbers in the machine's byte order.

    Lists of Python floats become float32; arrays keep their dtype.

    Raises:
        NamespaceError: if it is not one vector of numbers for each of ``count`` texts.
    """
    try:
        vectors = np.asarray(output)
    except ValueError as error:  # nested lists of different lengths
        raise NamespaceError(f"vectors must be of one length: {error}") from error
    shaped = vectors.ndim == 2 and len(vectors) == count and vectors.shape[1] > 0
    if not shaped or vectors.dtype.kind not in "fiu":
        raise NamespaceError(
            f"{count} texts need numbers of shape ({count}, dim), not {vectors.dtype} of shape "
            f"{vectors.shape}"
        )
    if vectors.dtype == np.float64 and not hasattr(output, "dtype"):
        return vectors.astype(np.float32)
    return vectors if vectors.dtype.isnative else vectors.astype(vectors.dtype.newbyteorder("="))


def as_digests(digests: Iterable[bytes]) -> Digests:
    """16-byte digests as a read-only (n, 2) uint64 array."""
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


def first_of_each(query: Digests) -> npt.NDArray[np.bool_]:
    """Which of (n, 2) digests stand there for the first time, (n,) bool."""
    if len(query) == 1:
        return np.ones(1, np.bool_)
    ordered_high = np.sort(query[:, 0])
    if (ordered_high[1:] != ordered_high[:-1]).all():
        return np.ones(len(query), np.bool_)
    order = np.lexsort((query[:, 1], query[:, 0]))
    ordered = query[order]
    first = np.ones(len(query), np.bool_)
    # lexsort is stable, so of equal digests the first one given comes first.
    first[order[1:]] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return first


def distinct(rows: Rows) -> Rows:
    """These row numbers, each once, in order; -1 is left out. (``np.unique`` imports ``numpy.ma``
    for it, which takes 11 ms of a new process.)"""
    ordered = np.sort(rows)
    return ordered[np.diff(ordered, prepend=-1) > 0]


class RowFormat:
    """How the rows of one namespace are laid out.

    Args:
        namespace_id: 16 bytes.
        seed: the store's seed.
        dtype: dtype of the vectors: floating point or integer.
        dim: numbers in a vector.

    Raises:
        NamespaceError: if vectors of that dtype or dim cannot be stored.
    """

    def __init__(self, namespace_id: bytes, seed: int, dtype: npt.DTypeLike, dim: int) -> None:
        self.vector_dtype = np.dtype(dtype).newbyteorder("<")
        self.dim = dim
        if self.vector_dtype.kind not in "fiu":
            raise NamespaceError(f"vectors of dtype {np.dtype(dtype)} cannot be stored")
        if not 0 < dim <= 2**24:
            raise NamespaceError(f"vectors of {dim} numbers cannot be stored")
        identity = b"%b%d %d %b" % (namespace_id, seed, dim, self.vector_dtype.str.encode())
        self._row_seed = int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest(), "little")

    @cached_property
    def stride(self) -> int:
        """Bytes from one row to the next."""
        unpadded = 8 + DIGEST_SIZE + self.vector_dtype.itemsize * self.dim
        return -(-unpadded // 8) * 8

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The row as a structured dtype: fields ``checksum``, ``digest``, ``vector``, ``pad``."""
        padding = self.stride - 8 - DIGEST_SIZE - self.vector_dtype.itemsize * self.dim
        # A field of its own, because numpy copies fields and leaves gaps between them as they are.
        return np.dtype(
            [
                ("checksum", "<u8"),
                ("digest", "<u8", 2),
                ("vector", self.vector_dtype, (self.dim,)),
                ("pad", f"V{padding}"),
            ]
        )

    def pack(self, digests: Digests, vectors: Array, scratch: Array | None = None) -> Array:
        """Rows, (n,) of :attr:`dtype`, from (n, 2) digests and (n, dim) vectors; in ``scratch``, an
        array of uint8, if they fit."""
        if len(digests) == 1:  # 3 µs, where what follows takes 14
            body = digests.tobytes() + vectors.astype(self.vector_dtype, copy=False).tobytes()
            body = body.ljust(self.stride - 8, b"\0")
            checksum = xxh3_64_intdigest(body, self._row_seed).to_bytes(8, "little")
            return np.frombuffer(checksum + body, self.dtype)
        if scratch is not None and len(digests) * self.stride <= len(scratch):
            rows = scratch[: len(digests) * self.stride].view(self.dtype)
            rows["pad"] = b""
        else:
            rows = np.zeros(len(digests), self.dtype)
        rows["digest"] = digests
        rows["vector"] = vectors
        rows["checksum"] = self.checksums(rows)
        return rows

    def checksums(
        self, rows: Array, numbers: Sequence[int] | None = None
    ) -> npt.NDArray[np.uint64]:
        """The checksum that each of the numbered rows, or of all, ought to carry.

        One slice and one hash of 1.5 KB take 0.26 µs a row, which is why readers do it once per
        row and process and not at every read.
        """
        stride, seed = self.stride, self._row_seed
        raw = rows.view(np.uint8).data if len(rows) else memoryview(b"")
        starts: Iterable[int] = range(0, len(raw), stride)
        if numbers is not None:
            starts = [number * stride for number in numbers]
        sums = [xxh3_64_intdigest(raw[at + 8 : at + stride], seed) for at in starts]
        return np.array(sums, np.uint64)

    def valid(self, rows: Array) -> npt.NDArray[np.bool_]:
        """Which rows carry the right checksum; a deleted row (digest 0) is not valid."""
        checked = rows["checksum"] == self.checksums(rows)
        return np.asarray(checked & rows["digest"].any(axis=1))
