"""Ctrl-C, again and again, in a process that works and keeps the last traceback, as notebooks do.

A traceback keeps every frame that the exception went through, and so every generator that was left
suspended there: what such a one was to clean up is not cleaned up before the next interrupt.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

import numpy as np
from tqdm.auto import tqdm

import embstore
from embstore import CachedEncoder, EmbeddingStore, Namespace, locks
from embstore.backends.rows import Array
from tests.helpers import put, vectors_of
from tests.soak.apart import PATIENCE, apart, fork, wait_for
from tests.soak.known import LAYOUTS, Faults, Known, count_wrong, verify
from tests.soak.moments import Connections
from tests.soak.trial import Outcome, Trial

LONGEST = 0.002
"""Seconds from the beginning of a round to the interrupt, at most."""
TEXTS = 600
"""Texts in a call of the encoder: some chunks."""
PATIENCE_OF_OTHER = 2.0
"""Seconds that the other process waits for the lock of the ledger."""
ENOUGH = 20
"""Times that others were locked out after which a trial is ended: each takes some seconds."""
FUNCTION = Namespace("a/function")
OTHER = Namespace("other")
PACKAGE = os.path.dirname(embstore.__file__)
LOCK_TYPES = (type(threading.Lock()), type(threading.RLock()))


@dataclass
class Report:
    """What a process tells of an interrupt.

    Attributes:
        inside: whether it landed in a call of the library.
        in_transaction: whether a transaction was under way then.
        swallowed: whether no KeyboardInterrupt came out of it.
        left: names of the process-wide locks that another thread could not take.
    """

    inside: bool = False
    in_transaction: bool = False
    swallowed: bool = False
    left: tuple[str, ...] = ()


@dataclass
class Result:
    """What the interrupted process tells at its end.

    Attributes:
        known: what it was told.
        encoded: how many calls of the encoder have returned.
        faults: what the store got wrong.
        chunks: texts that an interrupted call had finished, and that were computed again.
        failures: what was raised other than KeyboardInterrupt.
    """

    known: Known
    encoded: int = 0
    faults: Faults = field(default_factory=Faults)
    chunks: int = 0
    failures: list[str] = field(default_factory=list)


# --- from outside -------------------------------------------------------------------------------


def interrupt(place: Path, count: int) -> Outcome:
    """Interrupt a process ``count`` times; after each, another must be able to write at once."""
    rng = random.Random(0)
    tqdm.get_lock()  # made here, so that this process takes it down again
    worker, to_worker = start(partial(work, place))
    other, to_other = start(partial(write_now_and_then, place))
    reports: list[Report] = []
    waits: list[float] = []
    locked_out: list[str] = []
    failures: list[str] = []
    try:
        while len(reports) < count and len(locked_out) < ENOUGH:
            answer(to_worker)  # it is at work
            busy = rng.random() < 0.25
            if busy:
                to_other.send(3)
            time.sleep(rng.uniform(0, LONGEST))
            os.kill(worker, signal.SIGINT)
            reports.append(answer(to_worker))
            to_other.send(1)
            for _ in range(1 + busy):
                seconds, error = answer(to_other)
                locked_out += [error] if error else []
            waits.append(seconds)
            to_worker.send(len(reports) < count and len(locked_out) < ENOUGH)
        result: Result = answer(to_worker)
        to_other.send(0)
        failures += [
            f"a process ended with {code}" for code in map(wait_for, (worker, other)) if code
        ]
    except (EOFError, TimeoutError) as error:
        for pid in (worker, other):
            os.kill(pid, signal.SIGKILL)
            wait_for(pid)
        return Outcome({"interrupts": len(reports)}, [f"a process was stuck or died: {error!r}"])
    left = [name for report in reports for name in report.left]
    with EmbeddingStore(place, on_error="raise", memory_limit=0) as store:
        result.faults += result.known.check_all(store)
        lost = count_lost(store, result.encoded)
        failures += verify(store)
    failures += result.failures[:3] + result.faults.sentences()
    if locked_out:
        failures.append(f"others were locked out {len(locked_out)} times: {locked_out[0]}")
    if left:
        failures.append(f"{len(left)} locks were left: {sorted(set(left))}")
    if result.chunks:
        failures.append(f"{result.chunks} texts of finished chunks were computed again")
    if lost:
        failures.append(f"{lost} texts that encode() had returned were not found")
    return Outcome(
        {
            "interrupts": len(reports),
            "in a call of the store": sum(report.inside for report in reports),
            "in a transaction": sum(report.in_transaction for report in reports),
            "swallowed": sum(report.swallowed for report in reports),
            "locks left": len(left),
            "others locked out": len(locked_out),
            "longest until another process had written, s": round(max(waits), 3),
            "rows acknowledged": result.known.count() + TEXTS * result.encoded,
            "lost": result.faults.lost + result.chunks + lost,
            "deleted, and found": result.faults.back,
            "wrong vectors": result.faults.wrong,
            "other errors": len(result.failures),
        },
        failures,
    )


def start(work: partial[None]) -> tuple[int, Connection]:
    """Fork a process that is given one end of a connection; its id, and the other end."""
    here, there = Pipe()

    def run(_: int) -> None:
        here.close()
        work(there)

    pid, reader = fork(run, patience=None)
    os.close(reader)
    there.close()
    return pid, here


def answer(connection: Connection) -> object:
    """The next message.

    Raises:
        TimeoutError: if there is none for long.
        EOFError: if the process has ended.
    """
    if not connection.poll(PATIENCE):
        raise TimeoutError(f"no answer for {PATIENCE} s")
    return connection.recv()


def count_lost(store: EmbeddingStore, encoded: int) -> int:
    """How many texts of finished calls of the encoder would be computed again."""
    model = Model()
    encoder = CachedEncoder(model, store, model_name=FUNCTION.model_name)
    for number in range(encoded):
        texts = texts_of_call(number)
        assert encoder.encode(texts).tobytes() == vectors_of(FUNCTION, texts).tobytes()
    return sum(map(len, model.calls))


def write_now_and_then(place: Path, connection: Connection) -> None:
    """The other process: commits as often as it is told to, and says how long it took at most."""
    number = 0
    with EmbeddingStore(
        place, on_error="raise", memory_limit=0, timeout=PATIENCE_OF_OTHER
    ) as store:
        while times := connection.recv():
            longest, error = 0.0, ""
            for _ in range(times):
                began = time.perf_counter()
                try:
                    put(store, OTHER, [f"text {number}"])
                except Exception as caught:
                    error = repr(caught)
                longest = max(longest, time.perf_counter() - began)
                number += 1
            connection.send((longest, error))


# --- in the process that is interrupted ---------------------------------------------------------


class Model:
    """A function that remembers what it was asked to compute."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, texts: list[str]) -> Array:
        self.calls.append(texts)
        return vectors_of(FUNCTION, texts)


