"""Counts over all processes and restarts, and ages, without a write for each read."""

from __future__ import annotations

import multiprocessing
import os
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore
from embstore.backends.base import NamespaceInfo
from tests.helpers import MODEL, OTHER, check, ledger_rows, put, run_python, texts_of

DAY = 86_400


def info_of(location: Path) -> NamespaceInfo:
    with EmbeddingStore(location) as store:
        return {info.namespace: info for info in store.namespaces()}[MODEL]


def counts(location: Path) -> tuple[int, int, int]:
    info = info_of(location)
    return info.hits, info.misses, info.computed


def embed(texts: list[str]) -> np.ndarray:
    return np.array([[len(text)] for text in texts], np.float32)


class TestCounts:
    def test_over_restarts(self, tmp_path: Path) -> None:
        for _ in range(3):
            with EmbeddingStore(tmp_path) as store:
                put(store, MODEL, texts_of(10))
                check(store, MODEL, [*texts_of(12), "text 0"])
                [info] = store.namespaces()
        assert (info.hits, info.misses, info.computed) == (33, 6, 10), "its own are in it"
        assert counts(tmp_path) == (33, 6, 10)

    def test_of_an_encoder(self, tmp_path: Path) -> None:
        with EmbeddingStore(tmp_path) as store:
            encoder = CachedEncoder(embed, store, model_name="f")
            encoder.encode(texts_of(10))
            encoder.encode(texts_of(15))
            mine = encoder.stats()
            assert (mine.hits, mine.misses) == (10, 15)
        with EmbeddingStore(tmp_path) as store:
            [info] = store.namespaces()
        assert (info.hits, info.misses, info.computed) == (10, 15, 15)
        assert info.encode_seconds > 0
        assert info.seconds_saved == pytest.approx(10 * info.encode_seconds / 15)

    def test_of_a_process_that_ends_without_closing(self, tmp_path: Path) -> None:
        run_python(
            "import sys\n"
            "from embstore import EmbeddingStore\n"
            "from tests.helpers import *\n"
            "store = EmbeddingStore(sys.argv[1])\n"
            "put(store, MODEL, texts_of(5))\n"
            "check(store, MODEL, texts_of(7))\n",
            tmp_path,
        )
        assert counts(tmp_path) == (5, 2, 5)

    def test_of_threads_and_processes(self, tmp_path: Path) -> None:
        def work() -> None:
            with EmbeddingStore(tmp_path) as store:
                threads = [
                    threading.Thread(target=check, args=(store, MODEL, texts_of(12)))
                    for _ in range(4)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

        with EmbeddingStore(tmp_path) as store:
            put(store, MODEL, texts_of(10))
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=work) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert counts(tmp_path) == (3 * 4 * 10, 3 * 4 * 2, 10)

    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_of_workers_of_a_pool_that_never_close(self, tmp_path: Path, method: str) -> None:
        with EmbeddingStore(tmp_path, memory_limit=0) as store:
            put(store, MODEL, texts_of(10))
            context = multiprocessing.get_context(method)
            process = context.Process(target=check, args=(store, MODEL, texts_of(12)))
            process.start()
            process.join(60)
            assert process.exitcode == 0
        assert counts(tmp_path) == (10, 2, 10)

    def test_a_forked_child_does_not_count_its_parents_again(self, tmp_path: Path) -> None:
        with EmbeddingStore(tmp_path) as store:
            put(store, MODEL, texts_of(10))
            check(store, MODEL, texts_of(10))
            pid = os.fork()
            if not pid:
                check(store, MODEL, texts_of(1))
                store.close()
                os._exit(0)
            os.waitpid(pid, 0)
        assert counts(tmp_path) == (11, 0, 10)

    def test_reads_write_nothing_until_the_end(self, tmp_path: Path) -> None:
        with EmbeddingStore(tmp_path, memory_limit=0) as store:
            put(store, MODEL, texts_of(10))
            before = {
                path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()
            }
            for _ in range(50):
                check(store, MODEL, texts_of(11))
            after = {
                path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()
            }
            assert after == before
        assert counts(tmp_path) == (500, 50, 10)

    def test_a_read_only_store_counts_nothing(self, tmp_path: Path) -> None:
        with EmbeddingStore(tmp_path) as store:
            put(store, MODEL, texts_of(10))
        with EmbeddingStore(tmp_path, read_only=True) as store:
            check(store, MODEL, texts_of(10))
        assert counts(tmp_path) == (0, 0, 10)

    def test_a_namespace_that_is_cleared_begins_anew(self, tmp_path: Path) -> None:
        with EmbeddingStore(tmp_path) as store:
            put(store, MODEL, texts_of(10))
            check(store, MODEL, texts_of(10))
        with EmbeddingStore(tmp_path) as store:
            store.clear(MODEL)
            put(store, MODEL, texts_of(3))
        assert counts(tmp_path) == (0, 0, 3)

    def test_pruning_and_compacting_keep_them(self, tmp_path: Path) -> None:
        with EmbeddingStore(tmp_path) as store:
            put(store, MODEL, texts_of(10))
            check(store, MODEL, texts_of(10))
            store.prune(max_size=5000)
            store.delete_many(MODEL, texts_of(9, 1))
            store.compact()
        assert counts(tmp_path) == (10, 0, 10)


