"""The simulation of a fleet, against real stores and against exact counts."""

from __future__ import annotations

from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fleet import slots
from benchmarks.fleet.simulation import (
    KEY_BYTES,
    NOTHING_BYTES,
    Fleet,
    draws,
    expected_distinct,
    lru_hit_rate,
    popularity,
    simulate,
)
from embstore import CachedEncoder, EmbeddingStore

SMALL = Fleet(workers=6, per_machine=2, texts=500, draws=400, batch=50)


@pytest.mark.parametrize("server", [False, True])
def test_real_stores_compute_what_the_simulation_says(tmp_path: Path, server: bool) -> None:
    """Three machines' disks, with a store behind them or without."""
    asked: Counter[str] = Counter()

    def model(texts: list[str]) -> np.ndarray:
        asked.update(texts)
        return np.array([[len(text), 1.0] for text in texts], np.float32)

    how = {"upstream": tmp_path / "shared"} if server else {}
    encoders = [
        CachedEncoder(
            model, EmbeddingStore(tmp_path / str(worker // 2), **how), model_name="lengths"
        )
        for worker in range(6)
    ]
    drawn = draws(SMALL, seed=0)
    for start in range(0, 400, 50):
        for encoder, numbers in zip(encoders, drawn, strict=True):
            encoder.encode([f"text {number}" for number in numbers[start : start + 50].tolist()])
    outcome = simulate(SMALL, server=server)
    assert asked.total() == outcome.computed
    stats = [encoder.stats() for encoder in encoders]
    assert sum(each.misses for each in stats) == outcome.computed
    assert sum(each.upstream_hits for each in stats) == outcome.on_server
    assert sum(each.total for each in stats) == outcome.drawn
    for encoder in encoders:
        encoder.store.close()


def test_what_is_sent() -> None:
    outcome = simulate(SMALL, server=True)
    asked = outcome.on_server + outcome.computed
    rows = asked * SMALL.row_bytes  # each comes from the server, or goes to it
    assert outcome.sent == rows + asked * KEY_BYTES + outcome.computed * (NOTHING_BYTES + KEY_BYTES)
    assert simulate(SMALL, server=False).sent == 0


def test_sharing_never_computes_more() -> None:
    shared, apart = (simulate(SMALL, server=server) for server in (True, False))
    assert shared.computed < apart.computed
    assert shared.computed == len(np.unique(draws(SMALL, seed=0)))


def test_draws_follow_the_law() -> None:
    likely = popularity(500, 1.0)
    assert likely.sum() == pytest.approx(1)
    assert likely[0] / likely[9] == pytest.approx(10)
    fleet = Fleet(workers=50, texts=500, draws=4000)
    counts = np.bincount(draws(fleet, seed=1).ravel(), minlength=500)
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("exponent", [0.8, 1.0, 1.2])
def test_expected_numbers_of_texts(exponent: float) -> None:
    fleet = Fleet(workers=20, texts=2000, draws=1500, exponent=exponent)
    distinct = [len(np.unique(row)) for row in draws(fleet, seed=2)]
    assert np.mean(distinct) == pytest.approx(
        expected_distinct(popularity(2000, exponent), 1500), rel=0.02
    )


@pytest.mark.parametrize("exponent", [0.8, 1.2])
@pytest.mark.parametrize("capacity", [20, 200])
def test_ches_approximation_against_a_real_lru(exponent: float, capacity: int) -> None:
    fleet = Fleet(workers=1, texts=2000, draws=60_000, exponent=exponent)
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for place, text in enumerate(draws(fleet, seed=3)[0].tolist()):
        if text in held:
            held.move_to_end(text)
            hits += place >= 10_000
        else:
            held[text] = None
            if len(held) > capacity:
                held.popitem(last=False)
    expected = lru_hit_rate(popularity(2000, exponent), capacity)
    assert hits / 50_000 == pytest.approx(expected, abs=0.01)


def test_hash_slots_are_those_of_redis() -> None:
    crc = pytest.importorskip("redis.crc", reason="redis is not installed")
    for key in (b"", b"a", b"{tag}", b"namespace:00ff", bytes(range(256))):
        assert (
            slots.crc16(key) % slots.SLOTS == crc.key_slot(key.replace(b"{", b"(")) or b"{" in key
        )


def test_more_bits_of_the_digest_even_out_the_shards() -> None:
    """What docs/scaling.md says of dividing a namespace."""
    namespaces = [bytes([number]) * 16 for number in range(40)]

    def mean(bits: int, shards: int) -> float:
        return float(np.mean([slots.imbalance(each, bits, shards) for each in namespaces]))

    assert mean(0, 6) == 6, "all of a namespace in one slot"
    assert mean(4, 6) > mean(8, 6) > mean(12, 6)
    assert mean(8, 6) < 1.4
    assert mean(12, 6) < 1.1
