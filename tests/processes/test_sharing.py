"""Many processes on one store: nothing wrong, nothing lost, nobody locked out."""

from __future__ import annotations

import json
import multiprocessing
import random
from pathlib import Path

import pytest

from embstore import EmbeddingStore, Namespace
from tests.helpers import MODEL, OTHER, check, run_python, start_python, texts_of
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


def test_a_fork_while_other_threads_write_locks_nobody_out(tmp_path: Path) -> None:
    """In a process of its own; a child that is locked out says where, and is ended."""
    output = run_python(
        """
import faulthandler, json, os, sys, threading, traceback, warnings
from embstore import EmbeddingStore
from tests.helpers import *
warnings.filterwarnings("ignore", category=DeprecationWarning)
sys.setswitchinterval(1e-4)
store = EmbeddingStore(sys.argv[1], on_error="raise")
put(store, MODEL, texts_of(50))
stop = threading.Event()
counts = [0] * 3

def write(number):
    while not stop.is_set():
        first = 100_000 * (number + 1) + 5 * counts[number]
        put(store, MODEL, texts_of(5, first))
        check(store, MODEL, texts_of(50))
        counts[number] += 1

def look():
    # From memory alone: all the time goes into the locks of the memory tier and the counters.
    while not stop.is_set():
        check(store, MODEL, ["text 0"])
        store.count(bypassed=1, encode_seconds=0.5, seconds_saved=0.5)

threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
threads.append(threading.Thread(target=look))
for thread in threads:
    thread.start()
for child in range(40):
    pid = os.fork()
    if not pid:
        faulthandler.dump_traceback_later(60, exit=True)
        try:
            mine = texts_of(5, 1_000_000 + 5 * child)
            put(store, MODEL, mine)
            assert all(check(store, MODEL, [*texts_of(50), *mine]))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        break
stop.set()
for thread in threads:
    thread.join()
store.close()
assert code == 0, f"child {child} ended with {code}"
print(json.dumps(counts))
""",
        tmp_path,
    )
    counts = json.loads(output)
    assert min(counts) > 0
    with EmbeddingStore(tmp_path) as store:
        assert all(check(store, MODEL, texts_of(200, 1_000_000)))
        for number, count in enumerate(counts):
            assert all(check(store, MODEL, texts_of(5 * count, 100_000 * (number + 1))))
        assert store.verify().ok


WIDE = Namespace("wide")
WRITER = """
import os, random, sys
from embstore import EmbeddingStore, Namespace
from tests.helpers import *
rng = random.Random(int(sys.argv[2]))
first = int(sys.argv[3])
WIDE = Namespace("wide")
store = EmbeddingStore(sys.argv[1], on_error="raise", memory_limit=0)
number = first
while True:
    count = rng.choice([1, 1, 3, 50, 700])
    put(store, WIDE, texts_of(count, number), 64)
    number += count
    if rng.random() < 0.2:
        put(store, OTHER, texts_of(2, number), 3, "float16")
    os.write(1, b"%d\\n" % number)
"""


def kill_a_writer(location: Path, seed: int, first: int) -> int:
    """Start a writer, kill it after some of its commits; how far it said it had come."""
    process = start_python(WRITER, location, seed, first)
    acknowledged = [
        int(process.stdout.readline()) for _ in range(random.Random(seed).randrange(1, 9))
    ]
    process.kill()
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == -9, errors
    acknowledged += [int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    return acknowledged[-1]


def test_no_acknowledged_vector_is_lost_when_writers_are_killed(tmp_path: Path) -> None:
    reached = 0
    for seed in range(20):
        reached = kill_a_writer(tmp_path, seed, reached)
        with EmbeddingStore(tmp_path, on_error="raise", memory_limit=0) as store:
            found = check(store, WIDE, texts_of(reached + 2000), 64)
            assert all(found[:reached]), f"lost {found[:reached].count(False)}, kill {seed}"
            check(store, OTHER, texts_of(reached + 2000), 3, "float16")
    with EmbeddingStore(tmp_path) as store:
        assert store.verify().ok


def test_a_writer_is_killed_while_others_write(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [
        context.Process(target=write, args=(tmp_path, number, barrier)) for number in range(2)
    ]
    for process in processes:
        process.start()
    reached = 0
    for seed in range(4):
        reached = kill_a_writer(tmp_path, seed, reached)
    join(processes)
    with EmbeddingStore(tmp_path) as store:
        assert all(check(store, WIDE, texts_of(reached), 64))
        assert all(check(store, MODEL, SAME))
        for number in range(2):
            assert all(check(store, OTHER, texts_of_worker(number), 3, "float16"))
