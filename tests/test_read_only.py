"""Reading another user's store, or one that cannot be written: all is found, nothing written."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import subprocess
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tqdm.auto  # noqa: F401  # what an encoder imports late: see tests/users.py

from embstore import CachedEncoder, CacheMissError, EmbeddingStore, Namespace, StoreError
from tests.helpers import MODEL, OTHER, check, put, texts_of, vector_files, vectors_of
from tests.users import User

SOMEBODY = 65534
LATER = Namespace("later")
COUNT = 100

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
left = pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])


@pytest.fixture
def user() -> Iterator[Callable[[int], User]]:
    """Makes processes of other users. Before any store is open here, as they are forked."""
    users: list[User] = []

    def user(uid: int = SOMEBODY) -> User:
        users.append(User(uid))
        return users[-1]

    yield user
    for each in users:
        each.end()


@pytest.fixture
def shared() -> Iterator[Path]:
    """Where a store may lie that others are to read: pytest's own folders are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder, "store")


def make(location: Path, killed: bool = False) -> None:
    """Make a store of 100 vectors, as its owner; close it, or leave it as who is killed does."""
    if not killed:
        with EmbeddingStore(location, on_error="raise") as store:
            put(store, MODEL, texts_of(COUNT))
    elif pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0
    else:
        store = EmbeddingStore(location, on_error="raise")
        put(store, MODEL, texts_of(COUNT))
        os._exit(0)


def give(location: Path, owner: int, folders: int, files: int) -> None:
    """Set owner and permissions of all that a store consists of."""
    for path in [location, *location.rglob("*")]:
        os.chown(path, owner, owner)
        path.chmod(folders if path.is_dir() else files)


def open_to_all(location: Path) -> None:
    """Let every user read the store. What is made in it later is its owner's alone again."""
    give(location, location.stat().st_uid, 0o755, 0o644)


def listing(location: Path) -> dict[str, tuple[Any, ...]]:
    """All that would show that something was written: names, owners, modes, times, contents."""
    found = {}
    for path in [location.parent, location, *sorted(location.rglob("*"))]:
        stat = path.stat()
        content = b"" if path.is_dir() else hashlib.sha256(path.read_bytes()).digest()
        found[str(path)] = (stat.st_uid, stat.st_mode, stat.st_mtime_ns, stat.st_size, content)
    return found


def embed(texts: list[str]) -> np.ndarray:
    """What the model of these tests gives."""
    return vectors_of(MODEL, texts)


def forbidden(texts: list[str]) -> np.ndarray:
    """Stands where nothing is to be computed."""
    raise AssertionError(f"computed: {texts}")


def use_all_of_it(location: Path) -> None:
    """Read a store of 100 vectors in every way there is, and try to write to it."""
    with EmbeddingStore(location, read_only=True, on_error="raise", memory_limit=0) as store:
        assert check(store, MODEL, texts_of(COUNT + 1)) == [True] * COUNT + [False]
        assert check(store, OTHER, ["a"]) == [False]
        assert [info.entries for info in store.namespaces()] == [COUNT]
        assert store.stats().entries == COUNT
        assert store.verify().ok
        for write in writes(store):
            with pytest.raises(StoreError, match="read-only") as caught:
                write()
            assert caught.value.path == str(location)
        encoder = CachedEncoder(embed, store, model_name="function")
        assert encoder.encode(["new"]).tobytes() == embed(["new"]).tobytes()
        assert all(check(pickle.loads(pickle.dumps(store)), MODEL, texts_of(COUNT)))


def writes(store: EmbeddingStore) -> list[Callable[[], object]]:
    """What can only be asked of a store to change it."""
    return [
        lambda: store.delete_many(MODEL, ["text 0"]),
        lambda: store.delete_many(OTHER, ["text 0"]),
        lambda: store.clear(MODEL),
        store.clear,
        store.compact,
        lambda: store.prune(max_size=0),
        lambda: store.prune(max_size="1TB", namespace=MODEL),
    ]


# --- whose it is, and what was left there -------------------------------------------------------


@left
def test_ones_own_store(tmp_path: Path, killed: bool) -> None:
    """In a directory that could be written: SQLite left to itself would make files there."""
    make(tmp_path / "store", killed)
    before = listing(tmp_path / "store")
    use_all_of_it(tmp_path / "store")
    assert listing(tmp_path / "store") == before


@as_root
@left
def test_root_reads_what_another_user_keeps_private(shared: Path, killed: bool) -> None:
    make(shared, killed)
    give(shared, SOMEBODY, 0o700, 0o600)
    before = listing(shared)
    use_all_of_it(shared)
    assert listing(shared) == before


