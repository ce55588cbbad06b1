"""What a user may not do: never with root's rights, whoever runs the tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from embstore import EmbeddingStore, StoreError, StoreRefusedError
from tests.faults.children import allow, as_user
from tests.faults.jobs import Job, start
from tests.helpers import texts_of


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that a user without rights can reach. Pytest's own belong to who runs it."""
    with tempfile.TemporaryDirectory() as directory:
        # What a job imports has to be imported by whoever may read it.
        start(Path(directory) / "imports")
        yield Path(directory)
        allow(Path(directory), 0o700, 0o600)


def test_a_directory_that_may_only_be_read(place: Path) -> None:
    location = place / "store"

    def work() -> None:
        start(location)
        allow(location, 0o500, 0o400)
        job = Job(location)
        assert job.encode(50) == 0
        job.go_on()
        job.close()
        job.warned_once("readonly", "ermission", "unable to open")
        with pytest.raises(StoreError) as caught:
            Job(location, on_error="raise").go_on()
        assert caught.value.path.startswith(str(location))
        reader = Job(location, read_only=True, on_error="raise")
        assert reader.encode(60) == 10
        reader.close()
        reader.never_warned()
        allow(location, 0o700, 0o600)
        fresh = Job(location, on_error="raise")
        assert fresh.encode(50) == 0
        fresh.go_on()
        fresh.never_warned()
        assert fresh.store.verify().ok

    as_user(place, work)


def test_a_directory_that_may_not_even_be_read(place: Path) -> None:
    location = place / "store"

    def work() -> None:
        start(location)
        allow(location, 0, 0)
        job = Job(location)
        job.go_on()
        job.close()
        job.warned_once("ermission")
        for options in ({"on_error": "raise"}, {"on_error": "raise", "read_only": True}):
            with pytest.raises(StoreError, match="ermission") as caught:
                Job(location, **options).go_on()
            assert caught.value.path.startswith(str(location))
        allow(location, 0o700, 0o600)
        fresh = Job(location)
        assert fresh.encode(50) == 0
        fresh.never_warned()

    as_user(place, work)


def test_a_place_where_no_store_can_be_made(place: Path) -> None:
    location = place / "closed" / "store"

    def work() -> None:
        location.parent.mkdir(mode=0o500)
        job = Job(location)
        assert job.encode(50) == 50
        assert job.encode(50) == 0, "in memory at least"
        job.go_on()
        job.close()
        job.warned_once("ermission")
        with pytest.raises(StoreError, match="ermission") as caught:
            Job(location, on_error="raise")
        assert caught.value.path.startswith(str(location))

    as_user(place, work)


@pytest.mark.parametrize("folders, files", [(0o500, 0o400), (0, 0)])
def test_permission_lost_while_open(place: Path, folders: int, files: int) -> None:
    """What is open stays open to the process that has it: it may go on, or say why it cannot."""
    location = place / "store"

    def work() -> None:
        start(location)
        job = Job(location, timeout=0.1, memory_limit=0)
        job.encode(60)
        allow(location, folders, files)
        job.go_on()
        assert len(job.messages) <= 1, job.messages
        other = Job(location)
        other.go_on()
        assert len(other.messages) <= 1, other.messages
        allow(location, 0o700, 0o600)
        job.go_on()
        job.close()
        fresh = Job(location)
        assert fresh.encode(60) == 0
        fresh.go_on()
        fresh.never_warned()
        assert fresh.store.verify().ok

    as_user(place, work)


def test_permission_lost_before_a_new_namespace(place: Path) -> None:
    """Its file cannot be made, however open the ledger is."""
    location = place / "store"

    def work() -> None:
        EmbeddingStore(location).close()
        for on_error in ("warn", "raise"):
            job = Job(location, on_error=on_error, memory_limit=0)
            allow(location / "vectors", 0o500, 0o400)
            if on_error == "warn":
                job.go_on()
                job.warned_once("ermission")
            else:
                with pytest.raises(StoreError, match="ermission"):
                    job.go_on()
            allow(location / "vectors", 0o700, 0o600)
            job.close()
        fresh = Job(location, on_error="raise")
        fresh.go_on()
        assert fresh.store.verify().ok

    as_user(place, work)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes two users")
@pytest.mark.parametrize("readable", [True, False])
def test_a_store_of_another_user(place: Path, readable: bool) -> None:
    """Refused, whatever ``on_error`` is; read if asked for, as far as its owner lets others."""
    location = place / "store"
    start(location)
    allow(location, 0o755 if readable else 0o700, 0o644 if readable else 0o600)
    place.chmod(0o755)
    before = {path: path.read_bytes() for path in location.rglob("*") if path.is_file()}

    def work() -> None:
        for on_error in ("warn", "raise"):
            with pytest.raises(StoreRefusedError, match="another user"):
                Job(location, on_error=on_error)
        if readable:
            reader = Job(location, read_only=True, on_error="raise")
            assert reader.encode(60) == 10
            reader.close()
            reader.never_warned()
        else:
            with pytest.raises(StoreError):
                Job(location, read_only=True, on_error="raise")

    as_user(None, work)
    assert before == {path: path.read_bytes() for path in location.rglob("*") if path.is_file()}
    assert EmbeddingStore(location, read_only=True).namespaces()[0].entries == len(texts_of(50))
