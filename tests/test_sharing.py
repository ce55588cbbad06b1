"""One encoder in many threads, and copies of it in other processes."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import numpy as np

from embstore import CachedEncoder, EmbeddingStore

TEXTS = [f"text number {number} " + "word " * (number % 7) for number in range(120)]
THREADS = 8


def embed(texts: list[str]) -> np.ndarray:
    """A pure function of the text."""
    rows = [[len(text), sum(map(ord, text)), text.count("o")] for text in texts]
    return np.array(rows, np.float32)


def in_threads(work: Callable[[int], Any]) -> list[Any]:
    """Results of ``work(number)`` in threads that start together."""
    barrier = threading.Barrier(THREADS)

    def started(number: int) -> Any:
        barrier.wait(60)
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(started, range(THREADS)))


class TestThreads:
    def test_with_a_function(self, store: EmbeddingStore) -> None:
        encoder = CachedEncoder(embed, store, model_name="function")

        def work(number: int) -> bool:
            mine = TEXTS[number * 10 :] + TEXTS[: number * 10]
            parts = [mine[start : start + 7] for start in range(0, len(mine), 7)]
            return all(
                encoder.encode(part, batch_size=3).tobytes() == embed(part).tobytes()
                for part in (*parts, mine)
            )

        assert in_threads(work) == [True] * THREADS
        stats = store.stats()
        assert stats.entries == len(TEXTS)
        assert stats.total == 2 * THREADS * len(TEXTS)

    def test_with_a_model(self, static: Any, store: EmbeddingStore) -> None:
        encoder = CachedEncoder(static, store)
        expected = static.encode(TEXTS)
        encoder.encode(TEXTS[:40])

        def work(number: int) -> Any:
            return encoder.encode(TEXTS, normalize_embeddings=bool(number % 2))

        lengths = np.linalg.norm(expected, axis=1, keepdims=True)
        for number, got in enumerate(in_threads(work)):
            wanted = expected / lengths if number % 2 else expected
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)
        before = store.stats().misses
        warm = in_threads(lambda _: encoder.encode(TEXTS).tobytes())
        assert len(set(warm)) == 1
        assert store.stats().misses == before

    def test_a_path_is_loaded_once(self, model_path: str, store: EmbeddingStore) -> None:
        encoder = CachedEncoder(model_path, store, device="cpu")
        models = in_threads(lambda _: encoder.model)
        assert len({id(model) for model in models}) == 1

    def test_another_setting_in_one_thread(self, store: EmbeddingStore) -> None:
        encoder = CachedEncoder(embed, store, model_name="function")

        def work(number: int) -> bool:
            prompt = f"prompt {number}: "
            got = encoder.encode(TEXTS, prompt=prompt)
            return bool(got.tobytes() == embed([prompt + text for text in TEXTS]).tobytes())

        assert in_threads(work) == [True] * THREADS
        assert len(store.namespaces()) == THREADS


class TestPickles:
    def test_of_a_store(self, store: EmbeddingStore) -> None:
        CachedEncoder(embed, store, model_name="function").encode(TEXTS)
        with pickle.loads(pickle.dumps(store)) as copied:
            assert copied.location == store.location
            encoder = CachedEncoder(embed, copied, model_name="function", on_miss="raise")
            assert encoder.encode(TEXTS).tobytes() == embed(TEXTS).tobytes()

    def test_in_a_spawned_process(
        self, static: Any, model_path: str, store: EmbeddingStore
    ) -> None:
        lazy = CachedEncoder(model_path, store, device="cpu")
        expected = lazy.encode(TEXTS[:5])
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            assert pool.submit(lazy.encode, TEXTS[:5]).result().tobytes() == expected.tobytes()
            torch_there = "'torch' in __import__('sys').modules"
            assert pool.submit(eval, torch_there).result() is False
            new = pool.submit(lazy.encode, ["new"]).result()
            assert pool.submit(eval, torch_there).result() is True

            loaded = CachedEncoder(static, store)
            known = loaded.encode(TEXTS)
            # Its fingerprint is the same there, so that nothing is computed again.
            there = CachedEncoder(static, store, on_miss="raise")
            assert pool.submit(there.encode, TEXTS).result().tobytes() == known.tobytes()
            newer = pool.submit(loaded.encode, ["newer"]).result()
        # What the other process computed is here at once.
        before = store.stats().misses
        assert lazy.encode(["new"]).tobytes() == new.tobytes()
        assert loaded.encode(["newer"]).tobytes() == newer.tobytes()
        assert store.stats().misses == before
