"""Ray Data, and whatever else hands batches to a function on many machines: Spark, Dask."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from embstore.backends.rows import Array
from embstore.encoder import CachedEncoder
from embstore.integrations.batches import Columns, Task
from embstore.keys import canonical_json
from embstore.store import EmbeddingStore, StoreLike

__all__ = ["EmbedBatches"]


class EmbedBatches:
    """A callable class for ``Dataset.map_batches`` that embeds a column into another.

    Give the class and its arguments, and each actor opens the store of its node::

        dataset.map_batches(
            EmbedBatches,
            fn_constructor_kwargs={"model": "all-MiniLM-L6-v2", "store": {"location": "...", ...}},
            batch_format="pyarrow",
            batch_size=2048,
            concurrency=4,
        )

    An object of it is a function of batches that can be pickled, for Spark's ``mapInPandas`` and
    Dask's ``map_partitions``. Nothing is opened or loaded before the first batch, and no model if
    all texts are stored. A process opens a store once, however many tasks it runs.

    Nothing of Ray is needed to import this.

    Args:
        model: the name or path of a ``SentenceTransformer``, the same on all nodes; a loaded one;
            or a function from ``list[str]`` to (n, dim) vectors.
        store: an ``EmbeddingStore``; its location; or its arguments, as in
            ``{"location": "/var/cache/embeddings", "upstream": "redis://..."}``. A path is one of
            the node that a batch comes to.
        column: where the texts are.
        into: the column of the vectors; one of that name is replaced.
        model_name: what to call the model in the store; required for a function.
        version: as in ``CachedEncoder``: change it when a function changes.
        task: "query" and "document" embed as ``encode_query`` and ``encode_document`` do.
        prompt_name: as in ``CachedEncoder.encode``, and so are the next four.
        prompt: see there.
        normalize_embeddings: see there.
        truncate_dim: see there.
        batch_size: see there: texts that the model is given at a time, not rows of a batch.
        encoder_kwargs: further arguments of ``CachedEncoder``, such as ``device`` or ``revision``.

    Raises:
        TypeError: if the model is a ``CachedEncoder``: give what it was made of.
        ValueError: if the task is none of these.

    >>> import tempfile
    >>> def lengths(texts):
    ...     return [[float(len(text)), 1.0] for text in texts]
    >>> embed = EmbedBatches(lengths, tempfile.mkdtemp(), model_name="lengths")
    >>> embed({"text": ["one", "three"]})
    {'text': ['one', 'three'], 'embedding': array([[3., 1.],
           [5., 1.]], dtype=float32)}
    """

    def __init__(
        self,
        model: Any,
        store: StoreLike | Mapping[str, Any] = None,
        *,
        column: str = "text",
        into: str = "embedding",
        model_name: str | None = None,
        version: str | None = None,
        task: Task | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        batch_size: int | Literal["auto"] = "auto",
        encoder_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(model, CachedEncoder):
            raise TypeError(
                "each process makes a CachedEncoder of its own: give EmbedBatches the model and "
                "the store that this one was made of"
            )
        self.columns = Columns(
            column,
            into,
            task,
            batch_size,
            prompt_name=prompt_name,
            prompt=prompt,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
        )
        self._model = model
        # As arguments, so that every process opens its own.
        given: Any = store.__getstate__() if isinstance(store, EmbeddingStore) else store
        self._store = dict(given) if isinstance(given, Mapping) else {"location": given}
        self._names = {"model_name": model_name, "version": version, **(encoder_kwargs or {})}
        self._encoder: CachedEncoder | None = None

    def __call__(self, batch: Any) -> Any:
        """The batch, with a column more.

        Args:
            batch: n rows: a dict of arrays or lists, a frame of pandas or polars, an Arrow table
                or record batch.

        Returns:
            The same kind, with (n, dim) vectors: an array in a dict, lists in a frame, of one fixed
            length in Arrow, which is what Parquet, indexes and other programs take.

        Raises:
            KeyError: if the batch has no such column.
            TypeError: if a text is missing, or something else than a text.
        """
        texts = self.columns.texts(batch)
        vectors: Array = self.columns.encode(self.encoder, texts or [""])
        # Of an empty batch (filters leave such) the columns are to be those of the others.
        return self.columns.added(batch, vectors[: len(texts)])

    @property
    def encoder(self) -> CachedEncoder:
        """What embeds in this process; made when it is first asked for."""
        if self._encoder is None:
            made_of = {"model": self._model, "store": self._store, "names": self._names}
            try:
                self._encoder = _shared(canonical_json(made_of))
            except TypeError:  # a function, say: nobody can tell whether another is the same
                self._encoder = _made(**made_of)
        return self._encoder

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_encoder": None}


@lru_cache(maxsize=16)
def _shared(made_of: bytes) -> CachedEncoder:
    """One for all tasks of a process: each unpickles its own, and would load a model each time."""
    return _made(**json.loads(made_of))


def _made(model: Any, store: dict[str, Any], names: dict[str, Any]) -> CachedEncoder:
    return CachedEncoder(model, EmbeddingStore(**store), **names)
