"""mteb's ``NumpyCache``, behind its ``CachedEmbeddingWrapper``: one memory-mapped matrix, and an
index in JSON that is read and written whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mteb.models.cache_wrappers.cache_backends import NumpyCache

if TYPE_CHECKING:
    from benchmarks.peers.base import Array


class MtebNumpyCache:
    """The cache without the wrapper, which would go through a data set text by text."""

    def __init__(self, folder: Path, dim: int) -> None:
        self._unsaved = False
        self._cache = NumpyCache(folder)
        if self._cache.index_file.exists():
            self._cache.load()  # warns of a folder that is empty

    def put(self, texts: list[str], vectors: Array) -> None:
        """Into the map; the index is saved in the end, as the wrapper does once in a call."""
        self._cache.add([{"text": text} for text in texts], vectors)
        self._unsaved = True

    def get(self, texts: list[str]) -> Array:
        """Row by row, and joined; ``np.array``, which the wrapper uses, takes a little longer."""
        get = self._cache.get_vector
        rows = [get({"text": text}) for text in texts]
        return np.concatenate(rows).reshape(len(rows), -1)

    def close(self) -> None:
        """Save the index if there is something new."""
        if self._unsaved:
            self._cache.save()
        self._cache.close()
