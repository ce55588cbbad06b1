"""Runs in files: made by who writes, used by who comes later, gone with their vector file."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from embstore import EmbeddingStore
from embstore.backends.disk import health, runs
from embstore.backends.disk.ledger import Ledger
from tests.faults.children import in_child
from tests.helpers import ledger_rows
from tests.index.kept import (
    COUNT,
    KEPT_ROWS,
    MODEL,
    STOPS,
    STRIDE,
    check,
    elsewhere,
    found_in,
    good_for,
    put,
    ranges,
    rows_recalled,
    run_files,
    texts_of,
    vector_file,
)


def test_a_small_store_keeps_none(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path, memory_limit=0) as store:
        put(store, MODEL, texts_of(KEPT_ROWS - 1))
        assert ranges(tmp_path) == []
        put(store, MODEL, texts_of(1, 1000))
        assert ranges(tmp_path) == [(0, KEPT_ROWS)]


def test_a_new_process_reads_what_is_in_no_run(
    location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def batches(self: Ledger, namespace_id: bytes, generation: int, first: int = 0) -> object:
        asked.append(first)
        return real(self, namespace_id, generation, first)

    real = Ledger.batches
    monkeypatch.setattr(Ledger, "batches", batches)
    assert found_in(location, texts_of(COUNT + 50)) == COUNT
    assert asked == [STOPS[-1]]
    with EmbeddingStore(location, memory_limit=0) as store:
        assert check(store, MODEL, ["text 3"]) == [True]
        assert rows_recalled(store) == STOPS[-1]
        for text in texts_of(COUNT):
            assert check(store, MODEL, [text]) == [True]


def test_another_process_and_back(location: Path) -> None:
    code = """
with EmbeddingStore(location, memory_limit=0) as store:
    assert all(check(store, MODEL, texts_of(280)))
    assert rows_recalled(store) == 264
    put(store, MODEL, texts_of(100, 1000))