def grow_older(location: Path, seconds: int) -> None:
    """Let everything that is known of times have happened so much earlier."""
    for kind in "wu":
        code = kind.encode().hex()
        rows = ledger_rows(
            location,
            f"SELECT rowid, value FROM Cache WHERE key >= X'{code}' AND key < X'{ord(kind) + 1:x}'",
        )
        for row, value in rows:
            times = np.frombuffer(value, "<u4")
            older = np.where(times, times - seconds, 0).astype("<u4").tobytes()
            ledger_rows(location, "UPDATE Cache SET value = ? WHERE rowid = ?", older, row)


def test_uses_that_are_not_told_yet_survive_compaction(tmp_path: Path) -> None:
    """By another process, which gives the rows other numbers."""
    with EmbeddingStore(tmp_path) as store:
        put(store, MODEL, texts_of(20))
    grow_older(tmp_path, 40 * DAY)
    with EmbeddingStore(tmp_path, memory_limit=0) as reader:
        check(reader, MODEL, texts_of(5, 10))
        with EmbeddingStore(tmp_path, memory_limit=0) as other:
            other.delete_many(MODEL, texts_of(5))
            other.compact()
    with EmbeddingStore(tmp_path, memory_limit=0) as store:
        assert store.prune(older_than="30d") == 10
        assert check(store, MODEL, texts_of(20)) == [False] * 10 + [True] * 5 + [False] * 5


class TestAges:
    @pytest.fixture
    def aged(self, tmp_path: Path) -> Path:
        """A store with 10 texts stored 40 days ago, two of them read 20 days ago, and 10 new."""
        with EmbeddingStore(tmp_path) as store:
            put(store, MODEL, texts_of(10))
            put(store, OTHER, texts_of(10), 3, "float16")
        grow_older(tmp_path, 20 * DAY)
        with EmbeddingStore(tmp_path, memory_limit=0) as store:
            check(store, MODEL, texts_of(2))
        grow_older(tmp_path, 20 * DAY)
        with EmbeddingStore(tmp_path) as store:
            put(store, MODEL, texts_of(10, 10))
        return tmp_path

    @pytest.mark.parametrize(
        "age, left",
        [
            ("50d", [True] * 20),
            (30 * DAY, [True] * 2 + [False] * 8 + [True] * 10),
            (timedelta(days=10), [False] * 10 + [True] * 10),
            ("1h", [False] * 10 + [True] * 10),
        ],
    )
    def test_what_was_not_used_for_long_goes(self, aged: Path, age: Any, left: list) -> None:
        with EmbeddingStore(aged, memory_limit=0) as store:
            pruned = store.prune(older_than=age, namespace=MODEL)
            assert pruned == left.count(False)
            assert check(store, MODEL, texts_of(20)) == left
            assert all(check(store, OTHER, texts_of(10), 3, "float16")), "only MODEL's were to go"
            assert store.verify().ok

    def test_age_and_size_together(self, aged: Path) -> None:
        with EmbeddingStore(aged, memory_limit=0) as store:
            assert store.prune(older_than="30d", max_size=6 * 56, namespace=MODEL) == 15
            assert check(store, MODEL, texts_of(20)) == [False] * 15 + [True] * 5

    def test_ages_survive_compaction(self, aged: Path) -> None:
        with EmbeddingStore(aged, memory_limit=0) as store:
            store.delete_many(MODEL, ["text 5"])
            store.compact()
            assert store.prune(older_than="30d", namespace=MODEL) == 7
            assert check(store, MODEL, texts_of(2)) == [True] * 2

    def test_what_a_rebuilt_ledger_does_not_know_is_new(self, aged: Path) -> None:
        for path in aged.glob("cache.db*"):
            path.unlink()
        with pytest.warns(UserWarning, match="rebuilt"), EmbeddingStore(aged) as store:
            assert store.prune(older_than="30d") == 0

    @pytest.mark.parametrize("given", [{}, {"older_than": "soon"}, {"older_than": -1}])
    def test_nothing_by_mistake(self, aged: Path, given: dict) -> None:
        with EmbeddingStore(aged) as store:
            with pytest.raises(ValueError, match=r"what is to go|a time is"):
                store.prune(**given)
            assert store.stats().entries == 30

    def test_one_that_sets_no_limit_drops_nothing_for_one_that_does(self, tmp_path: Path) -> None:
        with EmbeddingStore(tmp_path, size_limit=40 * 56) as limited:
            put(limited, MODEL, texts_of(10))
        with EmbeddingStore(tmp_path) as free:
            put(free, MODEL, texts_of(500))
            assert all(check(free, MODEL, texts_of(500)))
        with EmbeddingStore(tmp_path, size_limit=10**6) as wide:
            put(wide, MODEL, texts_of(10, 500))
            assert all(check(wide, MODEL, texts_of(510)))
