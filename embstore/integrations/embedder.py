"""What the integrations have in common: another library's embedder, cached."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np

from embstore.backends.rows import Array
from embstore.decorator import cached
from embstore.encoder import CachedEncoder
from embstore.keys import Namespace
from embstore.online import OnlineBatching
from embstore.store import StoreLike, as_store

Kind = Literal["document", "query"]
Embed = Callable[[list[str]], Any]
"""From n texts to (n, dim) vectors, as lists or as an array."""
AsyncEmbed = Callable[[list[str]], Awaitable[Any]]


class Embedder:
    """Documents and queries of one model, in namespaces of their own: many models embed them
    differently, and nobody can tell from outside which do.

    Sync and async calls of one kind share a namespace.

    Args:
        store: where vectors are kept, or its location; None is the default location.
        model_name: names the vectors: two models whose vectors differ must not share one.
        document: embeds documents.
        query: embeds queries; None if ``document`` does that too, and queries are documents then.
        adocument: as ``document``, async; None to call ``document`` in a thread.
        aquery: as ``query``, async.
        version: change it when the vectors change.
        batch_size: most texts in one call.
        online: how concurrent async calls are gathered; as in :func:`~embstore.decorator.cached`.
        settings: what else decides the vectors: JSON values, under other names than "kind".

    Raises:
        NamespaceError: if ``model_name`` is empty, or settings are no JSON values.
        ValueError: if settings have "kind".
    """

    def __init__(
        self,
        store: StoreLike,
        model_name: str,
        document: Embed,
        query: Embed | None = None,
        *,
        adocument: AsyncEmbed | None = None,
        aquery: AsyncEmbed | None = None,
        version: str | None = None,
        batch_size: int = 256,
        online: OnlineBatching | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self._settings = settings or {}
        if "kind" in self._settings:
            raise ValueError('settings may not have "kind": it tells documents from queries')
        Namespace(model_name, extra=self._settings)  # refuses at once what is no JSON
        self.store = as_store(store)
        self._query_kind: Kind = "document" if query is None else "query"
        functions = {"document": document, "query": query or document}
        afunctions = {"document": adocument, "query": aquery if query else adocument}
        how: dict[str, Any] = {
            "model_name": model_name,
            "version": version,
            "batch_size": batch_size,
            "online": online,
        }

        @cached(self.store, **how)
        def embed(texts: list[str], *, kind: Kind, **settings: Any) -> Any:
            return functions[kind](texts)

        @cached(self.store, **how)
        async def aembed(texts: list[str], *, kind: Kind, **settings: Any) -> Any:
            function = afunctions[kind]
            if function is not None:
                return await function(texts)
            # Imported here: for whoever has no event loop, it takes 30 ms for nothing.
            import asyncio

            return await asyncio.to_thread(functions[kind], texts)

        self._embed, self._aembed = embed, aembed

    def documents(self, texts: list[str]) -> Array:
        """The vectors of n documents, (n, dim)."""
        return self._call("document", texts)

    def queries(self, texts: list[str]) -> Array:
        """The vectors of n queries, (n, dim)."""
        return self._call(self._query_kind, texts)

    async def adocuments(self, texts: list[str]) -> Array:
        """:meth:`documents`, async; what concurrent calls lack is computed together."""
        return await self._acall("document", texts)

    async def aqueries(self, texts: list[str]) -> Array:
        """:meth:`queries`, async."""
        return await self._acall(self._query_kind, texts)

    def _call(self, kind: Kind, texts: list[str]) -> Array:
        if not texts:
            return np.zeros((0, 0), np.float32)
        return cast(Array, self._embed(texts, kind=kind, **self._settings))

    async def _acall(self, kind: Kind, texts: list[str]) -> Array:
        if not texts:
            return np.zeros((0, 0), np.float32)
        return cast(Array, await self._aembed(texts, kind=kind, **self._settings))


class EncoderEmbedder:
    """The same of a :class:`CachedEncoder`.

    Args:
        encoder: embeds documents and queries, each in its own way.
    """

    def __init__(self, encoder: CachedEncoder) -> None:
        self.encoder = encoder
        self.store = encoder.store

    def documents(self, texts: list[str]) -> Array:
        """The vectors of n documents, (n, dim)."""
        return cast(Array, self.encoder.encode_document(texts))

    def queries(self, texts: list[str]) -> Array:
        """The vectors of n queries, (n, dim)."""
        return cast(Array, self.encoder.encode_query(texts))

    async def adocuments(self, texts: list[str]) -> Array:
        """:meth:`documents`, async."""
        return cast(Array, await self.encoder.aencode_document(texts))

    async def aqueries(self, texts: list[str]) -> Array:
        """:meth:`queries`, async."""
        return cast(Array, await self.encoder.aencode_query(texts))


def require(module: str, extra: str) -> ModuleType:
    """The module of a library that an extra brings.

    Raises:
        ImportError: if it is not installed; it names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"embstore.integrations.{extra.replace('-', '_')} needs an extra: "
            f"pip install 'embstore[{extra}]'"
        ) from error
