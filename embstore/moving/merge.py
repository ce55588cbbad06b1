"""Stores with one seed into one."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from embstore.backends import without_password
from embstore.backends.base import Backend, NamespaceInfo, Progressed, unheard
from embstore.errors import StoreRefusedError
from embstore.moving.places import (
    Chosen,
    MoveReport,
    absorb,
    location_of,
    reading,
    refuse_misfits,
    select,
    writing,
)
from embstore.store import StoreLike


def merge(
    target: StoreLike,
    *sources: StoreLike,
    namespaces: Chosen = None,
    progressed: Progressed = unheard,
) -> MoveReport:
    """Copy the vectors of some stores into another, all of one seed.

    A text that is stored in several keeps the vector of the target, else that of the first source.
    Nothing is copied unless all can be. Each chunk of rows is one commit, so a merge that was
    interrupted is just done again.

    Args:
        target: a store or its location; where there is none it is made, with the sources' seed.
        sources: stores or their locations; they may be read-only, and in use.
        namespaces: one :class:`~embstore.Namespace`, several, or all (None). A source need not have
            each of them.
        progressed: called with a number of rows when so many more are done.

    Raises:
        NamespaceError: if one has vectors of another dtype or dim than another under the same
            namespace, or none has anything under one asked for.
        StoreError: if a source cannot be read, or the target cannot be written.
        StoreRefusedError: if not all have one seed.
        ValueError: if there is no source, or the target is one of them.
    """
    if not sources:
        raise ValueError("name the stores to copy from")
    with ExitStack() as stack:
        opened = [stack.enter_context(reading(source)) for source in sources]
        for each in opened:
            if _same(each.location, location_of(target)):
                raise ValueError(f"{each.location} is where to copy to, and cannot be a source")
        _refuse_other_seeds(opened)
        there = [store.namespaces() for store in opened]
        every = [info for infos in there for info in infos]
        names = ", ".join(store.location for store in opened)
        wanted = {info.namespace for info in select(every, namespaces, names)}
        chosen = [[info for info in infos if info.namespace in wanted] for infos in there]
        into = stack.enter_context(writing(target, opened[0].seed, opened[0].location))
        places = [into.location, *(store.location for store in opened)]
        refuse_misfits(zip(places, [into.namespaces(), *chosen], strict=True))
        rows = stored = 0
        for store, infos in zip(opened, chosen, strict=True):
            found, new = copy(store, infos, into, progressed)
            rows, stored = rows + found, stored + new
        return MoveReport(len(wanted), rows, stored, sum(store.corrupt for store in opened))


def copy(
    store: Backend, infos: list[NamespaceInfo], into: Backend, progressed: Progressed
) -> tuple[int, int]:
    """Copy namespaces; returns how many rows there were, and how many of them were new."""
    rows = stored = 0
    for info in infos:
        pace = info.encode_seconds / info.computed if info.computed else 0.0
        for digests, vectors in store.scan(info.namespace):
            stored += absorb(into, info.namespace, digests, vectors, pace)
            rows += len(digests)
            progressed(len(digests))
    return rows, stored


def _same(source: str, target: str) -> bool:
    if "://" in target:
        return source == without_password(target)
    return Path(source).resolve() == Path(target).resolve()


def _refuse_other_seeds(stores: list[Backend]) -> None:
    for each in stores:
        if each.seed != stores[0].seed:
            raise StoreRefusedError(
                f"{each.location} has another seed than {stores[0].location}: the same text has "
                "another digest there, so the two cannot be merged. Stores that are to exchange "
                "vectors are all made with one seed: EmbeddingStore(location, seed=...)",
                path=each.location,
            )
