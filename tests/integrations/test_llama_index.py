"""LlamaIndex's indexes, pipelines and events with an embedding model that is cached."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.embedding import (
    EmbeddingEndEvent,
    EmbeddingStartEvent,
)
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.storage.kvstore import SimpleKVStore

from embstore import CachedEncoder, EmbeddingStore
from embstore.errors import ModelOutputError
from embstore.integrations.llama_index import CachedEmbedding

PAGES = {
    "penguins": "Penguins swim in cold seas and hunt for fish.",
    "bakery": "The bakery opens at six and sells rye bread.",
    "engine": "A diesel engine ignites its fuel by compression.",
}
DOCUMENTS = [Document(text=text, id_=name) for name, text in PAGES.items()]

Reopened = Callable[..., EmbeddingStore]


class Model(BaseEmbedding):
    """Embeds texts as [length, 1] and queries as [length, -1]; keeps what it was asked."""

    _calls: list[tuple[str, list[str]]] = PrivateAttr(default_factory=list)
    _threads: set[int] = PrivateAttr(default_factory=set)

    @property
    def calls(self) -> list[tuple[str, list[str]]]:
        return self._calls

    def _note(self, kind: str, texts: list[str], sign: float) -> list[list[float]]:
        self._calls.append((kind, list(texts)))
        self._threads.add(threading.get_ident())
        return [[len(text), sign] for text in texts]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._note("texts", texts, 1)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._note("query", [query], -1)[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._note("async query", [query], -1)[0]


class AsyncModel(Model):
    """The same with async texts; knows how many calls there were at a time, and answers none before
    ``together`` were."""

    together: int = 1
    _now: int = PrivateAttr(default=0)
    _most: int = PrivateAttr(default=0)
    _enough: asyncio.Event = PrivateAttr(default_factory=asyncio.Event)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        self._now += 1
        self._most = max(self._most, self._now)
        if self._most >= self.together:
            self._enough.set()
        await asyncio.wait_for(self._enough.wait(), 30)
        await asyncio.sleep(0.02)  # time for one too many
        self._now -= 1
        return self._note("async texts", texts, 1)


class Turns:
    """A rate limiter that lets everybody pass, and counts."""

    def __init__(self) -> None:
        self.taken = 0

    def acquire(self) -> None:
        self.taken += 1

    async def async_acquire(self) -> None:
        self.taken += 1


class Heard(BaseEventHandler):
    """What LlamaIndex's dispatcher tells of embeddings."""

    _events: list[tuple[str, int]] = PrivateAttr(default_factory=list)

    def handle(self, event: Any, **_: Any) -> None:
        if isinstance(event, EmbeddingStartEvent):
            self._events.append(("start", 0))
        elif isinstance(event, EmbeddingEndEvent):
            self._events.append(("end", len(event.chunks)))


@pytest.fixture
def heard() -> Iterator[list[tuple[str, int]]]:
    handler, dispatcher = Heard(), get_dispatcher()
    dispatcher.add_event_handler(handler)
    yield handler._events
    dispatcher.event_handlers.remove(handler)


# --- with the real model --------------------------------------------------------------------------


def test_an_index_that_is_built_again_computes_nothing(
    store: EmbeddingStore, reopened: Reopened, minilm: Any
) -> None:
    answers = []
    for opened in (store, reopened()):
        embedding = CachedEmbedding(CachedEncoder(minilm, opened))
        index = VectorStoreIndex.from_documents(DOCUMENTS, embed_model=embedding)
        found = index.as_retriever(similarity_top_k=1).retrieve("Where can I buy a loaf?")
        answers.append([(each.node.ref_doc_id, each.score) for each in found])
    assert answers[0] == answers[1]
    assert answers[0][0][0] == "bakery"
    assert store.stats().misses == 4
    assert opened.stats().misses == 0
    assert opened.stats().hits == 4


