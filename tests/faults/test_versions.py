"""Two versions of embstore on one directory: refused or right, and never changed by the older."""

from __future__ import annotations

from pathlib import Path

import pytest

from embstore import EmbeddingStore, StoreRefusedError
from embstore.backends.disk import ledger, vectors
from tests.faults.children import in_child
from tests.faults.jobs import Job, start


def with_format(number: int, location: Path) -> None:
    """Make a store, or add to it, as an embstore of another format would."""

    def work() -> None:
        vectors.FORMAT = ledger.FORMAT = number
        job = Job(location, on_error="raise")
        job.go_on(60)
        job.close()

    in_child(work)


def contents(location: Path) -> dict[Path, bytes]:
    """All files that say something."""
    return {
        path: path.read_bytes()
        for path in location.rglob("*")
        if path.is_file() and path.stat().st_size and not path.name.endswith("-shm")
    }


@pytest.mark.parametrize("on_error", ["warn", "raise"])
@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("lost", ["nothing", "cache.db"])
def test_a_newer_store_is_refused_and_left_as_it_is(
    tmp_path: Path, on_error: str, read_only: bool, lost: str
) -> None:
    """Also when its ledger is gone: its vector files are not the older version's to mend."""
    location = tmp_path / "store"
    with_format(vectors.FORMAT + 1, location)
    (location / lost).unlink(missing_ok=True)
    before = contents(location)
    with pytest.raises(StoreRefusedError, match="newer embstore") as caught:
        EmbeddingStore(location, on_error=on_error, read_only=read_only)
    assert caught.value.path.startswith(str(location))
    assert contents(location) == before


def test_an_older_store_is_used_or_refused(tmp_path: Path) -> None:
    location = tmp_path / "store"
    with_format(vectors.FORMAT - 1, location)
    try:
        job = Job(location)
    except StoreRefusedError:
        return
    assert job.encode(60) == 0
    job.go_on()
    job.close()
    job.never_warned()


def test_a_newer_version_beside_one_that_has_the_store_open(tmp_path: Path) -> None:
    """As in a rolling upgrade: the newer one adds to a store of the older format."""
    location = tmp_path / "store"
    start(location)
    job = Job(location, memory_limit=0)
    assert job.encode(50) == 0
    with_format(vectors.FORMAT + 1, location)
    job.go_on()
    job.close()
    job.never_warned()
    fresh = Job(location)
    assert fresh.encode(400) == 0
    fresh.never_warned()
