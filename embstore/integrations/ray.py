"""Ray Data, and whatever else hands batches to a function on many machines: Spark, Dask."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from embstore import columns, locks
from embstore.encoder import CachedEncoder
from embstore.integrations.batches import Columns, Task
from embstore.keys import canonical_json
from embstore.store import EmbeddingStore, StoreLike
from embstore.tuning import CHUNK_TEXTS, texts_for_trials

__all__ = ["EmbedBatches", "rows_per_batch"]

_ENCODERS: dict[bytes, CachedEncoder] = {}
"""Of this process, the one used last at the end. Each task of Spark or Dask unpickles a function of
its own, and would open the store and load the model anew."""

_MOST_ENCODERS = 16

_LEAST_ROWS, _MOST_ROWS = 1024, 65_536
"""With fewer, what a call costs by itself begins to count. More are much to lose and to hold."""


class EmbedBatches:
    """A callable class for ``Dataset.map_batches`` that embeds a column into another.

    Give the class and its arguments, and each actor opens the store of its node::

        dataset.map_batches(
            EmbedBatches,
            fn_constructor_kwargs={"model": "all-MiniLM-L6-v2", "store": {"location": "...", ...}},
            batch_format="pyarrow",
            batch_size=rows_per_batch(some_texts),
            compute=ActorPoolStrategy(size=4),
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
        self._model = os.fspath(model) if isinstance(model, os.PathLike) else model
        # As arguments, so that every process opens its own.
        given: Any = store.__getstate__() if isinstance(store, EmbeddingStore) else store
        if not isinstance(given, Mapping):
            given = {"location": given}
        self._store = {
            name: os.fspath(value) if isinstance(value, os.PathLike) else value
            for name, value in given.items()
        }
        self._names = {"model_name": model_name, "version": version, **(encoder_kwargs or {})}
        self._key = self._named()
        self._encoder: CachedEncoder | None = None

    def __call__(self, batch: Any) -> Any:
        """The batch, with a column more.

        Args:
            batch: n rows: a dict of arrays or lists, a frame of pandas or polars, an Arrow table
                or record batch.

        Returns:
            The same kind, with (n, dim) vectors: an array in a dict, lists in a frame, of one fixed
            length in Arrow, which is what Parquet, indexes and other programs take. Of a single
            row, a dict with a text, (dim,).

        Raises:
            KeyError: if the batch has no such column.
            TypeError: if a text is missing, or something else than a text.
        """
        texts = self.columns.texts(batch)
        if texts == []:  # as filters leave it; its columns are to be those of the others
            vectors = self.columns.no_vectors(self.encoder)
        else:
            vectors = self.columns.encode(self.encoder, texts)
        return self.columns.added(batch, vectors)

    @property
    def encoder(self) -> CachedEncoder:
        """What embeds in this process; made when it is first asked for."""
        encoder = self._encoder
        if encoder is None:
            with locks.LOADING:  # threads of one process share a model as well
                encoder = _ENCODERS.pop(self._key, None)
                if encoder is None:
                    store = EmbeddingStore(**self._store)
                    encoder = CachedEncoder(self._model, store, **self._names)
                _ENCODERS[self._key] = encoder  # behind those that were used before
                while len(_ENCODERS) > _MOST_ENCODERS:
                    del _ENCODERS[next(iter(_ENCODERS))]
            self._encoder = encoder
        return encoder

    def _named(self) -> bytes:
        """What those share that may share an encoder: the arguments; if these are no JSON values
        (a function, say), a name that copies keep."""
        try:
            return canonical_json([self._model, self._store, self._names])
        except (TypeError, ValueError):
            return secrets.token_bytes(16)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_encoder": None}


def rows_per_batch(
    texts: Iterable[str], *, device: str = "cpu", max_seq_length: int | None = 256
) -> int:
    """How many rows to have in a batch, as ``batch_size`` of ``map_batches``.

    So many that texts of like length come together, and that the best batches for the model can
    be found: that takes trials, and of a call with too few texts none are made (docs/batching.md).

    Args:
        texts: some texts as those that are to be embedded, a thousand for instance: at least one.
        device: where the model computes: "cpu", or any other, such as "cuda".
        max_seq_length: the model's: tokens after which it cuts a text. None for a model that cuts
            none, as those of static embeddings.

    Returns:
        Rows, from 1,024 to 65,536.

    Raises:
        TypeError: if a text is missing, or something else than a text.
        ValueError: if there is none.

    >>> rows_per_batch(["a sentence of some forty characters, more"])
    8448
    >>> rows_per_batch(["a paragraph, of which there are many. " * 20])
    1024
    """
    sample = columns.listed(texts)
    columns.refuse_others(sample)
    if not sample:
        raise ValueError("give a text at least: how many rows are good depends on their lengths")
    needed = texts_for_trials(sample, device=device, max_seq_length=max_seq_length)
    # A quarter more: no batch is quite like the sample.
    rounded = math.ceil(1.25 * needed / CHUNK_TEXTS) * CHUNK_TEXTS
    return min(max(rounded, _LEAST_ROWS), _MOST_ROWS)
