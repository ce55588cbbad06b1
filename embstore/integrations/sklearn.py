"""scikit-learn: a transformer from texts to embeddings, for pipelines and searches."""

from __future__ import annotations

import copy
from threading import Lock
from typing import Any, Literal, cast

from embstore import columns
from embstore.backends.rows import Array
from embstore.encoder import CachedEncoder
from embstore.integrations.embedder import require
from embstore.store import StoreLike

require("sklearn", "sklearn")

from sklearn.base import (  # type: ignore[import-untyped]  # noqa: E402
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils import check_array  # type: ignore[import-untyped]  # noqa: E402

__all__ = ["EmbeddingTransformer"]

_ENCODE = {None: "encode", "query": "encode_query", "document": "encode_document"}

_Opened = tuple[tuple[Any, ...], CachedEncoder]
"""An encoder, behind the parameters that it was made of."""

_OPENING = Lock()


class _Clones:
    """A transformer and its clones.

    Attributes:
        latest: what one of them has opened last. All of a search's die before the next are made.
    """

    latest: _Opened | None = None


class EmbeddingTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Texts to embeddings; none is embedded twice, in whatever fold, search or process it is.

    Nothing is learned from the texts: ``transform`` needs no ``fit``. All ``fit`` does is to check
    its input, and to embed the first text, so that the number of columns is known.

    Clones, of which a search makes many, share the model and the store, and load a model once. A
    pickle holds neither weights nor vectors if the model is a name or path: a pipeline that is read
    again opens the same store. If it knows all texts, no model is loaded.

    Args:
        model: the name or path of a ``SentenceTransformer``, or a loaded one; a ``CachedEncoder``;
            or a function from ``list[str]`` to (n, dim) vectors.
        store: an ``EmbeddingStore``, or its location; None is its default location.
        model_name: what to call the model in the store; required for a function.
        version: as in ``CachedEncoder``: change it when a function changes.
        task: "query" and "document" embed as ``encode_query`` and ``encode_document`` do.
        prompt_name: as in ``CachedEncoder.encode``, and so are all that follow but the last.
        prompt: see there.
        normalize_embeddings: see there.
        truncate_dim: see there.
        batch_size: see there.
        show_progress_bar: see there.
        encoder_kwargs: further arguments of ``CachedEncoder``, such as ``device`` or ``revision``.

    Raises:
        ImportError: (at import) if scikit-learn is not installed.

    >>> import tempfile
    >>> def letters(texts):
    ...     return [[float(len(text)), float(text.count("a"))] for text in texts]
    >>> embed = EmbeddingTransformer(letters, tempfile.mkdtemp(), model_name="letters")
    >>> embed.fit_transform(["banana", "apple"])
    array([[6., 3.],
           [5., 1.]], dtype=float32)
    >>> embed.get_feature_names_out().tolist()
    ['embeddingtransformer0', 'embeddingtransformer1']
    """

    _opened: _Opened | None = None
    _clones: _Clones | None = None

    def __init__(
        self,
        model: Any,
        store: StoreLike = None,
        *,
        model_name: str | None = None,
        version: str | None = None,
        task: Literal["query", "document"] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        batch_size: int | Literal["auto"] = "auto",
        show_progress_bar: bool = False,
        encoder_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.store = store
        self.model_name = model_name
        self.version = version
        self.task = task
        self.prompt_name = prompt_name
        self.prompt = prompt
        self.normalize_embeddings = normalize_embeddings
        self.truncate_dim = truncate_dim
        self.batch_size = batch_size
        self.show_progress_bar = show_progress_bar
        self.encoder_kwargs = encoder_kwargs

    def fit(self, X: Any, y: Any = None) -> EmbeddingTransformer:  # noqa: N803
        """Check the texts, and find out the number of columns by embedding the first.

        Args:
            X: as in :meth:`transform`.
            y: ignored.

        Raises:
            TypeError: as in :meth:`transform`.
            ValueError: as in :meth:`transform`.
        """
        self._n_features_out = self._embed(_texts(X)[:1]).shape[1]
        return self

    def transform(self, X: Any) -> Array:  # noqa: N803
        """Embed texts, computing only those that are not stored.

        Args:
            X: n texts, at least one: a list, a column of pandas, polars or Arrow, an array (n,);
                or a table of one column, (n, 1).

        Returns:
            (n, dim) vectors, float32 unless the model gives another dtype; a data frame if
            ``set_output`` asked for one.

        Raises:
            TypeError: if a text is missing, or something else than a text; or if a parameter is
                of a wrong type.
            ValueError: if there is no text, or more than one column; or if a parameter is wrong.
        """
        return self._embed(_texts(X))

    def _embed(self, texts: list[str]) -> Array:
        if self.task not in _ENCODE:
            raise ValueError(f'task is "query", "document" or None, not {self.task!r}')
        vectors = getattr(self._encoder(), _ENCODE[self.task])(
            texts,
            prompt_name=self.prompt_name,
            prompt=self.prompt,
            normalize_embeddings=self.normalize_embeddings,
            truncate_dim=self.truncate_dim,
            batch_size=self.batch_size,
            show_progress_bar=self.show_progress_bar,
        )
        return cast(Array, vectors)

    def _encoder(self) -> CachedEncoder:
        further = dict(self.encoder_kwargs or {})
        given = (self.model, self.store, self.model_name, self.version, further)
        with _OPENING:
            clones = self._clones = self._clones or _Clones()
            for opened in (self._opened, clones.latest):
                if opened is not None and opened[0] == given:
                    break
            else:
                opened = given, self._open(further)
            self._opened = clones.latest = opened
        return opened[1]

    def _open(self, further: dict[str, Any]) -> CachedEncoder:
        names: dict[str, Any] = {"model_name": self.model_name, "version": self.version}
        if not isinstance(self.model, CachedEncoder):
            return CachedEncoder(self.model, self.store, **names, **further)
        if self.store is not None or further or any(names.values()):
            raise ValueError(
                "a CachedEncoder has a store, a name and settings already: give it without others"
            )
        return self.model

    # --- what scikit-learn asks for -------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name; those of the model itself are not among them.

        Args:
            deep: ignored.
        """
        # Deep, a CachedEncoder would be asked for parameters, and load its model to ask that.
        return dict(super().get_params(deep=False))

    def __sklearn_clone__(self) -> EmbeddingTransformer:
        # Copied with the other parameters, a loaded model would be in memory once for each fold.
        light = copy.copy(self)
        light.model = light.store = None
        clone: EmbeddingTransformer = super(EmbeddingTransformer, light).__sklearn_clone__()
        clone.model, clone.store = self.model, self.store
        clone._clones = self._clones = self._clones or _Clones()
        return clone

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {key: state[key] for key in state if key not in ("_opened", "_clones")}


def _texts(given: Any) -> list[str]:
    if isinstance(given, str):
        raise TypeError("texts are a list or a column: for a single one give [text]")
    array = check_array(
        given,
        # As objects: as numpy's own strings, all would take as many bytes as the longest.
        dtype=object,
        ensure_2d=False,
        ensure_all_finite=False,
        estimator="EmbeddingTransformer",
        input_name="X",
    )
    if array.ndim == 2 and array.shape[1] != 1:
        raise ValueError(
            f"EmbeddingTransformer embeds one column of texts, and X has {array.shape[1]}: give "
            'the one with the texts, or choose it by ColumnTransformer([("text", embed, "body")])'
        )
    texts: list[str] = array.ravel().tolist()
    columns.refuse_others(texts)
    return texts
