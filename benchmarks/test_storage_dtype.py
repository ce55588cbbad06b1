"""What ``storage_dtype="float16"`` costs and saves: time, disk, and similarities of real text."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.race import LINES, Line, Race
from embstore import CachedEncoder, EmbeddingStore
from embstore.batching.corpus import stdlib_paragraphs

TEXTS = 3000
QUERIES = 500
TOP = 10


def test_float16(race: Race, folder: Path, model: Any) -> None:
    """Paragraphs of docstrings, embedded once by the real model."""
    texts = sorted(set(stdlib_paragraphs()))
    random.Random(0).shuffle(texts)
    texts = texts[:TEXTS]
    with (
        EmbeddingStore(folder / "float32", memory_limit=0) as exact_store,
        EmbeddingStore(folder / "float16", memory_limit=0) as rounded_store,
    ):
        exact = CachedEncoder(model, exact_store)
        vectors = exact.encode(texts)
        rounded = CachedEncoder(model, rounded_store, storage_dtype="float16")
        rounded_store.put_many(rounded.namespace(), texts, vectors.astype(np.float16))
        found = rounded.encode(texts)
        result = race(
            {"float32": lambda: exact.encode(texts), "embstore": lambda: rounded.encode(texts)},
            items=TEXTS,
            rounds=41,
        )
        assert rounded.stats().misses == exact.stats().misses - TEXTS == 0
        sizes = [store.namespaces()[0].bytes for store in (rounded_store, exact_store)]
    result.report("encode(), all on disk, stored as float16", against="float32")
    normed = found / np.linalg.norm(found, axis=1, keepdims=True)
    cosines = np.einsum("nd,nd->n", normed.astype(np.float64), vectors.astype(np.float64))
    true = vectors[:QUERIES] @ vectors.T
    ours = found[:QUERIES] @ found.T
    best = [np.argsort(-each, axis=1)[:, 1 : TOP + 1] for each in (true, ours)]
    same = np.mean([len({*a} & {*b}) / TOP for a, b in zip(*best, strict=True)])
    first = float((best[0][:, 0] == best[1][:, 0]).mean())
    for name, figure in (
        ("float16: bytes on disk, to float32", f"{sizes[0] / sizes[1]:.3f}"),
        ("float16: smallest cosine to the exact vector", f"1 - {1 - cosines.min():.1e}"),
        ("float16: largest error of a similarity", f"{np.abs(true - ours).max():.1e}"),
        (f"float16: of the top {TOP}, the same", f"{same:.2%}"),
        ("float16: first hit the same", f"{first:.2%}"),
    ):
        LINES.append(Line(name, figure))
