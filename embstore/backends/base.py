"""What a backend does: the one protocol behind every store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from embstore.backends.rows import Array
from embstore.keys import Namespace

Found = npt.NDArray[Any]
"""(n,) bool."""

Progressed = Callable[[int], object]
"""Called with a number of rows when so many more are done."""


def unheard(rows: int) -> None:
    """A :data:`Progressed` for whoever shows no progress."""


FOUND: Found = np.ones(1, np.bool_)
"""To be copied, which takes a fifth of the time of making it."""


def all_of(found: Found) -> bool:
    """``found.all()``, in a quarter of its time where there is one text, or a batch of them."""
    return b"\0" not in found.tobytes()


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
        hits: texts found, over all processes. (A process adds its own when it commits, at most
            every half minute, and when it closes the store or ends.)
        misses: distinct texts not found, counted likewise.
    """

    namespace: Namespace
    dtype: str
    dim: int
    entries: int
    bytes: int
    computed: int = 0
    encode_seconds: float = 0.0
    hits: int = 0
    misses: int = 0

    @property
    def seconds_saved(self) -> float:
        """Hits times the mean cost of computing a vector, in seconds."""
        return self.hits * self.encode_seconds / self.computed if self.computed else 0.0


class Day(NamedTuple):
    """What a namespace saw on one day, over all processes.

    Attributes:
        date: the day, in UTC.
        hits: texts found.
        misses: distinct texts not found.
        entries: vectors stored, when that was noted last.
    """

    date: date
    hits: int
    misses: int
    entries: int


@dataclass(frozen=True)
class History:
    """How a namespace was used and how it grew, as far as that was noted.

    Attributes:
        days: those with look-ups, in order. (A process adds its own when it commits, at most every
            half minute, and when it closes the store or ends.)
        growth: in order of time, seconds since 1970 and the vectors stored from then on. Deletions
            show at the end of a day at the earliest.
    """

    days: tuple[Day, ...] = ()
    growth: tuple[tuple[float, int], ...] = ()


class Claimed(NamedTuple):
    """What a claim came to.

    Attributes:
        mine: which digests the owner is to compute, (n,) bool.
        stored: which are stored already, (n,) bool.
        theirs: which another owner is computing, (n,) bool. What is none of these is free.
        others: other owners with a claim under the namespace.
        pace: seconds that computing a vector took on average so far; 0.0 if that is not known.
    """

    mine: Found
    stored: Found
    theirs: Found
    others: int
    pace: float


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

    is_near: bool
    """Whether it answers many digests as quickly as a dict in memory does, as a local disk can. Of
    what such a backend has, the memory tier keeps only what is looked up by the piece."""

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
        self,
        namespace: Namespace,
        digests: Sequence[bytes],
        vectors: Array,
        seconds: float = 0.0,
        owner: bytes | None = None,
    ) -> Found:
        """Store (n, dim) vectors, all or none; returns which this call stored, (n,) bool.

        A digest that is stored already keeps its vector. When this returns, what it stored is
        there for every process. ``seconds`` is what computing the vectors took; the claim of
        ``owner`` under the namespace ends with this.

        Raises:
            NamespaceError: if dim or dtype differ from what the namespace holds.
        """

    def claim(
        self, namespace: Namespace, digests: Sequence[bytes], owner: bytes, most: int
    ) -> Claimed:
        """Claim the first ``most`` of these digests that are neither stored nor claimed by others.

        Atomic over all processes. It takes the place of what the owner (16 bytes, any) had claimed
        before under this namespace. A claim ends with :meth:`put_many`, with :meth:`release`, and
        with the process that made it, however that ends. It keeps nobody from storing anything.
        """

    def claimed(self, namespace: Namespace, digests: Sequence[bytes]) -> Found:
        """Which of these digests are claimed by anybody alive, (n,) bool. Writes nothing."""

    def release(self, namespace: Namespace, owner: bytes) -> None:
        """End a claim; nothing happens if there is none."""

    def watch(
        self,
        take_used: Callable[[], Mapping[bytes, list[bytes]]],
        take_counts: Callable[[], Mapping[bytes, tuple[int, int]]],
    ) -> None:
        """Be told how to ask what stands in front of this, for all that is new since it was last
        asked; to be asked now and then, before anything is dropped for not being used, and at last
        when this is closed.

        Args:
            take_used: gives the digests that were answered there, by namespace id.
            take_counts: gives the hits and misses of all look-ups, by namespace id: what
                :meth:`namespaces` sums up.
        """

    def delete_many(self, namespace: Namespace, digests: Sequence[bytes]) -> int:
        """Delete vectors; returns how many there were."""

    def clear(self, namespace: Namespace) -> int:
        """Delete a namespace and all its vectors; returns how many there were."""

    def scan(self, namespace: Namespace) -> Iterator[tuple[list[bytes], Array]]:
        """All valid rows in chunks: digests and (n, dim) vectors."""

    def namespaces(self) -> list[NamespaceInfo]:
        """The registry."""

    def history(self, namespace: Namespace) -> History:
        """What is known of a namespace's past; an empty one if nothing is, or nothing is kept."""

    def size(self) -> int:
        """Bytes taken in all."""

    def get_identity(self, key: bytes) -> dict[str, Any] | None:
        """What was recorded under this key of 16 bytes."""

    def identities(self) -> dict[bytes, dict[str, Any]]:
        """All that was recorded, by key."""

    def put_identity(self, key: bytes, value: dict[str, Any]) -> None:
        """Record a JSON object under a key of 16 bytes."""

    def verify(self, progressed: Progressed = unheard) -> VerifyReport:
        """Check every row. Writes nothing."""

    def compact(self, progressed: Progressed = unheard) -> CompactReport:
        """Give back the space of rows deleted, damaged or doubled."""

    def prune(
        self,
        namespace: Namespace | None = None,
        *,
        max_size: int | None = None,
        older_than: float | None = None,
        progressed: Progressed = unheard,
    ) -> int:
        """Delete vectors, of all namespaces or of one; returns how many went.

        Args:
            namespace: delete only vectors of this one, and count only their bytes.
            max_size: those used longest ago go until the rest takes less than so many bytes.
            older_than: those go that were last used, or else stored, more seconds ago than this.
            progressed: called with all rows of a namespace when it is done.
        """

    def close(self) -> None:
        """Let go of files and connections. Closing twice is allowed."""
