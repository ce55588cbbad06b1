"""The entries of committed batches, and what a writer remembers of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from embstore import EmbeddingStore
from tests.helpers import ledger_rows
from tests.index.kept import MODEL, check, found_in, put, texts_of


def entries_of(location: Path) -> list[int]:
    """How many digests each batch entry has, in order."""
    query = "SELECT length(value) FROM Cache WHERE key >= ? AND key < ? ORDER BY key"
    rows = ledger_rows(location, query, b"b", b"c")
    return [length // 16 for (length,) in rows]


@pytest.mark.parametrize(
    "size, commits, most", [(1, 2000, 12), (7, 300, 12), (32, 100, 12), (256, 20, 20)]
)
def test_many_commits_leave_few_entries(tmp_path: Path, size: int, commits: int, most: int) -> None:
    with EmbeddingStore(tmp_path, memory_limit=0, on_error="raise") as store:
        for number in range(commits):
            put(store, MODEL, texts_of(size, number * size))
        assert store.verify().ok
    entries = entries_of(tmp_path)
    assert sum(entries) == size * commits
    assert len(entries) <= most
    assert max(entries) <= 1024
    assert found_in(tmp_path, texts_of(size * commits)) == size * commits


def test_commits_of_all_sizes(tmp_path: Path) -> None:
    drawn, count = random.Random(5), 0
    with EmbeddingStore(tmp_path, memory_limit=0, on_error="raise") as store:
        for _ in range(300):
            size = drawn.choice([1, 1, 1, 2, 9, 30, 64, 65, 130, 700])
            put(store, MODEL, texts_of(size, count))
            count += size
        assert store.verify().ok
    assert sum(entries_of(tmp_path)) == count
    assert found_in(tmp_path, texts_of(count)) == count


def test_a_writer_that_remembers_asks_for_nothing(tmp_path: Path) -> None:
    statements: list[str] = []
    with EmbeddingStore(tmp_path, memory_limit=0, on_error="raise") as store:
        put(store, MODEL, texts_of(3))
        connection = store._backend._session.ledger._cache._connection
        connection.set_trace_callback(statements.append)
        put(store, MODEL, texts_of(1, 3))
        connection.set_trace_callback(None)
    kinds = [statement.split()[0] for statement in statements]
    assert kinds == ["BEGIN", "SELECT", "INSERT", "INSERT", "COMMIT"]


def test_writers_that_take_turns(tmp_path: Path) -> None:
    """None of them writes over what the others committed since its last turn."""
    drawn, count = random.Random(3), 0
    gone: set[int] = set()
    stores = [EmbeddingStore(tmp_path, memory_limit=0, on_error="raise") for _ in range(3)]
    for _ in range(400):
        store = drawn.choice(stores)
        if count and drawn.random() < 0.1:
            number = drawn.randrange(count)
            assert store.delete_many(MODEL, texts_of(1, number)) == (number not in gone)
            gone.add(number)
        else:
            size = drawn.choice([1, 1, 2, 20])
            put(store, MODEL, texts_of(size, count))
            count += size
        if drawn.random() < 0.01:
            store.compact()
    assert stores[0].verify().ok
    for store in stores:
        found = check(store, MODEL, texts_of(count))
        assert [number for number in range(count) if not found[number]] == sorted(gone)
        store.close()
    assert found_in(tmp_path, texts_of(count)) == count - len(gone)


def test_a_commit_that_was_rolled_back_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer may leave the head just as it would have been."""
    with (
        EmbeddingStore(tmp_path, memory_limit=0, on_error="raise") as one,
        EmbeddingStore(tmp_path, memory_limit=0, on_error="raise") as other,
    ):
        put(one, MODEL, texts_of(3))

        def fail(*_: object) -> None:
            raise RuntimeError("before the commit")

        with monkeypatch.context() as patch:
            patch.setattr(one._backend._sharing, "end", fail)
            with pytest.raises(RuntimeError, match="before the commit"):
                put(one, MODEL, ["lost"])
        put(other, MODEL, ["another"])
        put(one, MODEL, ["last"])
        assert one.verify().ok
        assert check(one, MODEL, ["lost", "another", "last"]) == [False, True, True]
    assert found_in(tmp_path, [*texts_of(3), "lost", "another", "last"]) == 5


def test_an_interrupt_behind_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddingStore(tmp_path, memory_limit=0, on_error="raise") as store:
        put(store, MODEL, texts_of(3))
        shelf = store._backend._shelves.get(MODEL.id)

        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(shelf, "learn", interrupt)
            with pytest.raises(KeyboardInterrupt):
                put(store, MODEL, ["kept"])
        put(store, MODEL, ["next"])
        assert store.verify().ok
    assert found_in(tmp_path, [*texts_of(3), "kept", "next"]) == 5
