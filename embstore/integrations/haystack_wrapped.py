"""A Haystack embedder as the cache calls it: with the texts that are missing."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
from haystack import Document
from haystack.core.serialization import component_to_dict
from haystack.utils import Secret

from embstore.backends.rows import Array
from embstore.errors import ModelOutputError
from embstore.integrations.embedder import Embedder
from embstore.lookup import as_vectors
from embstore.store import EmbeddingStore

_NOT_DECISIVE = {
    *("api_key", "token", "organization", "timeout", "max_retries", "http_client_kwargs"),
    *("batch_size", "progress_bar", "raise_on_failure", "device", "local_files_only"),
    *("meta_fields_to_embed", "embedding_separator"),
}
"""Parameters of Haystack's embedders that decide no vector, or no more than the text itself."""


Input = Literal["text", "documents"]
Calls = tuple[Callable[[list[str]], Array], Callable[[list[str]], Awaitable[Array]]]
"""From n texts to (n, dim) vectors, sync and async."""


class Wrapped:
    """A Haystack text or document embedder.

    Args:
        embedder: the component.
        model_name: what its vectors are kept under.
    """

    def __init__(self, embedder: Any, model_name: str) -> None:
        self._embedder = embedder
        self._name = model_name

    def cached(self, takes: Input, store: EmbeddingStore, version: str | None) -> Calls:
        """Its vectors, of what it takes, from a store as far as they are there."""
        how: dict[str, Any] = {"version": version, "settings": self.settings()}
        is_async = hasattr(self._embedder, "run_async")
        if takes == "text":
            # The first is not used: what a text embedder is asked for are queries.
            how["aquery"] = self.aqueries if is_async else None
            embedder = Embedder(store, self._name, self.queries, self.queries, **how)
            return embedder.queries, embedder.aqueries
        how["adocument"] = self.adocuments if is_async else None
        embedder = Embedder(store, self._name, self.documents, **how)
        return embedder.documents, embedder.adocuments

    def settings(self) -> dict[str, Any]:
        """What decides its vectors, as far as it says: its class and its parameters.

        As a digest, since among the parameters of some component may be a key to its service, and
        what names vectors can be read in the store. A parameter that is None counts as absent, so
        that one that a later version of the component brings makes no difference unless it is used.

        Raises:
            SerializationError: if the component cannot be written, as with a lambda in it.
        """
        spare = copy.copy(self._embedder)
        for attribute, value in vars(spare).items():
            if isinstance(value, Secret):  # one that is no environment variable cannot be written
                setattr(spare, attribute, Secret.from_env_var("NONE", strict=False))
            elif isinstance(value, (dict, list)):
                # to_dict of the Sentence Transformers embedders turns dtypes among its model_kwargs
                # into strings in place (2.0.0), with which no model can be loaded any more.
                setattr(spare, attribute, copy.deepcopy(value))
        written = component_to_dict(spare, "model")
        decisive = {
            key: value
            for key, value in written["init_parameters"].items()
            if value is not None and key not in _NOT_DECISIVE
        }
        text = json.dumps([written["type"], decisive], sort_keys=True, default=sorted)
        return {"component": blake2b(text.encode(), digest_size=16).hexdigest()}

    def queries(self, texts: list[str]) -> Array:
        """The vectors of n texts, by a text embedder: one after the other."""
        self._warm_up()
        return self._vectors([self._embedder.run(text=text)["embedding"] for text in texts])

    async def aqueries(self, texts: list[str]) -> Array:
        """:meth:`queries`, async: all at once, as whoever asked for them did."""
        await self._awarm_up()
        runs = (self._embedder.run_async(text=text) for text in texts)
        return self._vectors([output["embedding"] for output in await asyncio.gather(*runs)])

    def documents(self, texts: list[str]) -> Array:
        """The vectors of n texts, by a document embedder."""
        self._warm_up()
        return self._in_order(self._embedder.run(documents=_documents(texts)), len(texts))

    async def adocuments(self, texts: list[str]) -> Array:
        """:meth:`documents`, async."""
        await self._awarm_up()
        output = await self._embedder.run_async(documents=_documents(texts))
        return self._in_order(output, len(texts))

    def _warm_up(self) -> None:
        # Not before something is missing: a pipeline that finds all in the store loads no model.
        if hasattr(self._embedder, "warm_up"):
            self._embedder.warm_up()

    async def _awarm_up(self) -> None:
        if hasattr(self._embedder, "warm_up_async"):
            await self._embedder.warm_up_async()
        else:
            self._warm_up()

    def _in_order(self, output: Any, count: int) -> Array:
        found = {document.id: document.embedding for document in output["documents"]}
        return self._vectors([found.get(str(place)) for place in range(count)])

    def _vectors(self, embeddings: Sequence[Any]) -> Array:
        if lacking := sum(embedding is None for embedding in embeddings):
            # Haystack's own log what went wrong, and let a document go on without its embedding.
            raise ModelOutputError(
                f"{self._name}: {type(self._embedder).__name__} gave no embedding for {lacking} of "
                f"{len(embeddings)} texts, its log may say why. What was stored before stays, and "
                "another run asks for the rest",
                model_name=self._name,
            )
        # One dtype for all: of a vector that JSON brought as whole numbers, numpy makes integers.
        return as_vectors(embeddings, len(embeddings), self._name).astype(np.float32, copy=False)


def _documents(texts: list[str]) -> list[Document]:
    # Without the meta: it is in the text already, and nothing else of it may decide a vector.
    return [Document(id=str(place), content=text) for place, text in enumerate(texts)]
