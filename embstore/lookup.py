"""One call's texts: what of them is stored, what is missing, and the array that answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embstore.backends import rows
from embstore.backends.base import Found, all_of
from embstore.backends.rows import Array
from embstore.errors import CacheMissError, EmbstoreError, ModelOutputError, NamespaceError
from embstore.halves import narrow, widen
from embstore.keys import Namespace
from embstore.online import Gatherer, Group
from embstore.store import EmbeddingStore

_SHOWN = 5


class Lookup:
    """Texts looked up in a store, to be completed by whoever can compute the missing ones.

    Args:
        store: where they were looked up.
        namespace: what else decides the vectors.
        texts: n texts, repeats allowed.
        digests: of each.
        vectors: what was found, (n, dim).
        found: for which, (n,) bool.

    Attributes:
        store: where they were looked up.
        namespace: what else decides the vectors.
        missing: positions of the missing texts, each text once, in the order given.
    """

    __slots__ = (
        *("store", "namespace", "missing", "_texts", "_digests", "_vectors", "_as_halves"),
        *("_absent", "_first", "_open"),
    )

    def __init__(
        self,
        store: EmbeddingStore,
        namespace: Namespace,
        texts: Sequence[str],
        digests: list[bytes],
        vectors: Array,
        found: Found,
    ) -> None:
        self.store = store
        self.namespace = namespace
        self._texts = texts
        self._digests = digests
        self._as_halves = namespace.stored_as == "float16"
        self._vectors = self._widen(vectors)
        self._absent: list[int] = [] if all_of(found) else np.flatnonzero(~found).tolist()
        self._first: dict[bytes, int] = {}
        for position in self._absent:
            self._first.setdefault(self._digests[position], position)
        self.missing = list(self._first.values())
        self._open = set(self.missing)

    @classmethod
    def find(cls, store: EmbeddingStore, namespace: Namespace, texts: Sequence[str]) -> Lookup:
        """Look texts up."""
        digests = store.digests(texts)
        return cls(store, namespace, texts, digests, *store.find(namespace, digests))

    @classmethod
    def absent(
        cls,
        store: EmbeddingStore,
        namespace: Namespace,
        texts: Sequence[str],
        digests: list[bytes],
    ) -> Lookup:
        """Texts that others have looked up, and not found."""
        count = len(texts)
        nothing = np.zeros((count, 0), np.float32), np.zeros(count, np.bool_)
        return cls(store, namespace, texts, digests, *nothing)

    def digests(self, positions: Sequence[int]) -> list[bytes]:
        """The digests of the texts at some positions."""
        return [self._digests[position] for position in positions]

    def look_again(self, positions: Sequence[int]) -> list[int]:
        """Look for texts at some of the :attr:`missing` positions once more: others may have stored
        them meanwhile. Returns the positions of those that are missing still."""
        if not positions:
            return []
        digests = self.digests(positions)
        vectors, found = self.store.find(self.namespace, digests, again=True)
        places = np.flatnonzero(found).tolist()
        if places:
            self._fill([positions[place] for place in places], self._widen(vectors[places]))
        return [positions[place] for place in np.flatnonzero(~found).tolist()]

    def raise_if_missing(self) -> None:
        """Raise CacheMissError unless every text was found."""
        if self.missing:
            shown = self.missing[:_SHOWN]
            first = tuple(self._texts[position] for position in shown)
            raise CacheMissError(
                f"{len(self.missing):,} of {len(self._texts):,} texts are not stored for "
                f"{self.namespace.model_name}; the first: "
                + ", ".join(f"{text[:60]!r}" for text in first),
                missing=len(self.missing),
                total=len(self._texts),
                first=first,
                indices=tuple(shown),
                namespace=self.namespace,
            )

    def fill(self, positions: Sequence[int], output: Any) -> Array:
        """Take what a model gave for the texts at ``positions`` (some of :attr:`missing`).

        Args:
            positions: k positions.
            output: the model's (k, dim) vectors, as an array or nested lists.

        Returns:
            The vectors, (k, dim), as they are to be stored, for :meth:`keep`.

        Raises:
            ModelOutputError: if that is not one vector of the right length for each.
        """
        vectors = as_vectors(output, len(positions), self.namespace.model_name)
        if not self._as_halves or vectors.dtype.kind != "f":
            self._fill(positions, vectors)
            return vectors
        # Rounded in what is returned too: the next call finds the same.
        halves = narrow(vectors, self.namespace.model_name)
        finite = bool(np.isfinite(halves).all())
        self._fill(positions, widen(halves) if finite else halves.astype(np.float32))
        return halves

    def _widen(self, vectors: Array) -> Array:
        return widen(vectors) if self._as_halves and vectors.dtype == np.float16 else vectors

    def keep(
        self,
        positions: Sequence[int],
        vectors: Array,
        seconds: float,
        owner: bytes | None = None,
    ) -> bool:
        """Store vectors that were taken.

        Args:
            positions: k positions.
            vectors: (k, dim), what :meth:`fill` gave.
            seconds: what computing them took.
            owner: whose claim on them ends with this.

        Returns:
            Whether the store took them.

        Raises:
            ModelOutputError: if vectors of another kind are stored.
        """
        digests = self.digests(positions)
        try:
            kept = self.store.keep(self.namespace, digests, vectors, seconds, owner)
        except NamespaceError as error:  # other vectors are stored that were not looked up here
            raise ModelOutputError(str(error), model_name=self.namespace.model_name) from error
        self.store.count(encode_seconds=seconds)
        return kept

    def complete(
        self,
        positions: Sequence[int],
        output: Any,
        seconds: float,
        owner: bytes | None = None,
    ) -> bool:
        """:meth:`fill` and :meth:`keep`."""
        return self.keep(positions, self.fill(positions, output), seconds, owner)

    async def complete_together(self, gatherer: Gatherer[Group], group: Group) -> None:
        """Have all that is missing computed, and stored, together with what other requests lack.

        Args:
            gatherer: of the running event loop.
            group: what the texts may be computed together with.

        Raises:
            ModelOutputError: if the vectors do not go with those found.
        """
        if not self.missing:
            return
        lacking = {digest: self._texts[position] for digest, position in self._first.items()}
        vectors, shared = await gatherer.request(group, lacking)
        for position, vector in zip(self.missing, vectors, strict=True):
            self._fill([position], vector[None])
        # What another request had computed anyway is no miss of this one.
        self.store.count_shared(self.namespace, shared)

    def _fill(self, positions: Sequence[int], vectors: Array) -> None:
        """Put in computed vectors, (k, dim), for k positions."""
        name = self.namespace.model_name
        if self._vectors.shape[1] != vectors.shape[1]:
            if self._vectors.shape[1] != 0:
                raise ModelOutputError(
                    f"{name} returned vectors of {vectors.shape[1]} numbers where those stored "
                    f"or returned before have {self._vectors.shape[1]}: if it is another model, "
                    "give it another name or version",
                    model_name=name,
                )
            self._vectors = np.zeros((len(self._texts), vectors.shape[1]), vectors.dtype)
        if self._vectors.dtype != vectors.dtype:
            raise ModelOutputError(
                f"{name} returned {vectors.dtype} where {self._vectors.dtype} is stored: if it is "
                "another model, give it another name or version",
                model_name=name,
            )
        self._vectors[list(positions)] = vectors
        self._open.difference_update(positions)

    def vectors(self) -> Array:
        """The (n, dim) array, the caller's own.

        Raises:
            EmbstoreError: if something that is missing has not been completed: zeros are no vector.
        """
        if self._open:
            raise EmbstoreError(f"{len(self._open):,} texts were not computed: please report this")
        if len(self._absent) > len(self.missing):
            # Every repeat of a text that was missing gets what the first of them got.
            sources = [self._first[self._digests[position]] for position in self._absent]
            self._vectors[self._absent] = self._vectors[sources]
        return self._vectors


def as_vectors(output: Any, count: int, model_name: str) -> Array:
    """A model's output as (count, dim) numbers.

    Raises:
        ModelOutputError: if it is anything else.
    """
    try:
        return rows.as_vectors(output, count)
    except NamespaceError as error:
        raise ModelOutputError(f"{model_name}: {error}", model_name=model_name) from error