@as_root
@left
@pytest.mark.parametrize("owner", [0, SOMEBODY - 1, SOMEBODY], ids=["root", "other", "self"])
def test_a_user_reads_what_the_owner_lets_all_read(
    shared: Path, user: Callable[[], User], killed: bool, owner: int
) -> None:
    make(shared, killed)
    give(shared, owner, 0o555 if owner == SOMEBODY else 0o755, 0o444)
    before = listing(shared)
    user().do(use_all_of_it, shared)
    assert listing(shared) == before


@as_root
@left
def test_a_reader_leaves_nothing_that_locks_the_owner_out(
    shared: Path, user: Callable[[int], User], killed: bool
) -> None:
    """Files that SQLite makes are the reader's: the owner could not write to them, in a directory
    that all may write to."""
    owner, reader = user(SOMEBODY), user(SOMEBODY - 1)
    make(shared, killed)
    give(shared, SOMEBODY, 0o777, 0o644)
    before = listing(shared)
    reader.do(use_all_of_it, shared)
    assert listing(shared) == before
    owner.do(write_and_read, shared)


def write_and_read(location: Path) -> None:
    """Go on with a store as its owner."""
    with EmbeddingStore(location, on_error="raise") as store:
        put(store, MODEL, ["new"])
        assert all(check(store, MODEL, ["new", *texts_of(COUNT)]))


@as_root
def test_a_vector_file_that_may_not_be_read(shared: Path, user: Callable[[], User]) -> None:
    """One warning that names it; all is there once its owner has let others read it."""
    make(shared)
    open_to_all(shared)
    file = vector_files(shared)[0]
    file.chmod(0o600)
    reader = user()
    for warning in reader.do(warnings_of_reading, shared, False):
        assert str(file) in warning
        assert "Permission denied" in warning
    file.chmod(0o644)
    assert reader.do(warnings_of_reading, shared, True) == []


