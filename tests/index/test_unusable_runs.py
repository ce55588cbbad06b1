"""Runs of a store that was set back; runs that may not be read, or cannot be written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from embstore import EmbeddingStore
from embstore.backends.disk import runs
from tests.faults.children import NOBODY, as_user, in_child
from tests.index.damages import a_dangling_symlink, a_folder, a_pipe, garbage
from tests.index.kept import (
    COUNT,
    HEADER,
    MODEL,
    STOPS,
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
        monkeypatch.setattr(runs, "_EAGER", 1)
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
