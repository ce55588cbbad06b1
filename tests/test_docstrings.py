"""The promise on real input: a warm vector is the stored one, and an uncached run's within 1e-6.

A slice with MiniLM, and everything with a fast model. ``EMBSTORE_FULL=1`` takes everything with
MiniLM too, which takes ten minutes on two cores. Measured so: 16,637 texts, furthest 2.2e-7.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore
from embstore.batching.corpus import sample

FULL = os.environ.get("EMBSTORE_FULL") == "1"


def check(
    model: Any, texts: list[str], store: EmbeddingStore, reopened: Callable[..., EmbeddingStore]
) -> float:
    """Encode cold, warm and bare; returns how far the bare model's vectors are off at most."""
    cold = CachedEncoder(model, store).encode(texts)
    again = reopened()
    warm = CachedEncoder(model, again).encode(texts)
    assert warm.tobytes() == cold.tobytes()

    stored, found = again.get_many(CachedEncoder(model, again).namespace(), texts)
    assert found.all()
    assert warm.tobytes() == stored.tobytes()

    unique = len(set(texts))
    assert (store.stats().misses, store.stats().hits) == (unique, len(texts) - unique)
    assert (again.stats().misses, again.stats().entries) == (0, unique)
    return float(np.abs(warm - model.encode(texts)).max())


@pytest.mark.timeout(3600 if FULL else 300)
def test_minilm(
    minilm: Any,
    paragraphs: list[str],
    store: EmbeddingStore,
    reopened: Callable[..., EmbeddingStore],
    record_property: Callable[[str, object], None],
) -> None:
    texts = paragraphs if FULL else sample(paragraphs, 400)
    furthest = check(minilm, texts, store, reopened)
    record_property("max_difference", furthest)
    print(f"{len(texts):,} texts, furthest {furthest:.3g}")
    assert furthest <= 1e-6


def test_every_paragraph_with_a_fast_model(
    static: Any,
    paragraphs: list[str],
    store: EmbeddingStore,
    reopened: Callable[..., EmbeddingStore],
) -> None:
    assert len(paragraphs) > 10_000
    assert check(static, paragraphs, store, reopened) <= 1e-6
