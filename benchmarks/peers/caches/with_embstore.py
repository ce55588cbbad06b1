"""embstore itself, by its store: no model, as with the peers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embstore import EmbeddingStore, Namespace

if TYPE_CHECKING:
    from benchmarks.peers.base import Array

_NAMESPACE = Namespace("benchmark")


class Embstore:
    """An :class:`EmbeddingStore` with its default settings."""

    def __init__(self, folder: Path, dim: int, memory_limit: int | str = "256MB") -> None:
        self._store = EmbeddingStore(folder, memory_limit=memory_limit, on_error="raise")

    def put(self, texts: list[str], vectors: Array) -> None:
        """One transaction."""
        self._store.put_many(_NAMESPACE, texts, vectors)

    def get(self, texts: list[str]) -> Array:
        """One look-up."""
        vectors, found = self._store.get_many(_NAMESPACE, texts)
        if not found.all():
            raise KeyError("a text is not stored")
        return vectors

    def close(self) -> None:
        """Close the store."""
        self._store.close()


class DiskTier(Embstore):
    """The same without its memory tier."""

    def __init__(self, folder: Path, dim: int) -> None:
        super().__init__(folder, dim, memory_limit=0)
