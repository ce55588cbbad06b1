"""Haystack: text and document embedders that embed no text twice."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from embstore.backends import without_password
from embstore.encoder import CachedEncoder
from embstore.integrations.embedder import require
from embstore.store import EmbeddingStore

require("haystack", "haystack")

from haystack import Document, component, default_from_dict, default_to_dict  # noqa: E402
from haystack.core.errors import SerializationError  # noqa: E402
from haystack.core.serialization import component_to_dict  # noqa: E402

from embstore.integrations.haystack_wrapped import Calls, Input, Wrapped  # noqa: E402

__all__ = ["CachedDocumentEmbedder", "CachedTextEmbedder"]

Store = EmbeddingStore | Mapping[str, Any] | str | os.PathLike[str] | None
"""A store, its location, or the arguments to open it with."""


class _CachedEmbedder:
    """What both components have in common."""

    _input: Input
    """What a component takes that can be wrapped."""

    def __init__(
        self,
        model: Any,
        store: Store,
        model_name: str | None,
        version: str | None,
        prefix: str,
        suffix: str,
        normalize_embeddings: bool,
        encoder_kwargs: dict[str, Any] | None,
    ) -> None:
        self.model = os.fspath(model) if isinstance(model, os.PathLike) else model
        self.store = store
        self.model_name = model_name
        self.version = version
        self.prefix = prefix
        self.suffix = suffix
        self.normalize_embeddings = normalize_embeddings
        self.encoder_kwargs = encoder_kwargs
        self._calls: Calls | None = None
        self._opened: EmbeddingStore | None = None
        self._wraps = hasattr(model, "__haystack_input__")
        if isinstance(model, CachedEncoder) and (store or model_name or version or encoder_kwargs):
            raise ValueError(
                "a CachedEncoder has a store, a name and settings already: give it without others"
            )

    def _check_wrapped(self, **own: Any) -> None:
        """Refuse a component that cannot be wrapped, and what it cannot be told any more."""
        name = type(self.model).__name__
        if self.model.__haystack_input__.get(self._input) is None:
            raise TypeError(f"{name} takes no {self._input}: {type(self).__name__} cannot wrap it")
        if not self.model_name:
            raise ValueError(
                "model_name is missing: the vectors of a component are kept under it, as nobody "
                f"can see from outside whether the model behind {name} is still the same"
            )
        own |= {
            "prefix": self.prefix,
            "suffix": self.suffix,
            "normalize_embeddings": self.normalize_embeddings,
            "encoder_kwargs": self.encoder_kwargs,
        }
        for parameter, value in own.items():
            if value:
                raise ValueError(f"give {parameter} to {name}, which makes the vectors")

    # --- its life in a pipeline -----------------------------------------------------------------

    def warm_up(self) -> None:
        """Open the store. The model is loaded when something has to be computed, not before."""
        if self._calls is None:
            self._calls = self._of_component() if self._wraps else self._of_encoder()

    def close(self) -> None:
        """Close the store, if it was opened here, and the component that is wrapped."""
        self._close_store()
        if self._wraps and hasattr(self.model, "close"):
            self.model.close()

    async def close_async(self) -> None:
        """:meth:`close`, async."""
        self._close_store()
        if self._wraps and hasattr(self.model, "close_async"):
            await self.model.close_async()
        elif self._wraps and hasattr(self.model, "close"):
            self.model.close()

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`from_dict` makes it from again, as in a pipeline's YAML.

        Raises:
            SerializationError: if the model is neither a name or path nor a component.
        """
        names = inspect.signature(type(self).__init__).parameters
        parameters = {name: getattr(self, name) for name in names if name != "self"}
        parameters["store"] = _written(self.store)
        if self._wraps:
            parameters["model"] = component_to_dict(self.model, "model")
        elif not isinstance(self.model, str):
            raise SerializationError(
                f"a {type(self.model).__name__} cannot be written into a pipeline's YAML: give the "
                "model by name or path"
            )
        return default_to_dict(self, **parameters)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """The component that :meth:`to_dict` has written."""
        return default_from_dict(cls, data)

    # --- what computes --------------------------------------------------------------------------

    def _of_component(self) -> Calls:
        assert self.model_name
        wrapped = Wrapped(self.model, self.model_name)
        return wrapped.cached(self._input, self._open(), self.version)

    def _of_encoder(self) -> Calls:
        encoder = self.model
        if not isinstance(encoder, CachedEncoder):
            encoder = CachedEncoder(
                encoder,
                self._open(),
                model_name=self.model_name,
                version=self.version,
                **self.encoder_kwargs or {},
            )
        return self._calls_of(encoder)

    def _calls_of(self, encoder: CachedEncoder) -> Calls:
        raise NotImplementedError

    def _now(self) -> Calls:
        self.warm_up()
        assert self._calls is not None
        return self._calls

    def _open(self) -> EmbeddingStore:
        if isinstance(self.store, EmbeddingStore):
            return self.store
        how = self.store if isinstance(self.store, Mapping) else {"location": self.store}
        self._opened = EmbeddingStore(**how)
        return self._opened

    def _close_store(self) -> None:
        self._calls = None
        if self._opened is not None:
            self._opened.close()
            self._opened = None