def test_a_sentence_transformer_gives_its_own_vectors(store: EmbeddingStore, minilm: Any) -> None:
    embedding = CachedEmbedding(minilm, store)
    texts = list(PAGES.values())
    assert embedding.get_text_embedding_batch(texts) == [
        pytest.approx(vector, abs=1e-6) for vector in minilm.encode(texts).tolist()
    ]
    assert len(embedding.get_query_embedding(texts[0])) == 384
    assert len(store.namespaces()) == 2, "queries are kept apart"
    assert asyncio.run(embedding.aget_text_embedding_batch(texts)) == (
        embedding.get_text_embedding_batch(texts)
    )
    assert store.stats().misses == 4


def test_the_name_of_an_encoder_is_its_models(store: EmbeddingStore, minilm: Any) -> None:
    encoder = CachedEncoder(minilm, store)
    embedding = CachedEmbedding(encoder)
    assert embedding.model_name == encoder.namespace().model_name
    assert embedding.to_payload()["model_name"] == embedding.model_name
    again = CachedEmbedding.from_dict(embedding.to_dict(), underlying=encoder)
    assert again.model_name == embedding.model_name


# --- what is asked of the underlying --------------------------------------------------------------


def test_only_what_is_missing_is_asked_for_in_its_own_batches(store: EmbeddingStore) -> None:
    model = Model(embed_batch_size=3)
    embedding = CachedEmbedding(model, store, model_name="m")
    embedding.get_text_embedding_batch(["a", "bb"])
    model.calls.clear()
    vectors = embedding.get_text_embedding_batch(["a", "ccc", "bb", "d", "ccc", "e", "f"])
    assert vectors == [[1, 1], [3, 1], [2, 1], [1, 1], [3, 1], [1, 1], [1, 1]]
    assert sorted(len(texts) for _, texts in model.calls) == [1, 3]
    assert sorted(text for _, texts in model.calls for text in texts) == ["ccc", "d", "e", "f"]
    assert all(type(number) is float for vector in vectors for number in vector)


def test_queries_and_texts_are_never_mixed(store: EmbeddingStore, reopened: Reopened) -> None:
    model = Model()
    for opened in (store, reopened()):
        embedding = CachedEmbedding(model, opened, model_name="m")
        assert embedding.get_query_embedding("text") == [4, -1]
        assert embedding.get_text_embedding("text") == [4, 1]
        assert asyncio.run(embedding.aget_query_embedding("text")) == [4, -1]
        assert asyncio.run(embedding.aget_text_embedding("text")) == [4, 1]
    assert model.calls == [("query", ["text"]), ("texts", ["text"])]


def test_async_uses_the_underlyings_own(store: EmbeddingStore) -> None:
    model = AsyncModel(embed_batch_size=4, together=2)
    embedding = CachedEmbedding(model, store, model_name="m", num_workers=2)
    texts = [f"text {number}" for number in range(40)]
    vectors = asyncio.run(embedding.aget_text_embedding_batch(texts))
    assert vectors == embedding.get_text_embedding_batch(texts)
    assert {kind for kind, _ in model.calls} == {"async texts"}
    assert max(len(texts) for _, texts in model.calls) == 4
    assert model._most == 2, "as num_workers says"
    asyncio.run(embedding.aget_query_embedding("a query"))
    assert model.calls[-1] == ("async query", ["a query"])


def test_without_num_workers_all_batches_are_under_way_at_once(store: EmbeddingStore) -> None:
    model = AsyncModel(embed_batch_size=2, together=10)
    embedding = CachedEmbedding(model, store, model_name="m")
    asyncio.run(embedding.aget_text_embedding_batch([f"text {number}" for number in range(20)]))
    assert model._most == 10, "as LlamaIndex itself does it"


def test_without_async_texts_the_event_loop_is_not_blocked(store: EmbeddingStore) -> None:
    model = Model()
    embedding = CachedEmbedding(model, store, model_name="m")
    assert asyncio.run(embedding.aget_text_embedding_batch(["a", "bb"])) == [[1, 1], [2, 1]]
    assert threading.get_ident() not in model._threads


