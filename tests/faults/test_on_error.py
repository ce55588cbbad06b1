"""A store that cannot work (disk full, read-only, locked) warns once or raises, as asked for."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embstore import EmbeddingStore, StoreError, StoreWarning
from tests.helpers import MODEL, OTHER, check, put, run_python, start_python, texts_of

as_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="only root can mount"
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 2 MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", tmp_path]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with open(disk / "filler", "ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert shutil.disk_usage(disk).free == 0


def warnings_of(work: Callable[[], object]) -> list[str]:
    """The messages of all warnings that come of ``work``, every one a StoreWarning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    assert {warning.category for warning in caught} <= {StoreWarning}
    return [str(warning.message) for warning in caught]


@as_root
@pytest.mark.parametrize("rows", [1, 5000])
def test_a_full_disk(small_disk: Path, rows: int) -> None:
    texts = texts_of(rows, 100)
    with EmbeddingStore(small_disk / "store", memory_limit=0) as store:
        put(store, MODEL, texts_of(100))
        fill(small_disk)

        def work() -> None:
            for first in range(0, 5 * rows, rows):
                put(store, MODEL, texts_of(rows, 100 + first), 8)
                put(store, OTHER, texts_of(rows, 100 + first), 64)

        messages = warnings_of(work)
        assert str(small_disk / "store") in messages[0]
        assert "full" in messages[0] or "space" in messages[0]
        assert len(set(messages)) == len(messages) <= 2
        assert store.stats().write_errors >= 1
        assert all(check(store, MODEL, texts_of(100)))
    with EmbeddingStore(small_disk / "store", on_error="raise") as store:
        assert all(check(store, MODEL, texts_of(100)))
        with pytest.raises(StoreError, match=r"full|space") as error:
            put(store, MODEL, texts_of(20_000, 100), 8)
        assert str(small_disk) in error.value.path
        (small_disk / "filler").unlink()
        put(store, MODEL, texts)
        assert all(check(store, MODEL, [*texts_of(100), *texts]))
    with EmbeddingStore(small_disk / "store") as store:
        assert all(check(store, MODEL, [*texts_of(100), *texts]))
        store.compact()
        assert store.verify().ok


