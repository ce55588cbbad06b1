"""Requests that are cancelled or fail: none is at the mercy of another."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore, ModelOutputError, OnlineBatching, cached
from embstore.online import Gatherer
from embstore.threads import PerLoop
from tests.online.model import TEXTS, Make, Model, until, vectors_of


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