"""
    with EmbeddingStore(location, memory_limit=0) as store:
        assert all(check(store, MODEL, texts_of(COUNT)))
        elsewhere(
            code.replace(
                "texts_of(280)))", "texts_of(280)))\n    from tests.index.kept import rows_recalled"
            ),
            location,
        )
        assert all(check(store, MODEL, texts_of(100, 1000)))
        assert rows_recalled(store) > STOPS[-1], "what they have sorted need not be sorted here"


def test_small_ones_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to some size they are merged although they are larger than what is new."""
    monkeypatch.setattr(runs, "_EAGER", 4)
    monkeypatch.setattr(runs, "_SMALL", 16 * KEPT_ROWS)
    texts, seen = texts_of(64 * KEPT_ROWS), []
    with EmbeddingStore(tmp_path, memory_limit=0, on_error="raise") as store:
        for first in range(0, len(texts), KEPT_ROWS):
            put(store, MODEL, texts[first : first + KEPT_ROWS])
            seen.append([stop - start for start, stop in ranges(tmp_path)])
        assert all(check(store, MODEL, texts))
    sizes = [[run // KEPT_ROWS for run in sizes] for sizes in seen]
    assert sizes[:9] == [[1], [2], [3], [4], [5], [5, 1], [7], [7, 1], [9]]
    assert max(map(len, sizes[:16])) == 2
    large = [sizes[0] for sizes in sizes[16:]]
    assert len(set(large)) <= 3, "a large one waits for as many new rows as it has"
    assert found_in(tmp_path, texts) == len(texts)


@pytest.mark.parametrize("batch", [1, 7, 64, 100])
def test_their_number_is_logarithmic(tmp_path: Path, batch: int) -> None:
    """As in a binary counter; and no row is in two of them."""
    texts = texts_of(3000)
    most = 0
    with EmbeddingStore(tmp_path, memory_limit=0, on_error="raise") as store:
        for first in range(0, len(texts), batch):
            put(store, MODEL, texts[first : first + batch])
            most = max(most, len(run_files(tmp_path)))
        kept = ranges(tmp_path)
        assert most <= 8
        assert kept[0][0] == 0
        assert [stop for _, stop in kept[:-1]] == [first for first, _ in kept[1:]]
        assert kept[-1][1] > len(texts) - KEPT_ROWS - batch
        assert all(check(store, MODEL, texts))
    assert found_in(tmp_path, texts) == len(texts)
    assert {file.stat().st_mode & 0o777 for file in run_files(tmp_path)} == {0o600}


def test_a_merged_run_is_the_sorted_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Part by part, as large ones are merged."""
    monkeypatch.setattr(runs, "_PART", 16)
    with EmbeddingStore(tmp_path, memory_limit=0) as store:
        for first in range(0, 1024, 64):
            put(store, MODEL, texts_of(64, first))
        assert ranges(tmp_path) == [(0, 1024)]
        digests = np.frombuffer(b"".join(store.digests(texts_of(1024))), "<u8").reshape(-1, 2)
    assert found_in(tmp_path, texts_of(1024)) == 1024
    with EmbeddingStore(tmp_path, memory_limit=0) as store:
        check(store, MODEL, ["text 1"])
        (run,) = store._backend._shelves.get(MODEL.id)._kept
        assert run.is_sound()
        order = np.argsort(digests[:, 0])
        assert (run.high[:-1] == digests[order, 0]).all()
        assert (run.rows[:-1] == order).all()


def test_only_deleted_rows(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path, memory_limit=0, on_error="raise") as store:
        put(store, MODEL, texts_of(40))
        store.delete_many(MODEL, texts_of(40))
    with EmbeddingStore(tmp_path, memory_limit=0, on_error="raise") as store:
        put(store, MODEL, texts_of(30, 100))
        assert ranges(tmp_path) == [(0, 70)]
        store.delete_many(MODEL, texts_of(30, 100))
    for file in run_files(tmp_path):
        file.unlink()
    with EmbeddingStore(tmp_path, memory_limit=0, on_error="raise") as store:
        put(store, MODEL, ["text 1"])
        assert ranges(tmp_path) == [(0, 71)]
    assert found_in(tmp_path, texts_of(200)) == 1


def test_the_last_row_of_a_run_is_deleted(location: Path) -> None:
    with EmbeddingStore(location) as store:
        store.delete_many(MODEL, [f"text {stop - 1}" for stop in STOPS])
    with EmbeddingStore(location, memory_limit=0) as store:
        assert sum(check(store, MODEL, texts_of(COUNT))) == COUNT - 2
        assert rows_recalled(store) == STOPS[-1], "they are still of use"


@pytest.mark.parametrize("way", ["compact", "clear", "prune", "rebuild", "renew"])
def test_they_go_with_their_vector_file(
    location: Path, way: str, recwarn: pytest.WarningsRecorder
) -> None:
    """And leave nothing behind that no namespace uses."""
    before = {file.name for file in run_files(location)}
    with EmbeddingStore(location, memory_limit=0) as store:
        assert all(check(store, MODEL, texts_of(COUNT)))
        if way == "compact":
            store.delete_many(MODEL, texts_of(10))
            assert store.compact().rows == COUNT - 10
        elif way == "clear":
            assert store.clear(MODEL) == COUNT
            assert run_files(location) == []
        elif way == "prune":
            assert store.prune(max_size=COUNT * STRIDE // 2) > 0
        elif way == "renew":
            file = vector_file(location)
            with file.open("r+b") as opened:
                opened.write(b"garbage")
            put(store, MODEL, ["one more"])
        else:
            for file in location.glob("cache.db*"):
                file.unlink()
            put(store, MODEL, ["one more"])
        assert not before & {file.name for file in run_files(location)}
        put(store, MODEL, texts_of(COUNT))
        assert all(check(store, MODEL, texts_of(COUNT)))
        assert store.verify().problems == ()
    stem = vector_file(location).stem
    assert {file.name.split(".")[1] for file in run_files(location)} <= {stem.split(".")[1]}
    assert found_in(location, texts_of(COUNT)) == COUNT


def test_compacting_removes_those_of_no_vector_file(location: Path) -> None:
    stranger = location / "vectors" / f"{'a' * 32}.7.0-64.run"
    half_made = location / "vectors" / f"{'a' * 32}.7.run"
    users_own = location / "vectors" / "my.run"
    for file in (stranger, half_made, users_own):
        file.write_bytes(b"?")
    with EmbeddingStore(location) as store:
        store.compact()
        assert store.verify().problems == ()
    assert not stranger.exists()
    assert not half_made.exists()
    assert users_own.exists()
    assert len(run_files(location)) == 3
    users_own.unlink()


def test_a_namespace_that_is_cleared_before_its_run_is_written(
    location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = runs.keep

    def clear_and_keep(*given: object) -> bool:
        with EmbeddingStore(location, on_error="raise") as other:
            assert other.clear(MODEL) == COUNT + KEPT_ROWS
        return keep(*given)

    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        with monkeypatch.context() as patch:
            patch.setattr(runs, "keep", clear_and_keep)
            put(store, MODEL, texts_of(KEPT_ROWS, COUNT))
        assert not any((location / "vectors").iterdir())
        put(store, MODEL, texts_of(3))
        assert store.verify().ok
    assert found_in(location, texts_of(COUNT)) == 3


def test_checks_of_a_store_are_not_confused(location: Path) -> None:
    examined = health.examine(location)
    assert (examined.rows, examined.corrupt, examined.problems) == (COUNT, 0, ())
    assert health.leftovers(location, examined) == health.Leftovers((), ())
    run_files(location)[0].write_bytes(b"?")
    assert health.examine(location).problems == ()
    with EmbeddingStore(location) as store:
        assert store.verify().rows == COUNT


def test_reading_only(location: Path) -> None:
    """Uses what there is, and makes nothing."""
    before = {file: file.stat().st_mtime_ns for file in location.rglob("*")}
    with EmbeddingStore(location, memory_limit=0, read_only=True) as store:
        assert all(check(store, MODEL, texts_of(COUNT)))
        assert rows_recalled(store) == STOPS[-1]
    for file in run_files(location):
        file.unlink()
        before.pop(file)
    assert found_in(location, texts_of(COUNT), read_only=True) == COUNT
    after = {file: file.stat().st_mtime_ns for file in location.rglob("*")}
    before.pop(location / "vectors")
    after.pop(location / "vectors")
    assert after == before


def use(location: Path, store: EmbeddingStore | None, first: int) -> int:
    """Read and write as a child; how many rows were found."""
    runs.KEPT_ROWS, runs._EAGER = KEPT_ROWS, 1
    store = store or EmbeddingStore(location, memory_limit=0, on_error="raise")
    found = sum(check(store, MODEL, texts_of(COUNT)))
    assert rows_recalled(store) == STOPS[-1]
    put(store, MODEL, texts_of(90, first))
    assert all(check(store, MODEL, texts_of(90, first)))
    return found


def test_a_forked_child(location: Path) -> None:
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        assert all(check(store, MODEL, texts_of(COUNT)))
        assert in_child(lambda: use(location, store, 1000)) == COUNT
        assert in_child(lambda: found_in(location, texts_of(90, 1000))) == 90
        assert all(check(store, MODEL, texts_of(COUNT) + texts_of(90, 1000)))
        put(store, MODEL, texts_of(90, 2000))
    assert found_in(location, texts_of(90, 1000) + texts_of(90, 2000)) == 180


def test_a_spawned_child(location: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    with EmbeddingStore(location, memory_limit=0) as store:
        check(store, MODEL, texts_of(COUNT))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(use, (location, None, 1000)) == COUNT
            pool.close()
            pool.join()
        assert all(check(store, MODEL, texts_of(COUNT) + texts_of(90, 1000)))


def test_a_store_is_kept_under_its_limit_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of small vectors they take a third of the space."""
    monkeypatch.setattr(runs, "KEPT_ROWS", 1024)
    limit, most = 1_000_000, 0
    with EmbeddingStore(tmp_path, memory_limit=0, size_limit=limit, on_error="raise") as store:
        for first in range(0, 40_000, 400):
            put(store, MODEL, texts_of(400, first))
            taken = sum(file.stat().st_size for file in (tmp_path / "vectors").iterdir())
            most = max(most, taken)
        assert all(check(store, MODEL, texts_of(400, first)))
    assert most <= 1.1 * limit


def test_rows_of_the_ledger_alone_are_enough(location: Path) -> None:
    """A ledger that says less than the runs do: these are not believed."""
    ledger_rows(location, "SELECT 1")
    for file in run_files(location):
        file.unlink()
    good_for(location)
