"""LlamaIndex: a ``BaseEmbedding`` that embeds no text twice."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import numpy as np

from embstore.backends.rows import Array
from embstore.encoder import CachedEncoder
from embstore.integrations.embedder import Embedder, EncoderEmbedder, require
from embstore.lookup import as_vectors
from embstore.online import OnlineBatching
from embstore.store import EmbeddingStore, StoreLike

require("llama_index.core", "llama-index")

from llama_index.core.base.embeddings.base import BaseEmbedding  # noqa: E402
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr  # noqa: E402

__all__ = ["CachedEmbedding"]

_MOST_TEXTS = 2048
"""LlamaIndex hands over no more at a time, and allows no larger ``embed_batch_size``."""


class CachedEmbedding(BaseEmbedding):
    """A ``BaseEmbedding`` whose vectors are kept, those of texts apart from those of queries.

    Vectors are kept as float32, the precision that models compute in, and returned as lists of
    Python floats: by the call that computes them the same as by all later ones.

    Events and spans are fired as for any other embedding model, hits included. The underlying is
    asked for what is missing only, in batches of its own ``embed_batch_size``, under its own
    ``rate_limiter``, and fires no events of its own. Async methods use its async ones where its
    class has any, and else call the others in a thread.

    ``to_dict`` tells which vectors these are, so that an ``IngestionPipeline`` with a cache works.
    It holds neither the underlying, whose keys to a service do not belong there, nor the store:
    ``from_dict(data, underlying=..., store=...)`` wants both again.

    Args:
        underlying: any LlamaIndex ``BaseEmbedding``; or a ``CachedEncoder``, or what one can be
            made of: a ``SentenceTransformer``, its name, or its path.
        store: where vectors are kept, or its location; None is the default location.
        model_name: names the vectors of a ``BaseEmbedding``, and is required for one: two models
            whose vectors differ must not share a name. A SentenceTransformer is known by its
            weights and settings.
        version: change it when the vectors of that name change.
        settings: what else decides the vectors of a ``BaseEmbedding``, as JSON values, such as
            ``{"dimensions": 256}``.
        embed_batch_size: most texts looked up together, and in one event.
        **fields: as in ``BaseEmbedding``: ``callback_manager``; ``num_workers``, which also is
            the most calls of the underlying at a time in async methods; and others.

    Attributes:
        underlying: as given.
        store: where vectors are kept.
        version: as given.
        settings: as given.

    Raises:
        TypeError: if ``underlying`` is nothing that embeds texts.
        ValueError: if ``model_name`` is missing, or if something is given that has no meaning for
            this ``underlying``, or another cache (``embeddings_cache``).

    >>> import tempfile
    >>> from llama_index.core import MockEmbedding
    >>> store = EmbeddingStore(tempfile.mkdtemp())
    >>> embedding = CachedEmbedding(MockEmbedding(embed_dim=3), store, model_name="mock, 3")
    >>> for _ in range(2):
    ...     vectors = embedding.get_text_embedding_batch(["a text", "another"])
    >>> vectors, store.stats().hits
    ([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]], 2)
    """

    # A mistyped "settings" that is ignored would mix vectors.
    model_config = ConfigDict(extra="forbid")

    # What names the vectors cannot be changed later: they would be stored under the first name.
    model_name: str = Field(frozen=True, description="The name that the vectors are kept under.")
    version: str | None = Field(default=None, frozen=True)
    settings: dict[str, Any] = Field(default_factory=dict, frozen=True)
    underlying: Any = Field(exclude=True, repr=False, frozen=True)
    store: EmbeddingStore = Field(exclude=True, frozen=True)

    _embedder: Embedder | EncoderEmbedder | None = PrivateAttr(default=None)

    def __init__(
        self,
        underlying: Any,
        store: StoreLike = None,
        *,
        model_name: str | None = None,
        version: str | None = None,
        settings: dict[str, Any] | None = None,
        embed_batch_size: int = _MOST_TEXTS,
        **fields: Any,
    ) -> None:
        embedder: Embedder | EncoderEmbedder
        _refuse_other_cache(fields.get("embeddings_cache"))
        if isinstance(underlying, BaseEmbedding):
            _refuse_other_cache(underlying.embeddings_cache)
            if not model_name:
                raise ValueError(_why_a_name(underlying))
            calls = _Calls(underlying, model_name)
            size = underlying.embed_batch_size
            embedder = Embedder(
                store,
                model_name,
                calls.texts,
                calls.queries,
                adocument=calls.atexts if calls.has_async_texts else None,
                aquery=calls.aqueries,
                version=version,
                batch_size=size,
                online=OnlineBatching(size, concurrency=fields.get("num_workers") or _MOST_TEXTS),
                settings=settings,
            )
        elif settings:
            raise ValueError(
                "settings is for a LlamaIndex BaseEmbedding: a SentenceTransformer is known by its "
                "own settings"
            )
        else:
            encoder = _encoder(underlying, store, model_name, version)
            embedder, model_name = EncoderEmbedder(encoder), encoder.namespace().model_name
        fields |= {
            "underlying": underlying,
            "store": embedder.store,
            "model_name": model_name,
            "version": version,
            "settings": settings or {},
            "embed_batch_size": embed_batch_size,
        }
        super().__init__(**fields)
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        """Its name in what LlamaIndex writes."""
        return "CachedEmbedding"

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> CachedEmbedding:
        """Make one from what ``to_dict`` gave.

        Args:
            data: of ``to_dict``.
            **kwargs: ``underlying``, ``store``, and whatever is to be another than in ``data``.

        Raises:
            ValueError: if ``underlying`` is not given.
        """
        if "underlying" not in kwargs:
            raise ValueError(
                f"to_dict() holds no model: give it, as in {cls.__name__}.from_dict(data, "
                "underlying=model, store=store)"
            )
        return super().from_dict(data, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # The base class leaves out, with a warning, what cannot be pickled; __init__, which it
        # calls for the copy, makes the embedder anew.
        bare = self.model_copy()
        bare._embedder = None
        return super(CachedEmbedding, bare).__getstate__()

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return _as_lists(self._cached.documents(texts))

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return _as_lists(await self._cached.adocuments(texts))

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return _as_lists(self._cached.queries([query]))[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return _as_lists(await self._cached.aqueries([query]))[0]

    @property
    def _cached(self) -> Embedder | EncoderEmbedder:
        assert self._embedder is not None
        return self._embedder


def _refuse_other_cache(embeddings_cache: Any) -> None:
    if embeddings_cache is not None:
        raise ValueError(
            "embeddings_cache is LlamaIndex's own cache, which knows a vector by its text alone: "
            "leave it out, as the store takes its place"
        )


def _why_a_name(underlying: BaseEmbedding) -> str:
    # Its own model_name is not taken: dimensions, instructions, pooling or a base_url decide
    # vectors as well, each class has others, and a wrong guess would mix vectors of two models.
    # Nor its to_dict(), in which keys to a service may stand.
    why = (
        "model_name is missing: vectors are kept under it, and nothing else of "
        f"{type(underlying).__name__} tells them from another model's"
    )
    own = underlying.model_name
    if own == BaseEmbedding.model_fields["model_name"].default:
        return why
    return (
        f"{why}. If its own is all that decides them, give model_name={own!r}; what else does "
        "(dimensions, instructions, ...) goes into settings="
    )


def _encoder(
    underlying: Any, store: StoreLike, model_name: str | None, version: str | None
) -> CachedEncoder:
    if not isinstance(underlying, CachedEncoder):
        return CachedEncoder(underlying, store, model_name=model_name, version=version)
    # Its own name is no harm: a copy of this object is made with all that the first one had.
    names = (None, underlying.namespace().model_name)
    if store not in (None, underlying.store) or model_name not in names or version is not None:
        raise ValueError("a CachedEncoder has a store, a name and a version already: give it alone")
    return underlying


class _Calls:
    """A ``BaseEmbedding`` as :class:`Embedder` calls it.

    Below its public methods, which would fire every event a second time; so its rate limiter is
    asked here.
    """

    def __init__(self, underlying: BaseEmbedding, model_name: str) -> None:
        self._underlying = underlying
        self._model_name = model_name

    @property
    def has_async_texts(self) -> bool:
        """Whether the class has an async method of its own, and not only those that block the
        event loop with the sync ones."""
        own = type(self._underlying)
        return any(
            getattr(own, method) is not getattr(BaseEmbedding, method)
            for method in ("_aget_text_embedding", "_aget_text_embeddings")
        )

    def texts(self, texts: list[str]) -> Array:
        self._wait_for_turn()
        return self._as_floats(self._underlying._get_text_embeddings(texts), texts)

    async def atexts(self, texts: list[str]) -> Array:
        await self._await_turn()
        return self._as_floats(await self._underlying._aget_text_embeddings(texts), texts)

    def queries(self, texts: list[str]) -> Array:
        return self._as_floats([self._query(text) for text in texts], texts)

    async def aqueries(self, texts: list[str]) -> Array:
        # All at once, as whoever asked for them did.
        return self._as_floats(await asyncio.gather(*map(self._aquery, texts)), texts)

    def _query(self, text: str) -> list[float]:
        self._wait_for_turn()
        return self._underlying._get_query_embedding(text)

    async def _aquery(self, text: str) -> list[float]:
        await self._await_turn()
        return await self._underlying._aget_query_embedding(text)

    def _wait_for_turn(self) -> None:
        if (limiter := self._underlying.rate_limiter) is not None:
            limiter.acquire()

    async def _await_turn(self) -> None:
        if (limiter := self._underlying.rate_limiter) is not None:
            await limiter.async_acquire()

    def _as_floats(self, output: Any, texts: list[str]) -> Array:
        # One dtype for all: of a vector that JSON brought as whole numbers, numpy makes integers.
        vectors = as_vectors(output, len(texts), self._model_name)
        return vectors.astype(np.float32, copy=False)


def _as_lists(vectors: Array) -> list[list[float]]:
    return cast(list[list[float]], vectors.astype(np.float64, copy=False).tolist())
