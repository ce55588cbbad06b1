"""Stores with runs of few rows, for this process and, imported there, for others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from embstore import EmbeddingStore
from embstore.backends.disk import runs
from tests.helpers import MODEL, ROOT, check, put, run_python, texts_of

__all__ = ["MODEL", "check", "put", "texts_of"]

KEPT_ROWS = 64

HEADER = 4096
STRIDE = 56
"""Bytes of a row of the 8 float32 that ``put`` stores."""

COUNT = 280
"""Rows of :func:`build`: 200 in the first run, 64 in the second, and some in none."""

STOPS = (200, 264)

CHILD = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from embstore import EmbeddingStore
from embstore.backends.disk import runs
runs.KEPT_ROWS, runs._EAGER = {KEPT_ROWS}, 1
from tests.index.kept import *
location = Path(sys.argv[1])
"""


def elsewhere(code: str, location: Path, *arguments: object) -> str:
    """What ``code`` prints in another process, where ``location`` is the store."""
    return run_python(CHILD + code, location, *arguments)


def build(location: Path) -> None:
    """A store of the first COUNT texts, with two runs."""
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        put(store, MODEL, texts_of(200))
        for first in range(200, COUNT, 8):
            put(store, MODEL, texts_of(8, first))
    assert ranges(location) == [(0, STOPS[0]), STOPS]


def run_files(location: Path) -> list[Path]:
    """All runs, and what is on its way to be one, those of the first rows first."""
    return sorted((location / "vectors").glob("*.run"), key=lambda path: (_range(path), path.name))


def _range(path: Path) -> tuple[int, ...]:
    found = re.search(r"\.(\d+)-(\d+)\.run$", path.name)
    return tuple(map(int, found.groups())) if found else ()


def ranges(location: Path) -> list[tuple[int, ...]]:
    """The first row and the one behind the last, of each run; nothing but runs may be there."""
    found = [_range(path) for path in run_files(location)]
    assert () not in found
    return found


def vector_file(location: Path) -> Path:
    """The one vector file."""
    (found,) = (location / "vectors").glob("*.vec")
    return found


def found_in(location: Path, texts: Sequence[str], **options: object) -> int:
    """How many of these texts a store opened now has; each with its true vector."""
    with EmbeddingStore(location, memory_limit=0, on_error="raise", **options) as store:
        return sum(check(store, MODEL, texts))


def rows_recalled(store: EmbeddingStore) -> int:
    """Rows that a store has from runs in files, and not from the ledger."""
    shelf = store._backend._shelves.get(MODEL.id)
    return shelf._index.kept_rows


def good_for(location: Path) -> None:
    """Assert that a store has all that was ever put, takes what is new, and is sound."""
    assert found_in(location, texts_of(COUNT)) == COUNT
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        put(store, MODEL, texts_of(200, COUNT))
        assert all(check(store, MODEL, texts_of(COUNT + 200)))
        assert store.verify().problems == ()
    assert found_in(location, texts_of(COUNT + 200)) == COUNT + 200
    assert runs.KEPT_ROWS == KEPT_ROWS
    with EmbeddingStore(location, memory_limit=0) as store:
        check(store, MODEL, texts_of(3))
        assert rows_recalled(store) > COUNT, "new runs were made"
