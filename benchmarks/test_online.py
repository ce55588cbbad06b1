"""Online batching: requests for one text each, that come all at once, with the real model."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus import sentence
from benchmarks.race import LINES, Line, Race
from embstore import CachedEncoder, EmbeddingStore

REQUESTS = 200


def bursts() -> Iterator[tuple[list[str]]]:
    """Texts, none twice."""
    for first in itertools.count(0, REQUESTS):
        yield ([sentence(number) for number in range(first, first + REQUESTS)],)


def test_concurrent_requests(race: Race, folder: Path, model: Any) -> None:
    """200 requests, awaited together, against the same texts one by one on the bare model."""
    waited: dict[str, list[float]] = {"one by one": [], "embstore": []}

    def one_by_one(texts: list[str]) -> None:
        start = time.perf_counter()
        for text in texts:
            model.encode(text)
            waited["one by one"].append(time.perf_counter() - start)

    def together(texts: list[str]) -> None:
        async def request(text: str) -> None:
            await encoder.aencode(text)
            waited["embstore"].append(time.perf_counter() - start)

        async def main() -> None:
            await asyncio.gather(*map(request, texts))

        start = time.perf_counter()
        asyncio.run(main())

    with EmbeddingStore(folder / "online") as store:
        encoder = CachedEncoder(model, store)
        result = race(
            {"one by one": one_by_one, "embstore": together},
            items=REQUESTS,
            unit="request",
            rounds=7,
            warmup=1,
            inputs=bursts(),
        )
        assert encoder.stats().hits == 0
    result.report("aencode(), 200 new texts at once", against="one by one", ratio=1 / 3)
    slow, fast = (1000 * np.percentile(waited[side], 95) for side in waited)
    LINES.append(
        Line(
            "the same, 95 % of requests answered within",
            f"{fast:,.0f} ms",
            f"one by one: {slow:,.0f} ms",
            f"{fast / slow:.3g}",
        )
    )


def test_known_text_while_busy(race: Race, folder: Path, model: Any) -> None:
    """A stored text asked for while batches are computed, against what a batch takes."""
    waits: list[float] = []
    texts = bursts()

    async def busy() -> None:
        others = [asyncio.create_task(encoder.aencode(text)) for text in next(texts)[0]]
        while not all(task.done() for task in others):
            start = time.perf_counter()
            await encoder.aencode("known")
            waits.append(time.perf_counter() - start)
            await asyncio.sleep(0.01)

    with EmbeddingStore(folder / "busy") as store:
        encoder = CachedEncoder(model, store)
        encoder.encode("known")
        result = race({"embstore": lambda: asyncio.run(busy())}, items=1, unit="burst", rounds=5)
    batches = -(-REQUESTS // 64)
    LINES.append(
        Line(
            "aencode(), known text, while batches are computed",
            f"{1000 * statistics.median(waits):.2g} ms",
            f"a batch: {1000 * result.median('embstore') / batches:,.0f} ms",
            f"{statistics.median(waits) * batches / result.median('embstore'):.3g}",
        )
    )
