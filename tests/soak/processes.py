"""Many processes that read, write and delete at once."""

from __future__ import annotations

import faulthandler
import json
import random
import time
from functools import partial
from pathlib import Path

import numpy as np

from embstore import EmbeddingStore, Namespace
from embstore.backends.rows import Array
from tests.helpers import texts_of, vectors_of
from tests.soak.apart import STUCK, apart, fork, wait_for
from tests.soak.known import LAYOUTS, count_wrong
from tests.soak.trial import Outcome, Trial

WAIT = 120
"""Seconds after which a hundred operations count as stuck: twice the store's own timeout."""


class Texts:
    """The texts of all processes and, computed once, their vectors.

    Args:
        count: texts in each namespace that may be stored; a quarter as many more never are.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.texts = texts_of(count * 5 // 4)
        self._vectors = {
            namespace: vectors_of(namespace, self.texts[:count], *layout)
            for namespace, layout in LAYOUTS.items()
        }

    def vectors(self, namespace: Namespace, numbers: list[int]) -> Array:
        """The true vectors of numbered texts that may be stored."""
        return self._vectors[namespace][numbers]

    def wrong(self, namespace: Namespace, numbers: list[int], vectors: Array, found: Array) -> int:
        """How many of what was found is not what belongs there."""
        places = np.flatnonzero(found)
        if not len(places):
            return 0
        stored = [numbers[place] for place in places]
        if max(stored) >= self.count:
            return len(places)
        right = self.vectors(namespace, stored)
        if vectors[places].tobytes() == right.tobytes():
            return 0
        return count_wrong(namespace, [self.texts[number] for number in numbers], vectors, found)


def crowd(place: Path, count: int, *, processes: int) -> Outcome:
    """Have some processes do ``count`` random operations each, all on one store."""
    # So many that puts find something new to store until the end, within reason.
    texts = Texts(min(100_000, 2000 + processes * count // 4))
    store = place / "store"
    began = time.perf_counter()
    children = [
        fork(lambda _, number=number: work(store, place, number, count, texts), patience=None)
        for number in range(processes)
    ]
    codes = [wait_for(pid) for pid, _ in children]
    seconds = time.perf_counter() - began
    failures = [
        f"a process was stuck for {WAIT} s" if code == STUCK else f"a process ended with {code}"
        for code in codes
        if code
    ]
    reports = [json.loads(path.read_text()) for path in place.glob("*.json")]
    waits = np.concatenate([np.load(path) for path in place.glob("*.npy")] or [np.zeros(1)])
    errors = [error for report in reports for error in report["errors"]]
    wrong = sum(report["wrong"] for report in reports)
    wrong += look(store, texts, failures)
    if errors:
        failures.append(f"{len(errors)} errors, the first: {errors[0]}")
    if wrong:
        failures.append(f"{wrong} wrong vectors")
    return Outcome(
        {
            "processes": processes,
            "operations": len(waits),
            "errors": len(errors),
            "wrong vectors": wrong,
            "longest wait, s": round(float(waits.max()), 3),
            "99.9 % waited at most, s": round(float(np.quantile(waits, 0.999)), 3),
            "median, ms": round(1000 * float(np.median(waits)), 3),
            "operations/s": round(len(waits) / seconds),
        },
        failures,
    )


def look(place: Path, texts: Texts, failures: list[str]) -> int:
    """Check the whole store; returns how many vectors are wrong."""
    wrong = 0
    with EmbeddingStore(place, on_error="raise", memory_limit=0) as store:
        entries = {info.namespace: info.entries for info in store.namespaces()}
        for namespace in LAYOUTS:
            numbers = list(range(len(texts.texts)))
            vectors, found = store.get_many(namespace, texts.texts)
            wrong += texts.wrong(namespace, numbers, vectors, found)
            if entries.get(namespace, 0) != np.count_nonzero(found):
                failures.append(
                    f"{namespace.model_name}: {entries.get(namespace)} entries, but "
                    f"{np.count_nonzero(found)} texts are found"
                )
        if not (report := store.verify()).ok:
            failures.append(f"verify: {report}")
    return wrong


def work(place: Path, results: Path, number: int, count: int, texts: Texts) -> None:
    """What one of the processes does."""
    rng = random.Random(number)
    waits, errors, wrong = np.zeros(count), [], 0
    # With and without a memory tier, by turns.
    limit = 0 if number % 2 else "256MB"
    with EmbeddingStore(place, on_error="raise", memory_limit=limit) as store:
        for operation in range(count):
            if operation % 100 == 0:
                faulthandler.dump_traceback_later(WAIT, exit=True)
            began = time.perf_counter()
            try:
                wrong += operate(store, texts, rng)
            except Exception as error:
                errors.append(repr(error))
            waits[operation] = time.perf_counter() - began
    np.save(results / f"{number}.npy", waits)
    report = json.dumps({"errors": errors, "wrong": wrong})
    (results / f"{number}.json").write_text(report)


def operate(store: EmbeddingStore, texts: Texts, rng: random.Random) -> int:
    """One operation; returns how many vectors it got that are wrong."""
    namespace = rng.choice(list(LAYOUTS))
    chance = rng.random()
    if chance < 0.8:
        numbers = rng.sample(range(len(texts.texts)), rng.randint(1, 20))
        vectors, found = store.get_many(namespace, [texts.texts[number] for number in numbers])
        return texts.wrong(namespace, numbers, vectors, found)
    numbers = rng.sample(range(texts.count), rng.randint(1, 5))
    chosen = [texts.texts[number] for number in numbers]
    if chance < 0.99:
        store.put_many(namespace, chosen, texts.vectors(namespace, numbers))
    else:
        store.delete_many(namespace, chosen)
    return 0


TRIALS = [
    Trial(
        name="8 processes at once",
        bar="8 x 100,000 operations: 0 errors, 0 wrong vectors; the longest wait is told",
        run=partial(apart, partial(crowd, processes=8)),
        short=400,
        long=100_000,
    ),
    Trial(
        name="32 processes at once",
        bar="32 x 10,000 operations: 0 errors, 0 wrong vectors; the longest wait is told",
        run=partial(apart, partial(crowd, processes=32)),
        short=40,
        long=10_000,
    ),
]
