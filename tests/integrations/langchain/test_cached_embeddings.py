"""CachedEmbeddings around LangChain's embeddings and around models."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from embstore import CachedEncoder, EmbeddingStore, ModelOutputError
from embstore.integrations.langchain import CachedEmbeddings
from tests.helpers import run_python
from tests.integrations.langchain.models import AsyncCounting, Counting, vector

Reopened = Callable[..., EmbeddingStore]

TEXTS = ["the cat sat", "on the mat", "", "the cat sat", "naïve ☃ text"]


def test_async_tests_are_run(request: pytest.FixtureRequest) -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise AssertionError("it was run")

    test = pytest.Function.from_parent(request.node.parent, name="fails", callobj=fails)
    with pytest.raises(AssertionError, match="it was run"):
        test.ihook.pytest_pyfunc_call(pyfuncitem=test)


class TestAnEmbeddings:
    def test_no_text_is_embedded_twice_and_queries_are_none_of_documents(
        self, store: EmbeddingStore, reopened: Reopened
    ) -> None:
        model = Counting()
        for each in (store, store, reopened()):
            embeddings = CachedEmbeddings(model, each, model_name="m")
            documents = embeddings.embed_documents(TEXTS)
            queries = [embeddings.embed_query(text) for text in TEXTS]
            assert np.allclose(documents, [vector(text) for text in TEXTS], rtol=1e-7, atol=0)
            wanted = [vector(text, "query") for text in TEXTS]
            assert np.allclose(queries, wanted, rtol=1e-7, atol=0)
        assert model.asked == dict.fromkeys(
            [f"{kind} {text}" for kind in ("document", "query") for text in TEXTS], 1
        )

    async def test_sync_and_async_share_what_is_stored(self, store: EmbeddingStore) -> None:
        model = Counting()
        embeddings = CachedEmbeddings(model, store, model_name="m")
        documents = await embeddings.aembed_documents(TEXTS)
        query = await embeddings.aembed_query("q")
        assert documents == await asyncio.to_thread(embeddings.embed_documents, TEXTS)
        assert query == await asyncio.to_thread(embeddings.embed_query, "q")
        assert set(model.asked.values()) == {1}
        assert threading.get_ident() not in model.threads, "the event loop was held up"

    def test_the_first_call_returns_what_later_ones_do(
        self, store: EmbeddingStore, reopened: Reopened
    ) -> None:
        embeddings = CachedEmbeddings(Counting(), store, model_name="m")
        documents, query = embeddings.embed_documents(TEXTS), embeddings.embed_query("q")
        for again in (embeddings, CachedEmbeddings(Counting(), reopened(), model_name="m")):
            assert again.embed_documents(TEXTS) == documents
            assert again.embed_query("q") == query
        assert {type(number) for number in [*query, *documents[0]]} == {float}
        assert documents[0] == np.float32(vector(TEXTS[0])).tolist()

    def test_whole_numbers_are_floats_too(self, store: EmbeddingStore) -> None:
        class Whole(Counting):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return [[len(text), 0] if text else [0.5, 0.5] for text in texts]

        embeddings = CachedEmbeddings(Whole(), store, model_name="m")
        assert embeddings.embed_documents(["abc"]) == [[3.0, 0.0]]
        assert embeddings.embed_documents(["", "abc"]) == [[0.5, 0.5], [3.0, 0.0]]
        assert type(embeddings.embed_documents(["abc"])[0][0]) is float

    def test_no_texts(self, store: EmbeddingStore) -> None:
        assert CachedEmbeddings(Counting(), store, model_name="m").embed_documents([]) == []

    def test_batches_are_bounded(self, store: EmbeddingStore) -> None:
        model = Counting()
        texts = [f"text {number}" for number in range(25)]
        CachedEmbeddings(model, store, model_name="m", batch_size=10).embed_documents(texts)
        assert [len(call) for call in model.calls] == [10, 10, 5]

    def test_versions_and_settings_are_kept_apart(self, store: EmbeddingStore) -> None:
        model = Counting()
        for further in ({}, {"version": "2"}, {"settings": {"dimensions": 3}}) * 2:
            CachedEmbeddings(model, store, model_name="m", **further).embed_documents(["a"])
        assert model.asked == {"document a": 3}

    def test_in_a_vector_store(self, store: EmbeddingStore) -> None:
        def search(embeddings: Embeddings) -> list[str]:
            index = InMemoryVectorStore(embeddings)
            index.add_texts(["aaaaaaaa", "b", "zz", "zzzzz"])
            return [found.page_content for found in index.similarity_search("b", k=4)]

        model = Counting()
        for _ in range(2):
            found = search(CachedEmbeddings(model, store, model_name="m"))
            assert found == search(Counting())
        assert set(model.asked.values()) == {1}


class TestAsync:
    async def test_the_underlying_s_own_methods_are_used(self, store: EmbeddingStore) -> None:
        model = AsyncCounting()
        embeddings = CachedEmbeddings(model, store, model_name="m")
        assert np.allclose(await embeddings.aembed_documents(["a"]), [vector("a")])
        assert np.allclose(await embeddings.aembed_query("a"), vector("a", "query"))
        assert model.threads == {threading.get_ident()}

    async def test_what_concurrent_calls_lack_is_computed_together(
        self, store: EmbeddingStore
    ) -> None:
        model = AsyncCounting()
        embeddings = CachedEmbeddings(model, store, model_name="m")
        asked = [["common", f"text {number}"] for number in range(20)]
        found = await asyncio.gather(*map(embeddings.aembed_documents, asked))
        assert np.allclose(found, [[vector(text) for text in texts] for texts in asked])
        assert set(model.asked.values()) == {1}
        assert len(model.asked) == 21
        assert len(model.calls) <= 2

    async def test_concurrent_queries(self, store: EmbeddingStore) -> None:
        model = AsyncCounting()
        embeddings = CachedEmbeddings(model, store, model_name="m")
        asked = [f"query {number % 7}" for number in range(20)]
        found = await asyncio.gather(*map(embeddings.aembed_query, asked))
        assert np.allclose(found, [vector(text, "query") for text in asked])
        assert len(model.asked) == 7
        assert set(model.asked.values()) == {1}

    async def test_what_the_underlying_raises_comes_out(self, store: EmbeddingStore) -> None:
        class Down(AsyncCounting):
            async def aembed_query(self, text: str) -> list[float]:
                raise ConnectionError("the provider is down")

        embeddings = CachedEmbeddings(Down(), store, model_name="m")
        with pytest.raises(ConnectionError, match="the provider is down"):
            await embeddings.aembed_query("a")


class TestAModel:
    def test_a_sentence_transformer_needs_no_name(
        self, minilm: Any, store: EmbeddingStore, reopened: Reopened
    ) -> None:
        embeddings = CachedEmbeddings(minilm, store)
        documents, query = embeddings.embed_documents(TEXTS), embeddings.embed_query(TEXTS[0])
        assert np.abs(np.array(documents) - minilm.encode(TEXTS)).max() <= 1e-6
        again = CachedEmbeddings(minilm, reopened())
        assert again.embed_documents(TEXTS) == documents
        assert again.embed_query(TEXTS[0]) == query
        assert again.store.stats().misses == 0

    def test_the_name_of_a_model_that_is_not_loaded_if_all_is_stored(
        self, model_path: str, store: EmbeddingStore
    ) -> None:
        documents = CachedEmbeddings(model_path, store).embed_documents(TEXTS[:2])
        printed = run_python(
            "import sys\n"
            "from embstore import EmbeddingStore\n"
            "from embstore.integrations.langchain import CachedEmbeddings\n"
            "embeddings = CachedEmbeddings(sys.argv[1], EmbeddingStore(sys.argv[2]))\n"
            "print(embeddings.embed_documents(sys.argv[3:]), 'torch' in sys.modules)",
            *(model_path, store.location, *TEXTS[:2]),
        )
        assert printed.strip() == f"{documents} False"

    async def test_an_encoder_with_prompts(self, own_minilm: Any, store: EmbeddingStore) -> None:
        own_minilm.prompts = {"query": "query: ", "document": "passage: "}
        encoder = CachedEncoder(own_minilm, store)
        embeddings = CachedEmbeddings(encoder)
        assert embeddings.store is store
        expected = own_minilm.encode(["query: a", "passage: a"])
        assert np.abs(np.array(embeddings.embed_query("a")) - expected[0]).max() <= 1e-6
        (document,) = await embeddings.aembed_documents(["a"])
        assert np.abs(np.array(document) - expected[1]).max() <= 1e-6


class TestMistakes:
    def test_an_embeddings_without_a_name(self, store: EmbeddingStore) -> None:
        with pytest.raises(ValueError, match="model_name is missing: vectors are kept under it"):
            CachedEmbeddings(Counting(), store)

    def test_a_model_attribute_is_shown_but_not_taken(self, store: EmbeddingStore) -> None:
        model = Counting()
        model.model = "text-embedding-3-small"  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match=r"model_name='text-embedding-3-small'; .* settings="):
            CachedEmbeddings(model, store)

    def test_a_model_needs_no_settings(self, store: EmbeddingStore, minilm: Any) -> None:
        with pytest.raises(ValueError, match="known by its own settings"):
            CachedEmbeddings(minilm, store, settings={"dimensions": 3})

    def test_an_encoder_has_a_store_and_a_name(self, store: EmbeddingStore, minilm: Any) -> None:
        encoder = CachedEncoder(minilm, store)
        assert CachedEmbeddings(encoder, store).store is store
        with pytest.raises(ValueError, match="give it alone"):
            CachedEmbeddings(encoder, model_name="m")

    def test_something_that_embeds_nothing(self, store: EmbeddingStore) -> None:
        with pytest.raises(TypeError):
            CachedEmbeddings(3, store)

    def test_a_single_document(self, store: EmbeddingStore) -> None:
        embeddings = CachedEmbeddings(Counting(), store, model_name="m")
        with pytest.raises(TypeError, match=r"give \[text\]"):
            embeddings.embed_documents("a text")  # type: ignore[arg-type]

    @pytest.mark.parametrize("texts", [[None], [["a"]], [3]])
    def test_what_is_no_text(self, store: EmbeddingStore, texts: Any) -> None:
        with pytest.raises(TypeError, match="str"):
            CachedEmbeddings(Counting(), store, model_name="m").embed_documents(texts)

    def test_an_embeddings_that_forgets_a_text(self, store: EmbeddingStore) -> None:
        class Forgetful(Counting):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return super().embed_documents(texts[1:])

        embeddings: Embeddings = CachedEmbeddings(Forgetful(), store, model_name="m")
        with pytest.raises(ModelOutputError, match="2 texts need numbers of shape"):
            embeddings.embed_documents(["a", "b"])

    def test_without_langchain(self) -> None:
        printed = run_python(
            "import sys\n"
            "sys.modules['langchain_core'] = None\n"
            "try:\n"
            "    import embstore.integrations.langchain\n"
            "except ImportError as error:\n"
            "    print(error)"
        )
        assert "pip install 'embstore[langchain]'" in printed

    def test_it_shows_nothing_of_the_underlying(self, store: EmbeddingStore) -> None:
        embeddings = CachedEmbeddings(Counting(), store, model_name="m")
        assert repr(embeddings) == f"CachedEmbeddings(Counting, {store!r})"
