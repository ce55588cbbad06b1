"""Concurrent requests: gathered, shared, bounded, and none at the mercy of another."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore, ModelOutputError, OnlineBatching, cached
from embstore.online import Gatherer, PerLoop

DIM = 4


def vectors_of(texts: list[str]) -> np.ndarray:
    """Vectors that are a pure function of the text."""
    return np.array([[len(text), *text.encode()[:3].ljust(3)] for text in texts], np.float32)


class Model:
    """A function that records its calls, and holds them while it is told to."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.running = 0
        self.most_running = 0
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.calls.append(texts)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        assert self.go_on.wait(60)
        self.running -= 1
        if "broken" in texts:
            raise RuntimeError("the model broke")
        if "bad" in texts:
            raise ValueError("bad text")
        return vectors_of(texts)

    @property
    def computed(self) -> list[str]:
        return [text for call in self.calls for text in call]


@pytest.fixture
def model() -> Model:
    return Model()


Embed = Callable[..., Awaitable[Any]]
Make = Callable[..., Embed]


@pytest.fixture(params=["encoder", "cached"])
def make(request: pytest.FixtureRequest, model: Model, store: EmbeddingStore) -> Make:
    """Makes what embeds from an event loop: an encoder's aencode, or an async function."""

    def make(**limits: Any) -> Embed:
        online = OnlineBatching(**limits)
        if request.param == "encoder":
            return CachedEncoder(model, store, model_name="model", online=online).aencode

        @cached(store, model_name="model", online=online)
        async def embed(texts: list[str]) -> Any:
            return await asyncio.to_thread(model, texts)

        return embed

    return make


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that other tasks and threads bring about."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # what it waits for happens in threads, too
            await asyncio.sleep(0.001)


TEXTS = [f"{number:03} text" for number in range(200)]


class TestGathering:
    def test_200_requests_take_a_few_batches(self, make: Make, model: Model) -> None:
        embed = make(max_wait_ms=50)

        async def main() -> None:
            found = await asyncio.gather(*(embed(text) for text in TEXTS))
            assert np.array_equal(np.stack(found), vectors_of(TEXTS))

        asyncio.run(main())
        assert sorted(model.computed) == TEXTS
        assert len(model.calls) < 20
        assert max(map(len, model.calls)) <= 64

    def test_batches_are_bounded_and_one_at_a_time(self, make: Make, model: Model) -> None:
        embed = make(max_batch=16)
        asyncio.run(_all(embed, TEXTS))
        assert max(map(len, model.calls)) == 16
        assert model.most_running == 1

    def test_several_at_a_time_if_asked(self, make: Make, model: Model) -> None:
        embed = make(max_batch=4, concurrency=3)

        async def main() -> None:
            model.go_on.clear()
            tasks = [asyncio.create_task(embed(text)) for text in TEXTS[:40]]
            await until(lambda: model.running == 3)
            await asyncio.sleep(0.05)
            assert model.running == 3
            model.go_on.set()
            await asyncio.gather(*tasks)

        asyncio.run(main())
        assert model.most_running == 3

    def test_a_lonely_request_waits_no_longer_than_told(self, make: Make, model: Model) -> None:
        embed = make(max_wait_ms=30_000)

        async def main() -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await embed("lonely")
            assert model.calls == []

        asyncio.run(main())
        asyncio.run(_all(make(max_wait_ms=0), ["lonely"]))
        assert model.calls == [["lonely"]]

    def test_a_full_batch_waits_for_nobody(self, make: Make, model: Model) -> None:
        embed = make(max_batch=5, max_wait_ms=60_000)

        async def main() -> None:
            async with asyncio.timeout(30):
                await _all(embed, TEXTS[:5])

        asyncio.run(main())
        assert [sorted(call) for call in model.calls] == [TEXTS[:5]]

    def test_what_gathers_while_the_model_is_busy(self, make: Make, model: Model) -> None:
        embed = make(max_wait_ms=0)

        async def main() -> None:
            model.go_on.clear()
            first = asyncio.create_task(embed("first"))
            await until(lambda: model.running == 1)
            others = [asyncio.create_task(embed(text)) for text in TEXTS[:50]]
            await asyncio.sleep(0.1)
            model.go_on.set()
            await asyncio.gather(first, *others)

        asyncio.run(main())
        assert len(model.calls[0]) == 1
        assert len(model.computed) == 51
        assert len(model.calls) <= 3


