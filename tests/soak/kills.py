"""Writers that are killed, many of them while they hold the write lock."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from embstore import EmbeddingStore, Namespace, StoreWarning
from embstore.errors import StoreError
from tests.helpers import MODEL, check, put, texts_of
from tests.soak.apart import STUCK, apart, fork, is_kill, read_lines, wait_for
from tests.soak.known import LAYOUTS, Faults, Known, verify
from tests.soak.moments import WriteLock
from tests.soak.trial import Outcome, Trial

LONG = 1000
NAMES = {namespace.model_name: namespace for namespace in LAYOUTS}
PRUNED = Namespace("pruned")
VISITOR = Namespace("visitor")
WRITERS = 3
RECENT = 700
"""Texts of each namespace to look at after a kill: as many as a batch has at most."""

# How writers die. "timer" is from outside, at any moment; "opening" as well, soon after the fork.
# The others kill themselves under the write lock: amid writing rows, before an SQL statement, and
# within one. The numbers: at most so many of these moments are let pass before.
DEATHS = {"rows": 16, "statement": 120, "step": 300}
OUTSIDE = {"timer": 0.08, "opening": 0.02}
"""The longest time in seconds until they come."""
MAKING = 0.01
"""The same for processes that make a store."""


@dataclass
class Writer:
    """A process that writes until it is killed."""

    known: Known
    death: str
    pid: int
    reader: int


@dataclass
class Tally:
    """What a trial has counted so far."""

    kills: int = 0
    locked: int = 0
    commits: int = 0
    slowest: float = 0.0
    faults: Faults = field(default_factory=Faults)
    failures: list[str] = field(default_factory=list)


def kill_writers(place: Path, count: int) -> Outcome:
    """Kill writers, one to three at a time, and look after each round whether all is there."""
    rng = random.Random(0)
    tally = Tally()
    everything = [Known(number) for number in range(WRITERS)]
    visit(place, everything, rng, tally)
    while tally.kills < count and not tally.failures:
        chosen = rng.sample(everything, min(rng.randint(1, WRITERS), count - tally.kills))
        writers = [start(place, known, rng) for known in chosen]
        for writer in writers:
            if writer.death in OUTSIDE:
                kill(writer, rng)
        for writer in writers:
            bury(writer, tally)
        visit(place, chosen, rng, tally)
    with EmbeddingStore(place, on_error="raise", memory_limit=0) as store:
        for known in everything:
            tally.faults += known.check_all(store)
        check(store, PRUNED, texts_of(100_000), 16)
        problems = verify(store, half_deleted=True)
    failures = [*tally.failures, *tally.faults.sentences(), *problems]
    if count >= LONG and tally.slowest >= 1:
        failures.append(f"a reopening took {tally.slowest:.2f} s")
    return Outcome(
        {
            "kills": tally.kills,
            "while the write lock was held, at least": tally.locked,
            "commits acknowledged": tally.commits,
            "rows acknowledged": sum(known.count() for known in everything),
            "lost": tally.faults.lost,
            "deleted, and found": tally.faults.back,
            "wrong vectors": tally.faults.wrong,
            "slowest reopening with a read and a write, s": round(tally.slowest, 3),
        },
        failures,
    )


def start(place: Path, known: Known, rng: random.Random) -> Writer:
    """Fork a writer that goes on where the last one with these texts was killed."""
    # As many under the lock as at any moment.
    death = rng.choice([*DEATHS, "timer", "timer", rng.choice(["timer", "opening"])])
    seed = rng.getrandbits(32)
    pid, reader = fork(lambda pipe: write(place, known, death, random.Random(seed), pipe))
    return Writer(known, death, pid, reader)


def kill(writer: Writer, rng: random.Random) -> None:
    """Kill a writer from outside, at a random moment."""
    if writer.death == "timer":
        select.select([writer.reader], [], [])  # it has opened the store
    time.sleep(rng.uniform(0, OUTSIDE[writer.death]))
    os.kill(writer.pid, signal.SIGKILL)


def bury(writer: Writer, tally: Tally) -> None:
    """Wait for a writer's end, and take note of what it was told before."""
    for line in read_lines(writer.reader):
        word, *values = line.split()
        if word == "open":
            continue
        if word == "locked":
            tally.locked += 1
            continue
        namespace, first, count = NAMES[values[0]], int(values[1]), int(values[2])
        getattr(writer.known, word)(namespace, first, count)
        tally.commits += word != "deleting"
    code = wait_for(writer.pid)
    tally.kills += 1
    if not is_kill(code):
        tally.failures.append(
            f"a writer was stuck ({writer.death})"
            if code == STUCK
            else f"a writer ended with {code} ({writer.death})"
        )


def visit(place: Path, chosen: list[Known], rng: random.Random, tally: Tally) -> None:
    """Reopen in time, and look whether what was acknowledged is there."""
    began = time.perf_counter()
    with EmbeddingStore(place, on_error="raise", memory_limit=0) as store:
        store.get_many(next(iter(LAYOUTS)), [chosen[0].text(0)])
        put(store, VISITOR, [f"after {tally.kills} kills"])
        tally.slowest = max(tally.slowest, time.perf_counter() - began)
        for known in chosen:
            tally.faults += known.check_recent(store, rng, RECENT)


# --- in the writers -----------------------------------------------------------------------------


