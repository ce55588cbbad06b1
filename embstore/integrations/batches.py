"""Batches of rows, as libraries hand them to a function: texts in, vectors out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from embstore import columns
from embstore.backends.rows import Array
from embstore.encoder import CachedEncoder
from embstore.keys import Namespace

Task = Literal["query", "document"]

_ANY = "a text"
"""Embedded to learn the number of dimensions. Not "", which services that embed refuse."""


class Columns:
    """Which column is embedded into which, and how.

    Args:
        column: where the texts are.
        into: the column of the vectors.
        task: "query" and "document" embed as ``encode_query`` and ``encode_document`` do.
        batch_size: as in ``CachedEncoder.encode``.
        **settings: likewise.

    Raises:
        ValueError: if the task is none of these.
    """

    def __init__(
        self,
        column: str,
        into: str,
        task: Task | None,
        batch_size: int | Literal["auto"],
        **settings: Any,
    ) -> None:
        if task not in (None, "query", "document"):
            raise ValueError(f'task is "query", "document" or None, not {task!r}')
        self.column = column
        self.into = into
        self.task = task
        self.settings = settings
        self.batch_size = batch_size

    def texts(self, batch: Any) -> Any:
        """The texts of a batch; of a single row its text.

        Raises:
            KeyError: if the batch has no such column.
            TypeError: if a text is missing, or something else than a text.
        """
        try:
            texts = batch[self.column]
        except Exception as error:  # each kind of frame has its own
            raise KeyError(f"there is no column {self.column!r}: give column=") from error
        if isinstance(texts, str):
            return texts
        # numpy's own strings are none of Python's: a model may look closely.
        texts = texts.tolist() if isinstance(texts, np.ndarray) else columns.listed(texts)
        columns.refuse_others(texts)
        return texts

    def encode(self, encoder: CachedEncoder, texts: Any) -> Any:
        """The vectors of texts, (n, dim)."""
        encode = {
            None: encoder.encode,
            "query": encoder.encode_query,
            "document": encoder.encode_document,
        }[self.task]
        return encode(texts, batch_size=self.batch_size, show_progress_bar=False, **self.settings)

    def no_vectors(self, encoder: CachedEncoder) -> Array:
        """(0, dim) vectors for a batch without rows, as those of the others are.

        Nothing is computed if the store has any vector of this kind.
        """
        stored, _ = encoder.store.get_many(self.namespace(encoder), [])
        if stored.shape[1]:
            return stored
        vectors: Array = self.encode(encoder, [_ANY])
        return vectors[:0]

    def namespace(self, encoder: CachedEncoder) -> Namespace:
        """Where the vectors are kept. Loads a model that was never loaded before."""
        settings = dict(self.settings)
        if self.task is not None:
            settings["prompt_name"] = encoder._prompt_for(
                self.task, settings["prompt_name"], settings["prompt"]
            )
        return encoder.namespace(task=self.task, **settings)

    def added(self, batch: Any, vectors: Array) -> Any:
        """A batch with its vectors: a frame of pandas, polars or Arrow, or a mapping of columns."""
        if hasattr(batch, "append_column"):
            return _arrow_with(batch, self.into, vectors)
        if hasattr(batch, "with_columns"):
            return _polars_with(batch, self.into, vectors)
        if hasattr(batch, "assign"):
            return batch.assign(**{self.into: list(vectors)})
        if isinstance(batch, Mapping):
            return {**batch, self.into: vectors}
        raise TypeError(f"a batch is a frame or a dict of columns, not a {type(batch).__name__}")


def _arrow_with(table: Any, name: str, vectors: Array) -> Any:
    import pyarrow

    flat = pyarrow.array(vectors.reshape(-1))
    column = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)


def _polars_with(frame: Any, name: str, vectors: Array) -> Any:
    import polars

    return frame.with_columns(polars.Series(name, vectors))
