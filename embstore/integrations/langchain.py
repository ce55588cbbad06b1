"""LangChain: an ``Embeddings`` that embeds no text twice, and a byte store in an embstore store."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import numpy as np

from embstore.backends.rows import Array
from embstore.encoder import CachedEncoder
from embstore.integrations.embedder import Embedder, EncoderEmbedder, require
from embstore.lookup import as_vectors
from embstore.store import StoreLike

require("langchain_core", "langchain")

from langchain_core.embeddings import Embeddings  # noqa: E402

from embstore.integrations.langchain_bytes import EmbeddingByteStore  # noqa: E402

__all__ = ["CachedEmbeddings", "EmbeddingByteStore"]


class CachedEmbeddings(Embeddings):
    """An ``Embeddings`` whose vectors are kept, those of documents apart from those of queries.

    Vectors are kept as float32, the precision that models compute in, and returned as lists of
    Python floats: by the call that computes them the same as by all later ones. Of a provider's
    longer numbers, seven digits remain.

    The async methods use those of ``underlying`` where its class has its own, and else call the
    others in a thread. What concurrent calls lack is computed together.

    Args:
        underlying: any LangChain ``Embeddings``; or a ``CachedEncoder``, or what one can be made
            of: a ``SentenceTransformer``, its name, or its path.
        store: where vectors are kept, or its location; None is the default location.
        model_name: names the vectors of an ``Embeddings``, and is required for one: two models
            whose vectors differ must not share a name. A SentenceTransformer is known by its
            weights and settings.
        version: change it when the vectors of that name change.
        batch_size: most documents in one call of an ``Embeddings``; 256 by default.
        settings: what else decides the vectors of an ``Embeddings``, as JSON values, such as
            ``{"dimensions": 256}``.

    Attributes:
        underlying: as given.
        store: where vectors are kept.

    Raises:
        TypeError: if ``underlying`` is nothing that embeds texts.
        ValueError: if ``model_name`` is missing, or if something is given that has no meaning for
            this ``underlying``.

    >>> import tempfile
    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> from embstore import EmbeddingStore
    >>> store = EmbeddingStore(tempfile.mkdtemp())
    >>> embeddings = CachedEmbeddings(
    ...     DeterministicFakeEmbedding(size=8), store, model_name="fake", settings={"size": 8}
    ... )
    >>> vectors = embeddings.embed_documents(["a text", "another"])
    >>> embeddings.embed_documents(["another"]) == vectors[1:], store.stats().hits
    (True, 1)
    """

    def __init__(
        self,
        underlying: Any,
        store: StoreLike = None,
        *,
        model_name: str | None = None,
        version: str | None = None,
        batch_size: int | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.underlying = underlying
        self._embedder: Embedder | EncoderEmbedder
        if isinstance(underlying, Embeddings):
            if not model_name:
                raise ValueError(_why_a_name(underlying))
            calls = _Calls(underlying, model_name)
            self._embedder = Embedder(
                store,
                model_name,
                calls.documents,
                calls.queries,
                adocument=calls.adocuments if calls.has_own("aembed_documents") else None,
                aquery=calls.aqueries if calls.has_own("aembed_query") else None,
                version=version,
                batch_size=256 if batch_size is None else batch_size,
                settings=settings,
            )
        else:
            if batch_size is not None or settings is not None:
                raise ValueError(
                    "batch_size and settings are for a LangChain Embeddings: a SentenceTransformer "
                    "is known by its own settings, and CachedEncoder finds the batch size"
                )
            self._embedder = EncoderEmbedder(_encoder(underlying, store, model_name, version))
        self.store = self._embedder.store

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents, computing only those that are not stored.

        Args:
            texts: n documents.

        Returns:
            n vectors, each a list of dim floats.

        Raises:
            ModelOutputError: if the underlying gives something else than a vector for each.
        """
        return _as_lists(self._embedder.documents(_listed(texts)))

    def embed_query(self, text: str) -> list[float]:
        """Embed a query, unless it is stored.

        Args:
            text: the query.

        Returns:
            Its vector, dim floats.

        Raises:
            ModelOutputError: if the underlying gives something else than a vector.
        """
        return _as_lists(self._embedder.queries([text]))[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """:meth:`embed_documents`, async."""
        return _as_lists(await self._embedder.adocuments(_listed(texts)))

    async def aembed_query(self, text: str) -> list[float]:
        """:meth:`embed_query`, async."""
        return _as_lists(await self._embedder.aqueries([text]))[0]

    def __repr__(self) -> str:
        # By its class only: a LangChain object may show more of itself than belongs into a log.
        return f"CachedEmbeddings({type(self.underlying).__name__}, {self.store!r})"


def _why_a_name(underlying: Embeddings) -> str:
    # A `model` attribute is not taken: dimensions, a deployment, a base_url or a revision decide
    # vectors as well, each class has others, and a wrong guess would mix vectors of two models.
    why = (
        f"model_name is missing: vectors are kept under it, and nothing else of "
        f"{type(underlying).__name__} tells them from another model's"
    )
    for attribute in ("model", "model_name"):
        if isinstance(name := getattr(underlying, attribute, None), str):
            return (
                f"{why}. If {attribute}={name!r} is all that decides them, give "
                f"model_name={name!r}; what else does (dimensions, ...) goes into settings="
            )
    return why


def _encoder(
    underlying: Any, store: StoreLike, model_name: str | None, version: str | None
) -> CachedEncoder:
    if not isinstance(underlying, CachedEncoder):
        return CachedEncoder(underlying, store, model_name=model_name, version=version)
    if store not in (None, underlying.store) or model_name is not None or version is not None:
        raise ValueError("a CachedEncoder has a store, a name and a version already: give it alone")
    return underlying


class _Calls:
    """An ``Embeddings`` as :class:`Embedder` calls it: several queries at a time."""

    def __init__(self, underlying: Embeddings, model_name: str) -> None:
        self._underlying = underlying
        self._model_name = model_name

    def documents(self, texts: list[str]) -> Array:
        return self._as_floats(self._underlying.embed_documents(texts), texts)

    def queries(self, texts: list[str]) -> Array:
        return self._as_floats([self._underlying.embed_query(text) for text in texts], texts)

    async def adocuments(self, texts: list[str]) -> Array:
        return self._as_floats(await self._underlying.aembed_documents(texts), texts)

    async def aqueries(self, texts: list[str]) -> Array:
        # All at once, as whoever asked for them did.
        vectors = await asyncio.gather(*map(self._underlying.aembed_query, texts))
        return self._as_floats(vectors, texts)

    def has_own(self, method: str) -> bool:
        """Whether the class has a method of its own, and not the one that calls its sync twin in a
        thread."""
        return getattr(type(self._underlying), method) is not getattr(Embeddings, method)

    def _as_floats(self, output: Any, texts: list[str]) -> Array:
        # One dtype for all: of a vector that JSON brought as whole numbers, numpy makes integers.
        vectors = as_vectors(output, len(texts), self._model_name)
        return vectors.astype(np.float32, copy=False)


def _as_lists(vectors: Array) -> list[list[float]]:
    return cast(list[list[float]], vectors.astype(np.float64, copy=False).tolist())


def _listed(texts: Any) -> list[str]:
    if isinstance(texts, str):
        raise TypeError("documents are a list of texts: for a single one give [text]")
    return list(texts)
