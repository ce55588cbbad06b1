"""Other Haystack embedders, wrapped."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from haystack import Document, component, default_to_dict
from haystack.components.embedders import (
    MockDocumentEmbedder,
    MockTextEmbedder,
    OpenAIDocumentEmbedder,
    OpenAITextEmbedder,
)
from haystack.utils import Secret

from embstore import EmbeddingStore
from embstore.errors import ModelOutputError
from embstore.integrations.haystack import CachedDocumentEmbedder, CachedTextEmbedder
from tests.integrations.haystack.models import ASKED, embed, embeddings


def test_a_wrapped_component_is_asked_for_what_is_missing(store: EmbeddingStore) -> None:
    texts = CachedTextEmbedder(MockTextEmbedder(embedding_fn=embed), store, model_name="m")
    documents = CachedDocumentEmbedder(
        MockDocumentEmbedder(embedding_fn=embed), store, model_name="m"
    )
    assert texts.run("abc") == {"embedding": [3.0, 0.5]}
    assert ASKED == {"abc": 1}
    output = documents.run([Document(content="abc"), Document(content="d"), Document("x", "d")])
    assert embeddings(output) == [[3.0, 0.5], [1.0, 0.5], [1.0, 0.5]]
    assert ASKED == {"abc": 2, "d": 1}, "a query and a document are two"
    assert embeddings(documents.run([Document(content="d"), Document(content="ef")]))[1][0] == 2
    assert asyncio.run(texts.run_async("abc")) == texts.run("abc")
    assert ASKED == {"abc": 2, "d": 1, "ef": 1}


def test_its_parameters_tell_vectors_apart(store: EmbeddingStore) -> None:
    def run(version: str | None = None, **parameters: Any) -> None:
        wrapped = MockTextEmbedder(embedding_fn=embed, **parameters)
        CachedTextEmbedder(wrapped, store, model_name="m", version=version).run("a")

    for _ in range(2):
        run()
        run(prefix="p")
        run(suffix="s")
        run(model="another")
        run(version="2")
    assert ASKED == {"a": 3, "pa": 1, "as": 1}
    assert len(store.namespaces()) == 5


def test_parameters_that_decide_nothing_make_no_difference(store: EmbeddingStore) -> None:
    for parameters in ({"progress_bar": False}, {"progress_bar": True}):
        wrapped = MockDocumentEmbedder(embedding_fn=embed, **parameters)
        CachedDocumentEmbedder(wrapped, store, model_name="m").run([Document(content="a")])
    assert ASKED == {"a": 1}


def test_nothing_is_warmed_up_for_what_is_known(store: EmbeddingStore) -> None:
    def embedder() -> tuple[MockTextEmbedder, CachedTextEmbedder]:
        wrapped = MockTextEmbedder(embedding_fn=embed)
        return wrapped, CachedTextEmbedder(wrapped, store, model_name="m")

    first, cached = embedder()
    cached.run("a")
    assert first._is_warmed_up
    second, cached = embedder()
    cached.warm_up()
    cached.run("a")
    assert not second._is_warmed_up


def test_a_component_that_spoils_itself_when_it_is_written(store: EmbeddingStore) -> None:
    @component
    class Spoiled:
        # As the Sentence Transformers embedders do it with their model_kwargs.
        def __init__(self, options: dict[str, Any]) -> None:
            self.options = options

        def to_dict(self) -> dict[str, Any]:
            self.options["dim"] = str(self.options["dim"])
            return default_to_dict(self, options=self.options)

        @component.output_types(embedding=list[float])
        def run(self, text: str) -> dict[str, Any]:
            return {"embedding": [1.0] * self.options["dim"]}

    for dim in (2, 3):
        embedder = CachedTextEmbedder(Spoiled({"dim": dim}), store, model_name="spoiled")
        assert embedder.run("a") == {"embedding": [1.0] * dim}


def test_a_component_without_async_is_run_in_a_thread(store: EmbeddingStore) -> None:
    @component
    class Blocking:
        @component.output_types(embedding=list[float])
        def run(self, text: str) -> dict[str, Any]:
            self.thread = threading.get_ident()
            return {"embedding": embed(text)}

    wrapped = Blocking()
    embedder = CachedTextEmbedder(wrapped, store, model_name="blocking")
    assert asyncio.run(embedder.run_async("abc")) == {"embedding": [3.0, 0.5]}
    assert wrapped.thread != threading.get_ident()


# --- a service -----------------------------------------------------------------------------------


class Service(ThreadingHTTPServer):
    """Speaks OpenAI's protocol; refuses requests in which a text is "refused"."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[list[str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Answer(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
        self.server.asked.append(texts)
        refused = "refused" in texts
        data = [
            {"object": "embedding", "index": index, "embedding": [len(text), 1]}
            for index, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        answer = {"object": "list", "data": data, "model": asked["model"], "usage": usage}
        body = json.dumps({"error": {"message": "no"}} if refused else answer).encode()
        self.send_response(400 if refused else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def reached(service: Service, **more: Any) -> dict[str, Any]:
    """Arguments for Haystack's OpenAI embedders."""
    key = Secret.from_token("sk-secret")
    return {"api_key": key, "api_base_url": service.url, "max_retries": 0, **more}


def test_a_service_is_asked_once_sync_and_async(store: EmbeddingStore, service: Service) -> None:
    async def use() -> None:
        wrapped = OpenAIDocumentEmbedder(**reached(service, batch_size=2, progress_bar=False))
        documents = CachedDocumentEmbedder(wrapped, store, model_name="small")
        texts = CachedTextEmbedder(
            OpenAITextEmbedder(**reached(service)), store, model_name="small"
        )
        asked = [Document(content=text) for text in ("a", "bb", "ccc", "bb")]
        expected = [[1.0, 1.0], [2.0, 1.0], [3.0, 1.0], [2.0, 1.0]]
        assert embeddings(await documents.run_async(asked)) == expected
        assert embeddings(documents.run(asked)) == expected
        answers = await asyncio.gather(*(texts.run_async(text) for text in ("q", "qq", "q")))
        assert [answer["embedding"][0] for answer in answers] == [1.0, 2.0, 1.0]
        for embedder in (documents, texts):
            await embedder.close_async()

    asyncio.run(use())
    asyncio.run(use())
    assert sorted(service.asked) == [["a", "bb"], ["ccc"], ["q"], ["qq"]]


def test_a_document_without_embedding_is_an_error_and_the_rest_is_stored(
    store: EmbeddingStore, service: Service
) -> None:
    wrapped = OpenAIDocumentEmbedder(**reached(service, batch_size=256, progress_bar=False))
    embedder = CachedDocumentEmbedder(wrapped, store, model_name="small")
    good = [Document(content=f"text {number}") for number in range(256)]
    with pytest.raises(ModelOutputError, match=r"no embedding for 1 of 1 texts"):
        embedder.run([*good, Document(content="refused")])
    embedder.run(good)
    assert len(service.asked) == 2
    embedder.close()


# --- what cannot be wrapped -----------------------------------------------------------------------


def test_components_that_cannot_be_wrapped_as_they_are(store: EmbeddingStore) -> None:
    document, text = MockDocumentEmbedder(), MockTextEmbedder()
    with pytest.raises(TypeError, match="MockDocumentEmbedder takes no text"):
        CachedTextEmbedder(document, store, model_name="m")
    with pytest.raises(TypeError, match="MockTextEmbedder takes no documents"):
        CachedDocumentEmbedder(text, store, model_name="m")
    with pytest.raises(ValueError, match="model_name is missing"):
        CachedTextEmbedder(text, store)
    for own in (
        {"prefix": "p"},
        {"meta_fields_to_embed": ["title"]},
        {"embedding_separator": " "},
        {"normalize_embeddings": True},
        {"encoder_kwargs": {"device": "cpu"}},
    ):
        with pytest.raises(ValueError, match=f"give {next(iter(own))} to MockDocumentEmbedder"):
            CachedDocumentEmbedder(document, store, model_name="m", **own)  # type: ignore[arg-type]
