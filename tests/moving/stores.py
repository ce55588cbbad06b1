"""Stores to move, and what must hold of them afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from embstore import EmbeddingStore, Namespace
from tests.helpers import check, put, texts_of

LAYOUTS: Mapping[Namespace, tuple[int, str]] = {
    Namespace("one/model", "1"): (8, "float32"),
    Namespace("one/model", "1", prompt="query: "): (8, "float32"),
    Namespace("half", "1"): (5, "float16"),
    Namespace("double", task="../../etc/passwd\n"): (3, "float64"),
    Namespace("bytes", extra={"bits": 8}): (13, "int8"),
    Namespace("unsigned"): (1, "uint8"),
    Namespace("long"): (2, "int64"),
}
TEXTS = texts_of(60)
ALL = len(LAYOUTS) * len(TEXTS)
SEED = 2**62 + 12345


def fill(location: Path, seed: int | None = SEED) -> Path:
    """Make a store of several layouts, by several commits."""
    with EmbeddingStore(location, seed=seed, on_error="raise") as store:
        for namespace, layout in LAYOUTS.items():
            put(store, namespace, TEXTS[:40], *layout)
            put(store, namespace, TEXTS[40:], *layout)
    return location


def found_in(location: Path) -> int:
    """How many of these vectors a store has. Each must be right, bit for bit."""
    with EmbeddingStore(location, read_only=True, on_error="raise") as store:
        found = 0
        for namespace, layout in LAYOUTS.items():
            found += sum(check(store, namespace, TEXTS, *layout))
        assert store.stats().entries == found, "vectors of no text"
        assert store.verify().ok
        return found
