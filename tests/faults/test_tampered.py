"""A store whose files somebody changed on purpose: nothing is run, nothing foreign is returned."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from embstore import EmbeddingStore
from tests.faults.damage import LAYOUTS, TEXTS, build, examine
from tests.helpers import MODEL, OTHER, check, ledger_rows, put, texts_of, vector_files

ROW = 8 + 16 + 8 * 4
START = 4096

pytestmark = pytest.mark.filterwarnings("ignore::embstore.StoreWarning")


@pytest.fixture
def location(fast_path: Path) -> Iterator[Path]:
    """A closed store; beside it, a file that must survive whatever happens."""
    location = fast_path / "store"
    build(location)
    (fast_path / "precious").write_text("precious")
    yield location
    assert (fast_path / "precious").read_text() == "precious"
    assert not (fast_path / "evil").exists()


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, location: Path) -> None:
        self.path = location.parent / "evil"

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_the_trap_works(fast_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(fast_path / "store")))
    assert (fast_path / "evil").exists()


KINDS = ["M", "G", "n", "h", "b", "k"]


@pytest.mark.parametrize("kind", KINDS)
def test_pickles_in_the_place_of_values_are_never_loaded(location: Path, kind: str) -> None:
    update = "UPDATE Cache SET mode = 4, value = ? WHERE substr(key, 1, 1) = ?"
    ledger_rows(location, update, pickle.dumps(Evil(location)), kind.encode())
    examine(location)


def test_pickled_keys_are_never_loaded(location: Path) -> None:
    insert = "INSERT INTO Cache (key, raw, store_time, access_time, mode, value)"
    insert += " VALUES (?, 0, 0, 0, ?, ?)"
    evil = pickle.dumps(Evil(location))
    for mode in (1, 4):
        ledger_rows(location, insert, evil + bytes([mode]), mode, evil)
    ledger_rows(location, "UPDATE Cache SET raw = 0 WHERE substr(key, 1, 1) = ?", b"h")
    examine(location)


@pytest.mark.parametrize("mode", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_file_names_in_the_ledger_are_never_opened_or_unlinked(
    location: Path, kind: str, mode: int
) -> None:
    update = "UPDATE Cache SET mode = ?, filename = ? WHERE substr(key, 1, 1) = ?"
    ledger_rows(location, update, mode, "../precious", kind.encode())
    examine(location)
    with EmbeddingStore(location) as store:
        store.clear()
        store.compact()


@pytest.mark.parametrize(
    "change",
    [
        "value = NULL",
        "value = 5",
        "value = 'text'",
        "value = zeroblob(0)",
        "value = zeroblob(1000000)",
        "value = CAST(value AS TEXT)",
        "key = 'text' || rowid",
        "key = substr(key, 1, 5) || x'00' || rowid",
        "key = rowid",
        "mode = 1",
        "expire_time = 1.0",
        "raw = 0",
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_entries_of_another_kind_or_size(location: Path, kind: str, change: str) -> None:
    ledger_rows(location, f"UPDATE Cache SET {change} WHERE substr(key, 1, 1) = ?", kind.encode())
    examine(location)


def test_the_settings_table_has_no_effect(location: Path) -> None:
    evil = {
        "size_limit": 1,
        "cull_limit": 1000,
        "eviction_policy": "least-recently-used",
        "statistics": 1,
        "disk_min_file_size": 0,
        "disk_pickle_protocol": 2,
        "sqlite_journal_mode": "delete",
        "sqlite_mmap_size": 2**40,
        "sqlite_query_only": 1,
        "sqlite_temp_store_directory": str(location.parent),
        "sqlite_max_page_count": 1,
        "_directory": str(location.parent),
        "_disk": "nothing",
        "_timeout": 0,
        "get": "nothing",
        "set": "nothing",
    }
    for key, value in evil.items():
        ledger_rows(location, "INSERT OR REPLACE INTO Settings VALUES (?, ?)", key, value)
    before = sorted(path.name for path in location.parent.iterdir())
    with EmbeddingStore(location, on_error="raise") as store:
        for namespace, layout in LAYOUTS.items():
            assert check(store, namespace, TEXTS, *layout) == [False] * 2 + [True] * 58
            more = texts_of(3000, 5000)
            put(store, namespace, more, *layout)
            assert all(check(store, namespace, more, *layout))
        assert store.verify().ok
        store.compact()
        assert (location / "cache.db-wal").exists()
    assert sorted(path.name for path in location.parent.iterdir()) == before


def test_a_trigger_that_somebody_added_cannot_call_home(location: Path) -> None:
    ledger_rows(
        location,
        "CREATE TRIGGER evil AFTER INSERT ON Cache BEGIN"
        " SELECT writefile('../evil', 'x'); SELECT load_extension('evil'); END",
    )
    examine(location)


def rows_of(file: Path) -> list[bytes]:
    content = file.read_bytes()[START:]
    return [content[start : start + ROW] for start in range(0, len(content), ROW)]


def write_rows(file: Path, rows: list[bytes]) -> None:
    file.write_bytes(file.read_bytes()[:START] + b"".join(rows))


@pytest.fixture
def twins(fast_path: Path) -> tuple[Path, Path, Path]:
    """A store with two namespaces of one layout, and their two files."""
    location = fast_path / "twins"
    with EmbeddingStore(location) as store:
        put(store, MODEL, texts_of(50))
        put(store, OTHER, texts_of(50))
    one, other = (location / "vectors" / f"{space.id.hex()}.{number}.vec"
                  for number, space in enumerate((MODEL, OTHER), 1))  # fmt: skip
    return location, one, other


def lost_of(location: Path) -> list[int]:
    """Texts not found in each of the twins; what is found is right."""
    with EmbeddingStore(location) as store:
        return [check(store, space, texts_of(50)).count(False) for space in (MODEL, OTHER)]


def test_the_rows_are_where_these_tests_think(twins: tuple[Path, Path, Path]) -> None:
    location, one, other = twins
    assert vector_files(location) == sorted([one, other])
    assert [len(rows_of(file)) for file in (one, other)] == [50, 50]
    assert lost_of(location) == [0, 0]


def test_rows_of_another_namespace_are_not_returned(twins: tuple[Path, Path, Path]) -> None:
    location, one, other = twins
    mine, theirs = rows_of(one), rows_of(other)
    write_rows(one, theirs[:10] + mine[10:])
    write_rows(other, mine[:10] + theirs[10:])
    assert lost_of(location) == [10, 10]


@pytest.mark.parametrize("ledger", ["kept", "deleted"])
def test_files_of_two_namespaces_swapped(twins: tuple[Path, Path, Path], ledger: str) -> None:
    location, one, other = twins
    between = one.rename(one.with_name("between"))
    other.rename(one)
    between.rename(other)
    if ledger == "deleted":
        (location / "cache.db").unlink()
    assert lost_of(location) == [50, 50]


def test_digests_swapped_between_two_rows(twins: tuple[Path, Path, Path]) -> None:
    location, one, _ = twins
    rows = rows_of(one)
    first, second = rows[3], rows[7]
    rows[3] = first[:8] + second[8:24] + first[24:]
    rows[7] = second[:8] + first[8:24] + second[24:]
    write_rows(one, rows)
    assert lost_of(location) == [2, 0]


def test_vectors_swapped_between_two_rows(twins: tuple[Path, Path, Path]) -> None:
    location, one, _ = twins
    rows = rows_of(one)
    first, second = rows[3], rows[7]
    rows[3], rows[7] = first[:24] + second[24:], second[:24] + first[24:]
    write_rows(one, rows)
    assert lost_of(location) == [2, 0]


def test_whole_rows_in_another_order_are_still_right(twins: tuple[Path, Path, Path]) -> None:
    location, one, _ = twins
    write_rows(one, rows_of(one)[::-1])
    lost_of(location)
    (location / "cache.db").unlink()
    assert lost_of(location) == [0, 0]


@pytest.mark.parametrize("ledger", ["kept", "deleted", "theirs"])
def test_a_vector_file_of_another_store(twins: tuple[Path, Path, Path], ledger: str) -> None:
    location, one, _ = twins
    stranger = location.parent / "stranger"
    with EmbeddingStore(stranger) as store:
        # The true vectors of other texts: each of them would be wrong for the texts asked for.
        put(store, MODEL, texts_of(50, 100))
        put(store, OTHER, texts_of(50, 100))
    shutil.copy(stranger / "vectors" / one.name, one)
    if ledger == "deleted":
        (location / "cache.db").unlink()
    elif ledger == "theirs":
        shutil.copy(stranger / "cache.db", location / "cache.db")
    lost_of(location)
    with EmbeddingStore(location) as store:
        for space in (MODEL, OTHER):
            put(store, space, texts_of(150))
    with EmbeddingStore(location) as store:
        assert all(all(check(store, space, texts_of(150))) for space in (MODEL, OTHER))


def test_a_ledger_of_an_earlier_time_is_put_back(twins: tuple[Path, Path, Path]) -> None:
    location, _, _ = twins
    shutil.copy(location / "cache.db", location.parent / "backup.db")
    with EmbeddingStore(location) as store:
        put(store, MODEL, texts_of(50, 50))
        store.delete_many(MODEL, texts_of(10))
    shutil.copy(location.parent / "backup.db", location / "cache.db")
    with EmbeddingStore(location) as store:
        assert check(store, MODEL, texts_of(100)) == [False] * 10 + [True] * 40 + [False] * 50
        put(store, MODEL, texts_of(30, 80))
        assert check(store, MODEL, texts_of(110))[80:] == [True] * 30
    assert lost_of(location) == [10, 0]
