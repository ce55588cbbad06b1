"""``encode()`` with the real all-MiniLM-L6-v2: warm against the floor, cold against the model."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.corpus import A_ROUND, fill, in_parts, sentence
from benchmarks.race import Race
from embstore import CachedEncoder, EmbeddingStore
from embstore.batching.corpus import stdlib_paragraphs

WARM = 10_000
SINGLES = 300
COLD = 512
"""Texts that the model embeds in a round: some seconds."""
REPEATS = 128


def numbered(count: int) -> Iterator[list[str]]:
    """Sentences of nearly one length, none twice."""
    for first in itertools.count(0, count):
        yield [sentence(number) for number in range(first, first + count)]


def paragraphs(count: int) -> Iterator[list[str]]:
    """The standard library's docstring paragraphs in random order, none twice: of all lengths."""
    texts = sorted(set(stdlib_paragraphs()))
    random.Random(0).shuffle(texts)
    for first in range(0, len(texts), count):
        yield texts[first : first + count]


def test_warm_batch(race: Race, folder: Path, model: Any) -> None:
    """Every text stored, the model loaded."""
    with EmbeddingStore(folder / "warm", memory_limit=0) as store:
        encoder = CachedEncoder(model, store)
        known = fill(folder / "warm", encoder.namespace(), WARM)
        texts = known.some(WARM)
        result = race(
            {"floor": lambda: known.floor(texts), "embstore": lambda: encoder.encode(texts)},
            items=WARM,
            rounds=25,
        )
        assert encoder.stats().misses == 0
    result.report("encode(), 10,000 texts, all on disk", against="floor", ratio=1.5)


SHARED = "a model that others have"
VOUCHED = f"{SHARED}, with a version"


@pytest.mark.parametrize(
    "kind", ["a function", "a path, loaded", "a path, not loaded", SHARED, VOUCHED]
)
def test_warm_single(race: Race, folder: Path, model: Any, model_path: str, kind: str) -> None:
    """One text a call, every text in memory. What differs is how it is known that the model is
    still the same."""
    texts = [sentence(number) for number in range(SINGLES)]
    with EmbeddingStore(folder / kind) as store:
        if kind == "a function":
            encoder = CachedEncoder(model.encode, store, model_name="function")
            encoder.encode(texts)
        elif kind in (SHARED, VOUCHED):
            encoder = CachedEncoder(model, store, version="1" if kind == VOUCHED else None)
            encoder.encode(texts)
        else:
            encoder = CachedEncoder(model_path, store, device="cpu")
            encoder.encode(texts)  # loads it
            if kind == "a path, not loaded":
                encoder = CachedEncoder(model_path, store, device="cpu")

        def one_by_one(part: list[str]) -> None:
            for text in part:
                encoder.encode(text)

        one_by_one(texts)  # from here on in memory
        parts = itertools.cycle(in_parts(texts, A_ROUND))
        result = race(
            {"embstore": one_by_one},
            items=A_ROUND,
            rounds=2001,
            inputs=((part,) for part in parts),
        )
        assert encoder.stats().misses == SINGLES
    result.report(f"encode(str), in memory, {kind}", seconds=15e-6)


@pytest.mark.parametrize(
    "texts, kind, bar",
    [
        (numbered(COLD), "sentences of one length", 1.01),
        (paragraphs(COLD), "paragraphs, mixed", 0.8),
    ],
    ids=["sentences", "paragraphs"],
)
def test_cold(
    race: Race, folder: Path, model: Any, texts: Iterator[list[str]], kind: str, bar: float
) -> None:
    """Every text new; the model alone embeds the same texts."""
    with EmbeddingStore(folder / kind) as store:
        encoder = CachedEncoder(model, store)
        result = race(
            {"model": model.encode, "embstore": encoder.encode},
            items=COLD,
            rounds=7,
            warmup=1,
            inputs=((part,) for part in texts),
        )
        assert encoder.stats().hits == 0
    result.report(f"encode(), all new, {kind}", against="model", ratio=bar)


def test_repeats(race: Race, folder: Path, model: Any) -> None:
    """Part of the texts of a call are new, the others repeat them."""
    parts = numbered(REPEATS)

    def encode(share: float) -> Callable[[], object]:
        def call() -> object:
            new = next(parts)[: round(REPEATS * share)]
            return encoder.encode((new * REPEATS)[:REPEATS])

        return call

    with EmbeddingStore(folder / "repeats") as store:
        encoder = CachedEncoder(model, store)
        sides = {"all new": 1.0, "embstore": 0.5, "a quarter": 0.25, "a tenth": 0.1}
        result = race(
            {name: encode(share) for name, share in sides.items()},
            items=REPEATS,
            rounds=5,
            warmup=1,
        )
    for side, share in list(sides.items())[1:]:
        result.report(
            f"encode(), {share:.0%} new, the others repeats",
            side=side,
            against="all new",
            ratio=1.1 * share,
            bar=f"ratio {share:g}",
        )


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(100_000, id="100k"),
        pytest.param(1_000_000, id="1M", marks=pytest.mark.million),
    ],
)
def test_new_process(race: Race, folder: Path, model_path: str, count: int) -> None:
    """A whole process that answers 1,000 texts, from its start to its end."""
    location = folder / f"process-{count}"
    with EmbeddingStore(location) as store:
        # Loads the model, and records what its files are.
        namespace = CachedEncoder(model_path, store, device="cpu").namespace()
    fill(location, namespace, count)
    script = Path(__file__).with_name("new_process.py")

    def run(*command: str) -> None:
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)

    result = race(
        {
            "import sentence_transformers": lambda: run("-c", "import sentence_transformers"),
            "embstore": lambda: run(str(script), str(location), model_path, str(count)),
        },
        items=1,
        unit="process",
        rounds=7,
    )
    result.report(
        f"new process, 1,000 texts of {count:,}",
        against="import sentence_transformers",
        seconds=0.5,
    )
