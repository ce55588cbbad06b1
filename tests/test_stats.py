"""The figures of a store: what they count and how they print."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embstore import EmbeddingStore, Stats
from embstore.stats import Counters, format_bytes
from tests.helpers import MODEL, OTHER, put, texts_of, vectors_of


def test_nothing_was_asked() -> None:
    stats = Stats()
    assert (stats.total, stats.hit_rate) == (0, 0.0)


def test_hits_and_misses_make_the_total() -> None:
    stats = Stats(hits=3, misses=1)
    assert (stats.total, stats.hit_rate) == (4, 0.75)
    assert stats.to_dict()["total"] == 4
    assert stats.to_dict()["hit_rate"] == 0.75
    assert stats.to_dict().keys() >= {"hits", "misses", "entries", "bytes", "seconds_saved"}


def test_it_prints_every_figure_in_a_terminal_and_in_a_notebook() -> None:
    stats = Stats(1234, 11, 12, 13, 14, 15, 16, 1717, 18, 19, 20.25, 21.5, 2212)
    shown = (
        "1,234",
        "11",
        "12",
        "13",
        "14",
        "15",
        "16",
        "1.7 KiB",
        "18",
        "19",
        "20.25",
        "21.50",
        "2,212",
    )
    for form in (str(stats), stats._repr_html_()):
        for figure in shown:
            assert figure in form
    assert stats._repr_html_().count("<tr>") == len(str(stats).splitlines())


@pytest.mark.parametrize(
    "count, text",
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 * 2**30, "5.0 GiB"),
        (2**50, "1024.0 TiB"),
    ],
)
def test_bytes_as_people_write_them(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_counting_loses_nothing_between_threads() -> None:
    counters = Counters()

    def work(_: int) -> None:
        for _ in range(1000):
            counters.add(encode_seconds=0.5)
            counters.looked_up(b"one", 1, 0)
            counters.looked_up_one(b"other", from_memory=False, found=True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    expected = Stats(hits=16000, disk_hits=8000, encode_seconds=4000.0, entries=3)
    assert counters.snapshot(entries=3) == expected
    assert counters.take_counts() == {b"one": (8000, 0), b"other": (8000, 0)}
    assert counters.take_counts() == {}


def test_a_repeat_inside_a_call_is_a_hit(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path) as store:
        store.get_many(MODEL, ["a", "b", "a", "a"])
        stats = store.stats()
        assert (stats.hits, stats.misses, stats.total, stats.deduplicated) == (2, 2, 4, 2)
        assert (stats.memory_hits, stats.disk_hits) == (0, 0)
        put(store, MODEL, ["a"])
        store.get_many(MODEL, ["a", "c", "a", "c"])
        stats = store.stats()
        assert (stats.hits, stats.misses, stats.total, stats.deduplicated) == (5, 3, 8, 4)


def test_which_tier_answered(tmp_path: Path) -> None:
    texts = texts_of(5)
    with EmbeddingStore(tmp_path) as store:
        put(store, MODEL, texts)
        store.get_many(MODEL, texts)
        assert (store.stats().memory_hits, store.stats().disk_hits) == (5, 0)
    with EmbeddingStore(tmp_path) as store:
        for _ in range(2):
            store.get_many(MODEL, texts)
        assert (store.stats().memory_hits, store.stats().disk_hits) == (5, 5)


def test_what_the_store_holds(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path) as store:
        put(store, MODEL, texts_of(100), 64)
        put(store, OTHER, texts_of(10), 64)
        store.delete_many(OTHER, texts_of(3))
        stats = store.stats()
    assert stats.entries == 107
    assert stats.bytes >= 110 * 64 * 4


def test_time_saved_is_what_the_hits_would_have_cost(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path) as store:
        digests = store.digests(texts_of(4))
        store.keep(MODEL, digests, vectors_of(MODEL, texts_of(4)), seconds=2.0)
        store.count(encode_seconds=2.0, bypassed=3)
        store.get_many(MODEL, [*texts_of(4), "text 0", "text 1"])
        stats = store.stats()
        assert stats.seconds_saved == pytest.approx(3.0)
        assert (stats.encode_seconds, stats.bypassed) == (2.0, 3)
