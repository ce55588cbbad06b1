"""Workers that lack the same texts divide them: each is computed once, and nobody waits in vain."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embstore import CachedEncoder, EmbeddingStore, EmbstoreError, cached
from embstore.lookup import Lookup
from embstore.share import Share, Work
from tests.helpers import ledger_rows

TEXTS = [f"text number {number} " + "word " * (number % 9) for number in range(600)]


def embed(texts: list[str]) -> np.ndarray:
    """A pure function of the text."""
    return np.array([[len(text), sum(map(ord, text))] for text in texts], np.float32)


class Slow:
    """A model that takes a while for each text, and remembers what it computed."""

    def __init__(self, seconds: float = 0.0005) -> None:
        self.seconds = seconds
        self.computed: list[str] = []

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.computed += texts
        time.sleep(self.seconds * len(texts))
        return embed(texts)


def shuffled(seed: int) -> list[str]:
    return random.Random(seed).sample(TEXTS, len(TEXTS))


class TestWork:
    @given(st.integers(0, 300), st.integers(1, 90), st.sets(st.integers(0, 299)))
    def test_everything_once_in_order(self, count: int, chunk: int, chosen: set[int]) -> None:
        work = Work([*range(count)])
        first = work.take(chunk)
        assert first == [*range(min(chunk, count))]
        out_of_turn = [one for one in work.ahead if one in chosen]
        assert work.choose(out_of_turn) == out_of_turn
        expected = [*range(min(chunk, count), count)]
        expected = [one for one in expected if one not in chosen]
        assert work.ahead == expected
        parts = []
        while part := work.take(chunk):
            assert len(part) == chunk or not work.ahead
            parts += part
        assert parts == expected


class TestShare:
    """Two shares of one list, in one process, step by step."""

    @pytest.fixture
    def shares(self, store: EmbeddingStore) -> Callable[[], tuple[Lookup, Share]]:
        def make() -> tuple[Lookup, Share]:
            namespace = CachedEncoder(embed, store, model_name="f").namespace()
            lookup = Lookup.find(store, namespace, TEXTS)
            return lookup, Share(lookup, lookup.missing, TEXTS)

        return make

    def test_what_is_claimed_is_passed_over(self, shares: Any) -> None:
        (_, one), (_, other) = shares(), shares()
        assert one.take(256) == [*range(256)]
        assert one.others == 0
        assert other.take(256) == [*range(256, 342)], "a quarter of what is left"
        assert other.others == 1
        assert one.take(256) == [*range(342, 512)]

    def test_whole_batches(self, shares: Any) -> None:
        (_, one), (_, other) = shares(), shares()
        one.take(64)
        assert [len(other.take(64, 64)) for _ in range(2)] == [64] * 2
        assert len(other.take(300, 100)) == 200, "102 are this one's part: two whole batches"

    def test_what_another_has_computed_is_taken_from_the_store(self, shares: Any) -> None:
        (mine, one), (yours, other) = shares(), shares()
        chunk = one.take(256)
        rest = [*itertools.chain(*iter(lambda: other.take(256) if len(other.ahead) else [], []))]
        mine.complete(chunk, embed([TEXTS[place] for place in chunk]), 1.0, one.owner)
        one.took(chunk, 1.0)
        assert other.take(256) == []
        assert other.take_found() == 256
        assert other.take_found() == 0
        yours.complete(rest, embed([TEXTS[place] for place in rest]), 1.0, other.owner)
        assert (yours.vectors() == embed(TEXTS)).all()

    def test_the_end_of_a_share_frees_what_it_did_not_compute(self, shares: Any) -> None:
        _, one = shares()
        with one:
            one.take(256)
        _, other = shares()
        assert other.take(256) == [*range(256)]


class TestThreads:
    @pytest.mark.parametrize("workers", [2, 8])
    def test_each_text_once(self, store: EmbeddingStore, workers: int) -> None:
        models = [Slow() for _ in range(workers)]
        barrier = threading.Barrier(workers)

        def work(number: int) -> bool:
            encoder = CachedEncoder(models[number], store, model_name="f")
            barrier.wait(60)
            mine = shuffled(number)
            return bool((encoder.encode(mine) == embed(mine)).all())

        with ThreadPoolExecutor(workers) as pool:
            assert all(pool.map(work, range(workers)))
        computed = [*itertools.chain(*(model.computed for model in models))]
        assert sorted(computed) == sorted(TEXTS)
        assert store.stats().entries == len(TEXTS)
        assert store.stats().misses == len(TEXTS)

    def test_unless_that_is_not_wanted(self, store: EmbeddingStore) -> None:
        models, barrier = [Slow(), Slow()], threading.Barrier(2)

        def work(model: Slow) -> None:
            encoder = CachedEncoder(model, store, model_name="f", coalesce=False)
            barrier.wait(60)
            encoder.encode(TEXTS[:200])

        with ThreadPoolExecutor(2) as pool:
            [*pool.map(work, models)]
        assert [len(model.computed) for model in models] == [200, 200]

    def test_who_fails_leaves_it_to_the_others(self, store: EmbeddingStore) -> None:
        began = threading.Event()

        def fails(texts: list[str]) -> np.ndarray:
            began.set()
            time.sleep(0.2)
            raise OSError("no connection")

        def fail() -> str:
            with pytest.raises(OSError, match="no connection") as error:
                CachedEncoder(fails, store, model_name="f").encode(TEXTS[:50])
            return str(error.value)

        model = Slow()
        with ThreadPoolExecutor(1) as pool:
            failing = pool.submit(fail)
            assert began.wait(60)
            got = CachedEncoder(model, store, model_name="f").encode(TEXTS[:50])
            assert failing.result() == "no connection"
        assert (got == embed(TEXTS[:50])).all()
        assert sorted(model.computed) == sorted(TEXTS[:50])

    def test_what_is_never_stored_is_computed_by_each(self, store: EmbeddingStore) -> None:
        def nothing(texts: list[str]) -> np.ndarray:
            time.sleep(0.05)
            return np.full((len(texts), 2), np.nan, np.float32)

        def work(_: int) -> bool:
            got = CachedEncoder(nothing, store, model_name="f").encode(TEXTS[:5])
            return bool(np.isnan(got).all())

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, range(4)))

    def test_the_bar_counts_what_others_computed(
        self, store: EmbeddingStore, capsys: pytest.CaptureFixture[str]
    ) -> None:
        began, model = threading.Event(), Slow(0.002)

        def other(texts: list[str]) -> np.ndarray:
            began.set()
            return model(texts)

        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(CachedEncoder(other, store, model_name="f").encode, TEXTS[:100])
            assert began.wait(60)
            CachedEncoder(Slow(), store, model_name="f").encode(TEXTS[:300], show_progress_bar=True)
            ahead.result()
        assert "300/300" in capsys.readouterr().err

    def test_cached_functions(self, store: EmbeddingStore) -> None:
        models, barrier = [Slow(), Slow()], threading.Barrier(2)

        def work(model: Slow) -> bool:
            function = cached(store, model_name="f", batch_size=50)(lambda texts: model(texts))
            barrier.wait(60)
            return bool((function(TEXTS) == embed(TEXTS)).all())

        with ThreadPoolExecutor(2) as pool:
            assert all(pool.map(work, models))
        assert sorted(models[0].computed + models[1].computed) == sorted(TEXTS)

    def test_async_functions_of_several_loops(self, store: EmbeddingStore) -> None:
        computed: list[str] = []

        def work(number: int) -> bool:
            @cached(store, model_name="f", batch_size=50)
            async def function(texts: list[str]) -> np.ndarray:
                computed.extend(texts)
                await asyncio.sleep(0.02)
                return embed(texts)

            return bool((asyncio.run(function(TEXTS)) == embed(TEXTS)).all())

        with ThreadPoolExecutor(3) as pool:
            assert all(pool.map(work, range(3)))
        assert sorted(computed) == sorted(TEXTS)

    def test_aencode_in_several_loops(self, store: EmbeddingStore) -> None:
        model = Slow()

        async def ask(encoder: CachedEncoder) -> Any:
            return await asyncio.gather(*(encoder.aencode(text) for text in TEXTS[:100]))

        def work(_: int) -> bool:
            got = asyncio.run(ask(CachedEncoder(model, store, model_name="f")))
            return bool((np.stack(got) == embed(TEXTS[:100])).all())

        with ThreadPoolExecutor(3) as pool:
            assert all(pool.map(work, range(3)))
        assert sorted(model.computed) == sorted(TEXTS[:100])


def compute(location: Path, started: Any, seconds: float) -> None:
    """What a worker does that will be killed or stopped: it never gets beyond its first chunk."""

    def model(texts: list[str]) -> np.ndarray:
        started.set()
        time.sleep(seconds)
        return embed(texts)

    CachedEncoder(model, EmbeddingStore(location), model_name="f").encode(TEXTS)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_is_killed_or_hangs_is_not_waited_for(
    tmp_path: Path, sign: signal.Signals
) -> None:
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=compute, args=(tmp_path, started, 3600))
    process.start()
    try:
        assert started.wait(60)
        os.kill(process.pid or 0, sign)
        model = Slow()
        with EmbeddingStore(tmp_path) as store:
            encoder = CachedEncoder(model, store, model_name="f")
            assert (encoder.encode(TEXTS) == embed(TEXTS)).all()
            assert sorted(model.computed) == sorted(TEXTS)
    finally:
        process.kill()
        process.join()


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path) as store:
        CachedEncoder(embed, store, model_name="f").encode(TEXTS)
        assert len([*(tmp_path / "workers").iterdir()]) == 1
    assert [*(tmp_path / "workers").iterdir()] == []
    claims = "SELECT count(*) FROM Cache WHERE key >= X'63' AND key < X'64'"
    assert ledger_rows(tmp_path, claims) == [(0,)]


def test_the_files_of_dead_workers_are_cleared_away(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=compute, args=(tmp_path, started, 3600))
    process.start()
    assert started.wait(60)
    process.kill()
    process.join()
    (tmp_path / "workers" / "not ours").touch()
    assert len([*(tmp_path / "workers").iterdir()]) == 2
    with EmbeddingStore(tmp_path) as store:
        CachedEncoder(embed, store, model_name="f").encode(TEXTS)
    assert [path.name for path in (tmp_path / "workers").iterdir()] == ["not ours"]


def test_a_fork_takes_no_part_in_its_parents_claims(tmp_path: Path) -> None:
    """A child that outlives its parent must not keep the parent's claims alive."""
    context = multiprocessing.get_context("fork")
    started, forked = context.Event(), context.Event()
    location = tmp_path / "store"

    def parent() -> None:
        def model(texts: list[str]) -> np.ndarray:
            pid = os.fork()
            if not pid:
                os.setsid()
                forked.set()
                time.sleep(30)
                os._exit(0)
            (tmp_path / "child").write_text(str(pid))
            started.set()
            time.sleep(3600)
            return embed(texts)

        CachedEncoder(model, EmbeddingStore(location), model_name="f").encode(TEXTS)

    process = context.Process(target=parent)
    process.start()
    assert started.wait(60)
    assert forked.wait(60)
    process.kill()
    process.join()
    try:
        with EmbeddingStore(location) as store:
            namespace = store.namespaces()
            assert namespace == []
            space = CachedEncoder(embed, store, model_name="f").namespace()
            assert not store.claims.claimed(space, store.digests(TEXTS)).any()
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def test_where_nothing_can_be_claimed_everything_is_computed(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path) as store:
        CachedEncoder(embed, store, model_name="f").encode(TEXTS[:10])
    model = Slow()
    with EmbeddingStore(tmp_path, read_only=True) as store:
        encoder = CachedEncoder(model, store, model_name="f")
        assert (encoder.encode(TEXTS) == embed(TEXTS)).all()
    assert sorted(model.computed) == sorted(TEXTS[10:])


