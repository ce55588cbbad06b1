"""Stores to copy from and to, and the copying of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from embstore.backends import open_backend, resolve_location
from embstore.backends.base import Backend, NamespaceInfo
from embstore.backends.rows import Array
from embstore.errors import NamespaceError, StoreError, StoreRefusedError
from embstore.keys import Namespace
from embstore.moving.manifest import Part
from embstore.store import EmbeddingStore, StoreLike

Chosen = Namespace | Iterable[Namespace] | None
"""One namespace, several, or all."""


@dataclass(frozen=True)
class MoveReport:
    """What was moved.

    Attributes:
        namespaces: how many namespaces were.
        rows: vectors that were found.
        stored: those that were not there before.
        damaged: rows that were left out because they are damaged at their source.
    """

    namespaces: int
    rows: int
    stored: int
    damaged: int = 0


def location_of(place: StoreLike) -> str:
    """Where a store is, with its password if it has one."""
    if isinstance(place, EmbeddingStore):
        place = str(place.__getstate__()["location"])
    return resolve_location(place)


@contextmanager
def reading(place: StoreLike) -> Iterator[Backend]:
    """A store to copy from. It may be open elsewhere, and read-only.

    A backend of its own: that a vector is copied must not make it look used, or ``size_limit``
    and ``prune`` would drop others for it.

    Raises:
        StoreError: if there is no store, or it cannot be read.
    """
    backend = open_backend(location_of(place), read_only=True)
    try:
        yield backend
    finally:
        backend.close()


@contextmanager
def writing(place: StoreLike, seed: int, source: str) -> Iterator[Backend]:
    """A store to copy to. Where there is none it is made, with the seed of what is copied.

    Args:
        place: the store.
        seed: seed of the digests that are copied.
        source: where these come from, for the message if they cannot go there.

    Raises:
        StoreRefusedError: if the store has another seed.
        StoreError: if it cannot be opened or written.
    """
    if isinstance(place, EmbeddingStore):
        place.refuse_if_read_only()
        backend = place.backend
        if backend.seed != seed:
            raise _other_seed(backend, source)
        yield backend
        return
    try:
        store = EmbeddingStore(place, seed=seed, on_error="raise")
    except StoreRefusedError as refusal:
        raise _explained(refusal, place, seed, source) from None
    with store:
        yield store.backend


def _explained(
    refusal: StoreRefusedError, place: StoreLike, seed: int, source: str
) -> StoreRefusedError:
    """Why a store is not to be written: most likely it has another seed."""
    try:
        with reading(place) as store:
            return refusal if store.seed == seed else _other_seed(store, source)
    except StoreError:
        return refusal


def _other_seed(store: Backend, source: str) -> StoreRefusedError:
    if any(info.entries for info in store.namespaces()):
        advice = (
            "Choose a location where there is no store yet; stores that are to exchange vectors "
            "are all made with one seed: EmbeddingStore(location, seed=...)"
        )
    else:
        advice = "It is empty: remove it, and it is made again with the right seed"
    return StoreRefusedError(
        f"{store.location} has another seed than {source}: the same text has another digest "
        f"there, and would not be found. {advice}",
        path=store.location,
    )


T = TypeVar("T", NamespaceInfo, Part)


def select(there: Sequence[T], chosen: Chosen, source: str) -> list[T]:
    """Those of the namespaces that hold anything and are chosen.

    Raises:
        NamespaceError: if nothing is stored under one that was asked for.
        TypeError: if something else than a namespace was.
    """
    there = [each for each in there if _rows(each)]
    if chosen is None:
        return there
    wanted = {chosen} if isinstance(chosen, Namespace) else set(chosen)
    if any(not isinstance(namespace, Namespace) for namespace in wanted):
        raise TypeError(
            f"namespaces= takes embstore.Namespace, not {chosen!r}: store.namespaces() has them"
        )
    for namespace in wanted - {each.namespace for each in there}:
        raise NamespaceError(
            f"{source} has no vectors under {namespace.model_name}, namespace {namespace.id.hex()}",
            namespace=namespace,
        )
    return [each for each in there if each.namespace in wanted]


def _rows(each: NamespaceInfo | Part) -> int:
    return each.rows if isinstance(each, Part) else each.entries


def refuse_misfits(stores: Iterable[tuple[str, Iterable[NamespaceInfo | Part]]]) -> None:
    """Raise NamespaceError if vectors under one namespace differ in dtype or dim: before anything
    is copied.

    Args:
        stores: what each has, by where it is.
    """
    first: dict[Namespace, tuple[str, str]] = {}
    for where, there in stores:
        for each in there:
            layout = f"{each.dim} x {each.dtype}"
            elsewhere, other = first.setdefault(each.namespace, (where, layout))
            if other != layout:
                raise NamespaceError(
                    f"{each.namespace.model_name}: {where} has vectors of {layout}, and "
                    f"{elsewhere} of {other} under the same namespace; clear it in one of them",
                    namespace=each.namespace,
                )


def absorb(
    into: Backend, namespace: Namespace, digests: list[bytes], vectors: Array, pace: float
) -> int:
    """Store what is not there yet; returns how many vectors that was.

    Args:
        into: the store.
        namespace: the namespace.
        digests: n digests.
        vectors: (n, dim).
        pace: seconds that computing one took.
    """
    # Looked up first: what took nobody any time here must not count as if it had.
    found = into.get_many(namespace, digests)[1]
    if found.any():
        new = np.flatnonzero(~found).tolist()
        digests, vectors = [digests[number] for number in new], vectors[new]
    if not digests:
        return 0
    return int(np.count_nonzero(into.put_many(namespace, digests, vectors, pace * len(digests))))
