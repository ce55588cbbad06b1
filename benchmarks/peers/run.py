"""The grid: every dimension, every size, every peer, each beside embstore."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.catalogue import DISK_TIER, EMBSTORE, Entry
from benchmarks.peers.limits import Cost, lacking_memory, refused, trial
from benchmarks.peers.measures import Contest, TooLongError, fill
from benchmarks.peers.racing import Measured
from benchmarks.peers.report import Report, Skipped
from benchmarks.peers.stage import Stage, remove


class Grid:
    """Measures peers size by size.

    Args:
        folder: where stores are made, and deleted as soon as they are measured.
        peers: the ones to measure.
        budget: seconds a peer may take at a size.
        report: what is found goes there.
        tell: shows what is going on.
    """

    def __init__(
        self,
        folder: Path,
        peers: list[Entry],
        budget: float,
        report: Report,
        tell: Callable[[str], object],
    ) -> None:
        self._folder = folder
        self._peers = peers
        self._budget = budget
        self._report = report
        self._tell = tell

    def plan(self, dims: list[int], counts: list[int]) -> float:
        """Tell what each peer would take at each size; seconds of all that is not skipped."""
        total = 0.0
        for dim in dims:
            ours = self._trial(EMBSTORE, dim)
            costs = {entry.name: self._trial(entry, dim) for entry in self._peers}
            for count in counts:
                own = count * (ours.write + 5e-9 * dim)  # making the vectors, too
                total += own
                for entry in self._peers:
                    cost = costs[entry.name]
                    reason = refused(entry, cost, self._folder, dim, count, self._budget)
                    seconds = cost.seconds(count, persistent=entry.persistent)
                    self._tell(f"{entry.name}, {dim} x {count:,}: {reason or f'{seconds:.0f} s'}")
                    total += 0 if reason else seconds + own * cost.write_rounds(count) + 3
        return total

    def run(self, dims: list[int], counts: list[int]) -> Iterator[None]:
        """Measure all; comes back after each size."""
        for dim in dims:
            costs = {entry.name: self._trial(entry, dim) for entry in self._peers}
            for count in sorted(counts):
                if lack := lacking_memory(count * dim * 4):
                    for entry in self._peers:
                        self._skip(entry, dim, count, lack)
                    continue
                stage = Stage(self._folder, dim, count)
                stage.settle()
                self._keep(Contest(stage, None, None).bulk())
                self._keep(Contest(stage, None, None).single())
                for entry in self._peers:
                    costs[entry.name] = self._measure(stage, entry, costs[entry.name])
                remove(stage.home)
                yield

    def _trial(self, entry: Entry, dim: int) -> Cost:
        self._tell(f"{entry.name}: 1,000 vectors of {dim} first")
        return trial(entry, self._folder, dim)

    def _measure(self, stage: Stage, entry: Entry, cost: Cost) -> Cost:
        """All of one peer at one size; what it costs, as is known now."""
        dim, count = stage.dim, stage.count
        if reason := refused(entry, cost, self._folder, dim, count, self._budget):
            self._skip(entry, dim, count, reason)
            return cost
        self._tell(f"{entry.name}, {dim} x {count:,}")
        began = time.perf_counter()
        place = stage.place(entry)
        try:
            with self._written(stage, entry, place, cost) as (contest, written):
                self._keep(written)
                self._keep(contest.bulk())
                self._keep(contest.single())
            if entry.persistent:
                self._keep(contest.size(place))
                self._keep(contest.fresh(place))
                for measured in contest.shared(place):
                    self._keep(measured)
            cost = cost.with_write(written.result.median(entry.name), 1)
        except TooLongError as error:
            self._skip(entry, dim, count, str(error))
        except Exception as error:  # one peer that fails is to cost its own figures only
            self._skip(entry, dim, count, f"failed: {type(error).__name__}: {str(error)[:80]}")
        finally:
            remove(place)
        self._report.took(entry.name, dim, count, time.perf_counter() - began)
        return cost

    @contextmanager
    def _written(
        self, stage: Stage, entry: Entry, place: Path, cost: Cost
    ) -> Iterator[tuple[Contest, Measured]]:
        """Write everything into embstore and into the peer, in turns; the peer's last stays."""
        rival = stage.place(DISK_TIER)
        rounds: dict[str, list[float]] = {entry.name: [], "embstore": []}
        for _ in range(cost.write_rounds(stage.count)):
            rounds["embstore"].append(fill(DISK_TIER.open(rival, stage.dim), stage))
            remove(rival)
            remove(place)
            peer = entry.open(place, stage.dim)
            taken = fill(peer, stage, 2 * self._budget, close=entry.persistent)
            rounds[entry.name].append(taken)
        if entry.persistent:
            peer = entry.open(place, stage.dim)
        try:
            yield (
                Contest(stage, entry, peer),
                Measured("write", stage.dim, stage.count, entry.name, stage.count, rounds),
            )
        finally:
            peer.close()

    def _keep(self, measured: Measured) -> None:
        self._report.measured.append(measured)

    def _skip(self, entry: Entry, dim: int, count: int, reason: str) -> None:
        self._tell(f"{entry.name}, {dim} x {count:,}: skipped, {reason}")
        self._report.skipped.append(Skipped(entry.name, dim, count, reason))


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder that is gone in the end, whatever happens."""
    made = Path(tempfile.mkdtemp(prefix="embstore-peers-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
