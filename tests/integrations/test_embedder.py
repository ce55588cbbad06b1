"""What the integrations have in common."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore
from embstore.integrations.embedder import Embedder, EncoderEmbedder, require

TEXTS = ["a", "bb", "ccc", "a"]


class Model:
    """Embeds documents and queries differently, and counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.calls = 0

    def document(self, texts: list[str]) -> list[list[float]]:
        self.calls += 1
        self.asked.update(f"document {text}" for text in texts)
        return [[float(len(text)), 1.0] for text in texts]

    def query(self, texts: list[str]) -> list[list[float]]:
        self.calls += 1
        self.asked.update(f"query {text}" for text in texts)
        return [[float(len(text)), -1.0] for text in texts]

    async def adocument(self, texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(0.01)
        return self.document(texts)


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return EmbeddingStore(tmp_path / "store", on_error="raise")


def test_queries_and_documents_are_never_mixed(store: EmbeddingStore) -> None:
    model = Model()
    embedder = Embedder(store, "m", model.document, model.query)
    for _ in range(2):
        assert embedder.documents(TEXTS).tolist() == [[1, 1], [2, 1], [3, 1], [1, 1]]
        assert embedder.queries(TEXTS).tolist() == [[1, -1], [2, -1], [3, -1], [1, -1]]
    assert set(model.asked.values()) == {1}
    assert len(model.asked) == 6
    assert len(store.namespaces()) == 2


def test_without_a_query_of_its_own_they_are_documents(store: EmbeddingStore) -> None:
    model = Model()
    embedder = Embedder(store, "m", model.document)
    assert (embedder.documents(TEXTS) == embedder.queries(TEXTS)).all()
    assert asyncio.run(embedder.aqueries(TEXTS)).tolist() == embedder.queries(TEXTS).tolist()
    assert sum(model.asked.values()) == 3


@pytest.mark.parametrize("native", [True, False])
def test_async_finds_what_sync_stored_and_gathers_the_rest(
    store: EmbeddingStore, native: bool
) -> None:
    model = Model()
    embedder = Embedder(
        store, "m", model.document, model.query, adocument=model.adocument if native else None
    )
    embedder.documents(["a"])

    async def many() -> list[list[float]]:
        found = await asyncio.gather(*(embedder.adocuments([text]) for text in "abcdefgha"))
        return [vectors.tolist()[0] for vectors in found]

    assert asyncio.run(many()) == [[1.0, 1.0]] * 9
    assert set(model.asked.values()) == {1}
    assert model.calls < 9, "what concurrent calls lack is computed together"
    assert asyncio.run(embedder.aqueries(["a"])).tolist() == [[1.0, -1.0]]


def test_settings_name_and_version_tell_vectors_apart(store: EmbeddingStore) -> None:
    model = Model()
    Embedder(store, "m", model.document).documents(["a"])
    Embedder(store, "m", model.document, settings={"dimensions": 2}).documents(["a"])
    Embedder(store, "m", model.document, version="2").documents(["a"])
    Embedder(store, "n", model.document).documents(["a"])
    Embedder(store, "m", model.document).documents(["a"])
    assert model.asked == {"document a": 4}


def test_nothing_is_asked_for_nothing(store: EmbeddingStore) -> None:
    model = Model()
    embedder = Embedder(store, "m", model.document)
    assert embedder.documents([]).shape == (0, 0)
    assert asyncio.run(embedder.aqueries([])).shape == (0, 0)
    assert not model.calls


def test_an_encoder_does_it_in_its_own_way(store: EmbeddingStore) -> None:
    model = Model()
    embedder = EncoderEmbedder(CachedEncoder(model.document, store, model_name="m"))
    documents = embedder.documents(TEXTS)
    assert documents.dtype == np.float32
    assert asyncio.run(embedder.adocuments(TEXTS)).tolist() == documents.tolist()
    assert embedder.queries(TEXTS).tolist() == asyncio.run(embedder.aqueries(TEXTS)).tolist()
    assert len(store.namespaces()) == 2


def test_a_library_that_is_not_there() -> None:
    with pytest.raises(ImportError, match=r"pip install 'embstore\[llama-index\]'"):
        require("surely_not_installed", "llama-index")
