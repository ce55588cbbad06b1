"""A disk that is full, too small for a file, or mounted to be read only."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from embstore import EmbeddingStore, StoreError, StoreWarning
from tests.faults.children import in_child
from tests.faults.jobs import Job, start, warnings_of
from tests.helpers import MODEL, OTHER, check, put, run_python, texts_of

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
        with pytest.raises(StoreError, match="read-only"):
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


@as_root
def test_a_job_goes_on_when_the_disk_gets_full(small_disk: Path) -> None:
    location = small_disk / "store"
    start(location)
    job = Job(location)
    assert job.encode(50) == 0
    fill(small_disk)
    job.go_on(5000)
    job.warned_once("full", "space")
    (small_disk / "filler").unlink()
    fresh = Job(location)
    assert fresh.encode(50) == 0
    fresh.go_on()
    fresh.never_warned()


@as_root
@pytest.mark.parametrize("warm", [False, True])
def test_a_job_that_begins_on_a_full_disk(small_disk: Path, warm: bool) -> None:
    location = small_disk / "store"
    if warm:
        start(location)
    fill(small_disk)
    job = Job(location)
    assert job.encode(50) == (0 if warm else 50)
    job.go_on(5000)
    job.close()
    job.warned_once("full", "space", "No space", "unable to open")


@as_root
@pytest.mark.parametrize("warm", [False, True])
def test_a_job_on_a_full_disk_raises_if_asked(small_disk: Path, warm: bool) -> None:
    location = small_disk / "store"
    if warm:
        start(location)
    fill(small_disk)
    with pytest.raises(StoreError) as caught:
        Job(location, on_error="raise").go_on(5000)
    assert caught.value.path.startswith(str(location))


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("limit", [0, 1000, 5000, 30_000])
def test_a_job_under_a_limit_on_the_size_of_files(tmp_path: Path, warm: bool, limit: int) -> None:
    location = tmp_path / "store"

    def work() -> None:
        if warm:
            start(location)
        # Not below what there is: the limit also holds for what is overwritten.
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        job = Job(location, timeout=0.1)
        assert job.encode(50) == (0 if warm else 50)
        job.go_on(2000)
        job.warned_once("large", "full", "space", "I/O error", "unable to open")
        job.close()
        with pytest.raises(StoreError):
            Job(location, on_error="raise").go_on(2000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        fresh = Job(location, on_error="raise")
        assert fresh.encode(50) <= (0 if warm else 50)
        fresh.go_on(2000)
        assert fresh.store.verify().ok

    in_child(work)
