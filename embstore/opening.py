"""Opening what is behind a store's memory."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

from embstore.backends import open_backend
from embstore.backends.base import Backend
from embstore.backends.tiered import open_tiered
from embstore.claims import Claims
from embstore.faults import Faults
from embstore.memory import MemoryTier
from embstore.stats import Counters
from embstore.tiers import Tiers
from embstore.units import parse_bytes


class Opened(NamedTuple):
    """What a store works with."""

    backend: Backend | None
    """None if it could not be opened."""
    claims: Claims
    tiers: Tiers
    seed: int
    """Of the digests: without a backend any, as they are of use in this process only."""


def open_behind(
    given: Mapping[str, Any], memory: MemoryTier, faults: Faults, counters: Counters
) -> Opened:
    """Open the backend of a store, and put its memory in front.

    Args:
        given: the arguments of the :class:`~embstore.store.EmbeddingStore`.
        memory: its memory tier.
        faults: what happens if there is no opening it.
        counters: count what is done.

    Raises:
        StoreRefusedError: if it must not be used as it is.
        StoreError: if it can be neither opened nor made, and faults are to be raised.
    """
    location, upstream, on_error = given["location"], given["upstream"], given["on_error"]
    how = {name: given[name] for name in ("timeout", "read_only", "seed")}
    how |= {"size_limit": parse_bytes(given["size_limit"]), "warnings": faults.warnings}

    def opened() -> Backend:
        if upstream is None:
            return open_backend(location, **how)
        return open_tiered(location, upstream, on_error, fetched=counters.fetched, **how)

    nothing: Backend | None = None
    backend = faults.guard(opened, nothing)
    seed = given["seed"] or 1 + secrets.randbelow(2**63 - 1)
    if backend is not None:
        backend.watch(memory.take_used, counters.take_counts)
        seed = backend.seed
    claims = Claims(None if given["read_only"] else backend)
    tiers = Tiers(memory, backend, faults, claims, counters, read_only=given["read_only"])
    return Opened(backend, claims, tiers, seed)
