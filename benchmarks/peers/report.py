"""All that came out of a run, and its form as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.peers.racing import Measured


@dataclass(frozen=True)
class Skipped:
    """A peer that was not measured at a size, or at none (0), and why."""

    peer: str
    dim: int
    count: int
    reason: str


@dataclass
class Report:
    """What a run found.

    Attributes:
        environment: lines about the machine and the versions.
        measured: every comparison, with all its rounds.
        skipped: what was left out.
        seconds: what each peer took at each size, embstore's share included.
    """

    environment: list[str]
    measured: list[Measured] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    seconds: list[tuple[str, int, int, float]] = field(default_factory=list)

    def took(self, peer: str, dim: int, count: int, seconds: float) -> None:
        """Note what a peer took at a size."""
        self.seconds.append((peer, dim, count, round(seconds, 1)))

    def sizes(self) -> list[tuple[int, int]]:
        """The (dim, count) that something was measured or skipped at, in order."""
        found = {(each.dim, each.count) for each in self.measured}
        found |= {(each.dim, each.count) for each in self.skipped if each.count}
        return sorted(found)

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, paths: list[Path]) -> Report:
        """What :meth:`save` wrote, of one run or of several: a peer each, for instance."""
        report = cls([])
        for path in paths:
            raw = json.loads(path.read_text())
            lines = raw["environment"]
            report.environment += [line for line in lines if line not in report.environment]
            report.measured += [Measured(**each) for each in raw["measured"]]
            report.skipped += [Skipped(**each) for each in raw["skipped"]]
            report.seconds += [tuple(each) for each in raw["seconds"]]
        return report
