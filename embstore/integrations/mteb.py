"""mteb: benchmark a model, and embed each text of the tasks once."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

import numpy as np

from embstore.decorator import cached
from embstore.encoder import CachedEncoder
from embstore.errors import NamespaceError
from embstore.integrations.embedder import require
from embstore.keys import Namespace
from embstore.store import EmbeddingStore

require("mteb", "mteb")

_SPEED = ("batch_size", "show_progress_bar")
"""Arguments of ``encode`` that decide no vector."""

_NO_NAME = "no_model_name/available"
"""What mteb calls a model without a name."""


class CachedMtebEncoder:
    """An encoder for ``mteb.evaluate`` that embeds no text twice.

    A ``SentenceTransformer``, mteb's own wrapper of one and a ``CachedEncoder`` are cached by
    weights and prompt: a text that several tasks have is computed once where their prompt is the
    same, and vectors that a ``CachedEncoder`` has stored elsewhere are used here.

    What another encoder of mteb's protocol makes of a task nobody can know. Its vectors are kept
    apart by name, revision and settings of the model, and by task, subset, split and prompt type.
    Rows that have anything but texts (images, sound) go to the model uncached.

    Args:
        model: any of these, or the name or path of a ``SentenceTransformer``.
        store: where embeddings are kept; None is ``EmbeddingStore()``, at its default location.
        model_name: what to call the model in the store, if it is not to be its own name.
        version: tells apart what has one name and revision.

    Attributes:
        mteb_model_meta: the model's, by which mteb names its results.
        store: as given.

    Raises:
        ImportError: (at import) if ``mteb`` is not installed.
        TypeError: if ``model`` is nothing that mteb calls an encoder.
        ValueError: if an encoder has no name, and no ``model_name`` is given.
    """

    def __init__(
        self,
        model: Any,
        store: EmbeddingStore | None = None,
        *,
        model_name: str | None = None,
        version: str | None = None,
    ) -> None:
        self.store: EmbeddingStore
        self._model: Any
        self._name: str | None = None
        self._version = version
        names = {"model_name": model_name, "version": version}
        if (own := _with_cached_model(model, store, names)) is not None:
            self._model, self.store = own
        else:
            self.store = EmbeddingStore() if store is None else store
            self._model, self._name = model, _check(model, model_name)
        self.mteb_model_meta = self._model.mteb_model_meta

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Embed the rows of a ``DataLoader``; the arguments are mteb's.

        Returns:
            (n, dim) vectors, the caller's own.
        """
        task = {
            "task_metadata": task_metadata,
            "hf_split": hf_split,
            "hf_subset": hf_subset,
            "prompt_type": prompt_type,
        }
        if self._name is None:  # a CachedEncoder is asked, further down
            return self._model.encode(inputs, **task, **kwargs)
        columns = _columns_of(inputs.dataset)
        keys = _keys_of(inputs.dataset, columns)
        settings = {
            "task": [task_metadata.name, task_metadata.type, task_metadata.prompt],
            "part": [hf_subset, hf_split, columns],
            "prompt_type": None if prompt_type is None else str(prompt_type.value),
            "model": self._model_settings(),
            "encode": {key: value for key, value in kwargs.items() if key not in _SPEED},
        }
        # What is quantized is quantized over a call: such a vector belongs to no text.
        quantized = kwargs.get("precision") not in (None, "float32")
        if keys is None or quantized or not _is_json(settings):
            self.store.count(bypassed=len(inputs.dataset))
            return self._model.encode(inputs, **task, **kwargs)
        places = {key: place for place, key in enumerate(keys)}

        @cached(self.store, model_name=self._name, version=self._version)
        def embed(missing: list[str], **_: Any) -> Any:
            rows = _select(inputs, [places[key] for key in missing])
            return _as_array(self._model.encode(rows, **task, **kwargs))

        return embed(keys, **settings)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The model's similarity of all pairs, (n, m)."""
        return self._model.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The model's similarity of pairs, (n,)."""
        return self._model.similarity_pairwise(embeddings1, embeddings2)

    def _model_settings(self) -> dict[str, Any]:
        meta = self.mteb_model_meta
        if meta is None:
            return {}
        return {"revision": meta.revision, "experiment": meta.experiment_kwargs or {}}

    def __repr__(self) -> str:
        return f"CachedMtebEncoder({type(self._model).__name__}, {self.store!r})"


def _with_cached_model(
    model: Any, store: EmbeddingStore | None, names: dict[str, Any]
) -> tuple[Any, EmbeddingStore] | None:
    """mteb's wrapper around a CachedEncoder, and its store; None if that cannot be."""
    from mteb.models import SentenceTransformerEncoderWrapper as Wrapper
    from sentence_transformers import SentenceTransformer

    # Of a subclass nobody knows what else it does.
    wrapped = type(model) is Wrapper
    inner = model.model if wrapped else model
    if isinstance(inner, CachedEncoder):
        if store is not None or any(names.values()):
            raise ValueError("a CachedEncoder has a store and a name: give no others")
        encoder = inner
    elif isinstance(inner, (str, os.PathLike, SentenceTransformer)):
        encoder = CachedEncoder(inner, store, **names)
    else:
        return None
    # The caller's own stays as it is. A new one is made of the model itself: it looks at its type.
    wrapper = copy.copy(model) if wrapped else Wrapper(encoder.model)
    wrapper.model = encoder
    return wrapper, encoder.store


def _check(model: Any, model_name: str | None) -> str:
    """The name of another encoder's vectors."""
    from mteb.models import EncoderProtocol

    if not isinstance(model, EncoderProtocol):
        raise TypeError(
            "model is a SentenceTransformer, a name or path of one, a CachedEncoder or an encoder "
            f"of mteb's protocol (encode, similarity, mteb_model_meta), not {type(model).__name__}"
        )
    name = model_name or getattr(model.mteb_model_meta, "name", None)
    if not name or name == _NO_NAME:
        raise ValueError("this encoder has no name in its mteb_model_meta: give model_name=")
    return str(name)


def _columns_of(dataset: Any) -> list[str]:
    """What an encoder could look at: all but the rows' ids."""
    return [name for name in sorted(getattr(dataset, "column_names", ())) if name != "id"]


def _keys_of(dataset: Any, columns: list[str]) -> list[str] | None:
    """What stands for each row in the store; None if something of it is no JSON."""
    try:
        if columns == ["text"]:
            texts = list(dataset["text"])
            return texts if all(isinstance(text, str) for text in texts) else None
        rows = dataset.select_columns(columns) if columns else ()
        return [json.dumps(row, allow_nan=False, sort_keys=True) for row in rows] or None
    except (TypeError, ValueError):
        return None


def _select(inputs: Any, places: list[int]) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(
        inputs.dataset.select(places),
        batch_size=inputs.batch_size,
        collate_fn=inputs.collate_fn,
        num_workers=inputs.num_workers,
    )


def _as_array(vectors: Any) -> Any:
    if hasattr(vectors, "detach"):
        vectors = vectors.detach().cpu()
        if getattr(vectors, "is_sparse", False):
            raise TypeError("sparse vectors cannot be cached: evaluate the model itself")
        # numpy has no bfloat16, and float32 holds it without loss.
        return (vectors.float() if str(vectors.dtype) == "torch.bfloat16" else vectors).numpy()
    return np.asarray(vectors)


def _is_json(settings: dict[str, Any]) -> bool:
    try:
        Namespace("any", extra=settings)
    except NamespaceError:
        return False
    return True
