"""Look-ups in a store, by tier, against the floor."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import diskcache
import numpy as np
import pytest
from xxhash import xxh3_128_digest

from benchmarks.corpus import A_ROUND, DIM, NAMESPACE, Stored, in_parts
from benchmarks.race import LINES, Line, Race
from embstore.backends.rows import Array
from embstore.claims import Claims
from embstore.faults import Faults
from embstore.memory import MemoryTier
from embstore.stats import Counters
from embstore.tiers import Tiers

TEXTS = 10_000
SINGLES = 1_000
SIZES = pytest.mark.parametrize(
    "count",
    [
        pytest.param(10_000, id="10k"),
        pytest.param(100_000, id="100k"),
        pytest.param(1_000_000, id="1M", marks=pytest.mark.million),
    ],
)
NEAR_FLOOR = {10_000: 1.3, 100_000: 1.1, 1_000_000: 1.1}


def test_memory_batch(race: Race, stored: Callable[[int], Stored], folder: Path) -> None:
    """The memory tier, beside other ways to keep vectors in one process, or on one disk."""
    known = stored(TEXTS)
    texts = known.some(TEXTS)
    vectors = known.floor(texts)
    store = known.open(memory_limit=None)
    digests = store.digests(texts)
    # As in front of a backend that is far away: of a near one, memory keeps single texts only.
    faults = Faults("nowhere", "raise")
    tier = Tiers(MemoryTier(None), None, faults, Claims(None), Counters(), read_only=False)
    tier.keep(NAMESPACE, digests, vectors, 0.0, None)

    rows = {text: row.copy() for text, row in zip(texts, vectors, strict=True)}
    embed = functools.lru_cache(maxsize=None)(rows.__getitem__)

    with diskcache.Cache(str(folder / "diskcache"), size_limit=2**40) as peer:
        with peer.transact():
            for text, vector in zip(texts, vectors, strict=True):
                peer.set(xxh3_128_digest(text.encode()), vector.tobytes())

        def get_all() -> Array:
            with peer.transact():
                found = [peer.get(xxh3_128_digest(text.encode())) for text in texts]
            return np.frombuffer(bytearray().join(found), np.float32).reshape(-1, DIM)

        result = race(
            {
                "floor": lambda: known.floor(texts),
                "functools.lru_cache": lambda: np.stack([embed(text) for text in texts]),
                "diskcache": get_all,
                "embstore": lambda: tier.find(NAMESPACE, store.digests(texts)),
            },
            items=TEXTS,
            rounds=25,
        )
    assert tier.find(NAMESPACE, digests)[2].all()
    result.report("memory tier, 10,000 texts", against="floor", ratio=1.5)
    for name, path in (
        ("functools.lru_cache", "peer: functools.lru_cache and np.stack"),
        ("diskcache", "peer: diskcache.Cache.get in transact()"),
    ):
        result.report(path, side=name, against="floor")


@SIZES
def test_disk_batch(race: Race, stored: Callable[[int], Stored], count: int) -> None:
    """The disk tier, of a process that has read these rows before."""
    known = stored(count)
    texts = known.some(TEXTS)
    store = known.open(memory_limit=0)
    result = race(
        {
            "floor": lambda: known.floor(texts),
            "embstore": lambda: store.get_many(NAMESPACE, texts),
        },
        items=TEXTS,
        rounds=31,
    )
    assert store.stats().misses == store.stats().memory_hits == 0
    result.report(f"disk tier, 10,000 texts of {count:,}", against="floor", ratio=NEAR_FLOOR[count])
    raw = count * DIM * 4
    LINES.append(
        Line(
            f"disk size, {count:,} vectors",
            f"{known.size() / 1e6:,.1f} MB",
            f"raw float32: {raw / 1e6:,.1f} MB",
            f"{known.size() / raw:.3f}",
            bar="ratio ≤ 1.05",
            met=known.size() <= 1.05 * raw,
        )
    )


def test_disk_batch_read_only(race: Race, stored: Callable[[int], Stored]) -> None:
    """The disk tier of a store that was opened to read only, beside one opened as usual."""
    known = stored(TEXTS)
    texts = known.some(TEXTS)
    usual, store = known.open(memory_limit=0), known.open(memory_limit=0, read_only=True)
    result = race(
        {
            "opened as usual": lambda: usual.get_many(NAMESPACE, texts),
            "embstore": lambda: store.get_many(NAMESPACE, texts),
        },
        items=TEXTS,
        rounds=31,
    )
    assert store.stats().misses == store.stats().memory_hits == 0
    result.report("disk tier, read only, 10,000 texts of 10,000", against="opened as usual")


@SIZES
def test_disk_first_batch(race: Race, stored: Callable[[int], Stored], count: int) -> None:
    """The first look-up of a process: it reads the ledger, maps the file and checks each row."""
    known = stored(count)
    texts = known.some(TEXTS)
    result = race(
        {
            "floor": lambda store: known.floor(texts),
            "embstore": lambda store: store.get_many(NAMESPACE, texts),
        },
        items=TEXTS,
        rounds=15,
        inputs=known.opened_anew(memory_limit=0),
    )
    result.report(
        f"disk tier, first 10,000 texts of {count:,} in a process",
        against="floor",
        ratio=NEAR_FLOOR[count],
    )


@pytest.mark.parametrize("memory_limit, bar", [("256MB", 3e-6), (0, 25e-6)], ids=["memory", "disk"])
def test_single(
    race: Race, stored: Callable[[int], Stored], memory_limit: int | str, bar: float
) -> None:
    """One text a call."""
    known = stored(100_000)
    parts = [[[text] for text in part] for part in in_parts(known.some(SINGLES), A_ROUND)]
    store = known.open(memory_limit=memory_limit)

    def one_by_one(look_up: Callable[[list[str]], object]) -> Callable[[list[list[str]]], None]:
        def look_up_all(part: list[list[str]]) -> None:
            for text in part:
                look_up(text)

        return look_up_all

    result = race(
        {
            "floor": one_by_one(known.floor),
            "embstore": one_by_one(lambda text: store.get_many(NAMESPACE, text)),
        },
        items=A_ROUND,
        rounds=2001,
        warmup=len(parts),
        inputs=((part,) for part in itertools.cycle(parts)),
    )
    tier = "memory" if memory_limit else "disk"
    result.report(f"{tier} tier, one text", against="floor", seconds=bar)


@pytest.mark.parametrize(
    "count, bar",
    [
        pytest.param(100_000, None, id="100k"),
        pytest.param(300_000, 60e-3, id="300k"),
        pytest.param(1_000_000, 150e-3, id="1M", marks=pytest.mark.million),
    ],
)
def test_opening(
    race: Race, stored: Callable[[int], Stored], count: int, bar: float | None
) -> None:
    """From opening a store to the first text found, numpy imported already."""
    known = stored(count)
    texts = known.some(100)

    def open_and_look() -> None:
        with known.open() as store:
            assert store.get_many(NAMESPACE, [texts.pop()])[1].all()

    result = race({"embstore": open_and_look}, items=1, unit="opening", rounds=21)
    result.report(f"opening a store of {count:,}", seconds=bar)
