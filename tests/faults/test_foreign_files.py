"""What lies in a directory and is not ours stays as it is."""

from __future__ import annotations

from pathlib import Path

import diskcache
import pytest

from embstore import EmbeddingStore, StoreRefusedError, StoreWarning
from tests.helpers import MODEL, check, put, texts_of


def test_files_among_the_vectors_survive_compaction_and_rebuilding(tmp_path: Path) -> None:
    mine = [tmp_path / "vectors" / "mine.npy", tmp_path / "rebuild" / "notes.txt"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    with EmbeddingStore(tmp_path) as store:
        put(store, MODEL, texts_of(10))
        store.delete_many(MODEL, texts_of(5))
        store.compact()
    (tmp_path / "cache.db").unlink()
    with pytest.warns(StoreWarning, match="rebuilt"):
        store = EmbeddingStore(tmp_path)
    assert check(store, MODEL, texts_of(10)) == [False] * 5 + [True] * 5
    store.close()
    assert [path.read_text() for path in mine] == ["mine", "mine"]


def test_a_cache_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    with diskcache.Cache(str(tmp_path)) as cache:
        cache["key"] = "value"
    with pytest.raises(StoreRefusedError, match="not an embstore store"):
        EmbeddingStore(tmp_path)
    with diskcache.Cache(str(tmp_path)) as cache:
        assert cache["key"] == "value"


def test_no_damaged_ledger_is_overwritten(tmp_path: Path) -> None:
    for _ in range(3):
        with EmbeddingStore(tmp_path) as store:
            put(store, MODEL, texts_of(10))
        (tmp_path / "cache.db").write_bytes(b"damaged" * 1000)
        with pytest.warns(StoreWarning, match="rebuilt"):
            EmbeddingStore(tmp_path).close()
    assert len(list(tmp_path.glob("cache.db.damaged*"))) == 3
