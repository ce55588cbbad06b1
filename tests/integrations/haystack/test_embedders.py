"""Haystack's texts and documents, embedded by an encoder."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from haystack import Document
from haystack.components.embedders import MockDocumentEmbedder

from embstore import CachedEncoder, EmbeddingStore
from embstore.integrations.haystack import CachedDocumentEmbedder, CachedTextEmbedder
from tests.integrations.haystack.models import ASKED, DOCUMENTS, embed, embeddings, lengths


def test_what_stands_around_a_text_decides_its_vector(store: EmbeddingStore) -> None:
    encoder = CachedEncoder(lengths, store, model_name="lengths")
    embedder = CachedTextEmbedder(encoder, prefix="query: ", suffix="?")
    for _ in range(2):
        assert embedder.run("who") == {"embedding": [11.0, 1.0]}
        assert CachedTextEmbedder(encoder).run(text="who") == {"embedding": [3.0, 1.0]}
    assert ASKED == {"query: who?": 1, "who": 1}


def test_normalized_vectors_are_others(store: EmbeddingStore) -> None:
    encoder = CachedEncoder(lengths, store, model_name="lengths")
    for _ in range(2):
        vector = CachedTextEmbedder(encoder, normalize_embeddings=True).run("abc")["embedding"]
        assert vector == pytest.approx([3 / 10**0.5, 1 / 10**0.5])
        assert CachedTextEmbedder(encoder).run("abc")["embedding"] == [3.0, 1.0]
        document = CachedDocumentEmbedder(encoder, normalize_embeddings=True)
        assert embeddings(document.run([Document(content="abc")])) == [vector]


@pytest.mark.parametrize("wrapped", [False, True])
def test_fields_of_the_meta_stand_in_front(store: EmbeddingStore, wrapped: bool) -> None:
    how: dict[str, Any] = {
        "prefix": "<",
        "suffix": ">",
        "meta_fields_to_embed": ["title", "missing"],
        "embedding_separator": " | ",
    }
    plain = MockDocumentEmbedder(embedding_fn=embed, **how)
    expected = plain.run(DOCUMENTS)["documents"]
    texts = set(ASKED)
    ASKED.clear()
    if wrapped:
        embedder = CachedDocumentEmbedder(plain, store, model_name="m")
    else:

        def function(texts: list[str]) -> list[list[float]]:
            return [embed(text) for text in texts]

        encoder = CachedEncoder(function, store, model_name="m")
        embedder = CachedDocumentEmbedder(encoder, progress_bar=False, **how)
    for _ in range(2):
        assert embedder.run(DOCUMENTS)["documents"] == expected
        assert asyncio.run(embedder.run_async(DOCUMENTS))["documents"] == expected
    assert dict(ASKED) == dict.fromkeys(texts, 1)


def test_the_documents_given_are_left_as_they_are(store: EmbeddingStore) -> None:
    encoder = CachedEncoder(lengths, store, model_name="lengths")
    documents = [Document(content="a", meta={"n": 1}), Document(content=None), Document("x", "a")]
    output = CachedDocumentEmbedder(encoder, progress_bar=False).run(documents)["documents"]
    assert [document.embedding for document in documents] == [None] * 3
    assert [document.embedding for document in output] == [[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]]
    assert [document.id for document in output] == [document.id for document in documents]
    assert output[0].meta == {"n": 1}
    assert ASKED == {"a": 1, "": 1}


def test_no_documents_are_no_work(store: EmbeddingStore) -> None:
    encoder = CachedEncoder(lengths, store, model_name="lengths")
    wrapping = CachedDocumentEmbedder(MockDocumentEmbedder([1.0]), store, model_name="m")
    for embedder in (CachedDocumentEmbedder(encoder), wrapping):
        assert embedder.run([]) == {"documents": []}
        assert asyncio.run(embedder.run_async([])) == {"documents": []}
    assert not store.namespaces()


def test_an_encoder_comes_without_others(store: EmbeddingStore) -> None:
    encoder = CachedEncoder(lengths, store, model_name="lengths")
    for more in ({"store": store}, {"model_name": "m"}, {"encoder_kwargs": {"device": "cpu"}}):
        with pytest.raises(ValueError, match="without others"):
            CachedTextEmbedder(encoder, **more)  # type: ignore[arg-type]


def test_texts_and_documents_are_not_taken_for_each_other(store: EmbeddingStore) -> None:
    encoder = CachedEncoder(lengths, store, model_name="lengths")
    with pytest.raises(TypeError, match="there is CachedDocumentEmbedder"):
        CachedTextEmbedder(encoder).run([Document(content="a")])  # type: ignore[arg-type]
    for wrong in ("a", [Document(content="a"), "b"]):
        with pytest.raises(TypeError, match="there is CachedTextEmbedder"):
            CachedDocumentEmbedder(encoder).run(wrong)  # type: ignore[arg-type]