def test_its_rate_limiter_is_asked_for_calls_and_not_for_hits(store: EmbeddingStore) -> None:
    turns = Turns()
    model = AsyncModel(embed_batch_size=2, rate_limiter=turns)
    embedding = CachedEmbedding(model, store, model_name="m")
    for _ in range(2):
        embedding.get_text_embedding_batch(["a", "b", "c"])
        embedding.get_query_embedding("a")
        asyncio.run(embedding.aget_text_embedding_batch(["d", "e", "f"]))
        asyncio.run(embedding.aget_query_embedding("b"))
    assert turns.taken == len(model.calls) == 6


def test_a_model_that_gives_too_few_vectors(store: EmbeddingStore) -> None:
    class Forgetful(Model):
        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return super()._get_text_embeddings(texts)[1:]

    embedding = CachedEmbedding(Forgetful(), store, model_name="forgetful")
    with pytest.raises(ModelOutputError, match="forgetful"):
        embedding.get_text_embedding_batch(["a", "b"])


# --- a LlamaIndex component like any other --------------------------------------------------------


def test_events_are_those_of_any_embedding_hits_included(
    store: EmbeddingStore, heard: list[tuple[str, int]]
) -> None:
    def use(embedding: BaseEmbedding) -> tuple[list[tuple[str, int]], int]:
        debug = LlamaDebugHandler(print_trace_on_end=False)
        embedding.callback_manager = CallbackManager([debug])
        embedding.get_text_embedding_batch(["a", "b", "c"])
        embedding.get_query_embedding("a")
        asyncio.run(embedding.aget_text_embedding_batch(["d", "e"]))
        told = list(heard)
        heard.clear()
        return told, len(debug.get_event_pairs(CBEventType.EMBEDDING))

    expected = use(AsyncModel(embed_batch_size=2))
    model = AsyncModel(embed_batch_size=2)
    embedding = CachedEmbedding(model, store, model_name="m", embed_batch_size=2)
    assert use(embedding) == expected
    calls = len(model.calls)
    assert use(embedding) == expected
    assert len(model.calls) == calls == expected[1]


def test_copies_and_what_was_pickled_find_the_same(
    store: EmbeddingStore, caplog: pytest.LogCaptureFixture
) -> None:
    model = MockEmbedding(embed_dim=2)
    embedding = CachedEmbedding(model, store, model_name="m", settings={"d": 2}, num_workers=3)
    embedding.get_text_embedding("a text")
    misses = store.stats().misses
    copies = [
        copy.copy(embedding),
        copy.deepcopy(embedding),
        embedding.model_copy(update={"embed_batch_size": 7}),
        CachedEmbedding.from_dict(embedding.to_dict(), underlying=model, store=store),
        CachedEmbedding.from_json(embedding.to_json(), underlying=model, store=store),
        pickle.loads(pickle.dumps(embedding)),
    ]
    for each in copies:
        assert each.get_text_embedding("a text") == [0.5, 0.5]
        assert each.to_dict() == {**embedding.to_dict(), "embed_batch_size": each.embed_batch_size}
        assert each.num_workers == 3
    assert store.stats().misses == misses
    assert len(store.namespaces()) == 1
    assert copies[-1].store.stats().hits == 1
    assert not caplog.records, "nothing had to be left out of the pickle"


def test_an_encoder_is_pickled_with_its_store(store: EmbeddingStore) -> None:
    embedding = CachedEmbedding(
        CachedEncoder(lengths, store, model_name="lengths"), embed_batch_size=5
    )
    embedding.get_text_embedding("four")
    again = pickle.loads(pickle.dumps(embedding))
    assert again.get_text_embedding("four") == [4.0]
    assert again.store.stats().hits == 1
    assert again.embed_batch_size == 5


def lengths(texts: list[str]) -> list[list[float]]:
    return [[float(len(text))] for text in texts]


