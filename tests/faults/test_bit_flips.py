"""Damage to any file of a store costs vectors at most: never a wrong one, and never the store."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.damage import (
    ALL,
    build,
    build_with_log,
    copy_of,
    examine,
    files_of,
    flip,
    overwrite,
)

PAGE = 4096


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    location = tmp_path_factory.mktemp("closed") / "store"
    build(location)
    return location


@pytest.fixture(scope="module")
def with_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    location = tmp_path_factory.mktemp("log") / "store"
    build_with_log(location)
    return location


def try_flips(store: Path, fast_path: Path, flips: list[tuple[str, int]]) -> int:
    """Flip each bit in a copy of its own; the vectors lost in all."""
    lost = 0
    for name, bit in flips:
        with copy_of(store, fast_path) as location:
            flip(location / name, bit)
            try:
                lost += ALL - examine(location).kept
            except BaseException as error:
                error.add_note(f"bit {bit % 8} of byte {bit // 8} of {name} was flipped")
                raise
    return lost


def random_flips(store: Path, count: int, seed: int) -> list[tuple[str, int]]:
    """As many flips for the ledger and its log as for the vectors, anywhere in the files."""
    rng = random.Random(seed)
    ledger = [path for path in files_of(store) if path.parent == store]
    vectors = [path for path in files_of(store) if path.parent != store]
    flips = []
    for number in range(count):
        file = rng.choice(ledger if number % 2 else vectors)
        flips.append((str(file.relative_to(store)), rng.randrange(8 * file.stat().st_size)))
    return flips


def test_the_undamaged_store_has_everything(closed: Path, with_log: Path, fast_path: Path) -> None:
    for store in (closed, with_log):
        with copy_of(store, fast_path) as location:
            assert examine(location).kept == ALL


@pytest.mark.parametrize("part", range(4))
def test_any_bit_of_a_closed_store(closed: Path, fast_path: Path, part: int) -> None:
    lost = try_flips(closed, fast_path, random_flips(closed, 60, seed=part))
    assert lost < 60 * ALL / 20, "a flipped bit costs few vectors"


@pytest.mark.parametrize("part", range(2))
def test_any_bit_of_a_store_with_a_log(with_log: Path, fast_path: Path, part: int) -> None:
    names = {name for name, _ in random_flips(with_log, 60, seed=part)}
    assert "cache.db-wal" in names
    try_flips(with_log, fast_path, random_flips(with_log, 60, seed=part))


@pytest.mark.parametrize("start", range(0, 100, 25))
def test_every_byte_of_the_ledgers_header(closed: Path, fast_path: Path, start: int) -> None:
    """SQLite believes these bytes: page size, format, encoding, version."""
    rng = random.Random(start)
    flips = [("cache.db", 8 * byte + rng.randrange(8)) for byte in range(start, start + 25)]
    try_flips(closed, fast_path, flips)


def test_the_ledgers_file_format_numbers(closed: Path, fast_path: Path) -> None:
    """A number above 2 makes SQLite open the file to read only, or not at all."""
    try_flips(
        closed, fast_path, [("cache.db", 8 * byte + bit) for byte in (18, 19) for bit in range(8)]
    )


def test_every_byte_of_a_vector_files_header(closed: Path, fast_path: Path) -> None:
    name = str(files_of(closed / "vectors")[0].relative_to(closed))
    rng = random.Random(0)
    assert (
        try_flips(closed, fast_path, [(name, 8 * at + rng.randrange(8)) for at in range(0, 300, 7)])
        == 0
    )


@pytest.mark.parametrize("name", ["cache.db", "vectors"])
def test_zeroed_pages(closed: Path, fast_path: Path, name: str) -> None:
    for file in files_of(closed):
        if name not in str(file.relative_to(closed)):
            continue
        for start in range(0, file.stat().st_size, PAGE):
            with copy_of(closed, fast_path) as location:
                overwrite(location / file.relative_to(closed), start, bytes(PAGE))
                examine(location)


@pytest.mark.parametrize("name", ["cache.db", "cache.db-wal", "vectors"])
def test_files_cut_short(with_log: Path, fast_path: Path, name: str) -> None:
    rng = random.Random(name)
    for file in files_of(with_log):
        relative = file.relative_to(with_log)
        if relative.parts[0] != name:
            continue
        size = file.stat().st_size
        for length in (0, 1, PAGE, size - 1, *(rng.randrange(size) for _ in range(4))):
            with copy_of(with_log, fast_path) as location:
                with open(location / relative, "r+b") as damaged:
                    damaged.truncate(length)
                examine(location)


def remove_vectors(location: Path) -> None:
    shutil.rmtree(location / "vectors")


def remove_one_vector_file(location: Path) -> None:
    files_of(location / "vectors")[0].unlink()


def remove_the_ledger(location: Path) -> None:
    for path in location.glob("cache.db*"):
        path.unlink()


def remove_only_cache_db(location: Path) -> None:
    (location / "cache.db").unlink()


def remove_the_log(location: Path) -> None:
    (location / "cache.db-wal").unlink()


def remove_the_log_and_its_index(location: Path) -> None:
    (location / "cache.db-wal").unlink()
    (location / "cache.db-shm").unlink()


def garbage(location: Path) -> None:
    (location / "cache.db").write_bytes(random.Random(0).randbytes(50_000))


def a_text_file(location: Path) -> None:
    (location / "cache.db").write_text("SQLite format 3\0 it is not")


def another_database(location: Path) -> None:
    remove_the_ledger(location)
    connection = sqlite3.connect(location / "cache.db")
    connection.execute("CREATE TABLE notes (text)")
    connection.close()


def garbage_vectors(location: Path) -> None:
    for file in files_of(location / "vectors"):
        file.write_bytes(random.Random(0).randbytes(10_000))


def garbage_everywhere(location: Path) -> None:
    garbage(location)
    garbage_vectors(location)


def strange_files(location: Path) -> None:
    remove_only_cache_db(location)
    for name in ("notes.vec", ".vec", "x.y.vec", "notes.txt", "00.1.vec", ".hidden.vec", "a.1"):
        (location / "vectors" / name).write_text("strange")


@pytest.mark.parametrize(
    "damage, kept",
    [
        (remove_vectors, 0),
        (remove_one_vector_file, ALL * 4 // 5),
        (remove_the_ledger, ALL),
        (remove_only_cache_db, ALL),
        (remove_the_log, None),
        (remove_the_log_and_its_index, None),
        (garbage, ALL),
        (a_text_file, ALL),
        (another_database, ALL),
        (garbage_vectors, 0),
        (garbage_everywhere, 0),
        (strange_files, ALL),
    ],
)
def test_what_can_happen_to_files(
    with_log: Path, fast_path: Path, damage: Callable[[Path], None], kept: int | None
) -> None:
    with copy_of(with_log, fast_path) as location:
        damage(location)
        count = examine(location).kept
        assert count == kept or kept is None
