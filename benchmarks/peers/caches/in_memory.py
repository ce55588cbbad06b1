"""Caches that end with the process: ``functools.lru_cache``, and the two of the notebook that
embstore began as an answer to."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.peers.base import Array


class LruCache:
    """``functools.lru_cache`` over a function from a text to its vector."""

    def __init__(self, folder: Path, dim: int) -> None:
        given: Iterator[Array] = iter(())
        self._given = given
        self._embed = functools.lru_cache(maxsize=None)(lambda text: next(self._given))

    def put(self, texts: list[str], vectors: Array) -> None:
        """Have each text "computed"."""
        self._given = iter(vectors)
        for text in texts:
            self._embed(text)

    def get(self, texts: list[str]) -> Array:
        """Stack what the cache has; a text that it has not is an error, as nothing is given."""
        embed = self._embed
        return np.stack([embed(text) for text in texts])

    def close(self) -> None:
        """Forget everything."""
        self._embed.cache_clear()


class _Given:
    """Stands in for the model: hands out the vectors of one batch, in order, for nothing."""

    def __init__(self) -> None:
        self._left: Array | None = None

    def has(self, vectors: Array) -> None:
        """What is computed next."""
        self._left = vectors

    def encode(self, texts: list[str]) -> Array:
        """The next vectors."""
        if self._left is None or len(self._left) < len(texts):
            raise KeyError("a text is not stored")
        taken, self._left = self._left[: len(texts)], self._left[len(texts) :]
        return taken


class NotebookDict:
    """The notebook's first cache: a dict from MD5, in hexadecimal, to vector; misses are computed
    32 at a time; what was found is put in order at the end, and made one array."""

    def __init__(self, folder: Path, dim: int) -> None:
        self._model = _Given()
        self._cache: dict[str, Array] = {}
        self._hits = self._misses = 0

    def _encode(self, texts: list[str]) -> Array:
        found: list[tuple[int, Array]] = []
        missing: list[tuple[int, str, str]] = []
        for position, text in enumerate(texts):
            key = hashlib.md5(text.encode()).hexdigest()
            if key in self._cache:
                found.append((position, self._cache[key]))
                self._hits += 1
            else:
                missing.append((position, key, text))
                self._misses += 1
        for start in range(0, len(missing), 32):
            part = missing[start : start + 32]
            vectors = self._model.encode([text for *_, text in part])
            for (position, key, _), vector in zip(part, vectors, strict=True):
                self._cache[key] = vector
                found.append((position, vector))
        found.sort(key=lambda pair: pair[0])
        return np.array([vector for _, vector in found])

    def put(self, texts: list[str], vectors: Array) -> None:
        """Encode texts whose vectors the model has ready."""
        self._model.has(vectors)
        self._encode(texts)

    def get(self, texts: list[str]) -> Array:
        """Encode texts that are all known."""
        return self._encode(texts)

    def close(self) -> None:
        """Forget everything."""
        self._cache.clear()


@functools.lru_cache(maxsize=1024)
def _md5(text: str) -> str:
    """The notebook remembers the digests of 1,024 texts."""
    return hashlib.md5(text.encode()).hexdigest()


class NotebookLru:
    """The notebook's second cache: ``lru_cache`` around a method that computes one text, found by
    its digest; two calls of ``cache_info`` tell whether it was a hit. The notebook keeps 1,024
    vectors; here there is room for all."""

    def __init__(self, folder: Path, dim: int) -> None:
        self._model = _Given()
        self._texts: dict[str, str] = {}
        self._one = functools.lru_cache(maxsize=2**40)(self._compute)
        self._hits = self._misses = 0

    def _compute(self, key: str) -> Array:
        self._misses += 1
        vector: Array = self._model.encode([self._texts[key]])[0]
        return vector

    def _encode(self, texts: list[str]) -> Array:
        self._texts = {}
        found = []
        for text in texts:
            key = _md5(text)
            self._texts[key] = text
            before = self._one.cache_info()
            vector = self._one(key)
            if self._one.cache_info().hits > before.hits:
                self._hits += 1
            found.append(vector)
        return np.array(found)

    def put(self, texts: list[str], vectors: Array) -> None:
        """Encode texts whose vectors the model has ready."""
        self._model.has(vectors)
        self._encode(texts)

    def get(self, texts: list[str]) -> Array:
        """Encode texts that are all known."""
        return self._encode(texts)

    def close(self) -> None:
        """Forget everything."""
        self._one.cache_clear()