async def _all(embed: Embed, texts: list[str]) -> list[Any]:
    return await asyncio.gather(*(embed(text) for text in texts))


class TestSharing:
    def test_many_waiters_for_one_text(
        self, make: Make, model: Model, store: EmbeddingStore
    ) -> None:
        embed = make()

        async def main() -> None:
            model.go_on.clear()
            early = [asyncio.create_task(embed("same")) for _ in range(20)]
            await until(lambda: model.running == 1)
            late = [asyncio.create_task(embed("same")) for _ in range(20)]
            await asyncio.sleep(0.1)
            model.go_on.set()
            for vector in await asyncio.gather(*early, *late):
                assert np.array_equal(vector, vectors_of(["same"])[0])
                vector[:] = 0  # each has its own

        asyncio.run(main())
        assert model.computed == ["same"]
        stats = store.stats()
        assert (stats.total, stats.misses, stats.hits) == (40, 1, 39)

    def test_lists_that_overlap(self, make: Make, model: Model) -> None:
        embed = make(max_wait_ms=20)

        async def main() -> None:
            lists = [TEXTS[start : start + 10] + TEXTS[:2] for start in range(0, 30, 5)]
            for texts, found in zip(lists, await asyncio.gather(*map(embed, lists)), strict=True):
                assert np.array_equal(found, vectors_of(texts))

        asyncio.run(main())
        assert sorted(model.computed) == TEXTS[:35]

    def test_a_known_text_does_not_wait_for_a_batch(self, make: Make, model: Model) -> None:
        embed = make()

        async def main() -> None:
            await embed("known")
            model.go_on.clear()
            busy = [asyncio.create_task(embed(text)) for text in TEXTS]
            await until(lambda: model.running == 1)
            async with asyncio.timeout(30):
                assert np.array_equal(await embed("known"), vectors_of(["known"])[0])
            assert not any(task.done() for task in busy)
            model.go_on.set()
            await asyncio.gather(*busy)

        asyncio.run(main())
        assert model.computed.count("known") == 1

    def test_event_loops_one_after_the_other_and_side_by_side(
        self, make: Make, model: Model
    ) -> None:
        embed = make()
        asyncio.run(_all(embed, TEXTS[:5]))
        asyncio.run(_all(embed, TEXTS[:10]))
        threads = [
            threading.Thread(target=lambda: asyncio.run(_all(embed, TEXTS))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert set(model.computed) == set(TEXTS)
        assert model.computed.count(TEXTS[0]) == 1


class TestCancelling:
    def test_leaves_the_others_alone(self, make: Make, model: Model) -> None:
        embed = make()

        async def main() -> None:
            model.go_on.clear()
            tasks = [asyncio.create_task(embed(text)) for text in ["a", "a", "b"]]
            await until(lambda: model.running == 1)
            tasks[0].cancel()
            tasks[2].cancel()
            await asyncio.sleep(0.01)
            model.go_on.set()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(found[0], asyncio.CancelledError)
            assert np.array_equal(found[1], vectors_of(["a"])[0])
            assert isinstance(found[2], asyncio.CancelledError)
            # What was begun was finished, and kept.
            assert np.array_equal(await embed("b"), vectors_of(["b"])[0])

        asyncio.run(main())
        assert sorted(model.computed) == ["a", "b"]

    def test_what_nobody_waits_for_is_not_computed(self, make: Make, model: Model) -> None:
        embed = make(max_queue=1)

        async def main() -> None:
            model.go_on.clear()
            first = asyncio.create_task(embed("first"))
            await until(lambda: model.running == 1)
            dropped = asyncio.create_task(embed("dropped"))
            await asyncio.sleep(0.1)
            dropped.cancel()
            await asyncio.sleep(0.01)
            second = asyncio.create_task(embed("second"))  # has the room that is free again
            await asyncio.sleep(0.1)
            model.go_on.set()
            await asyncio.gather(first, second)

        asyncio.run(main())
        assert model.computed == ["first", "second"]


def test_a_text_asked_for_again_before_its_first_waiters_wake() -> None:
    again: list[asyncio.Task[Any]] = []

    async def compute(group: str, texts: list[str], digests: list[bytes]) -> np.ndarray:
        if not again:
            again.append(asyncio.create_task(gatherers.here().request("g", {b"d": "text"})))
        return vectors_of(texts)

    gatherers = PerLoop(lambda: Gatherer(compute, OnlineBatching()))

    async def main() -> None:
        async with asyncio.timeout(30):
            await gatherers.here().request("g", {b"d": "text"})
            assert np.array_equal((await again[0])[0][0], vectors_of(["text"])[0])

    asyncio.run(main())


class TestBackPressure:
    def test_a_full_queue_makes_requests_wait(self, make: Make, model: Model) -> None:
        embed = make(max_queue=3, max_batch=2)

        async def main() -> None:
            model.go_on.clear()
            tasks = [asyncio.create_task(embed(text)) for text in TEXTS[:30]]
            await until(lambda: model.running == 1)
            await asyncio.sleep(0.05)
            tasks[-1].cancel()  # while it waits for room
            model.go_on.set()
            await asyncio.gather(*tasks[:-1])

        asyncio.run(main())
        assert sorted(model.computed) == TEXTS[:29]

    def test_a_list_longer_than_the_queue(self, make: Make, model: Model) -> None:
        embed = make(max_queue=3, max_batch=100)
        found = asyncio.run(embed(TEXTS[:60]))
        assert np.array_equal(found, vectors_of(TEXTS[:60]))
        assert sorted(model.computed) == TEXTS[:60]


class TestFailing:
    def test_a_bad_text_fails_alone(self, make: Make, model: Model) -> None:
        embed = make(max_wait_ms=50)

        async def main() -> list[Any]:
            requests = [embed(text) for text in [*TEXTS[:20], "bad"]]
            return await asyncio.gather(*requests, return_exceptions=True)

        *found, bad = asyncio.run(main())
        assert np.array_equal(np.stack(found), vectors_of(TEXTS[:20]))
        with pytest.raises(ValueError, match="bad text"):
            raise bad

    def test_a_broken_model_fails_the_batch_and_not_the_next(
        self, make: Make, model: Model
    ) -> None:
        embed = make(max_wait_ms=50)

        async def main() -> None:
            requests = [embed(text) for text in [*TEXTS[:5], "broken"]]
            for error in await asyncio.gather(*requests, return_exceptions=True):
                assert isinstance(error, RuntimeError)
            assert len(model.calls) == 1
            assert np.array_equal(await embed(TEXTS[0]), vectors_of(TEXTS[:1])[0])

        asyncio.run(main())

    def test_vectors_of_another_length(self, model: Model, store: EmbeddingStore) -> None:
        @cached(store, model_name="growing")
        async def embed(texts: list[str]) -> Any:
            return np.ones((len(texts), 3 if "known" in texts else 5), np.float32)

        asyncio.run(embed("known"))
        with pytest.raises(ModelOutputError, match="vectors of 5 x float32 do not fit"):
            asyncio.run(embed(["known", "new"]))

    @pytest.mark.parametrize(
        "limits", [{"max_batch": 0}, {"max_queue": 0}, {"concurrency": 0}, {"max_wait_ms": -1}]
    )
    def test_limits_that_make_no_sense(self, limits: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(limits))):
            OnlineBatching(**limits)

    def test_a_function_that_raises_stop_iteration(self, store: EmbeddingStore) -> None:
        nothing: Any = iter([])
        encoder = CachedEncoder(
            lambda texts: next(nothing) if "bad" in texts else vectors_of(texts),
            store,
            model_name="model",
        )

        async def main() -> None:
            async with asyncio.timeout(30):
                with pytest.raises(RuntimeError, match="StopIteration"):
                    await encoder.aencode("bad")
                assert np.array_equal(await encoder.aencode("good"), vectors_of(["good"])[0])

        asyncio.run(main())

    def test_tasks_that_are_all_cancelled(self, make: Make, model: Model) -> None:
        embed = make(max_wait_ms=50)

        async def main() -> None:
            for moment in (0, 0.02, 0.1):
                requests = [asyncio.create_task(embed(text)) for text in "ab"]
                await asyncio.sleep(moment)
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()
                await asyncio.gather(*requests, return_exceptions=True)
            async with asyncio.timeout(30):
                assert np.array_equal(await embed("a"), vectors_of(["a"])[0])

        asyncio.run(main())


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
            asyncio.run(_all(encoder.aencode, TEXTS[:20]))
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
