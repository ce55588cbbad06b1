"""The disk backend's own promises: restart, other processes, the ledger's size, the format."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from embstore import EmbeddingStore, Namespace, StoreRefusedError, StoreWarning
from tests.helpers import (
    MODEL,
    OTHER,
    check,
    ledger_rows,
    put,
    run_python,
    start_python,
    texts_of,
    vector_files,
)

PARTNER = """
import sys
from embstore import EmbeddingStore
from tests.helpers import *
store = EmbeddingStore(sys.argv[1], memory_limit=0)
print("ready", flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
"""


class Partner:
    """Another process that has the same store open and does what it is told, a line at a time."""

    def __init__(self, location: Path) -> None:
        self.process = start_python(PARTNER, location)
        assert self.process.stdout.readline() == "ready\n", self.process.stderr.read()

    def do(self, expression: str) -> object:
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        return eval(answer) if answer else pytest.fail(self.process.stderr.read())  # noqa: S307


@pytest.fixture
def partner(tmp_path: Path):
    EmbeddingStore(tmp_path / "store").close()
    partner = Partner(tmp_path / "store")
    yield partner
    partner.process.communicate(timeout=60)
    assert partner.process.returncode == 0


@pytest.fixture
def store(tmp_path: Path):
    with EmbeddingStore(tmp_path / "store", memory_limit=0) as store:
        yield store


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    layouts = [(8, "float32"), (3, "float16"), (384, "int8"), (1, "float64")]
    spaces = {Namespace("m", extra={"layout": layout}): layout for layout in layouts}
    with EmbeddingStore(tmp_path) as store:
        for namespace, layout in spaces.items():
            put(store, namespace, texts_of(1000), *layout)
            store.delete_many(namespace, texts_of(10))
    with EmbeddingStore(tmp_path) as store:
        for namespace, layout in spaces.items():
            found = check(store, namespace, texts_of(1010), *layout)
            assert found == [False] * 10 + [True] * 990 + [False] * 10
        assert store.verify().ok


def test_another_process_sees_a_commit_as_soon_as_it_misses(
    store: EmbeddingStore, partner: Partner
) -> None:
    for first in (0, 5, 10):
        ask = f"check(store, MODEL, texts_of(5, {first}))"
        assert partner.do(ask) == [False] * 5
        put(store, MODEL, texts_of(5, first))
        assert partner.do(ask) == [True] * 5
    partner.do("put(store, OTHER, texts_of(3), 2, 'int8')")
    assert all(check(store, OTHER, texts_of(3), 2, "int8"))


def test_another_process_sees_deletions(store: EmbeddingStore, partner: Partner) -> None:
    put(store, MODEL, texts_of(10))
    assert all(partner.do("check(store, MODEL, texts_of(10))"))
    store.delete_many(MODEL, texts_of(4))
    # Only what is left out is asked for: a miss among others would make it look again anyway.
    assert partner.do("check(store, MODEL, texts_of(4))") == [False] * 4
    assert partner.do("check(store, MODEL, texts_of(6, 4))") == [True] * 6
    assert partner.do("store.delete_many(MODEL, texts_of(10))") == 6
    assert not any(check(store, MODEL, texts_of(10)))


def test_another_process_sees_that_a_namespace_was_cleared(
    store: EmbeddingStore, partner: Partner
) -> None:
    put(store, MODEL, texts_of(10))
    assert all(partner.do("check(store, MODEL, texts_of(10))"))
    store.clear(MODEL)
    assert partner.do("check(store, MODEL, texts_of(10))") == [False] * 10


def test_clearing_makes_room_for_another_dim_in_every_process(
    store: EmbeddingStore, partner: Partner
) -> None:
    put(store, MODEL, texts_of(10))
    assert all(partner.do("check(store, MODEL, texts_of(10))"))
    store.clear(MODEL)
    put(store, MODEL, texts_of(10), 3, "float16")
    assert all(partner.do("check(store, MODEL, texts_of(10), 3, 'float16')"))
    partner.do("store.clear()")
    partner.do("put(store, MODEL, texts_of(10), 1, 'uint8')")
    assert all(check(store, MODEL, texts_of(10), 1, "uint8"))


def test_compacting_while_another_process_has_the_store_open(
    store: EmbeddingStore, partner: Partner
) -> None:
    put(store, MODEL, texts_of(1000))
    assert all(partner.do("check(store, MODEL, texts_of(1000))"))
    store.delete_many(MODEL, texts_of(900))
    assert store.compact().rows == 100
    assert partner.do("sum(check(store, MODEL, texts_of(1000)))") == 100
    partner.do("put(store, MODEL, texts_of(50))")
    assert sum(check(store, MODEL, texts_of(1000))) == 150
    store.delete_many(MODEL, texts_of(1, 950))
    assert store.compact().rows == 149
    store.delete_many(MODEL, texts_of(1, 951))
    assert partner.do("check(store, MODEL, texts_of(2, 950))") == [False, False]
    assert partner.do("store.verify().problems") == ()
    assert partner.do("store.compact().rows") == 148


def test_a_deletion_after_a_compaction_is_seen(store: EmbeddingStore, partner: Partner) -> None:
    """The other process still has the file of before the compaction mapped."""
    put(store, MODEL, texts_of(10))
    assert all(partner.do("check(store, MODEL, texts_of(10))"))
    store.delete_many(MODEL, ["text 0"])
    store.compact()
    store.delete_many(MODEL, ["text 1"])
    assert partner.do("check(store, MODEL, ['text 1'])") == [False]


def test_many_small_commits_are_merged(tmp_path: Path) -> None:
    texts = texts_of(3000)
    with EmbeddingStore(tmp_path) as one, EmbeddingStore(tmp_path) as other:
        for number, text in enumerate(texts):
            put(other if number % 3 else one, MODEL, [text])
    entries = ledger_rows(tmp_path, "SELECT count(*), sum(length(value)) FROM Cache")[0]
    assert entries[0] < 40
    assert entries[1] < 3000 * (16 + 4) + 2000, "a digest and a time for each"
    with EmbeddingStore(tmp_path) as store:
        assert all(check(store, MODEL, texts))
        store.delete_many(MODEL, texts[::2])
        assert check(store, MODEL, texts) == [False, True] * 1500


@pytest.mark.parametrize("dim, dtype", [(384, "float32"), (768, "float32"), (768, "float16")])
def test_size_on_disk(tmp_path: Path, dim: int, dtype: str) -> None:
    count = 20_000
    rng = np.random.default_rng(0)
    with EmbeddingStore(tmp_path, memory_limit=0) as store:
        for first in range(0, count, 256):
            texts = texts_of(min(256, count - first), first)
            store.put_many(MODEL, texts, rng.random((len(texts), dim)).astype(dtype))
    raw = count * dim * np.dtype(dtype).itemsize
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 1.05 * raw


@pytest.mark.parametrize("left", ["garbage", "a sound row", "half a row", "many rows"])
def test_what_a_crash_left_behind_the_last_row_is_overwritten(tmp_path: Path, left: str) -> None:
    with EmbeddingStore(tmp_path) as store:
        put(store, MODEL, texts_of(10))
    file = vector_files(tmp_path)[0]
    content = file.read_bytes()
    stride = (len(content) - 4096) // 10
    file.write_bytes(
        content
        + {
            "garbage": os.urandom(3 * stride),
            "a sound row": content[-stride:],
            "half a row": content[-stride : -stride // 2],
            "many rows": content[-5 * stride :] * 100,
        }[left]
    )
    with EmbeddingStore(tmp_path) as store:
        assert sum(check(store, MODEL, texts_of(20))) == 10
        put(store, MODEL, texts_of(4, 10))
    after = file.read_bytes()
    assert after[: len(content)] == content
    assert len(after) >= len(content) + 4 * stride
    with EmbeddingStore(tmp_path) as store:
        assert check(store, MODEL, texts_of(20)) == [True] * 14 + [False] * 6
        assert store.verify().ok
    (tmp_path / "cache.db").unlink()
    with pytest.warns(StoreWarning, match="rebuilt"):
        store = EmbeddingStore(tmp_path)
    assert check(store, MODEL, texts_of(20)) == [True] * 14 + [False] * 6
    store.close()


def seal(key: bytes, value: bytes) -> bytes:
    return value + xxh3_64_digest(key + value)


def make_newer(location: Path, part: str) -> None:
    """Give the ledger or a vector file the format number of a later embstore."""
    if part == "ledger":
        meta = ledger_rows(location, "SELECT value FROM Cache WHERE key = ?", b"M")[0][0]
        fields = json.loads(meta[:-8])
        assert seal(b"M", meta[:-8]) == meta
        newer = json.dumps({**fields, "format": fields["format"] + 1}).encode()
        update = "UPDATE Cache SET value = ? WHERE key = ?"
        ledger_rows(location, update, seal(b"M", newer), b"M")
        return
    file = vector_files(location)[0]
    content = bytearray(file.read_bytes())
    content[8] += 1
    end = 16 + int.from_bytes(content[12:16], "little")
    content[end : end + 8] = xxh3_64_intdigest(bytes(content[:end])).to_bytes(8, "little")
    file.write_bytes(content)
    (location / "cache.db").unlink()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("part", ["ledger", "vectors"])
def test_a_newer_format_is_refused_and_left_alone(
    tmp_path: Path, part: str, read_only: bool
) -> None:
    with EmbeddingStore(tmp_path) as store:
        put(store, MODEL, texts_of(3))
    make_newer(tmp_path, part)
    before = {path.name: path.read_bytes() for path in vector_files(tmp_path)}
    for _ in range(2):
        with pytest.raises(StoreRefusedError, match=r"format 2.*newer embstore.*upgrade"):
            EmbeddingStore(tmp_path, read_only=read_only)
    assert {path.name: path.read_bytes() for path in vector_files(tmp_path)} == before


def test_a_store_that_was_never_closed_is_whole(tmp_path: Path) -> None:
    run_python(
        "import os, sys\n"
        "from embstore import EmbeddingStore\n"
        "from tests.helpers import *\n"
        "store = EmbeddingStore(sys.argv[1])\n"
        "put(store, MODEL, texts_of(100))\n"
        "store.delete_many(MODEL, texts_of(5))\n"
        "os._exit(0)",
        tmp_path,
    )
    with EmbeddingStore(tmp_path) as store:
        assert check(store, MODEL, texts_of(100)) == [False] * 5 + [True] * 95
        assert store.verify().ok


def test_one_text_in_a_store_of_many_namespaces(tmp_path: Path) -> None:
    spaces = [Namespace("m", extra={"number": number}) for number in range(200)]
    with EmbeddingStore(tmp_path) as store:
        for namespace in spaces:
            put(store, namespace, ["a"])
    with EmbeddingStore(tmp_path) as store:
        assert {info.namespace for info in store.namespaces()} == set(spaces)
        assert all(check(store, namespace, ["a", "b"]) == [True, False] for namespace in spaces)


def descriptors() -> int:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not list a process's descriptors")
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.filterwarnings("ignore::embstore.StoreWarning")
def test_rebuilding_gives_descriptors_back(tmp_path: Path) -> None:
    before = descriptors()
    for _ in range(10):
        with EmbeddingStore(tmp_path) as store:
            put(store, MODEL, texts_of(5))
            put(store, OTHER, texts_of(5))
            assert all(check(store, MODEL, texts_of(5)))
        (tmp_path / "cache.db").unlink()
    assert descriptors() <= before


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    before = descriptors()
    for _ in range(20):
        with EmbeddingStore(tmp_path) as store:
            put(store, MODEL, texts_of(5))
            store.verify()
            put(store, OTHER, texts_of(5))
            store.delete_many(OTHER, texts_of(3))
            store.compact()
            store.clear(OTHER)
            store.get_many(MODEL, texts_of(6))
    assert descriptors() <= before


def test_vectors_stored_before_a_restart_keep_winning(tmp_path: Path) -> None:
    for value in (1, 2):
        with EmbeddingStore(tmp_path) as store:
            store.put_many(MODEL, ["a"], np.full((1, 8), value, np.float32))
            assert store.get_many(MODEL, ["a"])[0].tolist() == [[1] * 8]
