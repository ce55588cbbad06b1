"""Haystack's pipelines with embedders that embed no text twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from haystack import Pipeline
from haystack.components.embedders import MockDocumentEmbedder
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.core.errors import DeserializationError, SerializationError
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy

from embstore import CachedEncoder, EmbeddingStore
from embstore.integrations.haystack import CachedDocumentEmbedder, CachedTextEmbedder
from tests.integrations.haystack.models import DOCUMENTS, lengths

OURS = ["embstore.integrations.haystack"]


def indexing(embedder: Any, documents: InMemoryDocumentStore) -> Pipeline:
    pipeline = Pipeline()
    pipeline.add_component("embedder", embedder)
    pipeline.add_component("writer", DocumentWriter(documents, DuplicatePolicy.OVERWRITE))
    pipeline.connect("embedder.documents", "writer.documents")
    return pipeline


def querying(embedder: Any, documents: InMemoryDocumentStore) -> Pipeline:
    pipeline = Pipeline()
    pipeline.add_component("embedder", embedder)
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(documents, top_k=1))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    return pipeline


def test_pipelines_from_end_to_end_compute_nothing_the_second_time(
    minilm: Any, tmp_path: Path
) -> None:
    question = {"embedder": {"text": "Where can I buy a loaf?"}}
    answers = []
    for computed in (4, 0):
        with EmbeddingStore(tmp_path / "store", on_error="raise") as store:
            documents, encoder = InMemoryDocumentStore(), CachedEncoder(minilm, store)
            index = indexing(CachedDocumentEmbedder(encoder, progress_bar=False), documents)
            assert index.run({"embedder": {"documents": DOCUMENTS}})["writer"] == {
                "documents_written": 3
            }
            ask = querying(CachedTextEmbedder(encoder), documents)
            found = ask.run(question)["retriever"]["documents"]
            assert asyncio.run(ask.run_async(question))["retriever"]["documents"] == found
            answers += [(found[0].content, found[0].score)]
            assert store.stats().misses == computed
            assert len(store.namespaces()) == 2, "queries and documents are kept apart"
    assert answers[0] == answers[1]
    assert "bakery" in answers[0][0]


def test_a_pipeline_from_yaml_needs_no_model_where_all_is_known(
    model_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "store"
    with EmbeddingStore(place, on_error="raise") as store:
        vector = CachedEncoder(model_path, store, device="cpu").encode_query("a query")
    embedder = CachedTextEmbedder(model_path, place, encoder_kwargs={"device": "cpu"})
    written = querying(embedder, InMemoryDocumentStore()).dumps()
    monkeypatch.setattr("sentence_transformers.SentenceTransformer", None)
    with pytest.raises(DeserializationError, match="allowlist"):
        Pipeline.loads(written)
    pipeline = Pipeline.loads(written, allowed_modules=OURS)
    assert pipeline.dumps() == written
    asked = {"embedder": {"text": "a query"}}
    output = pipeline.run(asked, include_outputs_from={"embedder"})
    assert output["embedder"] == {"embedding": vector.tolist()}
    pipeline.close()


def test_a_wrapped_component_survives_yaml(store: EmbeddingStore, tmp_path: Path) -> None:
    documents = InMemoryDocumentStore()
    embedder = CachedDocumentEmbedder(
        MockDocumentEmbedder(dimension=3, meta_fields_to_embed=["title"]),
        store,
        model_name="mock",
        version="2",
    )
    pipeline = indexing(embedder, documents)
    pipeline.run({"embedder": {"documents": DOCUMENTS}})
    written = pipeline.dumps()
    again = Pipeline.loads(written, allowed_modules=OURS)
    assert again.dumps() == written
    again.run({"embedder": {"documents": DOCUMENTS}})
    loaded: Any = again.get_component("embedder")
    assert loaded.store == {"location": str(tmp_path / "store"), "on_error": "raise"}
    assert loaded._opened.stats().misses == 0
    again.close()
    assert loaded._opened is None
    assert store.stats().entries == 3, "a store that was given stays open"


def test_a_store_is_written_without_its_seed(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path / "s", size_limit="10GB", seed=12345) as store:
        data = CachedTextEmbedder("a-model", store).to_dict()
    assert data["init_parameters"]["store"] == {
        "location": str(tmp_path / "s"),
        "size_limit": "10GB",
    }
    assert CachedTextEmbedder.from_dict(data).to_dict() == data


def test_nothing_is_opened_before_it_is_used(tmp_path: Path) -> None:
    embedder = CachedTextEmbedder("a-model", tmp_path / "store")
    embedder.to_dict()
    embedder.close()
    assert not (tmp_path / "store").exists()


def test_what_cannot_be_written_says_so(store: EmbeddingStore) -> None:
    encoder = CachedEncoder(lengths, store, model_name="lengths")
    with pytest.raises(SerializationError, match="by name or path"):
        CachedTextEmbedder(encoder).to_dict()
