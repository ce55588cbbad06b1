"""``aencode``: what only an encoder has: settings, real models, and models that change."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore, OnlineBatching
from tests.online.model import TEXTS, Model, all_of, vectors_of


class TestEncoder:
    """What only an encoder has: settings, real models, and models that change."""

    def test_a_lone_surrogate_among_others(self, minilm: Any, store: EmbeddingStore) -> None:
        encoder = CachedEncoder(minilm, store, online=OnlineBatching(max_wait_ms=50))
        texts = ["one", "two", "\ud800", "three"]

        async def main() -> list[Any]:
            requests = [encoder.aencode(text) for text in texts]
            return await asyncio.gather(*requests, return_exceptions=True)

        one, two, bad, three = asyncio.run(main())
        with pytest.raises(TypeError):
            raise bad
        expected = minilm.encode(["one", "two", "three"])
        assert np.abs(np.stack([one, two, three]) - expected).max() < 1e-6

    def test_settings_are_not_mixed(self, unnormalized: Any, store: EmbeddingStore) -> None:
        encoder = CachedEncoder(unnormalized, store, online=OnlineBatching(max_wait_ms=50))
        settings: list[dict[str, Any]] = [
            {},
            {"normalize_embeddings": True},
            {"prompt": "query: "},
            {"truncate_dim": 8},
            {"precision": "ubinary"},
            {"convert_to_tensor": True},
            {"batch_size": 2},
        ]

        async def main() -> list[Any]:
            texts = ["some text", "another"]
            return await asyncio.gather(*(encoder.aencode(texts, **each) for each in settings))

        for found, each in zip(asyncio.run(main()), settings, strict=True):
            expected = unnormalized.encode(["some text", "another"], **each)
            assert type(found) is type(expected)
            assert found.dtype == expected.dtype
            assert np.abs(np.asarray(found) - np.asarray(expected)).max() < 2e-6

    def test_a_list_that_is_changed_meanwhile(self, model: Model, store: EmbeddingStore) -> None:
        encoder = CachedEncoder(model, store, model_name="model")

        async def main() -> None:
            model.go_on.clear()
            for count in (10, 200):  # gathered, and computed alone
                texts = [f"{count} {number}" for number in range(count)]
                given = list(texts)
                call = asyncio.create_task(encoder.aencode(given))
                await asyncio.sleep(0.05)
                given[:] = ["other"] * count
                model.go_on.set()
                assert np.array_equal(await call, vectors_of(texts))
                assert np.array_equal(encoder.encode(texts), vectors_of(texts))

        asyncio.run(main())

    def test_large_calls_wait_for_each_other(self, model: Model, store: EmbeddingStore) -> None:
        encoder = CachedEncoder(model, store, model_name="model")

        async def main() -> None:
            await asyncio.gather(*(encoder.aencode(TEXTS) for _ in range(5)))

        asyncio.run(main())
        assert model.most_running == 1
        assert sorted(model.computed) == TEXTS
        stats = encoder.stats()
        assert (stats.misses, stats.hits) == (200, 800)

    def test_gathers_at_any_level_of_logging(self, model: Model, store: EmbeddingStore) -> None:
        encoder = CachedEncoder(
            model, store, model_name="model", online=OnlineBatching(max_wait_ms=50)
        )
        logger = logging.getLogger("sentence_transformers")
        before = logger.level
        logger.setLevel(logging.INFO)
        try:
            asyncio.run(all_of(encoder.aencode, TEXTS[:20]))
        finally:
            logger.setLevel(before)
        assert len(model.calls) < 5

    def test_settings_that_no_vector_depends_on(
        self, own_minilm: Any, store: EmbeddingStore
    ) -> None:
        encoder = CachedEncoder(own_minilm, store, online=OnlineBatching(max_wait_ms=200))

        async def main() -> Any:
            request = asyncio.create_task(encoder.aencode("a text"))
            await asyncio.sleep(0.1)
            own_minilm.similarity_fn_name = "dot"
            async with asyncio.timeout(30):
                return await request

        assert np.abs(asyncio.run(main()) - own_minilm.encode("a text")).max() < 1e-6
        assert encoder.stats().misses == 1

    def test_other_inputs(self, static: Any, store: EmbeddingStore) -> None:
        encoder = CachedEncoder(static, store)

        async def main() -> None:
            assert np.array_equal(await encoder.aencode([]), static.encode([]))
            tokens = await encoder.aencode("a text", output_value=None)
            assert set(tokens) == set(static.encode("a text", output_value=None))
            with pytest.raises(ValueError, match="nonsense"):
                await encoder.aencode("a text", nonsense=1)
            many = [f"text {number}" for number in range(500)]
            assert np.abs(await encoder.aencode(many) - static.encode(many)).max() < 1e-6

        asyncio.run(main())

    def test_a_model_that_changes_while_a_request_waits(
        self, own_minilm: Any, store: EmbeddingStore
    ) -> None:
        encoder = CachedEncoder(own_minilm, store, online=OnlineBatching(max_wait_ms=300))
        before = encoder.namespace()

        async def main() -> Any:
            request = asyncio.create_task(encoder.aencode("a text"))
            await asyncio.sleep(0.1)
            own_minilm[0].auto_model.embeddings.word_embeddings.weight.data.mul_(1.5)
            own_minilm[0].auto_model.embeddings.word_embeddings.weight.mul_(1)
            return await request

        import torch

        with torch.no_grad():
            found = asyncio.run(main())
        assert np.abs(found - own_minilm.encode("a text")).max() < 1e-6
        assert not store.get_many(before, ["a text"])[1].any()
        assert store.get_many(encoder.namespace(), ["a text"])[1].all()

    def test_queries_and_documents(self, own_minilm: Any, store: EmbeddingStore) -> None:
        own_minilm.prompts = {"query": "query: ", "passage": "passage: "}
        encoder = CachedEncoder(own_minilm, store)

        async def main() -> list[Any]:
            return await asyncio.gather(
                encoder.aencode_query("a text"),
                encoder.aencode_document(["a text"]),
                encoder.aencode_query("a text", prompt="other: "),
            )

        query, documents, other = asyncio.run(main())
        assert np.abs(query - own_minilm.encode_query("a text")).max() < 1e-6
        assert np.abs(documents - own_minilm.encode_document(["a text"])).max() < 1e-6
        assert np.abs(other - own_minilm.encode("a text", prompt="other: ")).max() < 1e-6
        assert encoder.stats().misses == 3
