"""Which of the missing texts of a call this worker computes, and what it waits for.

Workers that are given the same texts divide them: each claims a chunk before it computes it, passes
over what others have claimed, and takes what they computed from the store. In the end it waits for
what others still compute, but never for longer than computing that itself would take.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING

import numpy as np

from embstore.lazily import Lazily
from embstore.lookup import Lookup

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = Lazily("asyncio")

_WINDOW = 4
"""Chunks' worth of texts that are looked at for one chunk, once others are at work."""

_LEAST_TEXTS = 32
"""Texts below which a chunk is not made smaller for the others' sake."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.1
"""Seconds between two looks at what others compute. A look takes two queries."""

_AHEAD_SECONDS, _AHEAD_CHUNKS = 0.25, 16
"""Of a fast model's chunks, so many are claimed at once: what a claim costs, 0.4 ms, is much beside
one of them."""

_GRACE_SECONDS = 0.1
"""What another worker is given beyond what computing would take: machines have slow moments."""

_START_SECONDS = 2.0
"""What beginning to compute is taken to cost a process that has not: a model may have to be loaded,
a connection made."""

_UNKNOWN_SECONDS = 10.0
"""The same where nobody has computed anything yet."""


_OWNERS: ContextVar[Mapping[bytes, bytes]] = ContextVar(
    "embstore.owners", default=MappingProxyType({})
)
"""By namespace id, in whose name texts are claimed further up in the calls that led here."""


class Work:
    """Texts to be computed, in the order given, all of them by this worker.

    Args:
        positions: of the texts.

    Attributes:
        others: how many other workers were seen at work on texts like these.
        owner: in whose name they are claimed; None if they are not.
        before_claim: called before more are claimed: what was taken before has to be stored by
            then, as the new claim takes the place of the old one.
    """

    owner: bytes | None = None

    def __init__(self, positions: Sequence[int]) -> None:
        self.others = 0
        self.before_claim: Callable[[], None] = _nothing
        self._positions = positions
        self._next = 0
        self._passed: list[int] = []
        """Positions before the next one that were looked at, and left."""
        self._chosen: set[int] = set()
        """Positions after it that were taken out of turn."""

    @property
    def ahead(self) -> list[int]:
        """All positions that nothing is known of yet, in order."""
        rest = self._positions[self._next :]
        return [*self._passed, *(one for one in rest if one not in self._chosen)]

    def take(self, count: int, whole: int = 1) -> list[int]:
        """The next positions to compute, at most ``count`` and, for others' sake, perhaps fewer.

        Args:
            count: texts of a chunk.
            whole: texts of a batch: chunks have whole batches, but for the last.

        Returns:
            Positions; none if nothing is left to compute, after waiting for others if need be.
        """
        while not (chunk := self._try(count, whole)) and (pause := self._pause()):
            time.sleep(pause)
        return chunk

    async def take_async(self, count: int, whole: int = 1) -> list[int]:
        """:meth:`take`, in an event loop that goes on meanwhile."""
        # An event of this loop could not tell what other processes do.
        while not (chunk := self._try(count, whole)) and (pause := self._pause()):
            await asyncio.sleep(pause)
        return chunk

    def choose(self, positions: Sequence[int]) -> list[int]:
        """Take some of those :attr:`ahead`, out of turn; returns what is to be computed of them."""
        self._chosen.update(positions)
        chosen = set(positions)
        self._passed = [one for one in self._passed if one not in chosen]
        return list(positions)

    def owner_that_ends(self) -> bytes | None:
        """The owner, if the claim is to end when what was taken last is stored; else None."""
        return self.owner

    @property
    def has_more(self) -> bool:
        """Whether there may be more to take."""
        return bool(self._passed) or self._next < len(self._positions)

    def took(self, positions: Sequence[int], seconds: float, *, kept: bool = True) -> None:
        """What computing a chunk took, and whether the store has it now, and the claim is over."""

    def take_found(self) -> int:
        """How many texts others were found to have computed, since this was last asked."""
        return 0

    def _candidates(self, count: int) -> list[int]:
        """The next so many positions that nothing is known of; they are no longer ahead."""
        found, self._passed = self._passed[:count], self._passed[count:]
        while len(found) < count and self._next < len(self._positions):
            end = self._next + count - len(found)
            part = self._positions[self._next : end]
            found += [one for one in part if one not in self._chosen]
            self._next = min(end, len(self._positions))
        return found

    def _try(self, count: int, whole: int) -> list[int]:
        return self._candidates(count)

    def _pause(self) -> float:
        return 0.0


class Share(Work):
    """Texts of which this worker computes those that no other worker does.

    A context manager: what is claimed at its end and has not been computed is free again.

    Args:
        lookup: has the texts, and takes what others have computed.
        positions: of the texts to compute.
        texts: all texts of the call.
    """

    def __init__(self, lookup: Lookup, positions: Sequence[int], texts: Sequence[str]) -> None:
        super().__init__(positions)
        self.owner = secrets.token_bytes(16)
        self._lookup = lookup
        self._texts = texts
        self._claims = lookup.store.claims
        self._holds = False
        self._mine: list[int] = []
        """Claimed, and not taken yet."""
        self._chunks = 1
        self._found = 0
        self._theirs: list[int] = []
        self._overdue: list[int] = []
        """Theirs, and no longer waited for."""
        self._outer: Token[Mapping[bytes, bytes]] | None = None
        self._mean_pace = 0.0
        self._pace, self._quickest = 0.0, float("inf")
        self._waiting_since: float | None = None
        self._give_up_at = 0.0
        self._next_pause = _FIRST_PAUSE

    def __enter__(self) -> Share:
        # A function that embeds through itself must not wait for what it claimed further up.
        namespace_id, owners = self._lookup.namespace.id, _OWNERS.get()
        self.owner = owners.get(namespace_id, self.owner)
        self._outer = _OWNERS.set({**owners, namespace_id: self.owner or b""})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._outer is not None:
            _OWNERS.reset(self._outer)
        if self._holds:
            self._claims.release(self._lookup.namespace, self.owner or b"")

    @property
    def ahead(self) -> list[int]:
        return [*self._mine, *super().ahead]

    @property
    def has_more(self) -> bool:
        return bool(self._mine or self._theirs or self._overdue) or super().has_more

    def choose(self, positions: Sequence[int]) -> list[int]:
        self._passed, self._mine = [*self._mine, *self._passed], []
        return self._claim(super().choose(positions), len(positions))

    def owner_that_ends(self) -> bytes | None:
        return None if self._mine else self.owner

    def took(self, positions: Sequence[int], seconds: float, *, kept: bool = True) -> None:
        self._waiting_since = None
        if kept:
            self._holds = False  # with being stored the claim came to its end
        self._pace = max(self._pace, seconds / self._weight(positions))
        self._quickest = min(self._quickest, seconds)
        self._chunks = max(1, min(_AHEAD_CHUNKS, int(_AHEAD_SECONDS / max(seconds, 1e-6))))
        self._claims.paces[self._lookup.namespace.id] = self._pace, self._quickest

    def take_found(self) -> int:
        found, self._found = self._found, 0
        return found

    # --- what is free ---------------------------------------------------------------------------

    def _try(self, count: int, whole: int) -> list[int]:
        looked = False
        while True:
            if self._mine:
                chunk, self._mine = self._mine[:count], self._mine[count:]
                return chunk
            while candidates := self._candidates(
                count * (_WINDOW if self.others else self._chunks)
            ):
                if mine := self._claim(candidates, self._fair(len(candidates), count, whole)):
                    self._mine = mine[count:]
                    return mine[:count]
            while self._overdue:
                chunk, self._overdue = self._overdue[:count], self._overdue[count:]
                if chunk := self._fetch(chunk):
                    return chunk
            if not self._theirs or looked:
                return []
            looked = True
            if not self._look_at_theirs():
                if not self._is_impatient():
                    return []
                self._overdue, self._theirs = self._theirs, []

    def _fair(self, candidates: int, count: int, whole: int) -> int:
        """Half of this worker's part of what is left, so that all come to the end together: the
        "factoring" of Hummel, Schonberg and Flynn (1992)."""
        left = candidates + len(self._passed) + len(self._positions) - self._next
        fair = max(-(-left // (2 * (self.others + 1))), _LEAST_TEXTS)
        return min(count, -(-fair // whole) * whole) if self.others else candidates

    def _claim(self, candidates: list[int], most: int) -> list[int]:
        """Claim the first of these that are free; note which are others', or stored by now."""
        self.before_claim()
        lookup = self._lookup
        held, self._holds = self._holds, True  # from before the call: it may be interrupted
        claimed = self._claims.claim(
            lookup.namespace, lookup.digests(candidates), self.owner or b"", most
        )
        if claimed is None:
            self._holds = held
            self._passed = [*candidates[most:], *self._passed]
            return candidates[:most]
        self.others, self._mean_pace = claimed.others, claimed.pace
        self._holds = bool(claimed.mine.any())
        mine, stored, theirs = (
            [candidates[place] for place in np.flatnonzero(which).tolist()]
            for which in (claimed.mine, claimed.stored, claimed.theirs)
        )
        known = {*mine, *stored, *theirs}
        free = [position for position in candidates if position not in known]
        self._passed = [*free, *self._passed]
        self._theirs += theirs
        # What is stored and cannot be found all the same, this worker computes.
        return mine + self._fetch(stored)

    def _fetch(self, positions: list[int]) -> list[int]:
        missing = self._lookup.look_again(positions)
        self._found += len(positions) - len(missing)
        return missing

    # --- what others compute --------------------------------------------------------------------

    def _look_at_theirs(self) -> bool:
        """Take what others have computed; whether there is anything to do meanwhile."""
        before = len(self._theirs)
        self._theirs = self._fetch(self._theirs)
        now = time.monotonic()
        if self._waiting_since is None:
            self._give_up_at = now + self._cost(self._theirs)
        if self._waiting_since is None or len(self._theirs) < before:
            self._waiting_since, self._next_pause = now, _FIRST_PAUSE
        claimed = self._claims.claimed(
            self._lookup.namespace, self._lookup.digests(self._theirs)
        ).tolist()
        free = [one for one, is_ in zip(self._theirs, claimed, strict=True) if not is_]
        self._theirs = [one for one, is_ in zip(self._theirs, claimed, strict=True) if is_]
        self._passed += free  # their worker failed, or died
        return bool(free)

    def _is_impatient(self) -> bool:
        now = time.monotonic()
        since = now if self._waiting_since is None else self._waiting_since
        return bool(self._theirs) and (
            now - since > self._cost(self._theirs) or now > self._give_up_at
        )

    def _pause(self) -> float:
        if not self._theirs:
            return 0.0
        pause = self._next_pause
        self._next_pause = min(1.5 * pause, _LONGEST_PAUSE)
        return min(pause, max(_FIRST_PAUSE, self._give_up_at - time.monotonic()))

    def _cost(self, positions: list[int]) -> float:
        """Seconds that computing these would take this worker."""
        pace, quickest = self._pace, self._quickest
        if not pace:
            pace, quickest = self._claims.paces.get(self._lookup.namespace.id, (0.0, 0.0))
        if pace:
            return max(pace * self._weight(positions), quickest) + _GRACE_SECONDS
        if self._mean_pace:
            return max(self._mean_pace * len(positions), _START_SECONDS)
        return _UNKNOWN_SECONDS

    def _weight(self, positions: Sequence[int]) -> int:
        return sum(len(self._texts[position]) + 8 for position in positions)


def _nothing() -> None:
    pass


def share_of(
    lookup: Lookup, positions: Sequence[int], texts: Sequence[str], *, coalesce: bool
) -> AbstractContextManager[Work]:
    """The texts at ``positions``, to be shared with other workers if ``coalesce``."""
    return Share(lookup, positions, texts) if coalesce else nullcontext(Work(positions))
