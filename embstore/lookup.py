"""One call's texts: what of them is stored, what is missing, and the array that answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embstore.backends import rows
from embstore.backends.rows import Array
from embstore.errors import CacheMissError, ModelOutputError, NamespaceError
from embstore.keys import Namespace
from embstore.store import EmbeddingStore

_SHOWN = 5


class Lookup:
    """Texts looked up in a store, to be completed by whoever can compute the missing ones.

    Args:
        store: where to look.
        namespace: what else decides the vectors.
        texts: n texts, repeats allowed.

    Attributes:
        missing: positions of the missing texts, each text once, in the order given.
    """

    def __init__(self, store: EmbeddingStore, namespace: Namespace, texts: Sequence[str]) -> None:
        self._store = store
        self._namespace = namespace
        self._texts = texts
        self._digests = store.digests(texts)
        self._vectors, found = store.find(namespace, self._digests)
        self._absent: list[int] = np.flatnonzero(~found).tolist()
        first: dict[bytes, int] = {}
        for position in self._absent:
            first.setdefault(self._digests[position], position)
        self.missing = list(first.values())

    def raise_if_missing(self) -> None:
        """Raise CacheMissError unless every text was found."""
        if self.missing:
            shown = self.missing[:_SHOWN]
            first = tuple(self._texts[position] for position in shown)
            raise CacheMissError(
                f"{len(self.missing):,} of {len(self._texts):,} texts are not stored for "
                f"{self._namespace.model_name}; the first: "
                + ", ".join(f"{text[:60]!r}" for text in first),
                missing=len(self.missing),
                total=len(self._texts),
                first=first,
                indices=tuple(shown),
                namespace=self._namespace,
            )

    def complete(self, positions: Sequence[int], output: Any, seconds: float) -> None:
        """Store what a model gave for the texts at ``positions`` (some of :attr:`missing`).

        Args:
            positions: k positions.
            output: the model's (k, dim) vectors, as an array or nested lists.
            seconds: what computing them took.

        Raises:
            ModelOutputError: if that is not one vector of the right length for each.
        """
        name = self._namespace.model_name
        vectors = as_vectors(output, len(positions), name)
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
        digests = [self._digests[position] for position in positions]
        self._store.keep(self._namespace, digests, vectors, seconds)
        self._store.count(encode_seconds=seconds)

    def vectors(self) -> Array:
        """The (n, dim) array, the caller's own. Everything missing must have been completed."""
        if len(self._absent) > len(self.missing):
            # Every repeat of a text that was missing gets what the first of them got.
            first = {self._digests[position]: position for position in self.missing}
            sources = [first[self._digests[position]] for position in self._absent]
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
