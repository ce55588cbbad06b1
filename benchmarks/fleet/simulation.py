"""A fleet under Zipf-distributed texts: every text is drawn, and looked for tier by tier.

The texts are drawn independently of each other, as in the "independent reference model" that such
studies assume: real traffic repeats itself sooner than that, and hits more often.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

KEY_BYTES = 52
"""What asking a server for a row costs on the way there: a key, and how RESP writes it."""
NOTHING_BYTES = 5
"""What the answer is if there is no such row."""


@dataclass(frozen=True)
class Fleet:
    """Who draws how many texts of which.

    Attributes:
        workers: processes.
        per_machine: of them on one machine, which share its disk.
        texts: how many different ones there are.
        exponent: of Zipf's law: the i-th most frequent text is drawn in proportion to i**-exponent.
        draws: by each worker, in all.
        batch: drawn at a time; workers take turns.
        row_bytes: of a row as a server sends it.
    """

    workers: int
    per_machine: int = 8
    texts: int = 1_000_000
    exponent: float = 1.0
    draws: int = 20_000
    batch: int = 1_000
    row_bytes: int = 1_570

    @property
    def machines(self) -> int:
        """How many machines there are; the last one may have fewer workers."""
        return -(-self.workers // self.per_machine)


@dataclass(frozen=True)
class Outcome:
    """What became of all texts that were drawn; each is one of the first three.

    Attributes:
        drawn: in all.
        on_disk: found on the machine's own disk, or a repeat of its own batch.
        on_server: found on the server.
        computed: by the model.
        sent: bytes over the network, in both directions.
    """

    drawn: int
    on_disk: int
    on_server: int
    computed: int
    sent: int

    @property
    def hit_rate(self) -> float:
        """Texts that were not computed, 0 to 1."""
        return 1 - self.computed / self.drawn


def popularity(texts: int, exponent: float) -> Floats:
    """How likely each text is to be drawn, (texts,), the most frequent first."""
    weights = np.arange(1, texts + 1, dtype=np.float64) ** -exponent
    return np.asarray(weights / weights.sum())


def draws(fleet: Fleet, seed: int) -> npt.NDArray[np.int64]:
    """What each worker draws, (workers, draws), the numbers of texts."""
    bounds = np.cumsum(popularity(fleet.texts, fleet.exponent))
    points = np.random.default_rng(seed).random((fleet.workers, fleet.draws))
    return np.minimum(np.searchsorted(bounds, points), fleet.texts - 1)


def simulate(fleet: Fleet, *, server: bool, seed: int = 0) -> Outcome:
    """Let all workers draw, batch after batch, in turns.

    Args:
        fleet: who draws what.
        server: whether machines share what they know; else each has its disk alone.
        seed: decides what is drawn.
    """
    drawn = draws(fleet, seed)
    disks = np.zeros((fleet.machines, fleet.texts), np.bool_)
    shared = np.zeros(fleet.texts, np.bool_)
    on_server = computed = sent = 0
    for start in range(0, fleet.draws, fleet.batch):
        for worker in range(fleet.workers):
            disk = disks[worker // fleet.per_machine]
            wanted = np.unique(drawn[worker, start : start + fleet.batch])
            missing = wanted[~disk[wanted]]
            disk[missing] = True
            if server:
                there = int(np.count_nonzero(shared[missing]))
                new = len(missing) - there
                shared[missing] = True
                on_server += there
                sent += len(missing) * KEY_BYTES + there * fleet.row_bytes
                sent += new * (NOTHING_BYTES + KEY_BYTES + fleet.row_bytes)
            else:
                new = len(missing)
            computed += new
    return Outcome(drawn.size, drawn.size - on_server - computed, on_server, computed, sent)


def expected_distinct(popularity: Floats, draws: int) -> float:
    """How many different texts so many draws are expected to bring."""
    return float(-np.expm1(draws * np.log1p(-np.minimum(popularity, 1 - 1e-12))).sum())


def lru_hit_rate(popularity: Floats, capacity: int) -> float:
    """The share of draws that a least-recently-used cache of so many texts answers, in the long
    run, by Che's approximation: a text is there if it was drawn within the "characteristic time" in
    which so many different ones are (Che, Tung and Wang, "Hierarchical Web Caching Systems", 2002).
    """
    if capacity >= len(popularity):
        return 1.0
    low, high = 0.0, 1.0
    while -np.expm1(-popularity * high).sum() < capacity:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        held = -np.expm1(-popularity * middle).sum()
        low, high = (middle, high) if held < capacity else (low, middle)
    return float((popularity * -np.expm1(-popularity * high)).sum())
