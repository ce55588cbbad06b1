"""A process that runs out of memory or of descriptors."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest

from embstore import EmbeddingStore, Namespace, StoreError
from tests.faults.children import in_child
from tests.faults.jobs import Job, start
from tests.helpers import check, put, run_python, texts_of, vector_files

WIDE = Namespace("wide")


def leave(size: int) -> None:
    """Let this process have ``size`` more bytes of memory."""
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + size, resource.RLIM_INFINITY))


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_a_vector_file_too_large_for_the_memory_there_is(tmp_path: Path) -> None:
    location = tmp_path / "store"
    start(location)
    # As large as if a writer had died there: rows that were never committed.
    os.truncate(vector_files(location)[0], 2**30)

    def work() -> None:
        leave(2**29)
        job = Job(location)
        job.go_on()
        job.close()
        job.warned_once("memory")
        with pytest.raises(StoreError, match="memory"):
            Job(location, on_error="raise").go_on()

    in_child(work)
    fresh = Job(location)
    assert fresh.encode(50) == 0
    fresh.never_warned()


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_request_that_no_memory_holds(tmp_path: Path, on_error: str) -> None:
    """It fails, as it would without a store; and it leaves neither a lock nor half a row behind."""
    location = tmp_path / "store"

    def embed_too_much(job: Job) -> None:
        texts = texts_of(40) * 2**12
        with job.listening(), pytest.raises((MemoryError, StoreError)):
            job.encoder.encode(texts)

    def work() -> None:
        job = Job(location, dim=1024, memory_limit=0, on_error=on_error)
        job.encode(50)
        leave(2**28)  # what is asked for takes more than twice as much
        embed_too_much(job)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        assert job.encode(60) == 10
        # From another process, while this one still has the store open.
        in_child(lambda: Job(location, dim=1024, timeout=5, on_error="raise").encode(70))
        assert job.encode(70) == 0
        assert job.store.verify().ok

    in_child(work)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_storing_more_than_memory_holds(tmp_path: Path) -> None:
    location = tmp_path / "store"

    def work() -> None:
        with EmbeddingStore(location, on_error="raise", memory_limit=0) as store:
            put(store, WIDE, texts_of(10), 4096)
            vectors = np.zeros((2**14, 4096), np.float32)
            texts = texts_of(2**14, 100)
            leave(2**25)  # rows are packed before they are written: that takes 256 MiB
            with pytest.raises((MemoryError, StoreError)):
                store.put_many(WIDE, texts, vectors)
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
            assert check(store, WIDE, texts_of(11), 4096) == [True] * 10 + [False]
            put(store, WIDE, texts_of(11), 4096)
            assert store.verify().ok
        with EmbeddingStore(location, on_error="raise") as store:
            assert all(check(store, WIDE, texts_of(11), 4096))

    in_child(work)


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
