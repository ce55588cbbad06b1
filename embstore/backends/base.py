"""What a backend does: the one protocol behind every store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from embstore.backends.rows import Array
from embstore.keys import Namespace

Found = npt.NDArray[Any]
"""(n,) bool."""


@dataclass(frozen=True)
class NamespaceInfo:
    """A namespace and what is stored under it.

    Attributes:
        namespace: the namespace.
        dtype: dtype of its vectors, as numpy names it.
        dim: numbers in a vector.
        entries: vectors stored.
        bytes: what these take on disk (or on the server), in bytes.
        computed: vectors ever written, over all processes.
        encode_seconds: what computing these took, in seconds, over all processes.
    """

    namespace: Namespace
    dtype: str
    dim: int
    entries: int
    bytes: int
    computed: int = 0
    encode_seconds: float = 0.0


@dataclass(frozen=True)
class VerifyReport:
    """What a full check of a store found.

    Attributes:
        rows: rows looked at, deleted ones not counted.
        corrupt: rows that are damaged; they are never returned, and compacting drops them.
        problems: one sentence for each thing that is wrong.
    """

    rows: int
    corrupt: int
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(frozen=True)
class CompactReport:
    """What compacting gave back.

    Attributes:
        rows: rows kept.
        bytes_before: size on disk before, in bytes.
        bytes_after: size on disk after, in bytes.
    """

    rows: int
    bytes_before: int
    bytes_after: int


class Backend(Protocol):
    """Where rows live. A digest is the 16 bytes of :func:`embstore.keys.digest_texts`.

    Every method may be called from any thread, and raises
    :class:`~embstore.errors.StoreError` when it cannot do its work.
    """

    location: str
    """Where the rows are, as its users would write it."""

    @property
    def seed(self) -> int:
        """The seed of all digests."""

    @property
    def corrupt(self) -> int:
        """Damaged rows found and left out so far."""

    def get_many(self, namespace: Namespace, digests: Sequence[bytes]) -> tuple[Array, Found]:
        """The stored vectors, (n, dim), with zeros where ``found``, (n,) bool, is False.

        Only valid rows are returned. ``dim`` is 0 as long as nothing is stored. Writes nothing.
        """

    def put_many(
        self, namespace: Namespace, digests: Sequence[bytes], vectors: Array, seconds: float = 0.0
    ) -> Found:
        """Store (n, dim) vectors, all or none; returns which this call stored, (n,) bool.

        A digest that is stored already keeps its vector. When this returns, what it stored is
        there for every process. ``seconds`` is what computing the vectors took.

        Raises:
            NamespaceError: if dim or dtype differ from what the namespace holds.
        """

    def delete_many(self, namespace: Namespace, digests: Sequence[bytes]) -> int:
        """Delete vectors; returns how many there were."""

    def clear(self, namespace: Namespace) -> int:
        """Delete a namespace and all its vectors; returns how many there were."""

    def scan(self, namespace: Namespace) -> Iterator[tuple[list[bytes], Array]]:
        """All valid rows in chunks: digests and (n, dim) vectors."""

    def namespaces(self) -> list[NamespaceInfo]:
        """The registry."""

    def size(self) -> int:
        """Bytes taken in all."""

    def get_identity(self, key: bytes) -> dict[str, Any] | None:
        """What was recorded under this key of 16 bytes."""

    def put_identity(self, key: bytes, value: dict[str, Any]) -> None:
        """Record a JSON object under a key of 16 bytes."""

    def verify(self) -> VerifyReport:
        """Check every row. Writes nothing."""

    def compact(self) -> CompactReport:
        """Give back the space of rows deleted, damaged or doubled."""

    def prune(self, max_size: int, namespace: Namespace | None = None) -> int:
        """Delete the vectors used longest ago until all, or those of one namespace, take less than
        ``max_size`` bytes; returns how many went."""

    def close(self) -> None:
        """Let go of files and connections. Closing twice is allowed."""
