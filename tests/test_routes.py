"""Differential for a model with routes: what is a query's vector is not a document's."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore

TEXTS = ["the cat sat", "what is a docstring?", "the cat sat"]


@pytest.fixture(scope="module", params=[None, "query"], ids=["no_default", "default_query"])
def model(request: pytest.FixtureRequest, minilm: Any, static: Any) -> Any:
    """Word embeddings for queries, MiniLM for documents."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    routes = {"query": [static[0]], "document": [minilm[0], minilm[1]]}
    router = Router(routes, default_route=request.param)
    return SentenceTransformer(modules=[router, minilm[2]], device="cpu")


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("encode_query", {}),
    ("encode_document", {}),
    ("encode", {"task": "query"}),
    ("encode", {"task": "document"}),
    ("encode", {"task": "document", "modality": "text"}),
    ("encode", {}),
    ("encode", {"task": "unknown"}),
    ("encode", {"nonsense": 1}),
]


def outcome(call: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    try:
        return call(TEXTS, **arguments)
    except Exception as error:
        return type(error), sorted(re.findall(r"\w+", str(error)))  # sets print in any order


@pytest.mark.parametrize("rounds", [range(len(CALLS)), range(len(CALLS) - 1, -1, -1)])
def test_each_route_has_its_vectors(model: Any, store: EmbeddingStore, rounds: range) -> None:
    encoder = CachedEncoder(model, store)
    for number in (*rounds, *rounds):  # all in one store, cold and then warm, in both orders
        method, arguments = CALLS[number]
        expected = outcome(getattr(model, method), arguments)
        got = outcome(getattr(encoder, method), arguments)
        if isinstance(expected, tuple):
            assert got == expected
        else:
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_routes_are_not_confused(model: Any, store: EmbeddingStore) -> None:
    encoder = CachedEncoder(model, store)
    queries, documents = encoder.encode_query(TEXTS), encoder.encode_document(TEXTS)
    assert not np.allclose(queries, documents, atol=1e-2)
    before = store.stats().misses
    assert encoder.encode(TEXTS, task="query").tobytes() == queries.tobytes()
    assert encoder.encode(TEXTS, task="document").tobytes() == documents.tobytes()
    assert store.stats().misses == before == 4
