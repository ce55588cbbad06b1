"""Texts that are deleted and stored again, many of them or one many times."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from embstore import EmbeddingStore
from embstore.backends.disk import index
from embstore.backends.disk.index import DigestIndex
from tests.index.kept import MODEL, check, elsewhere, found_in, put, texts_of


def test_many_deleted_and_stored_again(fast_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "RECENT", 100)
    chance, texts = random.Random(0), texts_of(400)
    there: set[str] = set()
    stores = [EmbeddingStore(fast_path / "s", memory_limit=0, on_error="raise") for _ in range(2)]
    for step in range(60):
        one, other = chance.sample(stores, 2)
        new, gone = chance.sample(texts, 60), chance.sample(texts, 50)
        put(one, MODEL, new)
        there |= set(new)
        assert check(other, MODEL, texts) == [text in there for text in texts]
        assert other.delete_many(MODEL, gone) == len(there & set(gone))
        there -= set(gone)
        assert check(one, MODEL, texts) == [text in there for text in texts]
        if step % 20 == 10:
            one.compact()
    for store in stores:
        assert check(store, MODEL, texts) == [text in there for text in texts]
        for text in texts[:100]:
            assert check(store, MODEL, [text]) == [text in there]
        store.close()
    assert found_in(fast_path / "s", texts) == len(there)


@pytest.mark.parametrize("recent", [30, 10_000])
def test_one_text_stored_again_and_again(
    fast_path: Path, monkeypatch: pytest.MonkeyPatch, recent: int
) -> None:
    """It is found after each time, in every process, and so are all others."""
    monkeypatch.setattr(index, "RECENT", recent)
    location = fast_path / "store"
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        put(store, MODEL, texts_of(50))
        for _ in range(150):
            put(store, MODEL, ["again"])
            assert store.delete_many(MODEL, ["again"]) == 1
        assert check(store, MODEL, ["again"]) == [False]
        put(store, MODEL, ["again"])
        assert all(check(store, MODEL, ["again", *texts_of(50)]))
        put(store, MODEL, texts_of(500, 50))
        assert all(check(store, MODEL, ["again", *texts_of(550)]))
    assert found_in(location, ["again", *texts_of(550)]) == 551


@pytest.mark.parametrize("recent", [100, 10_000])
def test_what_looking_up_a_text_costs_that_was_deleted_often(
    fast_path: Path, monkeypatch: pytest.MonkeyPatch, recent: int
) -> None:
    """Not a look at each row that it ever had."""
    monkeypatch.setattr(index, "RECENT", recent)
    steps: list[int] = []
    after = DigestIndex.after

    def counted(self: DigestIndex, *arguments: object) -> object:
        steps.append(1)
        return after(self, *arguments)

    with EmbeddingStore(fast_path / "store", memory_limit=0) as store:
        for _ in range(120):
            put(store, MODEL, ["again", *texts_of(3)])
            store.delete_many(MODEL, ["again", *texts_of(2)])
        monkeypatch.setattr(DigestIndex, "after", counted)
        assert check(store, MODEL, ["again"]) == [False]
        assert len(steps) <= 50


def test_a_process_that_had_them_in_its_runs(fast_path: Path) -> None:
    """Rows that others delete stay in the runs of who knew them, and are kept in files."""
    location = fast_path / "store"
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        put(store, MODEL, texts_of(60))
        for _ in range(4):
            elsewhere("EmbeddingStore(location).delete_many(MODEL, texts_of(30))", location)
            put(store, MODEL, texts_of(60))
            assert all(check(store, MODEL, texts_of(60)))
        put(store, MODEL, texts_of(100, 1000))
    assert found_in(location, texts_of(60) + texts_of(100, 1000)) == 160
    elsewhere("EmbeddingStore(location).delete_many(MODEL, texts_of(30))", location)
    assert found_in(location, texts_of(60)) == 30
