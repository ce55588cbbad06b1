"""LangChain's standard tests, whole."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_tests.integration_tests import (
    BaseStoreAsyncTests,
    BaseStoreSyncTests,
    EmbeddingsIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

from embstore import EmbeddingStore
from embstore.integrations.langchain import CachedEmbeddings, EmbeddingByteStore


class Around:
    """How the suites make a CachedEmbeddings."""

    embeddings_class = CachedEmbeddings
    params: dict[str, Any]

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return self.params


class OfAModel(Around):
    """Around the real all-MiniLM-L6-v2."""

    @pytest.fixture(autouse=True)
    def _params(self, minilm: Any, store: EmbeddingStore) -> None:
        self.params = {"underlying": minilm, "store": store}


class OfAnEmbeddings(Around):
    """Around an Embeddings of LangChain's own."""

    @pytest.fixture(autouse=True)
    def _params(self, store: EmbeddingStore) -> None:
        fake = DeterministicFakeEmbedding(size=6)
        self.params = {"underlying": fake, "store": store, "model_name": "fake"}


class TestModelUnit(OfAModel, EmbeddingsUnitTests):
    pass


class TestModelIntegration(OfAModel, EmbeddingsIntegrationTests):
    pass


class TestEmbeddingsUnit(OfAnEmbeddings, EmbeddingsUnitTests):
    pass


class TestEmbeddingsIntegration(OfAnEmbeddings, EmbeddingsIntegrationTests):
    pass


class Bytes:
    """A byte store on an empty store, and values from none to many blocks."""

    @pytest.fixture
    def kv_store(self, store: EmbeddingStore) -> EmbeddingByteStore:
        return EmbeddingByteStore(store, "bytes")

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"bar", b"", bytes(range(256)) * 50


class TestByteStore(Bytes, BaseStoreSyncTests[bytes]):
    pass


class TestAsyncByteStore(Bytes, BaseStoreAsyncTests[bytes]):
    pass
