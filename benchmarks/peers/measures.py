"""What is measured of each peer, beside embstore and the floor."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.base import Peer
from benchmarks.peers.catalogue import DISK_TIER, EMBSTORE, Entry
from benchmarks.peers.crowd import Crowd, command, payload
from benchmarks.peers.racing import Measured, race, rounds_for, timed
from benchmarks.peers.stage import Stage, bytes_on_disk
from benchmarks.race import Result

TEXTS = 10_000
SINGLES = FRESH = 1_000
READERS = 4
_BARE = [sys.executable, "-c", "import numpy, xxhash"]


@dataclass(frozen=True)
class Measure:
    """How a measure is shown.

    Attributes:
        name: its key.
        title: for people.
        unit: of a median: "µs", "s", "texts/s" or "x" for the share of raw float32.
        private: whether it can be taken of what lives in one process.
        floor: what the floor is, if there is one.
    """

    name: str
    title: str
    unit: str
    private: bool = False
    floor: str = ""


MEASURES = [
    Measure("write", "cold write, a row", "µs", private=True),
    Measure("bulk", "warm, 10,000 texts, a text", "µs", private=True, floor="floor"),
    Measure("single", "warm, one text", "µs", private=True, floor="floor"),
    Measure("fresh", "new process, 1,000 texts", "s", floor="import numpy"),
    Measure("size", "on disk ÷ raw float32", "x"),
    Measure("first", "4 processes, first call", "texts/s"),
    Measure("shared", "4 processes, later calls", "texts/s"),
]


class TooLongError(Exception):
    """A peer takes longer than it may."""


def fill(peer: Peer, stage: Stage, limit: float = float("inf"), *, close: bool = True) -> float:
    """Seconds that storing everything takes, closing included, which writes what is left.

    Raises:
        TooLongError: if it takes longer than ``limit`` seconds.
    """
    seconds = 0.0
    clock = time.perf_counter
    for texts, vectors in stage.batches():
        start = clock()
        peer.put(texts, vectors)
        seconds += clock() - start
        if seconds > limit:
            peer.close()
            raise TooLongError(f"writing took longer than {limit:.3g} s, twice the --budget")
    return seconds + timed(peer.close) if close else seconds


class Contest:
    """One peer beside embstore at one size; ``peer`` None is the floor alone."""

    def __init__(self, stage: Stage, entry: Entry | None, opened: Peer | None) -> None:
        self._stage = stage
        self._entry = entry
        self._peer = opened
        self._name = entry.name if entry else "floor"

    def _measured(self, measure: str, result: Result) -> Measured:
        stage = self._stage
        return Measured(measure, stage.dim, stage.count, self._name, result.items, result.seconds)

    def bulk(self) -> Measured:
        """One call for 10,000 texts, after the first ones."""
        texts = self._stage.some(TEXTS)
        return self._calls("bulk", DISK_TIER, lambda get: get(texts), texts, len(texts))

    def single(self) -> Measured:
        """Calls for one text."""
        texts = self._stage.some(SINGLES)
        lists = [[text] for text in texts]

        def one_by_one(get: Callable[[list[str]], object]) -> None:
            for text in lists:
                get(text)

        return self._calls("single", EMBSTORE, one_by_one, texts, len(texts))

    def _calls(
        self,
        measure: str,
        embstore: Entry,
        call: Callable[[Callable[[list[str]], object]], object],
        texts: list[str],
        items: int,
    ) -> Measured:
        stage, peer = self._stage, self._peer
        ours = embstore.open(stage.home, stage.dim)
        sides: dict[str, Callable[[], object]] = {"floor": lambda: call(stage.floor)}
        stage.check(ours.get(texts), texts)
        slowest = 0.0
        if peer is not None:
            start = time.perf_counter()
            found = peer.get(texts)
            slowest = time.perf_counter() - start
            stage.check(found, texts)
            sides[self._name] = lambda: call(peer.get)
        sides["embstore"] = lambda: call(ours.get)
        rounds = rounds_for(slowest, 3, 15)
        # A slow peer is warm after its check; what its memory costs, it does not notice.
        result = race(sides, items=items, rounds=rounds, warmup=2 if slowest < 1 else 0)
        ours.close()
        return self._measured(measure, result)

    def fresh(self, folder: Path) -> Measured:
        """Whole processes that answer 1,000 texts."""
        stage, entry = self._stage, self._entry
        assert entry is not None
        texts = stage.some(FRESH)
        asked = payload(texts) + "go\n"

        def run(each: Entry, place: Path) -> None:
            subprocess.run(
                command(each, place, stage.dim),
                input=asked,
                text=True,
                check=True,
                stdout=subprocess.DEVNULL,
            )

        sides: dict[str, Callable[[], object]] = {
            "import numpy": lambda: subprocess.run(_BARE, check=True),
            entry.name: lambda: run(entry, folder),
            "embstore": lambda: run(EMBSTORE, stage.home),
        }
        warm = {name: timed(side) for name, side in sides.items()}
        rounds = rounds_for(warm[entry.name], 1, 7)
        return self._measured("fresh", race(sides, items=1, rounds=rounds, warmup=0))

    def size(self, folder: Path) -> Measured:
        """Bytes on disk, of closed stores."""
        taken = {
            self._name: [float(bytes_on_disk(folder))],
            "embstore": [float(bytes_on_disk(self._stage.home))],
        }
        return self._measured("size", Result(taken, self._stage.raw, ""))

    def shared(self, folder: Path) -> list[Measured]:
        """Four processes of each side that read at once: their first call, and later ones."""
        stage, entry = self._stage, self._entry
        assert entry is not None
        asked = [stage.some(TEXTS, seed) for seed in range(1, 1 + READERS)]
        items = sum(map(len, asked))
        with (
            Crowd(entry, folder, stage, asked) as peers,
            Crowd(EMBSTORE, stage.home, stage, asked) as ours,
        ):
            sides = {entry.name: peers.ask, "embstore": ours.ask}
            first = race(sides, items=items, rounds=1, warmup=0)
            rounds = rounds_for(first.seconds[entry.name][0], 2, 7)
            later = race(sides, items=items, rounds=rounds, warmup=0)
        return [self._measured("first", first), self._measured("shared", later)]
