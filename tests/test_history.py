"""What is known of each day and of growth: over all processes, for good, and in little space."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from embstore import EmbeddingStore, Namespace
from embstore.backends import open_backend
from embstore.backends.base import History
from embstore.backends.disk import usage
from tests.helpers import MODEL, OTHER, check, ledger_rows, put, run_python, texts_of

DAY = 86_400


def history_of(location: Path, namespace: Namespace = MODEL) -> History:
    backend = open_backend(str(location), read_only=True)
    try:
        return backend.history(namespace)
    finally:
        backend.close()


def today() -> date:
    return datetime.now(UTC).date()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds to add to what the ledger takes for the time."""
    ahead = [0.0]
    true = time.time
    monkeypatch.setattr(usage.time, "time", lambda: true() + ahead[0])
    return ahead


def look_up(location: Path, hits: int, misses: int) -> None:
    """Look up texts in a store that has those from 0 on."""
    with EmbeddingStore(location) as store:
        check(store, MODEL, texts_of(hits))
        check(store, MODEL, texts_of(misses, 10**6))


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A store with 10 vectors."""
    with EmbeddingStore(tmp_path / "store") as store:
        put(store, MODEL, texts_of(10))
    return tmp_path / "store"


class TestDays:
    def test_of_all_processes(self, filled: Path) -> None:
        look_up(filled, 3, 1)
        run_python(
            "import sys\n"
            "from tests.test_history import *\n"
            "store = EmbeddingStore(sys.argv[1])\n"
            "check(store, MODEL, texts_of(5))\n"
            "check(store, OTHER, texts_of(5))\n",
            filled,
        )
        [day] = history_of(filled).days
        assert (day.hits, day.misses, day.entries) == (8, 1, 10)
        assert today() - day.date <= timedelta(days=1), "the day may have ended meanwhile"
        assert history_of(filled, OTHER) == History(), "nothing is stored under it"

    def test_each_by_itself(self, filled: Path, clock: list[float]) -> None:
        for number in range(3):
            clock[0] = number * DAY
            look_up(filled, 1 + number, number)
        days = history_of(filled).days
        assert [(day.hits, day.misses) for day in days] == [(1, 0), (2, 1), (3, 2)]
        assert [day.date - days[0].date for day in days] == [timedelta(n) for n in range(3)]

    def test_they_sum_up_to_what_the_namespace_has(self, filled: Path, clock: list[float]) -> None:
        for number in range(5):
            clock[0] = number * DAY
            look_up(filled, 7, 2)
        with EmbeddingStore(filled, read_only=True) as store:
            [info] = store.namespaces()
        days = history_of(filled).days
        assert (info.hits, info.misses) == (35, 10)
        assert sum(day.hits for day in days) == info.hits
        assert sum(day.misses for day in days) == info.misses

    def test_no_more_are_kept_than_a_year_needs(
        self, filled: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(usage, "_MOST_DAYS", 4)
        for number in range(10):
            clock[0] = number * DAY
            look_up(filled, 1 + number, 0)
        assert [day.hits for day in history_of(filled).days] == [7, 8, 9, 10]
        with EmbeddingStore(filled, read_only=True) as store:
            assert store.namespaces()[0].hits == 55, "the sum has those that went"

    @pytest.mark.parametrize("seconds", [-3 * DAY, 30 * 365 * DAY])
    def test_a_clock_that_was_wrong_for_a_while(
        self, filled: Path, clock: list[float], seconds: int
    ) -> None:
        look_up(filled, 1, 0)
        clock[0] = seconds
        look_up(filled, 2, 0)
        clock[0] = 0
        look_up(filled, 4, 0)
        days = {day.date - today(): day.hits for day in history_of(filled).days}
        assert days == {timedelta(0): 5, timedelta(seconds=seconds): 2}
        with EmbeddingStore(filled) as store:
            assert store.verify().ok

    def test_a_store_from_before_there_were_any(self, filled: Path) -> None:
        look_up(filled, 4, 0)
        ledger_rows(filled, "DELETE FROM Cache WHERE key >= X'64' AND key < X'65'")
        assert history_of(filled).days == ()
        look_up(filled, 3, 0)
        assert [day.hits for day in history_of(filled).days] == [3]
        with EmbeddingStore(filled, read_only=True) as store:
            assert store.namespaces()[0].hits == 7

    def test_clearing_forgets_them_and_compacting_and_pruning_do_not(self, filled: Path) -> None:
        look_up(filled, 4, 1)
        with EmbeddingStore(filled) as store:
            store.delete_many(MODEL, texts_of(2))
            store.compact()
            store.prune(max_size=5000)
        assert [day[1:3] for day in history_of(filled).days] == [(4, 1)]
        with EmbeddingStore(filled) as store:
            store.clear(MODEL)
            put(store, MODEL, texts_of(1))
        assert history_of(filled).days == ()

    def test_a_damaged_one_is_found(self, filled: Path) -> None:
        look_up(filled, 4, 0)
        ledger_rows(
            filled,
            "UPDATE Cache SET value = zeroblob(32) WHERE key >= X'64' AND key < X'65'",
        )
        with EmbeddingStore(filled, read_only=True) as store:
            report = store.verify()
        assert "the entry 'd' does not match its checksum" in report.problems[0]
        backend = open_backend(str(filled))
        with pytest.warns(UserWarning, match="rebuilt"):
            assert backend.history(MODEL).days == ()
        backend.close()
        with EmbeddingStore(filled) as store:
            assert store.verify().ok
            assert all(check(store, MODEL, texts_of(10)))


class TestGrowth:
    def test_when_what_was_written(self, tmp_path: Path, clock: list[float]) -> None:
        start = time.time()
        for number in range(3):
            clock[0] = number * 3600
            with EmbeddingStore(tmp_path) as store:
                put(store, MODEL, texts_of(10, 10 * number))
                put(store, MODEL, texts_of(5, 1000 + 5 * number))
        growth = history_of(tmp_path).growth
        assert [count for _, count in growth] == [0, 15, 30, 45]
        hours = [(at - start) / 3600 for at, _ in growth]
        assert hours == pytest.approx([0, 0, 1, 2], abs=0.02)

    def test_what_compacting_drops_is_known_by_day(
        self, tmp_path: Path, clock: list[float]
    ) -> None:
        for number in range(3):
            clock[0] = number * DAY
            with EmbeddingStore(tmp_path) as store:
                check(store, MODEL, texts_of(10, 10 * number))
                put(store, MODEL, texts_of(10, 10 * number))
        with EmbeddingStore(tmp_path) as store:
            store.delete_many(MODEL, texts_of(5))
            store.compact()
        assert [count for _, count in history_of(tmp_path).growth] == [10, 20, 30]
        clock[0] = 9 * DAY
        with EmbeddingStore(tmp_path) as store:
            put(store, MODEL, texts_of(7, 500))
        growth = history_of(tmp_path).growth
        assert [count for _, count in growth] == [10, 20, 30, 25, 32]
        assert [at for at, _ in growth] == sorted(at for at, _ in growth)


def test_looking_needs_no_ledger(filled: Path) -> None:
    look_up(filled, 4, 0)
    for path in filled.glob("cache.db*"):
        path.unlink()
    assert history_of(filled) == History()


def test_reading_a_history_writes_nothing(filled: Path) -> None:
    look_up(filled, 4, 0)
    before = {path: path.stat().st_mtime_ns for path in filled.rglob("*")}
    assert history_of(filled).days
    assert {path: path.stat().st_mtime_ns for path in filled.rglob("*")} == before
