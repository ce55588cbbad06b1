"""Files that somebody put among a store's."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import struct
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from embstore import (
    EmbeddingStore,
    StoreError,
    StoreRefusedError,
)
from embstore.keys import canonical_json
from tests.helpers import (
    MODEL,
    check,
    ledger_rows,
    put,
    texts_of,
    vector_files,
    vectors_of,
)


class Hostile:
    """A store among whose files something else was put, and a file that must not be touched."""

    def __init__(self, directory: Path) -> None:
        self.location = directory / "store"
        self.precious = directory / "precious"
        self.precious.write_bytes(b"precious" * 1000)
        self.precious.chmod(0o640)
        with EmbeddingStore(self.location) as store:
            put(store, MODEL, texts_of(10))
        self.vectors = vector_files(self.location)[0]

    def put_there(self, path: Path, kind: str) -> None:
        path.unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "device":
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
        elif kind == "directory":
            path.mkdir()
        else:
            path.symlink_to(self.precious)

    def use(self, **options: bool) -> None:
        """Do everything with the store: it may fail, and must not hang, lie or write elsewhere."""
        child = os.fork()  # which can be ended wherever it hangs
        if not child:
            try:
                warnings.simplefilter("ignore")
                self._use(**options)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        deadline = time.monotonic() + 30
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.005)
        if ended == (0, 0):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert self.precious.read_bytes() == b"precious" * 1000
        assert stat.S_IMODE(self.precious.stat().st_mode) == 0o640
        assert ended == (child, 0), "it hung" if ended == (0, 0) else "it failed, see above"

    def _use(self, **options: bool) -> None:
        try:
            store = EmbeddingStore(self.location, timeout=0.1, **options)  # type: ignore[arg-type]
        except StoreRefusedError:
            return
        with store:
            check(store, MODEL, texts_of(20))
            if not options.get("read_only"):
                put(store, MODEL, texts_of(10, 10))
            check(store, MODEL, texts_of(20))
            for work in (store.verify, store.namespaces, store.compact):
                with contextlib.suppress(StoreError):
                    work()
            check(store, MODEL, texts_of(20))


@pytest.fixture
def hostile(fast_path: Path) -> Hostile:
    return Hostile(fast_path)


@pytest.mark.parametrize("read_only", [False, True], ids=["writing", "reading"])
@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "link"])
@pytest.mark.parametrize("name", ["cache.db", "cache.db-wal", "cache.db-shm", "lock"])
def test_something_else_in_the_place_of_a_file(
    hostile: Hostile, name: str, kind: str, read_only: bool
) -> None:
    if kind == "device" and os.geteuid() != 0:
        pytest.skip("only root can make devices")
    if name == "lock":
        (hostile.location / "cache.db").unlink()  # so that the lock is taken
    hostile.put_there(hostile.location / name, kind)
    hostile.use(read_only=read_only)


@pytest.mark.parametrize("read_only", [False, True], ids=["writing", "reading"])
def test_a_hard_link_in_the_place_of_the_ledger(hostile: Hostile, read_only: bool) -> None:
    (hostile.location / "cache.db").unlink()
    os.link(hostile.precious, hostile.location / "cache.db")
    hostile.use(read_only=read_only)


@pytest.mark.parametrize("read_only", [False, True], ids=["writing", "reading"])
@pytest.mark.parametrize("ledger", ["kept", "lost"])
@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "link"], ids=str)
def test_something_else_in_the_place_of_a_vector_file(
    hostile: Hostile, kind: str, ledger: str, read_only: bool
) -> None:
    if kind == "device" and os.geteuid() != 0:
        pytest.skip("only root can make devices")
    hostile.put_there(hostile.vectors, kind)
    if ledger == "lost":
        (hostile.location / "cache.db").unlink()
    hostile.use(read_only=read_only)


@pytest.mark.parametrize(
    "ledger",
    [
        "kept",
        "lost",
    ],
)
def test_a_vector_file_of_four_terabytes_of_nothing(hostile: Hostile, ledger: str) -> None:
    os.truncate(hostile.vectors, 2**42)
    if ledger == "lost":
        (hostile.location / "cache.db").unlink()
    hostile.use()
    with EmbeddingStore(hostile.location, on_error="raise") as store:
        assert all(check(store, MODEL, texts_of(10)))


@pytest.mark.parametrize("ledger", ["kept", "lost"])
def test_reading_makes_no_files(hostile: Hostile, ledger: str) -> None:
    if ledger == "lost":
        (hostile.location / "cache.db").unlink()
    before = sorted(hostile.location.rglob("*"))
    with EmbeddingStore(hostile.location, read_only=True) as store:
        assert all(check(store, MODEL, texts_of(10)))
    assert sorted(hostile.location.rglob("*")) == before


HEADERS: list[dict] = [
    {"dim": 2**40}, {"dim": 2**62}, {"dim": -1}, {"dim": 0}, {"dim": "8"}, {"dim": True},
    {"seed": -1}, {"seed": 2**64}, {"seed": "x"}, {"seed": None}, {"seed": 1.5},
    {"generation": 2**62}, {"generation": 2**64}, {"generation": -1}, {"generation": "../../x"},
    {"dtype": "O"}, {"dtype": "V9"}, {"dtype": "f4,f4"}, {"dtype": 5}, {"dtype": "M8[s]"},
    {"stride": 0}, {"stride": 2**62}, {"namespace": "x"}, {"namespace": {"model_name": 5}},
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::embstore.StoreWarning")
@pytest.mark.parametrize("fields", HEADERS, ids=str)
def test_headers_that_claim_anything(fast_path: Path, fields: dict) -> None:
    """With the right checksum, which anybody can compute."""
    claimed = {"seed": 1, "generation": 1, "namespace": MODEL.to_dict(), "dtype": "<f4", "dim": 8}
    document = canonical_json({**claimed, "stride": 56, **fields})
    body = struct.pack("<8sII", b"embstore", 1, len(document)) + document
    body += struct.pack("<Q", xxh3_64_intdigest(body))
    generation = fields.get("generation", 1)
    name = f"{MODEL.id.hex()}.{generation if isinstance(generation, int) else 1}.vec"
    (fast_path / "vectors").mkdir(0o700)
    (fast_path / "vectors" / name).write_bytes(body.ljust(4096, b"\0") + b"\1" * 5600)
    for _ in range(2):
        with EmbeddingStore(fast_path) as store:
            assert not any(check(store, MODEL, texts_of(10)))
    with EmbeddingStore(fast_path) as store:
        put(store, MODEL, texts_of(10))
    with EmbeddingStore(fast_path) as store:
        assert all(check(store, MODEL, texts_of(10)))


def forge(location: Path, kind: bytes, change: Callable[[bytes], bytes]) -> None:
    """Change an entry of the ledger and give it the right checksum."""
    query = "SELECT key, value FROM Cache WHERE substr(key, 1, 1) = ?"
    for key, value in ledger_rows(location, query, kind):
        forged = change(value[:-8])
        forged += xxh3_64_digest(key + forged)
        ledger_rows(location, "UPDATE Cache SET value = ? WHERE key = ?", forged, key)


@pytest.mark.filterwarnings("ignore::embstore.StoreWarning")
@pytest.mark.parametrize(
    "kind,old,new",
    [
        (b"h", struct.pack("<Q", 10), struct.pack("<Q", 2**62)),
        (b"h", struct.pack("<Q", 10), struct.pack("<Q", 2**64 - 1)),
        (b"h", struct.pack("<QQ", 1, 10), struct.pack("<QQ", 2**64 - 1, 10)),
        (b"n", b'"dim":8', b'"dim":16'),
        (b"n", b'"<f4"', b'"<f8"'),
        (b"n", b'"<f4"', b'"<i4"'),
    ],
    ids=["rows", "all rows", "generation", "dim", "dtype", "integers"],
)
def test_a_ledger_that_claims_anything(
    hostile: Hostile, kind: bytes, old: bytes, new: bytes
) -> None:
    forge(hostile.location, kind, lambda value: value.replace(old, new))
    with EmbeddingStore(hostile.location) as store:
        vectors, found = store.get_many(MODEL, texts_of(20))
    assert not found[10:].any()
    true = vectors_of(MODEL, texts_of(20))
    assert all(np.array_equal(vectors[row], true[row]) for row in np.flatnonzero(found))
