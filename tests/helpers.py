"""What the store's tests share: the true vector of any text, and Python processes of their own."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embstore import EmbeddingStore, Namespace
from embstore.testing import true_vectors

ROOT = Path(__file__).parents[1]
MODEL = Namespace("a/model", fingerprint="1")
OTHER = Namespace("a/model", fingerprint="2")


def vectors_of(
    namespace: Namespace, texts: Sequence[str], dim: int = 8, dtype: str = "float32"
) -> npt.NDArray:
    """The vectors that belong to texts, in every process and test."""
    keys = [text.encode("utf-8", "surrogatepass") for text in texts]
    return true_vectors(namespace, keys, dim, dtype)


def texts_of(count: int, first: int = 0) -> list[str]:
    """Texts numbered from ``first`` on."""
    return [f"text {number}" for number in range(first, first + count)]


def put(
    store: EmbeddingStore,
    namespace: Namespace,
    texts: Sequence[str],
    dim: int = 8,
    dtype: str = "float32",
) -> None:
    """Store the true vectors of texts."""
    store.put_many(namespace, texts, vectors_of(namespace, texts, dim, dtype))


def check(
    store: EmbeddingStore,
    namespace: Namespace,
    texts: Sequence[str],
    dim: int = 8,
    dtype: str = "float32",
) -> list[bool]:
    """Look texts up; whatever is found must be the true vector, bit for bit. Which were found."""
    vectors, found = store.get_many(namespace, texts)
    assert found.shape == (len(texts),)
    if found.any():
        expected = vectors_of(namespace, texts, dim, dtype)
        assert vectors.dtype == expected.dtype
        assert vectors.shape == expected.shape
        wrong = np.flatnonzero((vectors != expected).any(axis=1) & found)
        assert vectors[found].tobytes() == expected[found].tobytes(), f"wrong vectors at {wrong}"
    return found.tolist()


def start_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that runs ``code``, with pipes to its standard streams."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def run_python(code: str, *arguments: object) -> str:
    """What ``code`` prints in a process of its own, which must end well."""
    process = start_python(code, *arguments)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


def ledger_rows(location: Path, query: str, *values: object) -> list[tuple]:
    """Run SQL on the ledger of a store that nobody has open; commits."""
    connection = sqlite3.connect(location / "cache.db")
    try:
        with connection:
            return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def vector_files(location: Path) -> list[Path]:
    """The vector files of a store."""
    return sorted((location / "vectors").iterdir())
