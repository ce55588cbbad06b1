"""Stores to ship: read by anybody, from anywhere, and never written."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from embstore import EmbeddingStore, Namespace, NamespaceError, StoreRefusedError
from embstore.backends.disk import runs
from embstore.moving import bake
from tests.helpers import MODEL, OTHER, check, ledger_rows, put, texts_of, vectors_of
from tests.moving.stores import ALL, LAYOUTS, SEED, fill, found_in
from tests.test_read_only import (
    COUNT,
    SOMEBODY,
    as_root,
    listing,
    make,
    mounted,  # noqa: F401  # a fixture
    open_there,
    shared,  # noqa: F401
    use_all_of_it,
    user,  # noqa: F401
)
from tests.users import User


def look_up_all(location: Path) -> bool:
    """As another user: all is found, and right."""
    with EmbeddingStore(location, read_only=True, on_error="raise") as store:
        return all(check(store, MODEL, texts_of(COUNT)))


def test_all_is_there_and_nothing_else(tmp_path: Path) -> None:
    source = fill(tmp_path / "there" / "source")
    before = listing(source)
    report = bake(source, tmp_path / "baked")
    assert (report.namespaces, report.rows, report.stored) == (len(LAYOUTS), ALL, ALL)
    assert listing(source) == before
    assert sorted(os.listdir(tmp_path)) == ["baked", "there"]
    baked = tmp_path / "baked"
    assert sorted(os.listdir(baked)) == ["cache.db", "vectors"]
    for path in [baked, *baked.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o755 if path.is_dir() else 0o644), path
    before = listing(baked)
    assert found_in(baked) == ALL
    assert listing(baked) == before


def test_nothing_of_how_it_came_about_is_in_it(tmp_path: Path) -> None:
    """Deleted rows, claims, counts, uses: those stay in the source."""
    with EmbeddingStore(tmp_path / "source", seed=SEED, on_error="raise") as store:
        texts = texts_of(100)
        store.keep(MODEL, store.digests(texts), vectors_of(MODEL, texts), seconds=5.0)
        store.delete_many(MODEL, texts[:40])
        check(store, MODEL, texts)
        backend = store.backend
        backend.claim(MODEL, store.digests(["claimed"]), b"owner".ljust(16), 1)
        assert (tmp_path / "source" / "workers").exists()
        bake(store, tmp_path / "baked")
    (vectors,) = (tmp_path / "baked" / "vectors").iterdir()
    assert vectors.stat().st_size == 4096 + 60 * 56
    kinds = {key[:1] for (key,) in ledger_rows(tmp_path / "baked", "SELECT key FROM Cache")}
    assert not kinds & {b"c", b"s", b"d", b"u"}
    with EmbeddingStore(tmp_path / "baked", read_only=True) as store:
        (info,) = store.namespaces()
        assert (info.entries, info.hits, info.misses) == (60, 0, 0)
        check(store, MODEL, texts)
        assert store.stats().seconds_saved == pytest.approx(60 * 0.05)


def test_what_is_known_of_models_comes_along(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path / "source", on_error="raise") as store:
        put(store, MODEL, ["a"])
        store.put_identity(b"k" * 16, {"fingerprint": "é"})
        bake(store, tmp_path / "baked")
    bake(tmp_path / "baked", tmp_path / "again")
    with EmbeddingStore(tmp_path / "again", read_only=True, on_error="raise") as store:
        assert store.get_identity(b"k" * 16) == {"fingerprint": "é"}


def test_sorted_runs_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large store: nobody could write them later."""
    monkeypatch.setattr(runs, "KEPT_ROWS", 64)
    with EmbeddingStore(tmp_path / "source", on_error="raise") as store:
        put(store, MODEL, texts_of(300))
        bake(store, tmp_path / "baked")
    names = [path.suffix for path in (tmp_path / "baked" / "vectors").iterdir()]
    assert sorted(names) == [".run", ".vec"]
    with EmbeddingStore(tmp_path / "baked", read_only=True, on_error="raise") as store:
        assert all(check(store, MODEL, texts_of(300)))


def test_one_namespace(tmp_path: Path) -> None:
    wanted = next(iter(LAYOUTS))
    assert bake(fill(tmp_path / "source"), tmp_path / "baked", namespaces=wanted).namespaces == 1
    with EmbeddingStore(tmp_path / "baked", read_only=True) as store:
        assert [info.namespace for info in store.namespaces()] == [wanted]
    with pytest.raises(NamespaceError, match="has no vectors under nobody"):
        bake(tmp_path / "source", tmp_path / "other", namespaces=Namespace("nobody"))
    assert not (tmp_path / "other").exists()


def test_where_something_is(tmp_path: Path) -> None:
    make(tmp_path / "source")
    (tmp_path / "empty").mkdir()
    bake(tmp_path / "source", tmp_path / "empty")
    assert look_up_all(tmp_path / "empty")
    bake(tmp_path / "source", tmp_path / "made" / "too" / "baked")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for place in ("empty", "file", "link", "source"):
        before = listing(tmp_path / "source")
        with pytest.raises(StoreRefusedError, match="is there already: remove it"):
            bake(tmp_path / "source", tmp_path / place)
        assert listing(tmp_path / "source") == before


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    make(tmp_path / "source")

    def interrupt(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bake(tmp_path / "source", tmp_path / "baked", progressed=interrupt)
    assert os.listdir(tmp_path) == ["source"]


def test_a_store_in_use(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path / "source", on_error="raise") as store:
        put(store, MODEL, texts_of(COUNT))
        bake(store, tmp_path / "baked")
        put(store, OTHER, ["later"])
        assert look_up_all(tmp_path / "baked")
    with EmbeddingStore(tmp_path / "baked", read_only=True) as store:
        assert [info.namespace for info in store.namespaces()] == [MODEL]


def test_reading_writes_nothing(tmp_path: Path) -> None:
    """In a directory that could be written."""
    (tmp_path / "there").mkdir()
    make(tmp_path / "source")
    bake(tmp_path / "source", tmp_path / "there" / "baked")
    before = listing(tmp_path / "there" / "baked")
    use_all_of_it(tmp_path / "there" / "baked")
    assert listing(tmp_path / "there" / "baked") == before


@as_root
def test_another_user_reads_it(
    shared: Path,  # noqa: F811
    user: Callable[[int], User],  # noqa: F811
    tmp_path: Path,
) -> None:
    """As a service does in an image that root has made."""
    reader = user(SOMEBODY)
    make(tmp_path / "source")
    bake(tmp_path / "source", shared)
    assert shared.stat().st_uid == 0
    before = listing(shared)
    reader.do(use_all_of_it, shared)
    reader.do(open_there, shared, True)
    assert reader.do(look_up_all, shared)
    assert listing(shared) == before


@as_root
def test_a_read_only_mount(mounted: Path, tmp_path: Path) -> None:  # noqa: F811
    make(tmp_path / "source")
    bake(tmp_path / "source", tmp_path / "there" / "baked")
    use_all_of_it(mounted / "baked")


def test_its_owner_can_still_write_it(tmp_path: Path) -> None:
    """What is made later has the modes of the rest."""
    make(tmp_path / "source")
    bake(tmp_path / "source", tmp_path / "baked")
    with EmbeddingStore(tmp_path / "baked", on_error="raise") as store:
        put(store, OTHER, ["later"])
        assert all(check(store, MODEL, texts_of(COUNT)))
    for path in (tmp_path / "baked" / "vectors").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
