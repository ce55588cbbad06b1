"""A store to damage: several namespaces and layouts, and what must hold of it afterwards."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

from embstore import EmbeddingStore, Namespace, StoreWarning
from tests.helpers import check, put, texts_of

LAYOUTS = {
    Namespace("one/model", "1"): (8, "float32"),
    Namespace("one/model", "2"): (8, "float32"),
    Namespace("half", "1"): (5, "float16"),
    Namespace("double", prompt="query: "): (3, "float64"),
    Namespace("bytes", extra={"bits": 8}): (13, "int8"),
}
TEXTS = texts_of(60)
ABSENT = texts_of(5, 1000)


def build(location: Path) -> None:
    """Fill a new store by several commits, with a few deletions."""
    with EmbeddingStore(location) as store:
        fill(store)


def fill(store: EmbeddingStore) -> None:
    """Commit everything, a part at a time, and delete two texts of each namespace."""
    for start in (0, 20, 40):
        for namespace, layout in LAYOUTS.items():
            put(store, namespace, TEXTS[start : start + 20], *layout)
    for namespace in LAYOUTS:
        store.delete_many(namespace, TEXTS[:2])


def build_with_log(location: Path) -> None:
    """The same, as another process finds it before SQLite's log was taken over into cache.db."""
    source = location.with_name("open")
    with EmbeddingStore(source) as store:
        fill(store)
        shutil.copytree(source, location)
    assert os.path.getsize(location / "cache.db-wal") > 0
    shutil.rmtree(source)


def examine(location: Path) -> int:
    """Open a damaged store, read and write everything; how many vectors it still had.

    Whatever it returns must be right, and it must be of use again: what is lost can be stored anew.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StoreWarning)
        with EmbeddingStore(location) as store:
            kept = look(store)
            for namespace, layout in LAYOUTS.items():
                put(store, namespace, [*TEXTS, *ABSENT], *layout)
        # In a store opened anew, so that the vectors come from the files and not from memory.
        with EmbeddingStore(location) as store:
            for namespace, layout in LAYOUTS.items():
                found = check(store, namespace, [*TEXTS, *ABSENT], *layout)
                assert all(found), f"{found.count(False)} could not be stored again"
    return kept


def look(store: EmbeddingStore) -> int:
    """Read everything; assert that what is found is right; how many vectors there were."""
    kept = 0
    for namespace, layout in LAYOUTS.items():
        found = check(store, namespace, [*TEXTS, *ABSENT], *layout)
        assert not any(found[:2]), "deleted, and found"
        assert not any(found[len(TEXTS) :]), "never stored, and found"
        kept += sum(found)
    return kept


ALL = len(LAYOUTS) * (len(TEXTS) - 2)
"""What :func:`examine` gives of a store that is whole."""