def warnings_of_reading(location: Path, found: bool) -> list[str]:
    """Look up what is stored, twice; the messages of the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with EmbeddingStore(location, read_only=True) as store:
            for _ in range(2):
                assert check(store, MODEL, ["text 0", "none"]) == [found, False]
    assert len(caught) <= 1
    return [str(warning.message) for warning in caught]


# --- where it lies ------------------------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A read-only mount of ``tmp_path / "there"``, which itself can be written."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount")
    bind = ["mount", "--bind", there, here]
    if subprocess.run(bind, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    subprocess.run(["mount", "-o", "remount,bind,ro", here], check=True)
    yield here
    subprocess.run(["umount", "--lazy", here], check=True)


@left
def test_on_a_read_only_mount(mounted: Path, tmp_path: Path, killed: bool) -> None:
    make(tmp_path / "there" / "store", killed)
    before = listing(mounted / "store")
    use_all_of_it(mounted / "store")
    assert listing(mounted / "store") == before


# --- while its owner goes on with it ------------------------------------------------------------

STORES: list[EmbeddingStore] = []
"""What a process of these tests has open."""


def open_there(location: Path, read_only: bool) -> None:
    STORES.append(EmbeddingStore(location, read_only=read_only, on_error="raise", memory_limit=0))


def call_there(method: Callable[..., Any], *arguments: Any) -> Any:
    """``method`` of the store that was opened last, or a helper that takes a store."""
    result = method(STORES[-1], *arguments)
    open_to_all(Path(STORES[-1].location))
    return result if isinstance(result, int) else None


def compacted(store: EmbeddingStore) -> object:
    return store.compact()


def pruned(store: EmbeddingStore) -> int:
    return store.prune(max_size=0)


def cleared(store: EmbeddingStore) -> int:
    return store.clear()


def deleted(store: EmbeddingStore, texts: list[str]) -> int:
    return store.delete_many(MODEL, texts)


def reopened(store: EmbeddingStore) -> None:
    store.close()
    open_there(Path(store.location), read_only=False)


@as_root
@pytest.mark.parametrize("in_use", [False, True], ids=["idle", "in-use"])
@pytest.mark.parametrize("through_mount", [False, True], ids=["user", "mount"])
def test_a_reader_sees_what_the_owner_does(
    request: pytest.FixtureRequest,
    shared: Path,
    user: Callable[[int], User],
    in_use: bool,
    through_mount: bool,
) -> None:
    """Whether the owner had it open when the reader opened it, and whether the reader is a user who
    may not write or comes by a read-only mount: what is committed is found by the next look-up that
    misses, what is deleted is not found any more, and no file that was replaced stands in the way.
    """
    owner, reader = user(0), user(SOMEBODY)
    seen_at = shared
    if through_mount:
        reader = user(0)
        mount = request.getfixturevalue("mounted")
        shared = mount.parent / "there" / "store"
        seen_at = mount / "store"
    owner.do(make, shared)
    open_to_all(shared)
    if in_use:
        owner.do(open_there, shared, False)
        owner.do(call_there, put, MODEL, ["first"])
    reader.do(open_there, seen_at, True)
    there = {*texts_of(COUNT)} | ({"first"} if in_use else set())

    def compare(namespace: Namespace = MODEL) -> None:
        asked = ["first", "later", *texts_of(3 * COUNT)]
        found = reader.do(look_up, namespace, asked)
        expected = there if namespace == MODEL else {"later"}
        assert {text for text, there in zip(asked, found, strict=True) if there} == expected

    compare()
    if not in_use:
        owner.do(open_there, shared, False)
    for number in range(3):
        part = texts_of(30, COUNT + 30 * number)
        owner.do(call_there, put, MODEL, part)
        there |= {*part}
        compare()
    owner.do(call_there, put, LATER, ["later"])
    compare(LATER)
    gone = texts_of(50)
    assert owner.do(call_there, deleted, gone) == 50
    there -= {*gone}
    compare()
    owner.do(call_there, compacted)
    compare()
    owner.do(call_there, reopened)
    owner.do(call_there, put, MODEL, gone[:10])
    there |= {*gone[:10]}
    compare()
    owner.do(call_there, pruned)
    there.clear()
    compare()
    owner.do(call_there, cleared)
    owner.do(call_there, put, MODEL, ["later"])
    there.add("later")
    compare()


def look_up(namespace: Namespace, texts: list[str]) -> list[bool]:
    """Which of the texts the store opened last finds; what it finds must be right."""
    return check(STORES[-1], namespace, texts)


# --- under an encoder ---------------------------------------------------------------------------


def test_an_encoder_computes_and_stores_nothing(tmp_path: Path) -> None:
    """Without a warning: that nothing is written is what was asked for. What was computed stays in
    memory, so that it is not computed again in this process."""
    texts, new = texts_of(COUNT), ["new", "newer"]
    calls: Counter[str] = Counter()

    def counting(texts: list[str]) -> np.ndarray:
        calls.update(texts)
        return embed(texts)

    with EmbeddingStore(tmp_path / "store") as store:
        expected = CachedEncoder(embed, store, model_name="m").encode(texts)
    before = listing(tmp_path / "store")
    with EmbeddingStore(tmp_path / "store", read_only=True, on_error="raise") as store:
        encoder = CachedEncoder(counting, store, model_name="m")
        assert encoder.encode(texts).tobytes() == expected.tobytes()
        for _ in range(2):
            got = encoder.encode([*new, *texts])
            assert got.tobytes() == embed([*new, *texts]).tobytes()
        assert calls == Counter(new)
        assert store.stats().write_errors == 0
        assert store.stats().entries == COUNT
    assert listing(tmp_path / "store") == before


def test_an_encoder_that_may_not_compute(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path / "store") as store:
        CachedEncoder(embed, store, model_name="m").encode(texts_of(COUNT))
    before = listing(tmp_path / "store")
    with EmbeddingStore(tmp_path / "store", read_only=True, on_error="raise") as store:
        encoder = CachedEncoder(forbidden, store, model_name="m", on_miss="raise")
        assert encoder.encode(texts_of(COUNT)).tobytes() == embed(texts_of(COUNT)).tobytes()
        with pytest.raises(CacheMissError) as caught:
            encoder.encode(["text 1", "new"])
        assert (caught.value.missing, caught.value.total) == (1, 2)
    assert listing(tmp_path / "store") == before


def test_a_model_by_its_path(static: Any, tmp_path: Path) -> None:
    """Warm without loading it; loaded at a miss; what is learnt of it then is kept nowhere."""
    static.save(str(tmp_path / "model"))
    with EmbeddingStore(tmp_path / "store") as store:
        expected = CachedEncoder(str(tmp_path / "model"), store, device="cpu").encode(["a", "b"])
    before = listing(tmp_path / "store")
    with EmbeddingStore(tmp_path / "store", read_only=True, on_error="raise") as store:
        lazy = CachedEncoder(str(tmp_path / "model"), store, device="cpu", on_miss="raise")
        assert lazy.encode(["a", "b"]).tobytes() == expected.tobytes()
        lazy = CachedEncoder(str(tmp_path / "model"), store, device="cpu")
        assert lazy.encode("c").tobytes() == static.encode("c").tobytes()
    assert listing(tmp_path / "store") == before
