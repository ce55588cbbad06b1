"""A wall clock that is set back, or wrong: nothing is lost, pruned or waited for because of it."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from embstore import EmbeddingStore
from tests.faults.jobs import Job, start
from tests.faults.preload import compiler, library
from tests.helpers import MODEL, ROOT, check, put, texts_of

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C compiler")

MONTH = 30 * 86400
BEGIN = """
import ctypes, sys, time
from pathlib import Path
from tests.faults.test_clock import *
set_clock = ctypes.CDLL(None).set_clock
set_clock.argtypes = [ctypes.c_long]
location = Path(sys.argv[1])
true = time.time()
"""


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library with ``set_clock``."""
    source = Path(__file__).with_name("clock.c")
    return library(source, tmp_path_factory.mktemp("clock"))


def begin(clock: Path, code: str, location: Path) -> subprocess.Popen[str]:
    """A process that runs ``code`` and can set its clock."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", BEGIN + code, str(location)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "LD_PRELOAD": str(clock)},
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> None:
    """Wait for a process, which must end well, and soon."""
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def fill_up(location: Path) -> None:
    """Store 2,000 texts."""
    with EmbeddingStore(location, on_error="raise") as store:
        put(store, MODEL, texts_of(2000), 64)


def crowd_out(location: Path) -> None:
    """Under a size that holds three quarters of all, the texts stored last must stay."""
    last = texts_of(1000, 2000)
    with EmbeddingStore(location, on_error="raise", size_limit=650_000) as store:
        put(store, MODEL, last, 64)
    with EmbeddingStore(location, on_error="raise", memory_limit=0) as store:
        assert all(check(store, MODEL, last, 64)), "what was stored last is gone"
        assert not all(check(store, MODEL, texts_of(2000), 64)), "nothing had to go"


def prune_old(location: Path) -> int:
    """Have what was not used for a day deleted; how many there were."""
    with EmbeddingStore(location, on_error="raise") as store:
        if "older_than" not in inspect.signature(store.prune).parameters:
            pytest.skip("this store prunes by size only")
        return store.prune(older_than="1d")


def test_the_clock_of_these_tests(clock: Path, tmp_path: Path) -> None:
    code = f"set_clock(-{MONTH}); assert {MONTH} - 60 < true - time.time() <= {MONTH}"
    end(begin(clock, code, tmp_path))


def test_set_back_while_a_job_runs(clock: Path, tmp_path: Path) -> None:
    code = f"""
start(location)
job = Job(location, memory_limit=0)
job.encode(60)
for seconds in (-{MONTH}, -2 * {MONTH}, {MONTH}, 0):
    set_clock(seconds)
    job.encode(60)
    job.go_on()
    fresh = Job(location)
    assert fresh.encode(400) == 0
    fresh.close()
    assert not fresh.messages
job.close()
job.never_warned()
"""
    end(begin(clock, code, tmp_path / "store"))
    with EmbeddingStore(tmp_path / "store", on_error="raise") as store:
        assert store.verify().ok
        assert store.namespaces()[0].entries == 400


@pytest.mark.parametrize("seconds", [-MONTH, MONTH])
def test_what_was_used_last_stays_whatever_the_clock_says(
    clock: Path, tmp_path: Path, seconds: int
) -> None:
    code = f"fill_up(location); set_clock({seconds}); crowd_out(location)"
    end(begin(clock, code, tmp_path / "store"))


@pytest.mark.parametrize("clocks", [(0, -MONTH, 0), (-MONTH, 0, -MONTH), (MONTH, 0, 0)])
def test_what_is_new_is_not_pruned_for_its_age(
    clock: Path, tmp_path: Path, clocks: tuple[int, int, int]
) -> None:
    """Stored under three clocks; what was stored last is never a day old."""
    if "older_than" not in inspect.signature(EmbeddingStore.prune).parameters:
        pytest.skip("stores are pruned by size only")
    code = f"""
for number, seconds in enumerate({clocks}):
    set_clock(seconds)
    last = texts_of(10, 10 * number)
    with EmbeddingStore(location, on_error="raise") as store:
        put(store, MODEL, last)
    prune_old(location)
    with EmbeddingStore(location, on_error="raise", memory_limit=0) as store:
        assert all(check(store, MODEL, last)), (number, seconds)
"""
    end(begin(clock, code, tmp_path / "store"))


def test_workers_whose_clocks_differ(clock: Path, tmp_path: Path) -> None:
    """Whatever they agree on about who computes what, all of them end, and with the right."""
    code = """
set_clock({seconds})
job = Job(location, timeout=10)
for count in (100, 400, 1000):
    job.encode(count)
job.close()
job.never_warned()
"""
    location = tmp_path / "store"
    start(location)
    workers = [begin(clock, code.format(seconds=seconds), location) for seconds in (-MONTH, MONTH)]
    for worker in workers:
        end(worker)
    fresh = Job(location)
    assert fresh.encode(1000) == 0