def write(place: Path, known: Known, death: str, rng: random.Random, pipe: int) -> None:
    """Write until killed, and say what was acknowledged."""

    def say(*words: object) -> None:
        os.write(pipe, " ".join(map(str, words)).encode() + b"\n")

    if death in DEATHS:
        die_under_the_lock(death, rng, say)
    with EmbeddingStore(place, on_error="raise", memory_limit=0) as store:
        say("open")
        if rng.random() < 0.05:
            store.compact()
        while True:
            act(store, known, rng, say)


def act(store: EmbeddingStore, known: Known, rng: random.Random, say: Callable[..., None]) -> None:
    """One change of the store."""
    namespace = rng.choice(list(LAYOUTS))
    name, reached = namespace.model_name, known.reached(namespace)
    chance = rng.random()
    if chance < 0.75 or reached < 50:
        count = rng.choice([1, 1, 3, 20, rng.randint(50, 700)])
        put(store, namespace, known.texts(reached, count), *LAYOUTS[namespace])
        known.stored(namespace, reached, count)
        say("stored", name, reached, count)
    elif chance < 0.92:
        count = rng.randint(1, 30)
        first = rng.randrange(reached - count)
        say("deleting", name, first, count)
        store.delete_many(namespace, known.texts(first, count))
        known.deleted(namespace, first, count)
        say("deleted", name, first, count)
    elif chance < 0.99:
        # What is pruned may be gone afterwards: these rows need only be right.
        put(store, PRUNED, texts_of(100, rng.randrange(100_000)), 16)
        if rng.random() < 0.5:
            store.prune(max_size=20_000, namespace=PRUNED)
    else:
        store.compact()


def die_under_the_lock(death: str, rng: random.Random, say: Callable[..., None]) -> None:
    """Have this process kill itself at one of the moments at which it holds the write lock."""
    left = rng.randint(1, DEATHS[death])

    def is_due() -> bool:
        nonlocal left
        if not lock.is_held:
            return False
        left -= 1
        return left <= 0

    def die() -> None:
        say("locked")
        os.kill(os.getpid(), signal.SIGKILL)

    def die_if_due() -> None:
        if is_due():
            die()

    real_pwrite = os.pwrite

    def pwrite(file: int, data: Any, offset: int) -> int:
        if is_due():
            real_pwrite(file, memoryview(data)[: rng.randint(0, len(data))], offset)
            die()
        return real_pwrite(file, data, offset)

    if death == "rows":
        os.pwrite = pwrite
    lock = WriteLock(
        at_statement=die_if_due if death == "statement" else None,
        at_step=die_if_due if death == "step" else None,
    )


# --- while the store is made --------------------------------------------------------------------


def kill_makers(place: Path, count: int) -> Outcome:
    """Kill a process that makes a store, or two of them make it at once and one is killed."""
    # A ledger that is taken for a damaged one is counted by what is left of it.
    warnings.simplefilter("ignore", StoreWarning)
    rng = random.Random(0)
    kills, rounds, stored, unusable, lost, damaged, slowest = 0, 0, 0, 0, 0, 0, 0.0
    while kills < count and rounds < 20 * count:
        rounds += 1
        store = place / str(rounds)
        names = ["victim", "other"][: rng.randint(1, 2)]
        makers = [fork(partial(make, store, name)) for name in names]
        time.sleep(rng.uniform(0, MAKING))
        os.kill(makers[0][0], signal.SIGKILL)
        acknowledged = [name for _, reader in makers for name in read_lines(reader)]
        victim, *others = [wait_for(pid) for pid, _ in makers]
        kills += is_kill(victim)  # else it was done before
        unusable += sum(code != 0 for code in others)
        began = time.perf_counter()
        try:
            with EmbeddingStore(store, on_error="raise") as opened:
                put(opened, MODEL, ["visitor"])
                slowest = max(slowest, time.perf_counter() - began)
                lost += check(opened, MODEL, ["visitor", *acknowledged]).count(False)
                unusable += not opened.verify().ok
        except StoreError:
            traceback.print_exc()
            unusable += 1
        stored += len(acknowledged)
        damaged += any(store.glob("cache.db.damaged*"))
        shutil.rmtree(store)
    failures = {
        "stores could not be used": unusable,
        "acknowledged rows were lost": lost,
        "half-made ledgers were taken for damaged ones": damaged,
    }
    return Outcome(
        {
            "kills": kills,
            "rows acknowledged": stored,
            "lost": lost,
            "stores that could not be used": unusable,
            "half-made ledgers taken for damaged ones": damaged,
            "slowest reopening with a write, s": round(slowest, 3),
        },
        [f"{number} {what}" for what, number in failures.items() if number],
    )


def make(place: Path, name: str, pipe: int) -> None:
    """Make a store, or open it, and put one text."""
    with EmbeddingStore(place, on_error="raise") as store:
        put(store, MODEL, [name])
        os.write(pipe, f"{name}\n".encode())


TRIALS = [
    Trial(
        name="kill -9 of writers, also under the write lock",
        bar="1,000 kills: 0 acknowledged rows lost, 0 wrong vectors, reopened in less than 1 s",
        run=partial(apart, kill_writers),
        short=25,
        long=LONG,
    ),
    Trial(
        name="kill -9 while a store is made",
        bar="500 kills: 0 stores that cannot be used, 0 acknowledged rows lost",
        run=partial(apart, kill_makers),
        short=15,
        long=500,
    ),
]