def test_what_is_written_of_it_holds_no_model_and_no_secret(store: EmbeddingStore) -> None:
    class Service(MockEmbedding):
        api_key: str

    embedding = CachedEmbedding(
        Service(embed_dim=2, api_key="sk-secret"),
        store,
        model_name="m",
        version="2",
        settings={"dimensions": 2},
    )
    data = embedding.to_dict()
    assert data["class_name"] == "CachedEmbedding"
    assert (data["model_name"], data["version"]) == ("m", "2")
    assert data["settings"] == {"dimensions": 2}
    assert "sk-secret" not in embedding.to_json() + repr(embedding) + str(embedding.to_payload())
    with pytest.raises(ValueError, match="underlying=model"):
        CachedEmbedding.from_dict(data)


def test_an_ingestion_pipeline_and_its_cache(store: EmbeddingStore) -> None:
    cache = IngestionCache()
    model = Model()

    def run(**identity: Any) -> list[Any]:
        embedding = CachedEmbedding(model, store, **identity)
        splitter = SentenceSplitter(chunk_size=64, chunk_overlap=0)
        pipeline = IngestionPipeline(transformations=[splitter, embedding], cache=cache)
        return [node.embedding for node in pipeline.run(documents=DOCUMENTS)]

    vectors = run(model_name="m")
    assert [vector[1] for vector in vectors] == [1, 1, 1]
    looked_up = store.stats().hits + store.stats().misses
    assert run(model_name="m") == vectors
    assert store.stats().hits + store.stats().misses == looked_up, "LlamaIndex knew the nodes"
    run(model_name="m", settings={"dimensions": 2})
    assert len(model.calls) == 2, "its cache tells other settings apart, and so does the store"


# --- names, and what cannot be --------------------------------------------------------------------


def test_name_version_and_settings_tell_vectors_apart(store: EmbeddingStore) -> None:
    model = Model()
    identities: list[dict[str, Any]] = [
        {"model_name": "m"},
        {"model_name": "n"},
        {"model_name": "m", "version": "2"},
        {"model_name": "m", "settings": {"dimensions": 2}},
    ]
    for identity in identities * 2:
        CachedEmbedding(model, store, **identity).get_text_embedding("a")
    assert len(model.calls) == 4
    embedding = CachedEmbedding(model, store, model_name="m")
    with pytest.raises(ValueError, match="frozen"):
        embedding.model_name = "another"


def test_a_name_is_required_and_says_why(store: EmbeddingStore) -> None:
    with pytest.raises(ValueError, match=r"model_name='small'.* settings="):
        CachedEmbedding(Model(model_name="small"), store)
    with pytest.raises(ValueError, match=r"model_name is missing") as raised:
        CachedEmbedding(Model(), store)
    assert "unknown" not in str(raised.value)


def test_what_has_no_meaning_is_refused(store: EmbeddingStore) -> None:
    encoder = CachedEncoder(lengths, store, model_name="lengths")
    with pytest.raises(ValueError, match="give it alone"):
        CachedEmbedding(encoder, model_name="another")
    with pytest.raises(ValueError, match="give it alone"):
        CachedEmbedding(encoder, EmbeddingStore(store.location))
    with pytest.raises(ValueError, match="settings is for"):
        CachedEmbedding(encoder, settings={"dimensions": 2})
    with pytest.raises(TypeError, match="not int"):
        CachedEmbedding(3, store)
    with pytest.raises(ValueError, match="setings"):
        CachedEmbedding(Model(), store, model_name="m", setings={"dimensions": 2})
    with pytest.raises(TypeError, match="EmbeddingStore or its location"):
        CachedEmbedding(Model(), 5, model_name="m")


def test_llama_indexs_own_cache_is_refused(store: EmbeddingStore) -> None:
    other = SimpleKVStore()
    with pytest.raises(ValueError, match="leave it out"):
        CachedEmbedding(Model(), store, model_name="m", embeddings_cache=other)
    with pytest.raises(ValueError, match="leave it out"):
        CachedEmbedding(Model(embeddings_cache=other), store, model_name="m")
