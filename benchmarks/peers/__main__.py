"""``python -m benchmarks.peers``: embstore beside everything a user could pick instead."""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from pathlib import Path

from benchmarks.conftest import environment
from benchmarks.peers.catalogue import PEERS, Entry
from benchmarks.peers.report import Report, Skipped
from benchmarks.peers.run import Grid, workplace
from benchmarks.peers.table import tables


def arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    add = parser.add_argument
    names = [entry.name for entry in PEERS]
    add("--dims", nargs="+", type=int, default=[384, 768, 1024], help="numbers in a vector")
    add("--counts", nargs="+", type=int, default=[10_000, 100_000, 1_000_000], help="vectors")
    add("--only", nargs="+", choices=names, metavar="PEER", help="of " + ", ".join(names))
    add("--budget", type=float, default=120, help="seconds a peer may take at a size")
    add("--plan", action="store_true", help="only tell what everything would take")
    add("--json", type=Path, metavar="FILE", help="write all rounds there")
    add("--plot", type=Path, metavar="FILE", help="draw the medians, as .png or .svg")
    add("--again", nargs="+", type=Path, metavar="FILE", help="only show what --json wrote")
    return parser.parse_args()


def measure(given: argparse.Namespace) -> Report:
    """Run what was asked for; save after each size."""
    report = Report(environment())
    peers = []
    for entry in PEERS:
        if given.only is None or entry.name in given.only:
            if reason := entry.missing():
                tell(f"{entry.name}: skipped, {reason}")
                report.skipped.append(Skipped(entry.name, 0, 0, reason))
            else:
                peers.append(entry)
    report.environment.append(f"peers: {', '.join(map(_with_version, peers))}")
    with workplace() as folder:
        grid = Grid(folder, peers, given.budget, report, tell)
        if given.plan:
            seconds = grid.plan(given.dims, given.counts)
            tell(f"in all, about {seconds / 60:.0f} minutes")
        else:
            try:
                for _ in grid.run(given.dims, given.counts):
                    if given.json is not None:
                        report.save(given.json)
            except KeyboardInterrupt:
                tell("interrupted: this is what was measured until now")
    return report


def _with_version(entry: Entry) -> str:
    return f"{entry.name} {entry.version()}" if entry.package else entry.name


def tell(line: str) -> None:
    """Say what is going on, beside the tables."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure, or show again, what was asked for."""
    given = arguments()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore", DeprecationWarning)  # the peers' own
    report = measure(given) if given.again is None else Report.load(given.again)
    if given.plan:
        return
    print("\n".join(tables(report)))
    if given.json is not None:
        report.save(given.json)
    if given.plot is not None:
        from benchmarks.peers.plot import draw

        draw(report, given.plot)


if __name__ == "__main__":
    main()
