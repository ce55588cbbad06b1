"""Chroma: an ``EmbeddingFunction`` that embeds no text twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import lru_cache, partial
from threading import RLock
from typing import Any, cast

import numpy as np

from embstore.backends import resolve_location
from embstore.backends.rows import Array
from embstore.encoder import CachedEncoder
from embstore.integrations.embedder import Embedder, require
from embstore.keys import canonical_json
from embstore.lookup import as_vectors
from embstore.store import EmbeddingStore, StoreLike

require("chromadb", "chroma")

from chromadb import Documents, EmbeddingFunction, Embeddings  # noqa: E402
from chromadb.api.types import Space  # noqa: E402
from chromadb.utils.embedding_functions import register_embedding_function  # noqa: E402

from embstore.integrations.chroma_config import (  # noqa: E402
    Absent,
    Config,
    Known,
    check,
    check_update,
    decisive,
    described,
    is_embedding_function,
    kept,
    overrides,
    read_model,
    written_model,
)

__all__ = ["CachedEmbeddingFunction"]

_Calls = tuple[Callable[[list[str]], Array], Callable[[list[str]], Array]]
"""From n texts to (n, dim) vectors: documents, queries."""

_OPENING = RLock()
"""One for all, so that embedding functions can be copied."""


@register_embedding_function
class CachedEmbeddingFunction(EmbeddingFunction[Documents]):
    """An embedding function whose vectors are kept, those of documents apart from those of queries.

    Chroma knows it as "embstore", and keeps in a collection what it was made of. Opened again after
    ``import embstore.integrations.chroma``, the collection has it without being given it. Nothing
    is opened or loaded before texts are embedded, and no model if all of them are stored.

    What a collection cannot keep: a loaded ``SentenceTransformer``, a ``CachedEncoder``, a
    function; an embedding function of Chroma's whose config cannot be written, or has a secret in
    it; ``trust_remote_code``, ``token`` and other far-reaching ``encoder_kwargs``. It says so when
    texts are to be embedded, and wants the embedding function in ``get_collection``.

    Args:
        model: the name or path of a ``SentenceTransformer``, or a loaded one; a ``CachedEncoder``;
            a function from ``list[str]`` to (n, dim) vectors; or an embedding function of Chroma's,
            which is asked for what is missing.
        store: where vectors are kept: an ``EmbeddingStore``, or its location. None is the default
            location, also of whoever opens the collection. A collection keeps the location only.
        model_name: names the vectors of a function or of an embedding function, and is required for
            one: two whose vectors differ must not share a name. A SentenceTransformer is known by
            its weights and settings.
        version: change it when the vectors of that name change.
        normalize_embeddings: whether vectors are scaled to length 1.
        batch_size: most texts in one call of an embedding function, by default 256; of others as in
            ``CachedEncoder.encode``.
        encoder_kwargs: further arguments of ``CachedEncoder``, such as ``device``, ``revision`` or
            ``truncate_dim``.

    Raises:
        ImportError: (at import) if chromadb is not installed.
        TypeError: if ``model`` is nothing that embeds texts.
        ValueError: if ``model_name`` is missing, or if something is given that is for ``model`` to
            know.

    >>> import tempfile
    >>> def letters(texts):
    ...     return [[float(len(text)), float(text.count("a"))] for text in texts]
    >>> embed = CachedEmbeddingFunction(letters, tempfile.mkdtemp(), model_name="letters")
    >>> for _ in range(2):
    ...     vectors = embed(["banana", "apple"])
    >>> vectors, embed.store.stats().hits
    ([array([6., 3.], dtype=float32), array([5., 1.], dtype=float32)], 2)
    """

    def __init__(
        self,
        model: Any,
        store: StoreLike = None,
        *,
        model_name: str | None = None,
        version: str | None = None,
        normalize_embeddings: bool = False,
        batch_size: int | None = None,
        encoder_kwargs: dict[str, Any] | None = None,
    ) -> None:
        # Whoever opens the collection may be in another folder.
        if isinstance(model, (str, os.PathLike)):
            model = os.path.abspath(model) if os.path.isdir(model) else os.fspath(model)
        self._model = model
        self._location = None if store is None else _location(store)
        self._store = store if isinstance(store, EmbeddingStore) else None
        self._model_name = model_name
        self._version = version
        self._normalize = normalize_embeddings
        self._batch_size = batch_size
        self._encoder_kwargs = dict(encoder_kwargs or {})
        self._calls: _Calls | None = None
        if is_embedding_function(model):
            self._check_wrapped()
        elif not isinstance(model, (str, Absent)):
            self._opened()  # refuses at once what cannot embed

    def _check_wrapped(self) -> None:
        what = self._model.name if isinstance(self._model, Known) else type(self._model).__name__
        if not self._model_name:
            raise ValueError(
                "model_name is missing: vectors are kept under it, as nobody can see from outside "
                f"whether the model behind {what} is still the same"
            )
        if self._normalize or self._encoder_kwargs:
            wrong = "normalize_embeddings" if self._normalize else "encoder_kwargs"
            raise ValueError(f"{wrong} is not for {what}, which makes the vectors")

    def __call__(self, input: Documents) -> Embeddings:
        """Embed documents, computing only those that are not stored.

        Args:
            input: n documents, at least one.

        Returns:
            n vectors, (dim,) float32.

        Raises:
            TypeError: if it is no list of texts.
            ModelOutputError: if something else than a vector for each comes out.
            ValueError: if the collection could not keep the model, and was not given it.
        """
        return _as_list(self._opened()[0](_listed(input)))

    def embed_query(self, input: Documents) -> Embeddings:
        """:meth:`__call__` for queries, as ``Collection.query`` asks for them."""
        return _as_list(self._opened()[1](_listed(input)))

    @property
    def store(self) -> EmbeddingStore:
        """Where vectors are kept; opened when it is first needed."""
        if isinstance(self._model, CachedEncoder):
            return self._model.store
        with _OPENING:
            if self._store is None:
                self._store = EmbeddingStore(self._location)
            return self._store

    # --- what computes --------------------------------------------------------------------------

    def _opened(self) -> _Calls:
        with _OPENING:
            if self._calls is None:
                self._calls = self._open()
            return self._calls

    def _open(self) -> _Calls:
        model = self._model
        if isinstance(model, Absent):
            model.refuse()
        if is_embedding_function(model):
            wrapped = _Wrapped(model, self._model_name or "")
            embedder = Embedder(
                self.store,
                self._model_name or "",
                wrapped.documents,
                wrapped.queries if wrapped.has_own_queries else None,
                version=self._version,
                batch_size=256 if self._batch_size is None else self._batch_size,
                settings=decisive(described(model)),
            )
            return embedder.documents, embedder.queries
        encoder = self._encoder()
        how: dict[str, Any] = {
            "normalize_embeddings": self._normalize,
            "batch_size": "auto" if self._batch_size is None else self._batch_size,
            "show_progress_bar": False,
        }
        return partial(encoder.encode_document, **how), partial(encoder.encode_query, **how)

    def _encoder(self) -> CachedEncoder:
        names: dict[str, Any] = {"model_name": self._model_name, "version": self._version}
        if not isinstance(self._model, CachedEncoder):
            return CachedEncoder(self._model, self.store, **names, **self._encoder_kwargs)
        given = self._location, self._encoder_kwargs, *names.values()
        if any(given):
            raise ValueError(
                "a CachedEncoder has a store, a name and settings already: give it without others"
            )
        return self._model

    # --- what Chroma asks for -------------------------------------------------------------------

    @staticmethod
    def name() -> str:
        """What Chroma knows it as."""
        return "embstore"

    def default_space(self) -> Space:
        """The distance of collections that name none: cosine, or that of an embedding function
        that is wrapped."""
        return cast(Space, self._of_wrapped("default_space", "cosine"))

    def supported_spaces(self) -> list[Space]:
        """All distances, or those of an embedding function that is wrapped."""
        return cast(list[Space], self._of_wrapped("supported_spaces", ["cosine", "l2", "ip"]))

    def _of_wrapped(self, method: str, otherwise: Any) -> Any:
        model = self._model.make() if isinstance(self._model, Known) else self._model
        if is_embedding_function(model) and hasattr(model, method):
            return getattr(model, method)()
        return otherwise

    def get_config(self) -> Config:
        """What a collection keeps: JSON, without secrets."""
        return {
            "model": written_model(self._model, self._encoder_kwargs),
            "store": self._location,
            "model_name": self._model_name,
            "version": self._version,
            "normalize_embeddings": self._normalize,
            "batch_size": self._batch_size,
            "encoder_kwargs": kept(self._encoder_kwargs),
        }

    @staticmethod
    def build_from_config(config: Config) -> CachedEmbeddingFunction:
        """The embedding function of a collection; for the same config the same one.

        Raises:
            ValueError: as in :meth:`validate_config`.
        """
        # Chroma builds it anew for each query, which would load a model each time.
        return _built(canonical_json(config))

    @staticmethod
    def validate_config(config: Config) -> None:
        """Refuse a config that :meth:`get_config` has not written.

        Raises:
            ValueError: it says what is wrong.
        """
        check(config)

    def validate_config_update(self, old_config: Config, new_config: Config) -> None:
        """Refuse to mix vectors of two models in a collection.

        Raises:
            ValueError: if vectors would differ, as far as configs can tell.
        """
        check_update(old_config, new_config)

    def __repr__(self) -> str:
        # A model by its class only: it may show more of itself than belongs into a log.
        model = self._model if isinstance(self._model, str) else type(self._model).__name__
        return f"CachedEmbeddingFunction({model!r}, {self._location!r})"


@lru_cache(maxsize=64)
def _built(config: bytes) -> CachedEmbeddingFunction:
    fields = json.loads(config)
    check(fields)
    return CachedEmbeddingFunction(read_model(fields.pop("model")), **fields)


class _Wrapped:
    """An embedding function of Chroma's as :class:`Embedder` calls it; made when it is needed."""

    def __init__(self, model: Any, model_name: str) -> None:
        self._model = model
        self._model_name = model_name
        kind = model.kind if isinstance(model, Known) else type(model)
        self.has_own_queries = overrides(kind, "embed_query")

    def documents(self, texts: list[str]) -> Array:
        return self._as_floats(self._made()(input=texts), texts)

    def queries(self, texts: list[str]) -> Array:
        return self._as_floats(self._made().embed_query(input=texts), texts)

    def _made(self) -> Any:
        if isinstance(self._model, Known):
            self._model = self._model.make()
        return self._model

    def _as_floats(self, output: Any, texts: list[str]) -> Array:
        # One dtype for all: of a vector that JSON brought as whole numbers, numpy makes integers.
        vectors = as_vectors(output, len(texts), self._model_name)
        return vectors.astype(np.float32, copy=False)


def _location(store: StoreLike) -> str:
    return store.location if isinstance(store, EmbeddingStore) else resolve_location(store)


def _listed(texts: Any) -> list[str]:
    if isinstance(texts, str):
        raise TypeError("an embedding function takes a list of texts: for a single one give [text]")
    return list(texts)


def _as_list(vectors: Array) -> Embeddings:
    return list(vectors.astype(np.float32, copy=False))
