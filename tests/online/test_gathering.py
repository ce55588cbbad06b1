"""Concurrent requests: gathered, shared, and bounded."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from embstore import EmbeddingStore
from tests.online.model import TEXTS, Make, Model, all_of, until, vectors_of


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
        asyncio.run(all_of(embed, TEXTS))
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
        asyncio.run(all_of(make(max_wait_ms=0), ["lonely"]))
        assert model.calls == [["lonely"]]

    def test_a_full_batch_waits_for_nobody(self, make: Make, model: Model) -> None:
        embed = make(max_batch=5, max_wait_ms=60_000)

        async def main() -> None:
            async with asyncio.timeout(30):
                await all_of(embed, TEXTS[:5])

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
        asyncio.run(all_of(embed, TEXTS[:5]))
        asyncio.run(all_of(embed, TEXTS[:10]))
        threads = [
            threading.Thread(target=lambda: asyncio.run(all_of(embed, TEXTS))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert set(model.computed) == set(TEXTS)
        assert model.computed.count(TEXTS[0]) == 1


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
