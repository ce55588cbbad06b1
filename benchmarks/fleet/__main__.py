"""``python -m benchmarks.fleet``: hit rate and network load of 1 to 1,000 workers, simulated."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.fleet.simulation import (
    Fleet,
    Outcome,
    expected_distinct,
    lru_hit_rate,
    popularity,
    simulate,
)
from embstore.batching import figures as looks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WORKERS = [1, 10, 100, 1_000]
_EXPONENTS = [0.8, 1.0, 1.2]
_SHARES = [0.001, 0.01, 0.1, 0.5]

Runs = dict[tuple[float, int], tuple[float, Outcome, Outcome]]
"""By exponent and workers: what is computed if each worker keeps to itself (expected), if each
machine does, and if all share a server."""


def measure(base: Fleet, exponents: list[float], workers: list[int]) -> Runs:
    """Simulate each fleet, with a disk for each machine alone, and with a server behind them."""
    runs: Runs = {}
    for exponent, count in product(exponents, workers):
        began = time.perf_counter()
        fleet = replace(base, exponent=exponent, workers=count)
        alone = count * expected_distinct(popularity(fleet.texts, exponent), fleet.draws)
        disks, shared = (simulate(fleet, server=server) for server in (False, True))
        runs[exponent, count] = alone, disks, shared
        seconds = time.perf_counter() - began
        print(f"{count:,} workers, s = {exponent}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return runs


def tables(base: Fleet, runs: Runs) -> Iterator[str]:
    """The figures as Markdown."""
    yield (
        "| s | workers | texts drawn | computed: each for itself | a disk a machine "
        "| disk and server | found: disk / server | network, B a text |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for (exponent, workers), (alone, disks, shared) in runs.items():
        found = f"{shared.on_disk / shared.drawn:.1%} / {shared.on_server / shared.drawn:.1%}"
        yield (
            f"| {exponent} | {workers:,} | {shared.drawn:,} | {alone / shared.drawn:.1%} "
            f"| {1 - disks.hit_rate:.1%} | {1 - shared.hit_rate:.1%} | {found} "
            f"| {shared.sent / shared.drawn:,.0f} |"
        )
    yield ""
    yield "| s | " + " | ".join(f"holds {share:.1%}" for share in _SHARES) + " |"
    yield "| --- |" + " --- |" * len(_SHARES)
    for exponent in dict.fromkeys(exponent for exponent, _ in runs):
        likely = popularity(base.texts, exponent)
        rates = (lru_hit_rate(likely, int(share * base.texts)) for share in _SHARES)
        yield f"| {exponent} | " + " | ".join(f"{rate:.1%}" for rate in rates) + " |"


def draw(base: Fleet, runs: Runs) -> Figure:
    """Computed texts and network load over the number of workers.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    exponents = [*dict.fromkeys(exponent for exponent, _ in runs)]
    with looks.style():
        figure = looks.new_figure(height=8.4, width=11)
        axes = figure.subplots(2, len(exponents), sharex=True, sharey="row", squeeze=False)
        for place, exponent in enumerate(exponents):
            mine = [(count, *runs[s, count]) for s, count in runs if s == exponent]
            workers = [count for count, *_ in mine]
            lines = {
                "each worker for itself": [100 * one / each.drawn for _, one, each, _ in mine],
                "a disk for each machine": [100 * (1 - each.hit_rate) for _, _, each, _ in mine],
                "disks, and a server": [100 * (1 - each.hit_rate) for *_, each in mine],
            }
            above, below = axes[0][place], axes[1][place]
            for number, (label, values) in enumerate(lines.items()):
                above.plot(workers, values, **looks.line(number), label=label)
            loads = [each.sent / each.drawn for *_, each in mine]
            below.plot(workers, loads, **looks.line(2), label="bytes a text")
            above.set_title(f"computed, % of the texts drawn; s = {exponent}")
            below.set_title("sent over the network, bytes a text")
            for each in (above, below):
                each.set_xscale("log")
                each.set_ylim(bottom=0)
                each.minorticks_off()
            above.legend(fontsize="small")
        figure.supxlabel(
            f"workers, {base.per_machine} on a machine, {base.draws:,} draws each of "
            f"{base.texts:,} texts",
            fontsize="small",
            color=looks.GREY,
        )
    return figure


def main() -> None:
    """Simulate, and show it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    add = parser.add_argument
    add("--workers", nargs="*", type=int, default=_WORKERS)
    add("--exponents", nargs="*", type=float, default=_EXPONENTS, help="of Zipf's law")
    add("--texts", type=int, default=1_000_000, help="how many different ones there are")
    add("--draws", type=int, default=20_000, help="by each worker")
    add("--plot", type=Path, metavar="FILE", help="draw it, as .png or .svg")
    given = parser.parse_args()
    if given.plot is not None:
        looks.require_matplotlib()
        looks.check_suffix(given.plot)
    base = Fleet(1, texts=given.texts, draws=given.draws)
    runs = measure(base, given.exponents, given.workers)
    print("\n".join(tables(base, runs)))
    if given.plot is not None:
        looks.save(draw(base, runs), given.plot)


if __name__ == "__main__":
    main()