class Interrupts:
    """What became of the interrupt of this round."""

    def __init__(self) -> None:
        self._connections = Connections()
        self.arrived = False
        self.in_transaction = False
        signal.signal(signal.SIGINT, self._arrive)

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        self.in_transaction = self._connections.in_transaction
        self.arrived = True
        signal.default_int_handler(number, frame)


class Worker:
    """Works, is interrupted, looks whether all is well, and works on.

    Args:
        place: the store.
        rng: decides what is done.
    """

    def __init__(self, place: Path, rng: random.Random) -> None:
        self._place = place
        self._rng = rng
        self._interrupts = Interrupts()
        self._model = Model()
        self._store = EmbeddingStore(place, on_error="raise")
        self._encoder = CachedEncoder(self._model, self._store, model_name=FUNCTION.model_name)
        self._encoding = False
        self._kept: KeyboardInterrupt | None = None
        self.result = Result(Known(0))

    def be_interrupted(self, connection: Connection) -> Report:
        """Work until the interrupt arrives. Its traceback is kept until the next."""
        self._interrupts.arrived = False
        try:
            connection.send("at work")
            while not self._interrupts.arrived:
                try:
                    self._act()
                except Exception:
                    self.result.failures.append(traceback.format_exc())
        except KeyboardInterrupt as error:
            self._kept = error
            frames = [
                frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)
            ]
            inside, swallowed = any(map(is_ours, frames)), False
        else:
            inside = swallowed = True
        return Report(inside, self._interrupts.in_transaction, swallowed, locks_left())

    def _act(self) -> None:
        """One thing that a user does."""
        store, rng, known = self._store, self._rng, self.result.known
        namespace = rng.choice(list(LAYOUTS))
        reached = known.reached(namespace)
        chance = rng.random()
        if chance < 0.35 or reached < 50:
            count = rng.choice([1, 3, 20, 200])
            put(store, namespace, known.texts(reached, count), *LAYOUTS[namespace])
            known.stored(namespace, reached, count)
        elif chance < 0.6:
            texts = known.texts(rng.randrange(reached), rng.randint(1, 20))
            vectors, found = store.get_many(namespace, texts)
            self.result.faults.wrong += count_wrong(namespace, texts, vectors, found)
        elif chance < 0.75:
            count = rng.randint(1, 10)
            first = rng.randrange(reached - count)
            known.deleting(namespace, first, count)
            store.delete_many(namespace, known.texts(first, count))
            known.deleted(namespace, first, count)
        elif chance < 0.96:
            self._encode()
        elif chance < 0.99:
            with EmbeddingStore(self._place, on_error="raise") as another:
                put(another, OTHER, [f"{time.time_ns()}"])
        else:
            store.compact()

    def _encode(self) -> None:
        texts = texts_of_call(self.result.encoded)
        self._model.calls = []
        self._encoding = True
        vectors = self._encoder.encode(texts, batch_size=4096)  # a chunk is one call
        self._encoding = False
        self.result.encoded += 1
        right = vectors_of(FUNCTION, texts)
        self.result.faults.wrong += int(np.count_nonzero((vectors != right).any(axis=1)))

    def check(self) -> None:
        """Look whether what was acknowledged is there, and go on with an interrupted encode()."""
        self.result.faults += self.result.known.check_recent(self._store, self._rng, 40)
        if self._encoding:
            # A chunk is committed before the next one is computed.
            finished = {text for call in self._model.calls[:-1] for text in call}
            self._encode()
            again = {text for call in self._model.calls for text in call}
            self.result.chunks += len(finished & again)


