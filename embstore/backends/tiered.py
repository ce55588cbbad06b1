"""A disk in front of a store that others share: a server, or a directory.

What this machine has is answered by its disk alone. What it has not is asked of the store behind,
the upstream, in one request, and kept. What it computes goes to both. Without its upstream it does
what it would do by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embstore.backends import open_backend, without_password
from embstore.backends.base import (
    Backend,
    Claimed,
    CompactReport,
    Found,
    History,
    NamespaceInfo,
    Progressed,
    VerifyReport,
    unheard,
)
from embstore.backends.behind import StoreBehind
from embstore.backends.disk.location import is_there
from embstore.backends.joins import Answer, absent, fit, join, nothing, once
from embstore.backends.rows import Array
from embstore.errors import NamespaceError, StoreError, StoreRefusedError
from embstore.faults import Faults, Warnings
from embstore.keys import Namespace

_MOST_UNSENT = 1_000_000
"""Digests that are remembered for an upstream that does not answer: 50 MB. What is more than that
stays on this machine."""


def open_tiered(
    location: str,
    upstream: str,
    on_error: str,
    *,
    warnings: Warnings,
    fetched: Callable[[int], object] = unheard,
    seed: int | None = None,
    read_only: bool = False,
    timeout: float = 60.0,
    size_limit: int | None = None,
) -> TieredBackend:
    """The store of this machine, in front of another.

    A new one takes the seed of its upstream, and a new upstream that of this machine's.

    Args:
        location: a directory, as :func:`~embstore.backends.resolve_location` gives it.
        upstream: location of the store behind, likewise.
        on_error: what happens when the upstream fails, as in :class:`~embstore.EmbeddingStore`.
        warnings: says what this machine's has to do without.
        fetched: called with a number of rows when so many were found upstream.
        seed: as in :func:`~embstore.backends.open_backend`, as are the others.

    Raises:
        StoreRefusedError: if one of them may not be used, or they have different seeds.
        StoreError: if the store cannot be opened; or if there is none yet, and the upstream, which
            has the seed, does not answer.
    """
    if "://" in location:
        raise StoreRefusedError(
            f"{location} is no directory: what stands in front of an upstream is this machine's",
            path=location,
        )
    how: dict[str, Any] = {"timeout": timeout, "read_only": read_only}
    shown = without_password(upstream)
    faults = Faults(shown, on_error)
    behind = StoreBehind(
        lambda: open_backend(upstream, seed=seed, warnings=faults.warnings, **how), faults
    )
    if not is_there(Path(location)) and seed is None:
        try:
            seed = behind.opened().seed
        except StoreRefusedError:
            raise
        except StoreError as error:
            raise StoreError(
                f"it is to be made with the seed of {shown}, which does not answer: {error}",
                path=location,
                cause=error.cause,
            ) from error
    near = open_backend(location, seed=seed, size_limit=size_limit, warnings=warnings, **how)
    seed = near.seed
    behind.reach()
    return TieredBackend(near, behind, read_only=read_only, fetched=fetched)


class TieredBackend:
    """A backend in front of another. See :class:`~embstore.backends.base.Backend` for what methods
    do; those that look after a store (``namespaces``, ``scan``, ``verify``, ``compact``, ``prune``,
    ``size``, ``history``) do so for this machine's part alone.

    Args:
        near: on this machine.
        upstream: shared with other machines; its digests have the same seed.
        read_only: whether ``near`` is not written to.
        fetched: called with a number of rows when so many were found upstream.
    """

    def __init__(
        self,
        near: Backend,
        upstream: StoreBehind,
        *,
        read_only: bool = False,
        fetched: Callable[[int], object] = unheard,
    ) -> None:
        self._near = near
        self._upstream = upstream
        self._read_only = read_only
        self._fetched = fetched
        self._paces: dict[bytes, float] = {}
        """By namespace id, the seconds that computing a vector took on average, upstream."""
        self._unsent: deque[tuple[Namespace, list[bytes], float]] = deque()
        self.location = near.location
        self.is_near = near.is_near

    @property
    def seed(self) -> int:
        """The seed of all digests."""
        return self._near.seed

    @property
    def corrupt(self) -> int:
        """Damaged rows found and left out so far, here and upstream."""
        return self._near.corrupt + self._upstream.corrupt

    # --- look-ups and commits -------------------------------------------------------------------

    def get_many(self, namespace: Namespace, digests: Sequence[bytes]) -> tuple[Array, Found]:
        """What is here, and of the rest what is upstream; that is kept here."""
        vectors, found = self._near.get_many(namespace, digests)
        if found.all():
            return vectors, found
        wanted = absent(digests, found)
        further = once(wanted, lambda distinct: self._fetch(namespace, distinct))
        return join((vectors, found), further) if fit(vectors, further[0]) else (vectors, found)

    def _fetch(self, namespace: Namespace, digests: Sequence[bytes]) -> Answer:
        """What is upstream; it is kept here."""
        answer = self._upstream.ask(lambda upstream: upstream.get_many(namespace, digests))
        if answer is None:
            return nothing(digests)
        vectors, found = answer[0]
        places = np.flatnonzero(found)
        self._upstream.count(namespace.id, len(places), len(digests) - len(places))
        if not len(places):
            return vectors, found
        self._fetched(len(places))
        if not self._read_only:
            self._keep(namespace, [digests[place] for place in places.tolist()], vectors[places])
        return vectors, found

    def _keep(self, namespace: Namespace, digests: list[bytes], vectors: Array) -> None:
        try:
            self._near.put_many(namespace, digests, vectors, self._cost(namespace, len(digests)))
        except (StoreError, NamespaceError, OSError):
            # They have been found. Whatever keeps this machine from writing is said when it has
            # computed something.
            return

    def _cost(self, namespace: Namespace, count: int) -> float:
        """What computing so many took those who did, so that seconds are told as saved here."""
        if namespace.id not in self._paces:
            answer = self._upstream.ask(lambda upstream: upstream.namespaces())
            for info in () if answer is None else answer[0]:
                pace = info.encode_seconds / info.computed if info.computed else 0.0
                self._paces.setdefault(info.namespace.id, pace)
        return count * self._paces.get(namespace.id, 0.0)

    def put_many(
        self,
        namespace: Namespace,
        digests: Sequence[bytes],
        vectors: Array,
        seconds: float = 0.0,
        owner: bytes | None = None,
    ) -> Found:
        """Upstream first: of a text that is stored there, its vector is stored here too, so that
        all machines have the same."""

        def pass_on(upstream: Backend) -> tuple[Array, Found]:
            self._send(upstream)
            new = upstream.put_many(namespace, digests, vectors, seconds, owner)
            if new.all():
                return vectors, new
            theirs = np.flatnonzero(~new)
            stored, found = upstream.get_many(namespace, absent(digests, new))
            if not found.any():
                return vectors, new
            ours = vectors.copy()
            ours[theirs[found]] = stored[found]
            return ours, new

        answer = self._upstream.ask(pass_on)
        if answer is None:
            new = self._near.put_many(namespace, digests, vectors, seconds, owner)
            places = np.flatnonzero(new).tolist()
            self._remember(namespace, [digests[place] for place in places], seconds)
            return new
        passed, new = answer[0]
        self._near.put_many(namespace, digests, passed, seconds, owner)
        return new

    def _remember(self, namespace: Namespace, digests: list[bytes], seconds: float) -> None:
        unsent = sum(len(digests) for _, digests, _ in [*self._unsent])
        if digests and unsent + len(digests) <= _MOST_UNSENT:
            self._unsent.append((namespace, digests, seconds))

    def _send(self, upstream: Backend) -> None:
        """Pass on what was computed while the upstream did not answer."""
        while self._unsent:
            namespace, digests, seconds = each = self._unsent.popleft()
            try:
                vectors, found = self._near.get_many(namespace, digests)
                there = [digests[place] for place in np.flatnonzero(found).tolist()]
                if there:
                    upstream.put_many(namespace, there, vectors[found], seconds)
            except BaseException:
                self._unsent.appendleft(each)
                raise

    def delete_many(self, namespace: Namespace, digests: Sequence[bytes]) -> int:
        """Upstream first. Other machines keep what they have."""
        gone = self._upstream.opened().delete_many(namespace, digests)
        return max(gone, self._near.delete_many(namespace, digests))

    def clear(self, namespace: Namespace) -> int:
        """Upstream first. Other machines keep what they have."""
        gone = self._upstream.opened().clear(namespace)
        return max(gone, self._near.clear(namespace))

    # --- claims: of the fleet, or of this machine if it is by itself ------------------------------

    def claim(
        self, namespace: Namespace, digests: Sequence[bytes], owner: bytes, most: int
    ) -> Claimed:
        """A claim among all machines."""
        answer = self._upstream.ask(
            lambda upstream: upstream.claim(namespace, digests, owner, most)
        )
        if answer is None:
            return self._near.claim(namespace, digests, owner, most)
        self._paces[namespace.id] = answer[0].pace
        return answer[0]

    def claimed(self, namespace: Namespace, digests: Sequence[bytes]) -> Found:
        """Claims of all machines."""
        answer = self._upstream.ask(lambda upstream: upstream.claimed(namespace, digests))
        return self._near.claimed(namespace, digests) if answer is None else answer[0]

    def release(self, namespace: Namespace, owner: bytes) -> None:
        """End a claim, wherever it was made."""
        self._upstream.ask(lambda upstream: upstream.release(namespace, owner))
        self._near.release(namespace, owner)

    # --- models ---------------------------------------------------------------------------------

    def get_identity(self, key: bytes) -> dict[str, Any] | None:
        """What was recorded here, or else upstream."""
        value = self._near.get_identity(key)
        if value is None:
            answer = self._upstream.ask(lambda upstream: upstream.get_identity(key))
            value = None if answer is None else answer[0]
            if value is not None and not self._read_only:
                self._near.put_identity(key, value)
        return value

    def identities(self) -> dict[bytes, dict[str, Any]]:
        """What was recorded here."""
        return self._near.identities()

    def put_identity(self, key: bytes, value: dict[str, Any]) -> None:
        """Record it here and upstream."""
        self._upstream.ask(lambda upstream: upstream.put_identity(key, value))
        self._near.put_identity(key, value)

    # --- this machine's part --------------------------------------------------------------------

    def watch(
        self,
        take_used: Callable[[], Mapping[bytes, list[bytes]]],
        take_counts: Callable[[], Mapping[bytes, tuple[int, int]]],
    ) -> None:
        self._near.watch(take_used, take_counts)

    def scan(self, namespace: Namespace) -> Iterator[tuple[list[bytes], Array]]:
        return self._near.scan(namespace)

    def namespaces(self) -> list[NamespaceInfo]:
        return self._near.namespaces()

    def history(self, namespace: Namespace) -> History:
        return self._near.history(namespace)

    def size(self) -> int:
        return self._near.size()

    def verify(self, progressed: Progressed = unheard) -> VerifyReport:
        return self._near.verify(progressed)

    def compact(self, progressed: Progressed = unheard) -> CompactReport:
        return self._near.compact(progressed)

    def prune(
        self,
        namespace: Namespace | None = None,
        *,
        max_size: int | None = None,
        older_than: float | None = None,
        progressed: Progressed = unheard,
    ) -> int:
        return self._near.prune(
            namespace, max_size=max_size, older_than=older_than, progressed=progressed
        )

    def close(self) -> None:
        """Pass on what the upstream did not get, if it answers now, and let go of both."""
        if self._unsent:
            self._upstream.ask(self._send)
        self._upstream.close()
        self._near.close()
