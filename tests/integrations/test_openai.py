"""The openai client, sync and async, behind ``@cached``, against a server on this machine."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import openai
import pytest

from embstore import EmbeddingStore, ModelOutputError, NamespaceError, cached
from tests.integrations.openai_server import DIM, OpenAIServer, serving, vectors_of

TEXTS = ["a cat", "two dogs", "a cat", "some birds"]
MODEL = "text-embedding-3-small"
Embed = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with serving() as server:
        yield server


@pytest.fixture
def client(server: OpenAIServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="none") as client:
        yield client


@pytest.fixture
def embed(client: openai.OpenAI, store: EmbeddingStore) -> Embed:
    @cached(store, model_name="openai", batch_size=2)
    def embed(texts: list[str], **settings: Any) -> list[list[float]]:
        answer = client.embeddings.create(input=texts, **settings)
        return [item.embedding for item in answer.data]

    return embed


def test_only_what_is_missing_is_asked_for_and_paid(
    server: OpenAIServer, client: openai.OpenAI, store: EmbeddingStore
) -> None:
    paid = 0

    @cached(store, model_name="openai")
    def embed(texts: list[str], **settings: Any) -> list[list[float]]:
        nonlocal paid
        answer = client.embeddings.create(input=texts, **settings)
        paid += answer.usage.total_tokens
        return [item.embedding for item in answer.data]

    vectors = embed(TEXTS, model=MODEL)
    assert vectors.dtype == np.float32
    assert (vectors == vectors_of(MODEL, TEXTS)).all()
    assert paid == 6  # words, that of the repeated text once
    assert (embed([*TEXTS, "fish"], model=MODEL)[:4] == vectors).all()
    assert paid == 7
    assert embed("fish", model=MODEL).shape == (DIM,)
    assert (server.requests, paid) == (2, 7)
    assert set(server.texts.values()) == {1}


def test_settings_are_kept_apart(server: OpenAIServer, embed: Embed, store: EmbeddingStore) -> None:
    for _ in range(2):
        for settings in (
            {"model": MODEL},
            {"model": MODEL, "dimensions": 8},
            {"model": MODEL, "dimensions": DIM},
            {"model": "text-embedding-3-large"},
        ):
            expected = vectors_of(settings["model"], TEXTS, settings.get("dimensions"))
            assert (embed(TEXTS, **settings) == expected).all()
    assert set(server.texts.values()) == {4}
    assert len(store.namespaces()) == 4


def test_servers_are_kept_apart_by_the_name_that_their_user_gives(
    server: OpenAIServer, store: EmbeddingStore
) -> None:
    clients = ExitStack()

    def embedding(url: str, name: str) -> Embed:
        client = clients.enter_context(openai.OpenAI(base_url=url, api_key="none"))

        @cached(store, model_name=name)
        def embed(texts: list[str], **settings: Any) -> list[list[float]]:
            answer = client.embeddings.create(input=texts, **settings)
            return [item.embedding for item in answer.data]

        return embed

    with clients, serving("other weights") as other:
        expected = vectors_of(MODEL, TEXTS, weights="other weights")
        for _ in range(2):
            one = embedding(server.url, "one")(TEXTS, model=MODEL)
            assert (one == vectors_of(MODEL, TEXTS)).all()
            assert (embedding(other.url, "other")(TEXTS, model=MODEL) == expected).all()
        assert server.requests == other.requests == 1
        # Nothing else tells the two apart: the wrong name gives the wrong vectors.
        assert (embedding(other.url, "one")(TEXTS, model=MODEL) == one).all()
        assert (one != expected).any()


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_encodings_give_the_same_vectors(
    server: OpenAIServer, client: openai.OpenAI, store: EmbeddingStore, encoding: str
) -> None:
    def decoded(embedding: Any) -> Any:
        # Asked for explicitly, base64 is left to the caller.
        is_text = isinstance(embedding, str)
        return np.frombuffer(base64.b64decode(embedding), "<f4") if is_text else embedding

    @cached(store, model_name="openai")
    def embed(texts: list[str], **settings: Any) -> list[Any]:
        answer = client.embeddings.create(input=texts, **settings)
        return [decoded(item.embedding) for item in answer.data]

    for _ in range(2):
        vectors = embed(TEXTS, model=MODEL, dimensions=4, encoding_format=encoding)
        assert (vectors == vectors_of(MODEL, TEXTS, 4)).all()
    assert server.bodies[0]["encoding_format"] == encoding
    assert server.requests == 1
    assert store.namespaces()[0].namespace.extra["encoding_format"] == encoding


def test_base64_that_nobody_decodes_is_never_stored(embed: Embed, store: EmbeddingStore) -> None:
    with pytest.raises(ModelOutputError):
        embed(TEXTS, model=MODEL, encoding_format="base64")
    assert store.namespaces() == []


def test_async_requests_go_out_together_and_share_what_sync_ones_stored(
    server: OpenAIServer, embed: Embed, store: EmbeddingStore
) -> None:
    embed(TEXTS[:1], model=MODEL, dimensions=8)

    async def run() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="none") as client:

            @cached(store, model_name="openai")
            async def aembed(texts: list[str], **settings: Any) -> list[list[float]]:
                answer = await client.embeddings.create(input=texts, **settings)
                return [item.embedding for item in answer.data]

            texts = [*TEXTS, *(f"text {number}" for number in range(20))]
            return await asyncio.gather(*(aembed(t, model=MODEL, dimensions=8) for t in texts))

    vectors = asyncio.run(run())
    assert len(vectors) == 24
    assert (np.stack(vectors[:4]) == vectors_of(MODEL, TEXTS, 8)).all()
    assert set(server.texts.values()) == {1}
    assert server.requests < 10
    assert (embed(TEXTS, model=MODEL, dimensions=8) == np.stack(vectors[:4])).all()
    assert set(server.texts.values()) == {1}


def test_retries_are_the_clients(server: OpenAIServer, embed: Embed) -> None:
    server.busy = 2  # openai's client tries three times
    assert (embed(TEXTS[:2], model=MODEL) == vectors_of(MODEL, TEXTS[:2])).all()
    assert (server.requests, len(server.bodies)) == (1, 3)


def test_what_was_answered_before_an_error_is_kept(server: OpenAIServer, embed: Embed) -> None:
    with pytest.raises(openai.BadRequestError, match="empty input"):
        embed(["a longer text", "a text", ""], model=MODEL)
    assert set(embed(["a longer text", "a text"], model=MODEL).shape) == {2, DIM}
    assert server.texts == {"a longer text": 1, "a text": 1}


def test_what_is_no_json_is_refused(embed: Embed, server: OpenAIServer) -> None:
    with pytest.raises(NamespaceError, match="holds only JSON values"):
        embed(TEXTS, model=MODEL, dimensions=openai.omit)
    assert server.bodies == []
