"""A store to damage: several namespaces and layouts, and what must hold of it afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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

ALL = len(LAYOUTS) * (len(TEXTS) - 2)
"""The vectors of a store that is whole."""


class WrongVectorError(AssertionError):
    """A store returned what it must not return."""


@dataclass(frozen=True)
class Examination:
    """What a damaged store was still good for.

    Attributes:
        kept: vectors it still had.
        open_seconds: the longer of the times that opening it took, damaged and mended.
    """

    kept: int
    open_seconds: float


@contextmanager
def in_memory(otherwise: Path) -> Iterator[Path]:
    """A directory in memory where there is one: what counts here are the bytes, not the disk."""
    if not os.access("/dev/shm", os.W_OK | os.X_OK):
        yield otherwise
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


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


@contextmanager
def copy_of(store: Path, place: Path) -> Iterator[Path]:
    """A copy of a store, for as long as it is broken."""
    location = place / "copy"
    shutil.copytree(store, location)
    try:
        yield location
    finally:
        shutil.rmtree(location)


def files_of(location: Path) -> list[Path]:
    """All files of a store that are not empty."""
    return sorted(path for path in location.rglob("*") if path.is_file() and path.stat().st_size)


def flip(file: Path, *bits: int) -> None:
    """Turn bits of a file over."""
    content = bytearray(file.read_bytes())
    for bit in bits:
        content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def overwrite(file: Path, start: int, replacement: bytes) -> None:
    """Replace bytes of a file, which keeps its length."""
    content = bytearray(file.read_bytes())
    end = min(len(content), start + len(replacement))
    content[start:end] = replacement[: end - start]
    file.write_bytes(content)


def examine(location: Path) -> Examination:
    """Open a damaged store, read and write everything.

    Whatever it returns must be right, and it must be of use again: what is lost can be stored anew.

    Raises:
        WrongVectorError: if it returns what it must not.
        AssertionError: if something cannot be stored again.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StoreWarning)
        start = time.perf_counter()
        with EmbeddingStore(location) as store:
            open_seconds = time.perf_counter() - start
            kept = look(store)
            for namespace, layout in LAYOUTS.items():
                put(store, namespace, [*TEXTS, *ABSENT], *layout)
        # In a store opened anew, so that the vectors come from the files and not from memory.
        start = time.perf_counter()
        with EmbeddingStore(location) as store:
            open_seconds = max(open_seconds, time.perf_counter() - start)
            for namespace, layout in LAYOUTS.items():
                found = right(store, namespace, [*TEXTS, *ABSENT], *layout)
                assert all(found), f"{found.count(False)} could not be stored again"
    return Examination(kept, open_seconds)


def look(store: EmbeddingStore) -> int:
    """Read everything; how many vectors there were.

    Raises:
        WrongVectorError: if one is wrong, or was deleted or never stored.
    """
    kept = 0
    for namespace, layout in LAYOUTS.items():
        found = right(store, namespace, [*TEXTS, *ABSENT], *layout)
        if any(found[:2]):
            raise WrongVectorError("deleted, and found")
        if any(found[len(TEXTS) :]):
            raise WrongVectorError("never stored, and found")
        kept += sum(found)
    return kept


def right(
    store: EmbeddingStore, namespace: Namespace, texts: list[str], dim: int, dtype: str
) -> list[bool]:
    """Which texts were found, each with its true vector.

    Raises:
        WrongVectorError: if it was another.
    """
    try:
        return check(store, namespace, texts, dim, dtype)
    except AssertionError as error:
        raise WrongVectorError(str(error)) from error
