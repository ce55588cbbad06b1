"""Everything of an encoder that is not encoding: it is the model's."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from embstore.models import Model

_RETURN_THE_MODEL = frozenset(
    {"to", "cpu", "cuda", "half", "float", "double", "bfloat16", "type"}
    | {"eval", "train", "requires_grad_", "share_memory"}
)
"""Methods of a model that change it and return it: of an encoder they return the encoder, so that
``encoder = encoder.to("cuda")`` is still one."""


class Delegate:
    """Attributes that a class does not have itself are those of ``self._model``, read or set.

    A model that is not loaded is loaded for them.
    """

    _model: Model

    @property
    def model(self) -> Any:
        """The model itself; loads it if it is not."""
        return self._model.share()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The model's similarity of all pairs, (n, m) tensor; the model need not be loaded."""
        return self._similarity_function("to_similarity_fn")(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The model's similarity of pairs, (n,) tensor; the model need not be loaded."""
        return self._similarity_function("to_similarity_pairwise_fn")(embeddings1, embeddings2)

    def _similarity_function(self, kind: str) -> Any:
        from sentence_transformers.util import SimilarityFunction

        return getattr(SimilarityFunction, kind)(self._model.profile().similarity_fn_name)

    def __getattr__(self, name: str) -> Any:
        # Not what copying, pickling and notebooks ask every object for: a model may take seconds.
        if name.startswith(("__", "_repr_", "_ipython_")) or "_model" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        found = getattr(self.model, name)
        if name not in _RETURN_THE_MODEL:
            return found

        @functools.wraps(found)
        def returning_self(*args: Any, **kwargs: Any) -> Any:
            result = found(*args, **kwargs)
            return self if result is self.model else result

        return returning_self

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__ or hasattr(type(self), name):
            raise AttributeError(
                f"{name!r} of a {type(self).__name__} cannot be replaced: make a new one"
            )
        setattr(self.model, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    def __getitem__(self, index: Any) -> Any:
        return self.model[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.model)

    def __len__(self) -> int:
        return len(self.model)

    def __bool__(self) -> bool:
        return True