def test_a_function_that_embeds_through_itself(store: EmbeddingStore) -> None:
    """It asks for what was claimed further up, and must not wait for itself."""

    @cached(store, model_name="f")
    def embed_parts(texts: list[str]) -> np.ndarray:
        for text in texts:
            if " " in text:
                embed_parts(text.split())
        return embed(texts)

    got = embed_parts(["b b", "b", "a b c"])
    assert (got == embed(["b b", "b", "a b c"])).all()
    assert not store.claims.claimed(store.namespaces()[0].namespace, store.digests(["b"])).any()


def test_a_write_that_fails_leaves_no_claim(tmp_path: Path) -> None:
    """Or whoever asks again waits for nobody."""
    with EmbeddingStore(tmp_path, size_limit=5) as store:
        encoder = CachedEncoder(embed, store, model_name="f")
        with pytest.warns(UserWarning, match="do not fit"):
            encoder.encode(["a"])
        time.sleep(0.1)  # after a failure, a store is left alone for a while
        assert not store.claims.claimed(encoder.namespace(), store.digests(["a"])).any()


def test_a_batch_of_nothing_is_refused(store: EmbeddingStore) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        cached(store, model_name="f", batch_size=0)


def test_what_was_not_computed_is_no_vector(store: EmbeddingStore) -> None:
    lookup = Lookup.find(store, CachedEncoder(embed, store, model_name="f").namespace(), ["a"])
    with pytest.raises(EmbstoreError, match="not computed"):
        lookup.vectors()
