"""A store kept under a size: the vectors used longest ago go, by a count and not by the clock."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from embstore import EmbeddingStore, Namespace
from tests import helpers
from tests.helpers import MODEL, OTHER, run_python, texts_of

DIM = 256
ROW = 4 * DIM + 24
LIMIT = 400 * ROW


def names(start: int, stop: int) -> list[str]:
    return texts_of(stop - start, start)


def put(store: EmbeddingStore, texts: list[str], namespace: Namespace = MODEL) -> None:
    helpers.put(store, namespace, texts, DIM)


def found(store: EmbeddingStore, texts: list[str], namespace: Namespace = MODEL) -> list[bool]:
    return helpers.check(store, namespace, texts, DIM)


def rows_on_disk(location: Path) -> int:
    return sum(path.stat().st_size for path in (location / "vectors").iterdir())


def test_nothing_goes_unless_asked(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path, memory_limit=0) as store:
        put(store, names(0, 1000))
        assert all(found(store, names(0, 1000)))


def test_vectors_stay_under_the_limit_and_what_is_used_stays(tmp_path: Path) -> None:
    hot = names(0, 50)
    with EmbeddingStore(tmp_path, memory_limit=0, size_limit=LIMIT) as store:
        put(store, hot)
        for start in range(50, 2000, 50):
            put(store, names(start, start + 50))
            assert all(found(store, hot))
            assert rows_on_disk(tmp_path) <= LIMIT
        assert all(found(store, names(1950, 2000)))
        assert not any(found(store, names(50, 1000)))
        assert store.verify().ok


def test_what_is_read_from_memory_is_in_use(tmp_path: Path) -> None:
    hot = names(0, 50)
    with EmbeddingStore(tmp_path, memory_limit=60 * (4 * DIM + 200), size_limit=LIMIT) as store:
        put(store, hot)
        before = store.stats().disk_hits
        for start in range(50, 1000, 5):
            put(store, names(start, start + 5))
            assert all(found(store, hot))
        assert store.stats().disk_hits == before
    with EmbeddingStore(tmp_path) as store:
        assert all(found(store, hot))
        assert not any(found(store, names(50, 400)))


def test_a_limit_in_words(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path, memory_limit=0, size_limit="400kB") as store:
        for start in range(0, 1000, 100):
            put(store, names(start, start + 100))
        assert rows_on_disk(tmp_path) <= 400_000


def test_all_namespaces_count_and_the_oldest_goes_first_wherever_it_is(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path, memory_limit=0, size_limit=LIMIT) as store:
        put(store, names(0, 150), OTHER)
        put(store, names(0, 150))
        put(store, names(150, 300))
        assert not all(found(store, names(0, 150), OTHER))
        assert all(found(store, names(150, 300)))


def test_uses_by_another_process_count(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path, memory_limit=0, size_limit=LIMIT) as store:
        put(store, names(0, 100))
        put(store, names(100, 200))
    run_python(
        "import sys\n"
        "from embstore import EmbeddingStore\n"
        "from tests.helpers import MODEL, texts_of\n"
        "with EmbeddingStore(sys.argv[1]) as store:\n"
        "    assert store.get_many(MODEL, texts_of(100))[1].all()\n",
        str(tmp_path),
    )
    with EmbeddingStore(tmp_path, memory_limit=0) as store:
        assert store.prune(max_size=130 * ROW) > 0
        assert all(found(store, names(0, 100)))
        assert not all(found(store, names(100, 200)))


def test_reads_write_nothing(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path, memory_limit=0, size_limit=LIMIT) as store:
        put(store, names(0, 100))
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
        assert all(found(store, names(0, 100)))
        after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
        assert after == before


@pytest.mark.parametrize("where", [None, OTHER])
def test_prune(tmp_path: Path, where: Namespace | None) -> None:
    with EmbeddingStore(tmp_path) as store:
        put(store, names(0, 100), OTHER)
        put(store, names(0, 100))
        went = store.prune(max_size=60 * ROW, namespace=where)
        counts = {info.namespace: info.entries for info in store.namespaces()}
        assert went == 200 - sum(counts.values()) > 0
        assert sum(found(store, names(0, 100), OTHER)) == counts[OTHER]
        if where is not None:
            assert counts[MODEL] == 100
        assert rows_on_disk(tmp_path) < (160 if where else 60) * ROW + 2 * 4096
        assert store.verify().ok


def test_another_process_goes_on_after_an_eviction(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path, memory_limit=0) as reader, EmbeddingStore(tmp_path) as pruner:
        put(reader, names(0, 100))
        pruner.prune(max_size=20 * ROW)
        kept = sum(found(reader, names(0, 100)))
        assert 0 < kept < 20
        put(reader, names(0, 100))
        assert all(found(reader, names(0, 100)))


def test_a_crash_before_the_commit_loses_nothing(tmp_path: Path) -> None:
    script = """
import os, sys
from embstore import EmbeddingStore
from embstore.backends.disk import repair
real = repair._next_generation
def dies(*arguments):
    real(*arguments)
    os._exit(9)  # after the new file is written, before it is committed
repair._next_generation = dies
EmbeddingStore(sys.argv[1]).prune(max_size=1)
"""
    with EmbeddingStore(tmp_path) as store:
        put(store, names(0, 100))
    with pytest.raises(AssertionError):
        run_python(script, str(tmp_path))
    with EmbeddingStore(tmp_path, memory_limit=0) as store:
        assert all(found(store, names(0, 100)))
        store.compact()
        assert store.verify().ok


def test_a_size_is_needed(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path) as store:
        with pytest.raises(ValueError, match="max_size"):
            store.prune(max_size=None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="size"):
            store.prune(max_size="much")
        assert np.array_equal(store.get_many(MODEL, [])[1], [])
    assert os.path.exists(tmp_path / "cache.db")