@as_root
def test_a_new_store_on_a_full_disk(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.warns(StoreWarning, match=r"full|space"):
        store = EmbeddingStore(small_disk / "store")

    def work() -> None:
        put(store, MODEL, ["a"])
        assert check(store, MODEL, ["a", "b"]) == [True, False]
        store.close()

    warnings_of(work)
    with pytest.raises(StoreError):
        EmbeddingStore(small_disk / "store", on_error="raise")
    (small_disk / "filler").unlink()

    def again() -> None:
        with EmbeddingStore(small_disk / "store", memory_limit=0) as store:
            put(store, MODEL, ["a"])
            assert check(store, MODEL, ["a"]) == [True]

    warnings_of(again)
    assert warnings_of(again) == []


@as_root
def test_failed_writes_leave_no_descriptor_open(small_disk: Path) -> None:
    with EmbeddingStore(small_disk / "store", on_error="raise") as store:
        put(store, MODEL, ["a"])
        fill(small_disk)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            with pytest.raises(StoreError):
                put(store, OTHER, texts_of(20_000))
        assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """As on a full disk, but without being root: the write that is one byte too long fails."""
    run_python(
        """
import resource, signal, sys, warnings
from embstore import EmbeddingStore, StoreError
from tests.helpers import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = EmbeddingStore(sys.argv[1], memory_limit=0)
put(store, MODEL, texts_of(100))
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for first in range(0, 30_000, 10_000):
        put(store, MODEL, texts_of(10_000, first))
assert {warning.category.__name__ for warning in caught} == {"StoreWarning"}, caught
assert all(check(store, MODEL, texts_of(100)))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
strict = EmbeddingStore(sys.argv[1], on_error="raise")
put(strict, MODEL, texts_of(10_000))
assert all(check(strict, MODEL, texts_of(10_000)))
""",
        tmp_path / "store",
    )
    with EmbeddingStore(tmp_path / "store") as store:
        assert all(check(store, MODEL, texts_of(10_000)))
        assert store.verify().ok


@as_root
@pytest.mark.parametrize("crashed", [False, True])
def test_a_read_only_disk(small_disk: Path, crashed: bool) -> None:
    location = small_disk / "store"
    run_python(
        "import os, sys\n"
        "from embstore import EmbeddingStore\n"
        "from tests.helpers import *\n"
        "store = EmbeddingStore(sys.argv[1])\n"
        "put(store, MODEL, texts_of(100))\n"
        f"os._exit(0) if {crashed} else store.close()",
        location,
    )
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with EmbeddingStore(location, read_only=True) as store:
        assert check(store, MODEL, texts_of(101)) == [True] * 100 + [False]
        put(store, MODEL, ["other"])
        assert store.namespaces()[0].entries == 100

    def work() -> None:
        with EmbeddingStore(location) as store:
            assert check(store, MODEL, texts_of(101)) == [True] * 100 + [False]
            put(store, MODEL, ["other"])
            assert check(store, MODEL, ["other"]) == [True], "in memory at least"

    messages = warnings_of(work)
    assert messages
    assert str(location) in messages[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_write_permission(tmp_path: Path) -> None:
    location = tmp_path / "store"
    with EmbeddingStore(location) as store:
        put(store, MODEL, texts_of(100))
    for path in [*location.rglob("*"), location]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    with EmbeddingStore(location, read_only=True) as store:
        assert all(check(store, MODEL, texts_of(100)))
    for path in [location, location / "vectors"]:
        path.chmod(0o700)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A store with a vector whose write lock another process holds for good."""
    location = tmp_path / "store"
    with EmbeddingStore(location) as store:
        put(store, MODEL, ["a"])
    process = start_python(
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('BEGIN IMMEDIATE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()",
        location / "cache.db",
    )
    assert process.stdout.readline() == "locked\n"
    yield location
    process.communicate(timeout=60)
    with EmbeddingStore(location, on_error="raise") as store:
        put(store, MODEL, ["z"])
        assert check(store, MODEL, ["a", "z"]) == [True, True]


def test_locked_by_another_process_warns_once_and_goes_on(locked: Path) -> None:
    with EmbeddingStore(locked, timeout=0.05) as store:
        assert check(store, MODEL, ["a", "b"]) == [True, False]
        messages = warnings_of(lambda: [put(store, MODEL, [text]) for text in texts_of(20)])
        assert len(messages) == 1
        assert str(locked) in messages[0]
        assert "locked" in messages[0]
        assert store.stats().write_errors >= 1
        assert all(check(store, MODEL, ["a", *texts_of(20)])), "in memory at least"


def test_locked_by_another_process_raises_if_asked(locked: Path) -> None:
    with EmbeddingStore(locked, timeout=0.05, on_error="raise") as store:
        assert check(store, MODEL, ["a", "b"]) == [True, False]
        with pytest.raises(StoreError, match="locked") as caught:
            put(store, MODEL, ["b"])
        assert caught.value.path.startswith(str(locked))
        for forbidden in (lambda: store.delete_many(MODEL, ["a"]), store.clear, store.compact):
            with pytest.raises(StoreError, match="locked"):
                forbidden()
        assert check(store, MODEL, ["a"]) == [True]


def test_deleting_says_so_when_it_fails_whatever_on_error_is(locked: Path) -> None:
    with (
        EmbeddingStore(locked, timeout=0.05) as store,
        pytest.raises(StoreError, match="locked"),
    ):
        store.delete_many(MODEL, ["a"])


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


def test_running_out_of_descriptors_loses_nothing(tmp_path: Path) -> None:
    """A vector file that cannot be opened now is not a damaged one: it may not be thrown away."""
    run_python(
        """
import os, resource, sys, warnings
from pathlib import Path
from embstore import EmbeddingStore, Namespace, StoreError
from tests.helpers import *
warnings.simplefilter("ignore")
spaces = [Namespace("m", str(number)) for number in range(8)]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
for spare in range(3, 13):
    location = Path(sys.argv[1]) / str(spare)
    with EmbeddingStore(location) as store:
        for space in spaces:
            put(store, space, texts_of(5))
    (location / "cache.db").unlink()
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for descriptor in taken[:spare]:
        os.close(descriptor)
    try:
        store = EmbeddingStore(location)
        for space in spaces:
            check(store, space, texts_of(5))
        store.close()
    except (StoreError, OSError):
        pass
    for descriptor in taken[spare:]:
        os.close(descriptor)
    with EmbeddingStore(location) as store:
        for space in spaces:
            assert all(check(store, space, texts_of(5))), f"{spare} descriptors: vectors lost"
""",
        tmp_path,
    )
