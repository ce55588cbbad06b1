"""A run may be missing, stale or garbage: it costs a sort, and never a text or a wrong vector."""

from __future__ import annotations

import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_64, xxh3_64_intdigest

from embstore import EmbeddingStore
from embstore.backends.disk import runs
from tests.faults.children import NOBODY, as_user, in_child
from tests.faults.damage import flip
from tests.index.kept import (
    COUNT,
    HEADER,
    MODEL,
    STOPS,
    STRIDE,
    build,
    check,
    elsewhere,
    found_in,
    good_for,
    put,
    ranges,
    rows_recalled,
    run_files,
    texts_of,
    vector_file,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two runs, to be copied."""
    location = tmp_path_factory.mktemp("whole") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "KEPT_ROWS", 64)
        build(location)
    return location


@pytest.fixture
def location(whole: Path, fast_path: Path) -> Path:
    shutil.copytree(whole, fast_path / "store")
    return fast_path / "store"


def missing(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    os.truncate(file, 0)


def half_a_header(file: Path) -> None:
    os.truncate(file, 50)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def zeroed(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))


def zeroed_behind_its_header(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(HEADER)
        opened.write(bytes(file.stat().st_size - HEADER))


def garbage(file: Path) -> None:
    file.write_bytes(random.Random(0).randbytes(file.stat().st_size))


def a_symlink(file: Path) -> None:
    other = file.with_name("elsewhere")
    file.rename(other)
    file.symlink_to(other)


def a_dangling_symlink(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()
    (file / "something").touch()


DAMAGES = [
    missing,
    empty,
    half_a_header,
    cut,
    zeroed,
    zeroed_behind_its_header,
    garbage,
    a_symlink,
    a_dangling_symlink,
    a_pipe,
    a_folder,
]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage(location: Path, damage: Callable[[Path], None], number: int) -> None:
    damage(run_files(location)[number])
    good_for(location)


def test_a_bit_anywhere(location: Path) -> None:
    chance = random.Random(1)
    for number in (0, 1):
        file = run_files(location)[number]
        size = 8 * file.stat().st_size
        bits = [*range(0, 8 * 96, 5), *(chance.randrange(8 * HEADER, size) for _ in range(80))]
        for bit in bits:
            flip(file, bit)
            assert found_in(location, texts_of(COUNT), read_only=True) == COUNT
            flip(file, bit)
    assert ranges(location) == [(0, STOPS[0]), STOPS]


def test_a_bit_of_a_run_too_large_to_be_checked(
    location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is merged, it may cost a text, which is then stored once more."""
    monkeypatch.setattr(runs, "_CHECKED_BYTES", 0)
    chance = random.Random(2)
    file = run_files(location)[0]
    content = file.read_bytes()
    for _ in range(100):
        flip(file, *(chance.randrange(8 * HEADER, 8 * len(content)) for _ in range(5)))
        found = found_in(location, texts_of(COUNT), read_only=True)
        assert found > COUNT - 100
        file.write_bytes(content)
    garbage_behind = random.Random(0).randbytes(len(content) - HEADER)
    file.write_bytes(content[:HEADER] + garbage_behind)
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        put(store, MODEL, texts_of(COUNT))
        assert all(check(store, MODEL, texts_of(COUNT)))
    assert found_in(location, texts_of(COUNT)) == COUNT
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        for first in range(COUNT, 1500, 40):  # until all are merged
            put(store, MODEL, texts_of(40, first))
    monkeypatch.undo()
    assert found_in(location, texts_of(1500)) >= 1500


def test_the_last_row_of_the_first_run_is_damaged(location: Path) -> None:
    """That is how a run is known to be of these rows. It may cost the run, and this one text."""
    flip(vector_file(location), 8 * (4096 + STRIDE * (STOPS[0] - 1) + 8))
    assert found_in(location, texts_of(COUNT)) == COUNT - 1
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        put(store, MODEL, texts_of(COUNT))
        assert all(check(store, MODEL, texts_of(COUNT)))
    assert found_in(location, texts_of(COUNT)) == COUNT


def test_another_run_in_its_place(location: Path) -> None:
    first, second = run_files(location)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    assert found_in(location, texts_of(COUNT)) == COUNT
    second.write_bytes(kept)
    good_for(location)


@pytest.mark.parametrize("seed", [5, None])
def test_a_run_of_another_store(location: Path, tmp_path: Path, seed: int | None) -> None:
    """Same namespace, generation and rows, and other digests."""
    other = tmp_path / "other"
    with EmbeddingStore(other, memory_limit=0, seed=seed) as store:
        put(store, MODEL, texts_of(200)[::-1])
        for first in range(200, COUNT, 8):
            put(store, MODEL, texts_of(8, first))
    for file in run_files(other):
        shutil.copy(file, location / "vectors" / file.name)
    good_for(location)


def forge(file: Path, high: np.ndarray, rows: np.ndarray, starts: np.ndarray) -> None:
    """Write other arrays of the same lengths into a run, with all checksums right."""
    content = bytearray(file.read_bytes())
    sums = b"".join(xxh3_64(each.tobytes()).digest() for each in (high, rows, starts))
    content[80:88] = xxh3_64_intdigest(sums).to_bytes(8, "little")
    content[88:96] = xxh3_64_intdigest(bytes(content[:88])).to_bytes(8, "little")
    at = HEADER
    for each in (high, rows, starts):
        content[at : at + each.nbytes] = each.tobytes()
        at += -(-each.nbytes // 4096) * 4096
    file.write_bytes(content)


def test_a_run_that_lies_with_the_right_checksums(location: Path) -> None:
    """Its texts may be missing. Nothing else may happen, at look-ups or when it is merged."""
    file = run_files(location)[1]
    entries = struct.unpack_from("<Q", file.read_bytes(), 56)[0]
    rng = np.random.default_rng(0)
    bits = entries.bit_length() - 1
    for _ in range(10):
        high = rng.integers(0, 2**64, entries + 1, np.uint64, endpoint=False)
        rows = rng.integers(0, 2**32, entries + 1, np.uint32)
        starts = rng.integers(0, 2**32, 2**bits, np.uint32)
        forge(file, high, rows, starts)
        found = found_in(location, texts_of(COUNT))
        assert COUNT - 64 <= found <= COUNT
        with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
            put(store, MODEL, texts_of(COUNT))
            assert all(check(store, MODEL, texts_of(COUNT)))
        if run_files(location)[1:] != [file]:
            break
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        put(store, MODEL, texts_of(300, COUNT))
        assert all(check(store, MODEL, texts_of(COUNT + 300)))


# --- while they are mapped ----------------------------------------------------------------------


def reads(store: EmbeddingStore) -> None:
    assert all(check(store, MODEL, texts_of(COUNT)))


def reads_one(store: EmbeddingStore) -> None:
    assert check(store, MODEL, ["text 1"]) == [True]


def writes(store: EmbeddingStore) -> None:
    put(store, MODEL, texts_of(COUNT + 100))
    reads(store)


def deletes(store: EmbeddingStore) -> None:
    assert store.delete_many(MODEL, ["text 1"]) == 1
    put(store, MODEL, ["text 1"])
    reads(store)


def claims(store: EmbeddingStore) -> None:
    claimed = store._backend.claim(MODEL, store.digests(["text 1", "new"]), b"o" * 16, 5)
    assert claimed.stored.tolist() == [True, False]


def closes(store: EmbeddingStore) -> None:
    store.close()


def compacts(store: EmbeddingStore) -> None:
    store.delete_many(MODEL, ["text 2"])
    store.compact()
    put(store, MODEL, ["text 2"])
    reads(store)


def scans(store: EmbeddingStore) -> None:
    assert sum(len(digests) for digests, _ in store._backend.scan(MODEL)) == COUNT


@pytest.mark.parametrize("length", [0, 4096, 8192])
@pytest.mark.parametrize(
    "work", [reads, reads_one, writes, deletes, claims, closes, compacts, scans]
)
@pytest.mark.parametrize("memory_limit", [0, 10**6])
def test_cut_short_while_it_is_mapped(
    location: Path, work: Callable[[EmbeddingStore], None], length: int, memory_limit: int
) -> None:
    """In a process of its own: reading past the end of a mapped file ends it."""

    def child() -> None:
        with EmbeddingStore(location, memory_limit=memory_limit, on_error="raise") as store:
            for _ in range(2):
                assert all(check(store, MODEL, texts_of(COUNT)))
                assert all(check(store, MODEL, texts_of(5)))
            assert rows_recalled(store) == STOPS[-1]
            for file in run_files(location):
                os.truncate(file, length)
            work(store)

    in_child(child)
    assert found_in(location, texts_of(COUNT)) == COUNT


def test_cut_short_in_the_middle_of_a_scan(fast_path: Path) -> None:
    location = fast_path / "large"
    with EmbeddingStore(location, memory_limit=0) as store:
        put(store, MODEL, texts_of(9000))

    def child() -> None:
        with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
            parts = store._backend.scan(MODEL)
            count = len(next(parts)[0])
            os.truncate(run_files(location)[0], 4096)
            count += sum(len(digests) for digests, _ in parts)
            assert count == 9000

    in_child(child)


def test_a_vector_file_that_was_cut_short_and_given_up_by_others(location: Path) -> None:
    """What this process has used of it is noted for the next generation: not from the map."""

    def child() -> None:
        with EmbeddingStore(location, memory_limit=0) as store:
            assert all(check(store, MODEL, texts_of(COUNT)))
            os.truncate(vector_file(location), 4096 + 20 * STRIDE)
            elsewhere(
                """
import warnings
warnings.simplefilter("ignore")
with EmbeddingStore(location) as store:
    put(store, MODEL, ["new"])
""",
                location,
            )
            assert check(store, MODEL, ["never stored"]) == [False]
            assert sum(check(store, MODEL, texts_of(COUNT))) == 20

    in_child(child)


def test_deleted_or_replaced_while_it_is_mapped(location: Path) -> None:
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        assert all(check(store, MODEL, texts_of(COUNT)))
        for file in run_files(location):
            file.unlink()
            file.write_bytes(b"?")
        assert all(check(store, MODEL, texts_of(COUNT)))
        put(store, MODEL, texts_of(300, COUNT))
        assert all(check(store, MODEL, texts_of(COUNT + 300)))
    assert found_in(location, texts_of(COUNT + 300)) == COUNT + 300


def test_overwritten_while_it_is_mapped(location: Path) -> None:
    """It may cost its texts; they can be stored again."""
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        assert all(check(store, MODEL, texts_of(COUNT)))
        for file in run_files(location):
            with file.open("r+b") as opened:
                opened.write(random.Random(3).randbytes(file.stat().st_size))
        check(store, MODEL, texts_of(COUNT))
        put(store, MODEL, texts_of(COUNT))
        assert all(check(store, MODEL, texts_of(COUNT)))
    assert found_in(location, texts_of(COUNT)) == COUNT


# --- stale ---------------------------------------------------------------------------------------


def set_back(location: Path, rows: int) -> None:
    """Fill a store, and give it the ledger back that it had at so many rows."""
    older = location.with_name("older.db")
    with EmbeddingStore(location, memory_limit=0) as store:
        put(store, MODEL, texts_of(rows))
    shutil.copy(location / "cache.db", older)
    with EmbeddingStore(location, memory_limit=0) as store:
        put(store, MODEL, texts_of(200 - rows, rows))
        for first in range(200, COUNT, 8):
            put(store, MODEL, texts_of(8, first))
    for file in location.glob("cache.db*"):
        file.unlink()
    shutil.copy(older, location / "cache.db")


@pytest.mark.parametrize("rows", [20, 100, 190])
@pytest.mark.parametrize("order", ["same", "other", "other but for the last", "new"])
def test_an_older_ledger_beside_newer_files(fast_path: Path, rows: int, order: str) -> None:
    """After a power cut, or from a backup: what comes next takes the place of what was lost."""
    location = fast_path / "store"
    set_back(location, rows)
    assert found_in(location, texts_of(rows)) == rows
    lost = texts_of(COUNT - rows, rows)
    again = {
        "same": lost,
        "other": lost[::-1],
        "other but for the last": [
            *lost[: STOPS[0] - rows - 1][::-1],
            *lost[STOPS[0] - rows - 1 :],
        ],
        "new": texts_of(COUNT - rows, 1000),
    }[order]
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        for first in range(0, len(again), 30):
            put(store, MODEL, again[first : first + 30])
            assert all(check(store, MODEL, again[: first + 30]))
    assert found_in(location, [*texts_of(rows), *again]) == COUNT
    # By a writer that kept no runs of its own.
    set_back(location.with_name("second"), rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "KEPT_ROWS", 10**6)
        with EmbeddingStore(location.with_name("second"), memory_limit=0) as store:
            put(store, MODEL, again)
    assert found_in(location.with_name("second"), [*texts_of(rows), *again]) == COUNT


# --- what may not be read or written ------------------------------------------------------------


def test_a_run_that_may_not_be_read(location: Path) -> None:
    location.parent.chmod(0o755)

    def work() -> None:
        for file in run_files(location):
            file.chmod(0)
        good_for(location)

    as_user(location, work)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes two users")
def test_a_run_of_another_user(location: Path) -> None:
    location.parent.chmod(0o755)

    def work() -> None:
        good_for(location)

    first = run_files(location)[0]

    def mixed() -> None:
        work()

    for path in [location, *location.rglob("*")]:
        if path != first:
            shutil.chown(path, NOBODY, NOBODY)
    first.chmod(0o600)

    def become() -> None:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        mixed()

    in_child(become)


def test_a_folder_where_none_can_be_made(location: Path) -> None:
    """The vector file can still be written: what is put is acknowledged, without a word."""
    location.parent.chmod(0o755)

    def work() -> None:
        for file in run_files(location):
            file.unlink()
        (location / "vectors").chmod(0o500)
        with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
            put(store, MODEL, texts_of(200, COUNT))
            assert all(check(store, MODEL, texts_of(COUNT + 200)))
        assert found_in(location, texts_of(COUNT + 200)) == COUNT + 200
        assert run_files(location) == []
        (location / "vectors").chmod(0o700)
        with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
            put(store, MODEL, ["one more"])
        assert ranges(location) == [(0, COUNT + 201)]

    as_user(location, work)


@pytest.mark.parametrize("obstacle", [a_pipe, a_folder, a_dangling_symlink, garbage])
def test_something_where_a_run_is_made(location: Path, obstacle: Callable[[Path], None]) -> None:
    making = location / "vectors" / f"{vector_file(location).stem}.run"
    making.write_bytes(b"left by a writer that died")
    obstacle(making)
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        for first in range(COUNT, COUNT + 300, 20):
            put(store, MODEL, texts_of(20, first))
        assert all(check(store, MODEL, texts_of(COUNT + 300)))
    assert found_in(location, texts_of(COUNT + 300)) == COUNT + 300


def test_a_disk_too_small_for_a_run(fast_path: Path) -> None:
    """What is put is stored and acknowledged; and no half of a run stays in the way."""
    code = """
import resource, signal, warnings
warnings.simplefilter("error")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
    put(store, MODEL, texts_of(20), 1, "int8")
    runs._PART = 512
    # Rows of 32 B, and 14 B for each in a run, whose pages make it larger than they are.
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    for part in range(6):
        put(store, OTHER, texts_of(20, 100 * part), 1, "int8")
    runs_of = lambda: sorted(p.name for p in (location / "vectors").glob("*.run"))
    print(runs_of())
"""
    assert "[" in elsewhere(
        code.replace("import resource", "from tests.helpers import OTHER\nimport resource"),
        fast_path / "store",
    )


def test_a_full_disk_keeps_no_half_of_a_run(
    location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: object, offset: int) -> int:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".run") and offset > HEADER:
            raise OSError(28, "No space left on device")
        return real(fd, data, offset)

    real = os.pwrite
    before = {file.name for file in run_files(location)}
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        monkeypatch.setattr(os, "pwrite", full)
        put(store, MODEL, texts_of(300, COUNT))
        assert all(check(store, MODEL, texts_of(COUNT + 300)))
        assert {file.name for file in run_files(location)} == before
        monkeypatch.undo()
        monkeypatch.setattr(runs, "KEPT_ROWS", 64)
        put(store, MODEL, texts_of(64, 10_000))
        assert rows_recalled(store) > COUNT


def test_no_descriptors_left_to_keep_one(fast_path: Path) -> None:
    """What was committed is not said to have failed."""
    code = """
import os
with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
    put(store, MODEL, texts_of(10))
    put(store, MODEL, texts_of(10, 500))
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    put(store, MODEL, texts_of(100, 1000))
    for descriptor in taken:
        os.close(descriptor)
    assert all(check(store, MODEL, texts_of(100, 1000)))
"""
    elsewhere(
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n" + code,
        fast_path / "store",
    )