@component
class CachedTextEmbedder(_CachedEmbedder):
    """Embeds a text, as a query, unless its vector is stored.

    Args:
        model: the name or path of a ``SentenceTransformer``, or a loaded one; a ``CachedEncoder``;
            or a Haystack text embedder, which is asked for what is missing.
        store: an ``EmbeddingStore``; or its location; or its arguments, as in
            ``{"location": "/data/embeddings", "size_limit": "10GB"}``. None is its default
            location.
        model_name: names the vectors of a wrapped component, and is required for one. Its own
            parameters tell them apart as well, but not new weights in an old folder.
        version: change it when the vectors of that name change.
        prefix: stands in front of each text. A prompt that the model itself has for queries is
            used anyway, and stands in front of this.
        suffix: stands behind each text.
        normalize_embeddings: whether vectors are scaled to length 1.
        encoder_kwargs: further arguments of ``CachedEncoder``, such as ``device``, ``revision`` or
            ``truncate_dim``.

    Raises:
        TypeError: if a component is to be wrapped that takes no text.
        ValueError: if its ``model_name`` is missing, or if something is given that is for the
            wrapped component, or for the ``CachedEncoder``, to know.

    >>> import tempfile
    >>> from haystack.components.embedders import MockTextEmbedder
    >>> with EmbeddingStore(tempfile.mkdtemp()) as store:
    ...     embedder = CachedTextEmbedder(MockTextEmbedder([0.5, 2.0]), store, model_name="mock")
    ...     embedder.run("a question"), embedder.run("a question"), store.stats().hits
    ({'embedding': [0.5, 2.0]}, {'embedding': [0.5, 2.0]}, 1)
    """

    _input: Input = "text"

    def __init__(
        self,
        model: Any,
        store: Store = None,
        *,
        model_name: str | None = None,
        version: str | None = None,
        prefix: str = "",
        suffix: str = "",
        normalize_embeddings: bool = False,
        encoder_kwargs: dict[str, Any] | None = None,
    ) -> None:
        # No super(): the decorator makes another class of this one.
        _CachedEmbedder.__init__(
            *(self, model, store, model_name, version, prefix, suffix),
            *(normalize_embeddings, encoder_kwargs),
        )
        if self._wraps:
            self._check_wrapped()

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Embed a text.

        Args:
            text: the text.

        Returns:
            ``{"embedding": ...}``, dim floats.

        Raises:
            TypeError: if it is not a text.
            ModelOutputError: if the model gives something else than a vector.
        """
        texts, (embed, _) = self._texts(text), self._now()
        return {"embedding": embed(texts)[0].tolist()}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, Any]:
        """:meth:`run`, async; what concurrent calls lack is computed together."""
        texts, (_, aembed) = self._texts(text), self._now()
        return {"embedding": (await aembed(texts))[0].tolist()}

    def _texts(self, text: str) -> list[str]:
        if not isinstance(text, str):
            raise TypeError(
                f"CachedTextEmbedder embeds a str, not {type(text).__name__}: for documents there "
                "is CachedDocumentEmbedder"
            )
        return [self.prefix + text + self.suffix]

    def _calls_of(self, encoder: CachedEncoder) -> Calls:
        how: dict[str, Any] = {"normalize_embeddings": self.normalize_embeddings}
        how["show_progress_bar"] = False
        return partial(encoder.encode_query, **how), partial(encoder.aencode_query, **how)


@component
class CachedDocumentEmbedder(_CachedEmbedder):
    """Embeds documents, computing only the vectors that are not stored.

    The documents given are left as they are: copies of them come out, with an ``embedding``.

    Args:
        model: as in :class:`CachedTextEmbedder`; a component that is wrapped embeds documents.
        store: as in :class:`CachedTextEmbedder`.
        model_name: as in :class:`CachedTextEmbedder`.
        version: as in :class:`CachedTextEmbedder`.
        prefix: as in :class:`CachedTextEmbedder`; the model's own prompt is that for documents.
        suffix: as in :class:`CachedTextEmbedder`.
        normalize_embeddings: as in :class:`CachedTextEmbedder`.
        encoder_kwargs: as in :class:`CachedTextEmbedder`.
        meta_fields_to_embed: fields of ``meta`` that stand in front of the content. A wrapped
            component has its own, which are used.
        embedding_separator: stands between them, and before the content.
        progress_bar: whether one is shown in ``run``; a wrapped component shows its own.

    Raises:
        TypeError: if a component is to be wrapped that takes no documents.
        ValueError: as in :class:`CachedTextEmbedder`.

    >>> import tempfile
    >>> from haystack.components.embedders import MockDocumentEmbedder
    >>> with EmbeddingStore(tempfile.mkdtemp()) as store:
    ...     mock = MockDocumentEmbedder([0.5, 2.0])
    ...     embedder = CachedDocumentEmbedder(mock, store, model_name="mock")
    ...     embedder.run([Document(content="a text")])["documents"][0].embedding
    [0.5, 2.0]
    """

    _input: Input = "documents"

    def __init__(
        self,
        model: Any,
        store: Store = None,
        *,
        model_name: str | None = None,
        version: str | None = None,
        prefix: str = "",
        suffix: str = "",
        normalize_embeddings: bool = False,
        encoder_kwargs: dict[str, Any] | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        progress_bar: bool = True,
    ) -> None:
        # No super(): the decorator makes another class of this one.
        _CachedEmbedder.__init__(
            *(self, model, store, model_name, version, prefix, suffix),
            *(normalize_embeddings, encoder_kwargs),
        )
        if self._wraps:
            self._check_wrapped(
                meta_fields_to_embed=meta_fields_to_embed,
                embedding_separator=embedding_separator != "\n",
            )
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator
        self.progress_bar = progress_bar

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Embed documents.

        Args:
            documents: n documents.

        Returns:
            ``{"documents": ...}``, n documents that have dim floats as their ``embedding``.

        Raises:
            TypeError: if it is no list of documents.
            ModelOutputError: if the model gives something else than a vector for each.
        """
        texts, (embed, _) = self._texts(documents), self._now()
        return {"documents": _embedded(documents, embed(texts) if texts else [])}

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """:meth:`run`, async; what concurrent calls lack is computed together."""
        texts, (_, aembed) = self._texts(documents), self._now()
        return {"documents": _embedded(documents, await aembed(texts) if texts else [])}

    def _texts(self, documents: list[Document]) -> list[str]:
        if not isinstance(documents, list) or not all(
            isinstance(document, Document) for document in documents
        ):
            raise TypeError(
                "CachedDocumentEmbedder embeds a list of Documents: for a str there is "
                "CachedTextEmbedder"
            )
        # A component that is wrapped puts its own prefix and suffix around what it is given.
        fields = getattr(self.model if self._wraps else self, "meta_fields_to_embed", None) or []
        between = getattr(self.model if self._wraps else self, "embedding_separator", "\n")
        parts = (
            [str(document.meta[field]) for field in fields if document.meta.get(field) is not None]
            + [document.content or ""]
            for document in documents
        )
        return [self.prefix + between.join(each) + self.suffix for each in parts]

    def _calls_of(self, encoder: CachedEncoder) -> Calls:
        how: dict[str, Any] = {"normalize_embeddings": self.normalize_embeddings}
        return (
            partial(encoder.encode_document, **how, show_progress_bar=self.progress_bar),
            partial(encoder.aencode_document, **how, show_progress_bar=False),
        )


def _embedded(documents: list[Document], vectors: Any) -> list[Document]:
    return [
        replace(document, embedding=vector.tolist())
        for document, vector in zip(documents, vectors, strict=True)
    ]


def _written(store: Store) -> Any:
    if isinstance(store, EmbeddingStore):
        # Without the seed, which is kept from those who choose texts (docs/security.md).
        usual = inspect.signature(EmbeddingStore).parameters
        given = store.__getstate__().items()
        store = {
            key: value for key, value in given if value != usual[key].default and key != "seed"
        }
    if isinstance(store, dict):
        return {key: _open_text(value) for key, value in store.items()}
    return _open_text(os.fspath(store) if isinstance(store, os.PathLike) else store)


def _open_text(value: Any) -> Any:
    """What may stand in a file: of the URL of a server, all but the password."""
    return without_password(value) if isinstance(value, str) else value
