"""Workers that are given the same texts: each text computed once, the work divided evenly."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

from embstore import CachedEncoder, EmbeddingStore
from tests.soak.trial import Outcome, Trial

_WORKERS = 8
_SECONDS = 0.002
"""What computing a text takes: most of a worker's time is then the model's, as it is in life."""


def _embed(texts: list[str]) -> np.ndarray:
    return np.array([[len(text), sum(map(ord, text))] for text in texts], np.float32)


def _texts(count: int) -> list[str]:
    return [f"text number {number} " + "word " * (number % 23) for number in range(count)]


def _work(location: Path, count: int, number: int, ready: Any, results: Any) -> None:
    computed = 0

    def model(texts: list[str]) -> np.ndarray:
        nonlocal computed
        computed += len(texts)
        time.sleep(_SECONDS * len(texts))
        return _embed(texts)

    texts = random.Random(number).sample(_texts(count), count)
    with EmbeddingStore(location, on_error="raise") as store:
        encoder = CachedEncoder(model, store, model_name="soak")
        ready.wait()
        began = time.monotonic()
        wrong = int((encoder.encode(texts) != _embed(texts)).any(axis=1).sum())
        results.put((computed, wrong, time.monotonic() - began))


def _divide(place: Path, count: int) -> Outcome:
    context = multiprocessing.get_context("fork")
    ready, results = context.Barrier(_WORKERS), context.Queue()
    processes = [
        context.Process(target=_work, args=(place, count, number, ready, results))
        for number in range(_WORKERS)
    ]
    for process in processes:
        process.start()
    computed, wrong, seconds = zip(*(results.get(timeout=600) for _ in processes), strict=True)
    for process in processes:
        process.join()
    with EmbeddingStore(place) as store:
        stored = store.stats().entries
    fair = count / _WORKERS
    failures = []
    if sum(computed) > 1.01 * count:
        failures.append(f"{sum(computed):,} computations for {count:,} texts")
    if min(computed) < fair / 2:
        failures.append(f"a worker computed {min(computed):,} texts, where {fair:,.0f} were fair")
    if sum(wrong) or stored != count:
        failures.append(f"{sum(wrong):,} wrong vectors, {stored:,} stored of {count:,}")
    figures: dict[str, int | float | str] = {
        "computations per text": sum(computed) / count,
        "least share, of a fair one": round(min(computed) / fair, 2),
        "largest share": round(max(computed) / fair, 2),
        "wrong vectors": sum(wrong),
        "time, of an even division's": round(max(seconds) / (fair * _SECONDS), 2),
    }
    return Outcome(figures, failures)


TRIALS = [
    Trial(
        "8 workers on one corpus",
        "computations <= 1.01 x texts, each worker at least half its fair share",
        _divide,
        short=4000,
        long=10_000,
    )
]
