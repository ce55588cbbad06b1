"""Where a store may lie, who may read it, and that no name ever becomes a path."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs
import pytest

from embstore import EmbeddingStore, Namespace, StoreRefusedError, StoreWarning
from embstore.backends import resolve_location
from tests.helpers import MODEL, check, put, texts_of, vector_files

SOMEBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.fixture
def location(tmp_path: Path) -> Path:
    """A store with one vector, closed."""
    with EmbeddingStore(tmp_path / "store") as store:
        put(store, MODEL, ["a"])
    return tmp_path / "store"


def modes(location: Path) -> dict[str, int]:
    paths = [location, *location.rglob("*")]
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths}


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o277, 0o777])
def test_only_its_owner_may_enter(tmp_path: Path, umask: Callable[[int], int], mask: int) -> None:
    location = tmp_path / "store"
    umask(mask)
    with EmbeddingStore(location) as store:
        put(store, MODEL, texts_of(100))
        store.delete_many(MODEL, texts_of(50))
        store.compact()
        put(store, MODEL, texts_of(50))
        files = modes(location)
    assert {"store", "vectors", "cache.db", "cache.db-wal"} <= files.keys()
    for name, mode in files.items():
        assert oct(mode) == ("0o700" if name in ("store", "vectors") else "0o600"), name


def test_a_rebuilt_ledger_is_private_too(location: Path, umask: Callable[[int], int]) -> None:
    (location / "cache.db").write_bytes(b"garbage")
    umask(0)
    with pytest.warns(StoreWarning, match="rebuilt"):
        store = EmbeddingStore(location)
    with store:
        put(store, MODEL, ["b"])
        files = modes(location)
    for name, mode in files.items():
        assert oct(mode) == ("0o700" if name in ("store", "vectors") else "0o600"), name


def test_an_empty_directory_that_is_open_to_all_is_made_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    EmbeddingStore(tmp_path).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_directory_with_other_files_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    tmp_path.chmod(0o755)
    EmbeddingStore(tmp_path).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


@pytest.mark.parametrize("name", ["", "cache.db", "vectors"], ids=["store", "ledger", "vectors"])
def test_a_symbolic_link_is_refused(location: Path, name: str) -> None:
    path = location / name
    real = path.rename(location.parent / "elsewhere")
    path.symlink_to(real)
    with pytest.raises(StoreRefusedError, match="symbolic link") as caught:
        EmbeddingStore(location)
    assert caught.value.path == str(path)


@pytest.mark.parametrize("name", ["", "cache.db", "vectors"], ids=["store", "ledger", "vectors"])
def test_nothing_is_made_through_a_dangling_link(tmp_path: Path, name: str) -> None:
    location = tmp_path / "store"
    if name:
        location.mkdir(0o700)
    (location / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreRefusedError, match="symbolic link"):
        EmbeddingStore(location)
    assert not os.path.lexists(tmp_path / "nowhere")


@pytest.mark.filterwarnings("ignore::embstore.StoreWarning")
def test_vectors_are_not_read_or_written_through_a_link(location: Path) -> None:
    file = vector_files(location)[0]
    real = file.rename(location.parent / "elsewhere")
    before = real.read_bytes()
    file.symlink_to(real)
    with EmbeddingStore(location) as store:
        assert not any(check(store, MODEL, ["a"]))
        put(store, MODEL, ["b"])
    assert real.read_bytes() == before


def test_a_link_further_up_is_the_users_own_business(location: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with EmbeddingStore(tmp_path / "link" / "store") as store:
        assert check(store, MODEL, ["a"]) == [True]


@as_root
@pytest.mark.parametrize("name", ["", "cache.db", "vectors"], ids=["store", "ledger", "vectors"])
def test_what_belongs_to_somebody_else_is_refused_unless_it_is_only_read(
    location: Path, name: str
) -> None:
    os.chown(location / name, SOMEBODY, SOMEBODY)
    with pytest.raises(StoreRefusedError, match=f"another user .uid {SOMEBODY}.*read_only"):
        EmbeddingStore(location)
    with EmbeddingStore(location, read_only=True) as store:
        assert check(store, MODEL, ["a", "b"]) == [True, False]


def test_a_file_in_the_place_of_a_store_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("precious")
    with pytest.warns(StoreWarning, match="Not a directory"):
        store = EmbeddingStore(tmp_path / "store")
    put(store, MODEL, ["a"])
    store.close()
    assert (tmp_path / "store").read_text() == "precious"


NAMES = [
    "../../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "..",
    ".",
    "C:\\x",
    "~",
    "$HOME",
    "é\ud800",
    "\0",
]


def test_names_never_reach_a_path(tmp_path: Path) -> None:
    location = tmp_path / "deep" / "store"
    names = [*NAMES, "x" * 10_000]
    with EmbeddingStore(location) as store:
        for name in names:
            for namespace in (Namespace(name), Namespace("m", name), Namespace("m", prompt=name)):
                put(store, namespace, ["a"])
        store.compact()
        assert len(store.namespaces()) == 3 * len(names)
        assert all(check(store, Namespace(name), ["a"])[0] for name in names)
    everything = [path for path in tmp_path.rglob("*") if path.is_file()]
    for path in everything:
        name = str(path.relative_to(location))
        assert re.fullmatch(r"cache\.db(-wal|-shm)?|lock|vectors/[0-9a-f]{32}\.\d+\.vec", name)
    assert len(vector_files(location)) == 3 * len(names)


def test_texts_are_stored_nowhere(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path) as store:
        put(store, MODEL, ["a very secret text"])
        content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"a/model" in content
    assert b"secret" not in content


@pytest.mark.parametrize(
    "name",
    ["with space", "a?b=c&d", "100%", "%41", "a#b", "quote'\"", "日本", "file:x", "a;b", "~"],
)
def test_a_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    for _ in range(2):
        with EmbeddingStore(tmp_path / name) as store:
            put(store, MODEL, ["a"])
            assert check(store, MODEL, ["a"]) == [True]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_variable_in_a_directorys_name_is_not_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBSTORE_TEST", "elsewhere")
    location = tmp_path / "$EMBSTORE_TEST"
    with EmbeddingStore(location) as store:
        put(store, MODEL, ["a"])
    assert [path.name for path in tmp_path.iterdir()] == ["$EMBSTORE_TEST"]


def test_a_directory_whose_name_is_not_utf8(tmp_path: Path) -> None:
    location = os.path.join(tmp_path, os.fsdecode(b"caf\xe9"))
    with EmbeddingStore(location) as store:
        put(store, MODEL, ["a"])
        assert check(store, MODEL, ["a"]) == [True]


def test_where_a_store_lies_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBSTORE_HOME", str(tmp_path / "home"))
    with EmbeddingStore() as store:
        assert store.location == str(tmp_path / "home")
    monkeypatch.delenv("EMBSTORE_HOME")
    assert resolve_location(None) == platformdirs.user_cache_dir("embstore")


def test_how_a_location_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert resolve_location("x/y") == str(tmp_path / "x" / "y")
    assert resolve_location(Path("x")) == str(tmp_path / "x")
    assert resolve_location("~/x") == "/home/me/x"
    assert resolve_location("disk:///a/b%20c") == "/a/b c"
    assert resolve_location("redis://host:6379/0") == "redis://host:6379/0"


@pytest.mark.parametrize("location", ["disk://data/store", "disk://", "disk://host"])
def test_a_disk_url_without_a_full_path_is_refused(location: str) -> None:
    """Two slashes where three were meant would put the store somewhere else without a word."""
    with pytest.raises((StoreRefusedError, ValueError)):
        resolve_location(location)


@pytest.mark.parametrize("location", ["gopher://host/", "DISKS:///x", "http://host/x"])
def test_a_scheme_that_nobody_serves_is_refused(location: str) -> None:
    with pytest.raises(StoreRefusedError, match=location.partition(":")[0]):
        EmbeddingStore(location)
