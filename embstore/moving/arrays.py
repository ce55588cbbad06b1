"""A part as three arrays, in formats that are a list of named arrays.

vectors.0      (rows, dim), of the dtype that is stored
digests.0      (rows, 16) uint8
checksums.0    (rows,) uint64
vectors.1      the next namespace, and so on, in the order of the manifest
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from embstore.keys import DIGEST_SIZE
from embstore.moving.chunks import Chunk
from embstore.moving.manifest import Part


class Column(NamedTuple):
    """One of the arrays."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """Bytes of a row."""
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.width * self.shape[0]


def columns(number: int, part: Part) -> tuple[Column, Column, Column]:
    """Vectors, digests and checksums of the part with this number."""
    vectors = np.dtype(part.dtype).newbyteorder("<")
    return (
        Column(f"vectors.{number}", vectors, (part.rows, part.dim)),
        Column(f"digests.{number}", np.dtype(np.uint8), (part.rows, DIGEST_SIZE)),
        Column(f"checksums.{number}", np.dtype("<u8"), (part.rows,)),
    )


def to_bytes(chunk: Chunk) -> tuple[bytes, bytes, bytes]:
    """The rows as they stand in vectors, digests and checksums."""
    little = chunk.vectors.astype(chunk.vectors.dtype.newbyteorder("<"), copy=False)
    return little.tobytes(), b"".join(chunk.digests), chunk.checksums.astype("<u8").tobytes()


def from_bytes(part: Part, vectors: bytes, digests: bytes, checksums: bytes) -> Chunk:
    """The same, read again."""
    dtype = np.dtype(part.dtype).newbyteorder("<")
    return Chunk(
        [digests[at : at + DIGEST_SIZE] for at in range(0, len(digests), DIGEST_SIZE)],
        np.frombuffer(checksums, "<u8"),
        np.frombuffer(vectors, dtype).reshape(-1, part.dim),
    )
