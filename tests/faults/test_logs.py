"""SQLite's log and shared memory, when they outlive their ledger, or have no ledger yet."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from embstore import EmbeddingStore, StoreError, StoreWarning
from tests.helpers import MODEL, OTHER, check, put, run_python, texts_of, vector_files

WRITE_AND_DIE = """
import os, sys
from embstore import EmbeddingStore
from tests.helpers import *
store = EmbeddingStore(sys.argv[1], on_error="raise")
put(store, MODEL, texts_of(int(sys.argv[2])))
os._exit(0)
"""


def test_a_log_without_its_ledger_is_not_taken_for_the_new_ones(tmp_path: Path) -> None:
    """SQLite would replay it: what it says of rows has nothing to do with the new files."""
    run_python(WRITE_AND_DIE, tmp_path, 20)
    (tmp_path / "cache.db").unlink()
    vector_files(tmp_path)[0].unlink()
    assert (tmp_path / "cache.db-wal").stat().st_size > 0
    with EmbeddingStore(tmp_path, memory_limit=0) as store:
        assert store.namespaces() == []
        put(store, OTHER, ["a"])
        assert check(store, OTHER, ["a"]) == [True]
        assert store.verify().ok


def test_a_store_that_was_replaced_while_a_fork_had_closed_it(tmp_path: Path) -> None:
    """After a fork both sides open the ledger anew: it may be another one by then."""
    location = tmp_path / "store"
    with EmbeddingStore(location, on_error="raise", memory_limit=0) as store:
        put(store, MODEL, texts_of(10))
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        shutil.rmtree(location)
        run_python(WRITE_AND_DIE, location, 20)
        for _ in range(3):
            with pytest.raises(StoreError, match="replaced by another store"):
                put(store, MODEL, texts_of(30))
    with EmbeddingStore(location) as store:
        assert check(store, MODEL, texts_of(30)) == [True] * 20 + [False] * 10


def test_a_reader_that_began_where_the_log_could_not_be_read(tmp_path: Path) -> None:
    """A copy without the shared memory. Once writers have made that, the reader sees everything."""
    source, location = tmp_path / "source", tmp_path / "copy"
    with EmbeddingStore(source) as store:
        put(store, MODEL, texts_of(5))
        shutil.copytree(source, location)
    (location / "cache.db-shm").unlink()
    with EmbeddingStore(location, read_only=True, memory_limit=0) as reader:
        check(reader, MODEL, texts_of(10))
        run_python(WRITE_AND_DIE, location, 10)
        assert all(check(reader, MODEL, texts_of(10)))
        with EmbeddingStore(location) as store:
            put(store, MODEL, texts_of(20))
        assert all(check(reader, MODEL, texts_of(20)))


def test_a_file_begun_anew_survives_losing_the_log(tmp_path: Path) -> None:
    """As in a power cut: the file that it took the place of is deleted only after the log is on
    disk for good."""
    with EmbeddingStore(tmp_path) as store:
        put(store, MODEL, texts_of(1000))
    file = vector_files(tmp_path)[0]
    os.truncate(file, file.stat().st_size - 100)
    script = "import warnings\nwarnings.simplefilter('ignore')\n" + WRITE_AND_DIE
    run_python(script.replace("texts_of(int(sys.argv[2]))", '["new"]'), tmp_path)
    for ending in ("-wal", "-shm"):
        (tmp_path / f"cache.db{ending}").unlink(missing_ok=True)
    with EmbeddingStore(tmp_path, memory_limit=0) as store:
        assert sum(check(store, MODEL, texts_of(1000))) >= 990


def test_what_was_cut_short_is_said_once(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path, memory_limit=0) as store:
        put(store, MODEL, texts_of(100))
        file = vector_files(tmp_path)[0]
        os.truncate(file, file.stat().st_size - 100)
        with pytest.warns(StoreWarning, match="cut short") as caught:
            put(store, MODEL, texts_of(110))
        assert len(caught) == 1
        assert all(check(store, MODEL, texts_of(110)))
        assert store.verify().ok
