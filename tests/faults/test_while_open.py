"""Files that are damaged, replaced or deleted while a process works with them and goes on."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from embstore import EmbeddingStore
from tests.faults.children import in_child
from tests.faults.jobs import Job, start
from tests.helpers import run_python, vector_files

Damage = Callable[[Path], None]


def cut_to_nothing(file: Path) -> None:
    os.truncate(file, 0)


def cut_in_half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def zeroed(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))


def overwritten_with_garbage(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(random.Random(0).randbytes(file.stat().st_size))


def replaced_by_garbage(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(random.Random(0).randbytes(file.stat().st_size))
    other.replace(file)


def deleted(file: Path) -> None:
    file.unlink()


DAMAGES = [
    cut_to_nothing,
    cut_in_half,
    zeroed,
    overwritten_with_garbage,
    replaced_by_garbage,
    deleted,
]


def suffer(location: Path, damage: Callable[[], None]) -> list[int]:
    """A job that meets damage in the middle, and one that comes after it.

    What is returned is right throughout (:class:`Job` looks); afterwards the store is of use.

    Returns:
        How many texts were computed again, and how many warnings there were.
    """
    start(location)
    # Without a memory tier, which would hide the damage.
    job = Job(location, memory_limit=0, timeout=2)
    assert job.encode(60) == 10
    damage()
    again = job.encode(60)
    job.go_on()
    job.close()
    fresh = Job(location, memory_limit=0)
    fresh.go_on()
    fresh.close()
    last = Job(location, on_error="raise")
    assert last.encode(400) == 0, "what was computed after the damage is stored"
    last.never_warned()
    last.mend()
    assert last.encode(400) == 0
    return [again, len(job.messages)]


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_ledger(tmp_path: Path, damage: Damage) -> None:
    """In a process of its own, as in all tests here: reading a mapped file may end a process."""
    location = tmp_path / "store"
    again, warnings = in_child(lambda: suffer(location, lambda: damage(location / "cache.db")))
    assert again == 0
    assert warnings <= 1, "SQLite's log may have all that was lost"


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_log(tmp_path: Path, damage: Damage) -> None:
    location = tmp_path / "store"
    again, warnings = in_child(lambda: suffer(location, lambda: damage(location / "cache.db-wal")))
    assert again == 0
    assert warnings <= 1, "what the process knows needs no log"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_vector_file(tmp_path: Path, damage: Damage) -> None:
    location = tmp_path / "store"
    again, warnings = in_child(lambda: suffer(location, lambda: damage(vector_files(location)[0])))
    assert again > 0
    assert warnings == 1, "what was lost is computed again, and said"


def delete_all(location: Path) -> None:
    shutil.rmtree(location)


def delete_the_vectors(location: Path) -> None:
    shutil.rmtree(location / "vectors")


def delete_the_ledger(location: Path) -> None:
    for file in location.glob("cache.db*"):
        file.unlink()


def move_away(location: Path) -> None:
    location.rename(location.with_name("elsewhere"))


@pytest.mark.parametrize("damage", [delete_all, delete_the_vectors, delete_the_ledger, move_away])
def test_the_whole_store(tmp_path: Path, damage: Damage) -> None:
    location = tmp_path / "store"
    _, warnings = in_child(lambda: suffer(location, lambda: damage(location)))
    assert warnings == 1


def test_a_new_store_in_the_place_of_one_that_is_open(tmp_path: Path) -> None:
    """The job that still has the old one open says so, and leaves the new one as it is."""
    location = tmp_path / "store"
    start(location)
    job = Job(location, memory_limit=0)
    job.encode(60)
    shutil.rmtree(location)
    in_child(lambda: start(location, 20))
    for _ in range(3):
        job.go_on()
        time.sleep(0.1)  # after a failure, a store waits before it writes again
    job.warned_once("replaced by another store")
    with EmbeddingStore(location, read_only=True) as store:
        assert [info.entries for info in store.namespaces()] == [20]


@pytest.mark.parametrize("start_at", [100, 1000, 1560 * 3 + 500])
def test_a_part_of_rows_that_were_read_before(tmp_path: Path, start_at: int) -> None:
    """Zeros in the middle of a vector, whose digest is whole."""

    def work() -> None:
        job = Job(tmp_path / "store", dim=384, memory_limit=0)
        job.encode(20)
        job.encode(20)
        with vector_files(tmp_path / "store")[0].open("r+b") as opened:
            opened.seek(4096 + start_at)
            opened.write(bytes(400))
        job.encode(20)
        job.encode(25)

    in_child(work)


def test_a_row_that_is_cut_and_then_extended(tmp_path: Path) -> None:
    """Cut within a row; whoever writes next makes the file longer again, with a hole in the row."""

    def work() -> None:
        job = Job(tmp_path / "store", dim=384, memory_limit=0)
        job.encode(20)
        for length in (1000, 3000, 1560 * 5 + 24, 1560 * 15 + 100):
            os.truncate(vector_files(tmp_path / "store")[0], 4096 + length)
            job.encode(20)
            job.encode(20 + length // 500)
            job.encode(20)

    in_child(work)


def test_a_vector_file_that_is_cut_short_while_it_is_mapped(tmp_path: Path) -> None:
    """In a process of its own: reading past the end of a mapped file would kill it."""
    run_python(
        """
import os, sys, warnings
from pathlib import Path
from embstore import EmbeddingStore
from tests.helpers import *
warnings.simplefilter("ignore")
location = Path(sys.argv[1])
with EmbeddingStore(location, memory_limit=0) as store:
    put(store, MODEL, texts_of(5000), 64)
    assert all(check(store, MODEL, texts_of(5000), 64))
    for length in (900_000, 5000, 4096, 100, 0):
        os.truncate(vector_files(location)[0], length)
        kept = sum(check(store, MODEL, texts_of(5000), 64))
        assert kept <= max(0, length - 4096) / (64 * 4 + 24)
    put(store, MODEL, texts_of(5000), 64)
    assert all(check(store, MODEL, texts_of(5000), 64))
""",
        tmp_path / "store",
    )
