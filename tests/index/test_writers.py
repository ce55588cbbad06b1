"""Several who keep runs at once, and those who are killed while they do."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from embstore import EmbeddingStore
from embstore.backends.disk import runs
from tests.faults.children import in_child
from tests.index.kept import (
    COUNT,
    HEADER,
    KEPT_ROWS,
    MODEL,
    build,
    check,
    found_in,
    put,
    ranges,
    rows_recalled,
    run_files,
    texts_of,
    vector_file,
)


def apart(work: Callable[[], None]) -> int:
    """Do something in a forked process; its id."""
    process = os.fork()
    if not process:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return process


def in_use(location: Path) -> list[tuple[int, ...]]:
    """The ranges that a new process takes: one behind the other, the longest first."""
    taken, end = [], 0
    for each in sorted(ranges(location), key=lambda one: (one[0], -one[1])):
        if each[0] == end:
            taken.append(each)
            end = each[1]
    return taken


def covered(location: Path) -> list[tuple[int, ...]]:
    """Ranges that lie within another one: files that nobody needs any more."""
    kept = ranges(location)
    return [
        one
        for one in kept
        if any(other != one and other[0] <= one[0] and one[1] <= other[1] for other in kept)
    ]


def test_processes_that_write_at_once(fast_path: Path) -> None:
    location = fast_path / "store"
    EmbeddingStore(location).close()

    def write(number: int) -> None:
        with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
            for first in range(0, 960, 16):
                put(store, MODEL, texts_of(16, 10_000 * number + first))

    writers = [apart(lambda number=number: write(number)) for number in range(3)]
    assert [os.waitpid(writer, 0)[1] for writer in writers] == [0, 0, 0]
    texts = [text for number in range(3) for text in texts_of(960, 10_000 * number)]
    assert found_in(location, texts) == len(texts)
    with EmbeddingStore(location, memory_limit=0) as store:
        for first in range(0, 256, 32):
            put(store, MODEL, texts_of(32, 50_000 + first))
    assert in_use(location)[-1][1] > len(texts) + 256 - 2 * KEPT_ROWS
    assert len(in_use(location)) <= 8


def test_processes_that_write_at_once_leave_nothing_behind(fast_path: Path) -> None:
    location = fast_path / "store"
    EmbeddingStore(location).close()

    def write(number: int) -> None:
        with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
            for first in range(0, 1600, 16):
                put(store, MODEL, texts_of(16, 10_000 * number + first))

    writers = [apart(lambda number=number: write(number)) for number in range(3)]
    assert [os.waitpid(writer, 0)[1] for writer in writers] == [0, 0, 0]
    with EmbeddingStore(location, memory_limit=0) as store:
        put(store, MODEL, texts_of(9600, 100_000))  # so that all are merged
        put(store, MODEL, texts_of(KEPT_ROWS, 200_000))
    assert covered(location) == []
    assert len(ranges(location)) <= 8


def test_threads_and_two_stores_in_one_process(fast_path: Path) -> None:
    location = fast_path / "store"
    stores = [EmbeddingStore(location, memory_limit=0, on_error="raise") for _ in range(2)]
    errors: list[BaseException] = []

    def work(number: int) -> None:
        store = stores[number % 2]
        try:
            for first in range(0, 640, 16):
                texts = texts_of(16, 10_000 * number + first)
                put(store, MODEL, texts)
                assert all(check(store, MODEL, texts))
                assert all(check(stores[1 - number % 2], MODEL, texts))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert errors == []
    texts = [text for number in range(4) for text in texts_of(640, 10_000 * number)]
    assert found_in(location, texts) == len(texts)


def test_killed_at_any_time(fast_path: Path) -> None:
    """What was acknowledged is found, by whoever comes next."""
    location, acknowledged = fast_path / "store", fast_path / "acknowledged"
    EmbeddingStore(location).close()
    acknowledged.touch()
    chance, first = random.Random(0), 0

    def write(first: int) -> None:
        store = EmbeddingStore(location, memory_limit=0, on_error="raise")
        with open(acknowledged, "ab", buffering=0) as done:
            while True:
                put(store, MODEL, texts_of(40, first))
                first += 40
                done.write(b"%d\n" % first)

    for _ in range(25):
        writer = apart(lambda first=first: write(first))
        time.sleep(chance.uniform(0.01, 0.06))
        os.kill(writer, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(writer, 0)[1])
        first = int((acknowledged.read_text().split() or ["0"])[-1])
        assert found_in(location, texts_of(first)) == first
    assert first > 500
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        put(store, MODEL, texts_of(first, first))
        assert store.verify().ok
    assert found_in(location, texts_of(2 * first)) == 2 * first
    with EmbeddingStore(location, memory_limit=0) as store:
        check(store, MODEL, texts_of(2))
        assert rows_recalled(store) == 2 * first


@pytest.mark.parametrize("where", ["pwrite", "ftruncate", "rename", "unlink"])
def test_killed_in_the_middle(fast_path: Path, where: str) -> None:
    """Before each step of making a run. What is left behind goes with the next one."""
    location = fast_path / "store"
    build(location)

    def die() -> None:
        store = EmbeddingStore(location, memory_limit=0, on_error="raise")
        of = Path if where == "unlink" else os
        real, calls = getattr(of, where), []

        def killed(*arguments: object, **options: object) -> object:
            concerns = str(arguments[0])
            if isinstance(arguments[0], int):
                concerns = os.readlink(f"/proc/self/fd/{arguments[0]}")
            calls.append(concerns)
            if concerns.endswith(".run") and len(calls) > 2 * (where == "pwrite"):
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        setattr(of, where, killed)
        put(store, MODEL, texts_of(600, COUNT))

    writer = apart(die)
    status = os.waitpid(writer, 0)[1]
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert found_in(location, texts_of(COUNT + 600)) == COUNT + 600, "it was committed before"
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        put(store, MODEL, texts_of(2000, 10_000))
    assert covered(location) == []
    assert ranges(location) == in_use(location)
    assert found_in(location, texts_of(COUNT + 600) + texts_of(2000, 10_000)) == COUNT + 2600


def test_another_is_at_it(fast_path: Path) -> None:
    """Nobody waits for it, and the put is acknowledged."""
    location = fast_path / "store"
    build(location)
    making = location / "vectors" / f"{vector_file(location).stem}.run"
    with making.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
            put(store, MODEL, texts_of(200, COUNT))
            assert all(check(store, MODEL, texts_of(COUNT + 200)))
        assert in_child(lambda: found_in(location, texts_of(COUNT + 200))) == COUNT + 200
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        put(store, MODEL, ["one more"])
    assert in_use(location)[-1][1] == COUNT + 201


def test_a_look_up_lets_a_writer_write(fast_path: Path) -> None:
    """A run that was cut short is forgotten, and with it what is known of a file. Another thread
    may be writing to that: into the same descriptor, whatever that is by now."""
    location, other = fast_path / "store", fast_path / "other"
    build(location)
    other.write_bytes(b"precious " * 5000)
    store = EmbeddingStore(location, memory_limit=0)
    assert all(check(store, MODEL, texts_of(COUNT)))
    put(store, MODEL, ["one more"])
    real, begun, go_on = os.pwrite, threading.Event(), threading.Event()

    def slow(fd: int, data: object, offset: int) -> int:
        if threading.current_thread() is writer and not begun.is_set():
            begun.set()
            assert go_on.wait(10)
        return real(fd, data, offset)

    writer = threading.Thread(target=lambda: put(store, MODEL, texts_of(30, COUNT)))
    reader = threading.Thread(target=lambda: check(store, MODEL, texts_of(5)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", slow)
        writer.start()
        assert begun.wait(10)
        os.truncate(run_files(location)[0], HEADER)
        reader.start()
        reader.join(0.3)  # it forgets, and then waits for the ledger
        opened = [os.open(other, os.O_RDWR) for _ in range(10)]
        go_on.set()
        writer.join()
        reader.join()
    for descriptor in opened:
        os.close(descriptor)
    assert other.read_bytes() == b"precious " * 5000
    assert all(check(store, MODEL, texts_of(COUNT + 30)))
    store.close()


def test_puts_of_two_who_cannot_keep_runs_stay_quick(
    fast_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs there are need not be read again for each put of the other."""
    location = fast_path / "store"
    build(location)
    (location / "vectors" / f"{vector_file(location).stem}.run").mkdir()  # nothing can be made
    looked: list[int] = []
    real = runs.KeptRun.is_sound

    def is_sound(self: runs.KeptRun) -> bool:
        looked.append(1)
        return real(self)

    with (
        EmbeddingStore(location, memory_limit=0, on_error="raise") as one,
        EmbeddingStore(location, memory_limit=0, on_error="raise") as other,
    ):
        put(one, MODEL, texts_of(100, COUNT))
        put(other, MODEL, texts_of(1, 10_000))
        monkeypatch.setattr(runs.KeptRun, "is_sound", is_sound)
        for number in range(20):
            put(one, MODEL, texts_of(1, 20_000 + number))
            put(other, MODEL, texts_of(1, 30_000 + number))
    assert len(looked) <= 45
