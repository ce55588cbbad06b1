"""Hugging Face datasets: a column of embeddings by ``Dataset.map``."""

from __future__ import annotations

from typing import Any, Literal, final

from embstore.encoder import CachedEncoder
from embstore.integrations.batches import Columns, Task
from embstore.integrations.embedder import require
from embstore.keys import canonical_json
from embstore.store import StoreLike

datasets = require("datasets", "datasets")
_pickling: Any = require("datasets.utils._dill", "datasets")


@final
class EmbedColumn:
    """A function for ``dataset.map(..., batched=True)`` that embeds a column into another.

    ``map`` names its own cache files by a hash of the function. That of this one is made from what
    decides its result: model (name and fingerprint), settings and columns. It is the same in every
    process, wherever the store is, whether or not the model is loaded, and another one as soon as
    vectors may differ.

    It may be pickled, so ``num_proc`` works: each process opens the same store, and a text that is
    in the parts of several is computed once.

    Args:
        encoder: a :class:`~embstore.encoder.CachedEncoder`, or what it takes as a model: a name, a
            path, a ``SentenceTransformer``.
        column: where the texts are.
        into: the column of the vectors; one of that name is replaced.
        store: where embeddings are kept, if ``encoder`` is not a ``CachedEncoder`` yet.
        task: "query" and "document" embed as ``encode_query`` and ``encode_document`` do.
        prompt_name: as in ``SentenceTransformer.encode``, and so are the next three.
        prompt: see there.
        normalize_embeddings: see there.
        truncate_dim: see there.
        batch_size: as in ``CachedEncoder.encode``; it decides no vector, and is in no hash.

    Raises:
        ImportError: (at import) if ``datasets`` is not installed.
        ValueError: if the task is none of these, or a store is given twice.

    >>> import tempfile, datasets
    >>> from embstore import EmbeddingStore
    >>> def lengths(texts):
    ...     return [[float(len(text))] for text in texts]
    >>> encoder = CachedEncoder(lengths, EmbeddingStore(tempfile.mkdtemp()), model_name="lengths")
    >>> embed = EmbedColumn(encoder)
    >>> embed({"text": ["one", "three"]})
    {'embedding': array([[3.],
           [5.]], dtype=float32)}
    """

    def __init__(
        self,
        encoder: CachedEncoder | Any,
        column: str = "text",
        into: str = "embedding",
        *,
        store: StoreLike = None,
        task: Task | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        batch_size: int | Literal["auto"] = "auto",
    ) -> None:
        self._columns = Columns(
            column,
            into,
            task,
            batch_size,
            prompt_name=prompt_name,
            prompt=prompt,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
        )
        if not isinstance(encoder, CachedEncoder):
            encoder = CachedEncoder(encoder, store)
        elif store is not None:
            raise ValueError("a CachedEncoder has a store: give no other")
        self.encoder = encoder

    def __call__(self, batch: Any) -> Any:
        """The batch's vectors, {into: (n, dim)}; of a frame (format "pandas", "polars", "arrow")
        the frame, with a column more. Of a single row, {into: (dim,)}.

        Raises:
            KeyError: if the batch has no such column.
            TypeError: if a text is missing, or something else than a text.
        """
        vectors = self._columns.encode(self.encoder, self._columns.texts(batch))
        is_frame = any(hasattr(batch, how) for how in ("append_column", "with_columns", "assign"))
        # ``map`` puts together what is no frame.
        return self._columns.added(batch if is_frame else {}, vectors)

    def features(self, dataset: Any) -> Any:
        """What to give ``map`` as ``features=``, so that vectors are of one fixed length: those of
        the dataset, and ``into`` as ``List(Value("float32"), length=dim)``.

        The first row is embedded to know ``dim``, which ``map`` then finds in the store.

        Args:
            dataset: a ``Dataset`` or ``IterableDataset`` with a row at least.

        Raises:
            ValueError: if it has no rows.
        """
        row = next(iter(dataset.with_format(None)), None)
        if row is None:
            raise ValueError("of a dataset without rows nobody knows the number of dimensions")
        vector = self._columns.encode(self.encoder, [row[self._columns.column]])[0]
        known = dataset.features
        if known is None:  # as of a stream whose rows a function makes
            known = datasets.Dataset.from_list([row]).features
        kind = datasets.List(datasets.Value(str(vector.dtype)), length=len(vector))
        return datasets.Features({**known, self._columns.into: kind})

    def identity(self) -> dict[str, Any]:
        """What decides the result, as JSON values. Loads a model that was never loaded before."""
        columns = self._columns
        where = {"column": columns.column, "into": columns.into}
        return {"namespace": columns.namespace(self.encoder).to_dict(), **where}


def _hash(pickler: Any, embed: EmbedColumn) -> None:
    # This pickler only hashes. What goes to other processes is pickled by multiprocess, in full.
    pickler.save_reduce(EmbedColumn, (canonical_json(embed.identity()),), obj=embed)


_pickling.pklregister(EmbedColumn)(_hash)
