"""Many processes on one store: nothing wrong, nothing lost, nobody locked out."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from embstore import EmbeddingStore
from tests.helpers import MODEL, OTHER, check
from tests.processes.workers import SAME, texts_of_worker, write, write_with_inherited

WORKERS = 4

# Python 3.12 warns of forks while other threads run: that this works is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def join(processes: list) -> None:
    for process in processes:
        process.join(timeout=90)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * len(processes)


def check_all(location: Path) -> None:
    with EmbeddingStore(location) as store:
        assert all(check(store, MODEL, SAME))
        for number in range(WORKERS):
            assert all(check(store, OTHER, texts_of_worker(number), 3, "float16"))
        infos = {info.namespace: info.entries for info in store.namespaces()}
        assert infos == {MODEL: len(SAME), OTHER: WORKERS * 300}, "a text was stored twice"
        assert store.verify().ok


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_write_the_same_and_different_texts(tmp_path: Path, method: str) -> None:
    """None of them finds the store made: all of them make it at once."""
    context = multiprocessing.get_context(method)
    barrier = context.Barrier(WORKERS)
    location = tmp_path / "store"
    processes = [
        context.Process(target=write, args=(location, number, barrier)) for number in range(WORKERS)
    ]
    for process in processes:
        process.start()
    join(processes)
    check_all(location)


def test_a_store_opened_before_the_fork_works_on_both_sides(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(WORKERS)
    with EmbeddingStore(tmp_path, on_error="raise", memory_limit=0) as store:
        store.namespaces()
        processes = [
            context.Process(target=write_with_inherited, args=(store, number, barrier))
            for number in range(WORKERS)
        ]
        for process in processes:
            process.start()
        join(processes)
        assert all(check(store, MODEL, SAME))
    check_all(tmp_path)
