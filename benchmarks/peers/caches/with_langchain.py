"""LangChain's ``CacheBackedEmbeddings`` on its ``LocalFileStore``: a JSON file for each text.

Both moved from ``langchain`` to ``langchain-classic`` with LangChain 1.0.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_classic.storage import LocalFileStore
from langchain_core.embeddings import Embeddings

if TYPE_CHECKING:
    from benchmarks.peers.base import Array


class _NoModel(Embeddings):
    """Makes sure that nothing is computed."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Only called for what is not stored."""
        raise KeyError("a text is not stored")

    def embed_query(self, text: str) -> list[float]:
        """Likewise."""
        raise KeyError("a text is not stored")


class LangChain:
    """With SHA-256 as keys: the default, SHA-1, warns that it can be forged, and is no faster."""

    def __init__(self, folder: Path, dim: int) -> None:
        self._embeddings = CacheBackedEmbeddings.from_bytes_store(
            _NoModel(), LocalFileStore(folder), namespace="model", key_encoder="sha256"
        )

    def put(self, texts: list[str], vectors: Array) -> None:
        """Store lists of floats, as it wants them, without asking first what is stored."""
        self._embeddings.document_embedding_store.mset(
            list(zip(texts, vectors.tolist(), strict=True))
        )

    def get(self, texts: list[str]) -> Array:
        """Lists of floats, made an array."""
        return np.array(self._embeddings.embed_documents(texts), np.float32)

    def close(self) -> None:
        """Nothing is open."""
