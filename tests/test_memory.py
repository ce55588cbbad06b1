"""The memory tier: which rows it keeps, in which order they go, and that they cannot be changed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embstore import EmbeddingStore
from embstore.memory import OVERHEAD, MemoryTier
from embstore.units import parse_bytes
from tests.helpers import MODEL, OTHER, check, put, texts_of, vectors_of

KEYS = [b"a" * 32, b"b" * 32, b"c" * 32, b"d" * 32, b"e" * 32, b"f" * 32]


class Model:
    """What the tier must do, in a few lines: a plain ordered dict, the oldest first."""

    def __init__(self, limit: float, maxsize: float) -> None:
        self.rows: OrderedDict[bytes, bytes] = OrderedDict()
        self.limit, self.maxsize = limit, maxsize

    def get(self, key: bytes) -> bytes | None:
        if key in self.rows:
            self.rows.move_to_end(key)
        return self.rows.get(key)

    def put(self, key: bytes, row: bytes) -> None:
        self.rows[key] = row
        self.rows.move_to_end(key)

    def shrink(self) -> None:
        while self.rows and (
            sum(len(row) + OVERHEAD for row in self.rows.values()) > self.limit
            or len(self.rows) > self.maxsize
        ):
            self.rows.popitem(last=False)


KEY = st.sampled_from(KEYS)
ROW = st.sampled_from([b"x" * 10, b"y" * 60, b"z" * 300])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), st.lists(KEY, max_size=4)),
        st.tuples(st.just("put"), st.lists(st.tuples(KEY, ROW), max_size=4)),
        st.tuples(st.just("delete"), st.lists(KEY, max_size=2)),
        st.tuples(st.just("clear"), st.sampled_from([b"", b"a", b"b" * 32, b"nothing"])),
    ),
    max_size=30,
)


@given(STEPS, st.sampled_from([None, 0, 400, 1000]), st.sampled_from([None, 0, 1, 3]))
def test_the_order_in_which_rows_go_is_exactly_least_recently_used(
    steps: list, limit: int | None, maxsize: int | None
) -> None:
    tier = MemoryTier(limit, maxsize)
    model = Model(
        float("inf") if limit is None else limit, float("inf") if maxsize is None else maxsize
    )
    for step, argument in steps:
        if step == "get":
            assert tier.get_many(argument) == [model.get(key) for key in argument]
        elif step == "put":
            tier.put_many(argument)
            for key, row in argument:
                model.put(key, row)
            model.shrink()
        elif step == "delete":
            tier.delete_many(argument)
            for key in argument:
                model.rows.pop(key, None)
        else:
            tier.clear(argument)
            for key in [key for key in model.rows if key.startswith(argument)]:
                del model.rows[key]
        assert len(tier) == len(model.rows)
        # In an order that does not depend on what is kept, so that both touch alike.
        assert tier.get_many(KEYS) == [model.get(key) for key in KEYS]


def test_bytes_of_vectors_and_bookkeeping_stay_under_the_limit() -> None:
    tier = MemoryTier(10 * (100 + OVERHEAD))
    for number in range(50):
        tier.put_many([(b"%032d" % number, bytes(100))])
    assert len(tier) == 10
    tier.put_many([(b"%032d" % 50, bytes(100 + 1))])
    assert len(tier) == 9
    tier.put_many([(b"%032d" % 51, bytes(10**6))])
    assert len(tier) == 0


@pytest.mark.parametrize(
    "size, count",
    [
        (0, 0),
        (1024, 1024),
        ("0B", 0),
        ("256MB", 256 * 10**6),
        ("1GiB", 2**30),
        (" 1.5 kb ", 1500),
        ("2TiB", 2 * 2**40),
        ("7B", 7),
        (None, None),
    ],
)
def test_sizes(size: int | str | None, count: int | None) -> None:
    assert parse_bytes(size) == count


@pytest.mark.parametrize("size", [-1, "-2", "", "MB", "1 XB", "1e3", "nan", True, 1.5, b"3", [1]])
def test_what_is_no_size(size: object) -> None:
    with pytest.raises(ValueError, match="a size is"):
        parse_bytes(size)  # type: ignore[arg-type]


def memory_hits(store: EmbeddingStore, texts: list[str]) -> int:
    before = store.stats().memory_hits
    assert all(check(store, MODEL, texts))
    return store.stats().memory_hits - before


@pytest.mark.parametrize(
    "bounds, kept",
    [
        ({}, 10),
        ({"memory_limit": None}, 10),
        ({"memory_limit": 0}, 0),
        ({"memory_limit": "0"}, 0),
        ({"maxsize": 0}, 0),
        ({"maxsize": 4}, 4),
        ({"memory_limit": None, "maxsize": 4}, 4),
        ({"memory_limit": 3 * (OVERHEAD + 32)}, 3),
        ({"memory_limit": 3 * (OVERHEAD + 32), "maxsize": 2}, 2),
    ],
)
def test_bounds_of_a_store(tmp_path: Path, bounds: dict, kept: int) -> None:
    texts = texts_of(10)
    with EmbeddingStore(tmp_path, **bounds) as store:
        put(store, MODEL, texts)
        assert memory_hits(store, texts[::-1]) == kept


def test_the_text_used_longest_ago_goes_first(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path, maxsize=3) as store:
        put(store, MODEL, ["a", "b", "c"])
        assert memory_hits(store, ["a"]) == 1
        put(store, MODEL, ["d"])
        assert memory_hits(store, ["c", "a", "d"]) == 3
        assert memory_hits(store, ["b"]) == 0


def test_a_scan_of_a_corpus_does_not_push_out_what_is_hot(tmp_path: Path) -> None:
    corpus = texts_of(1000)
    with EmbeddingStore(tmp_path) as store:
        put(store, MODEL, corpus)
    with EmbeddingStore(tmp_path, maxsize=5) as store:
        hot = corpus[:5]
        assert memory_hits(store, hot) == 0
        assert memory_hits(store, corpus) == 0, "a near backend is asked first for many texts"
        assert memory_hits(store, hot) == 5


def test_nothing_done_to_an_array_reaches_what_is_kept(tmp_path: Path) -> None:
    texts = texts_of(4)
    given = vectors_of(MODEL, texts)
    with EmbeddingStore(tmp_path) as store:
        store.put_many(MODEL, texts, given)
        given[:] = 9
        for asked in (texts, texts[:1], [*texts, "unknown"]):
            vectors, found = store.get_many(MODEL, asked)
            assert vectors.flags.writeable
            assert vectors.flags.c_contiguous
            vectors[:] = 9
            found[:] = False
            assert check(store, MODEL, texts) == [True] * 4
        assert store.stats().disk_hits == 0


def test_namespaces_do_not_share_rows(tmp_path: Path) -> None:
    texts = texts_of(4)
    with EmbeddingStore(tmp_path) as store:
        put(store, MODEL, texts)
        put(store, OTHER, texts, 3, "int8")
        assert all(check(store, MODEL, texts))
        assert all(check(store, OTHER, texts, 3, "int8"))
        store.clear(MODEL)
        assert not any(check(store, MODEL, texts))
        assert all(check(store, OTHER, texts, 3, "int8"))


def test_threads_leave_the_tier_whole() -> None:
    tier = MemoryTier(40 * (16 + OVERHEAD), 50)
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        keys = [b"%032d" % key for key in np.random.default_rng(number).integers(0, 100, 3000)]
        barrier.wait()
        for start in range(0, 3000, 5):
            part = keys[start : start + 5]
            tier.put_many((key, key[16:]) for key in part[:3])
            for key, row in zip(part, tier.get_many(part), strict=True):
                assert row in (None, key[16:])
            tier.delete_many(part[3:4])
            if start % 1000 == 0:
                tier.clear(b"%032d" % start)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(tier) <= 40
    # Had a byte been miscounted, fewer or more than forty rows would fit now.
    tier.put_many((b"%032d" % key, bytes(16)) for key in range(1000, 1100))
    assert len(tier) == 40