def work(place: Path, connection: Connection) -> None:
    """The process that is interrupted."""
    worker = Worker(place, random.Random(1))
    goes_on = True
    while goes_on:
        connection.send(worker.be_interrupted(connection))
        goes_on = connection.recv()
        worker.check()
    connection.send(worker.result)


def texts_of_call(number: int) -> list[str]:
    """The texts of one call of the encoder, of several lengths."""
    return [f"call {number}: text {text}" + "." * (text % 7) for text in range(TEXTS)]


def is_ours(file: str) -> bool:
    """Whether a file of code is the library's."""
    return file.startswith(PACKAGE + os.sep)


def process_wide_locks() -> Iterator[tuple[str, threading.Lock]]:
    """The locks of embstore.locks as they are now, by name."""
    for name, value in vars(locks).items():
        if isinstance(value, LOCK_TYPES):
            yield name, value


def locks_left() -> tuple[str, ...]:
    """The process-wide locks that another thread cannot take."""
    left = []

    def try_all() -> None:
        for name, lock in process_wide_locks():
            if lock.acquire(timeout=1):
                lock.release()
            else:
                left.append(name)

    thread = threading.Thread(target=try_all)
    thread.start()
    thread.join()
    return tuple(left)


TRIALS = [
    Trial(
        name="Ctrl-C, tracebacks kept",
        bar="5,000 interrupts: 0 locks left, 0 acknowledged rows lost, 0 wrong vectors",
        run=partial(apart, interrupt),
        short=100,
        long=5000,
    )
]
