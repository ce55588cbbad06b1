"""``python -m benchmarks.growth``: what a text costs, by how much is stored."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.conftest import environment
from benchmarks.growth.measuring import bytes_needed, grown
from benchmarks.growth.plot import draw
from benchmarks.growth.report import Report
from benchmarks.growth.shapes import shapes
from embstore.batching import figures

_SIZES = [10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000]
_LARGEST = 10_000_000


def rows(text: str) -> int:
    """A number of rows: ``30000``, ``30k`` or ``3M``."""
    factor = {"k": 1_000, "M": 1_000_000}.get(text[-1:])
    number = int(text) if factor is None else round(float(text[:-1]) * factor)
    if number < 0:
        raise ValueError(text)
    return number


def arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    add = parser.add_argument
    add("--sizes", nargs="*", type=rows, default=_SIZES, help="such as 10k 300k 3M")
    add("--largest", action="store_true", help="10M rows too: 36 GB of disk")
    add("--dim", type=int, default=384, help="numbers in a vector")
    add("--shapes", type=rows, default=100_000, metavar="ROWS", help="rows of each; 0: none")
    add("--folder", type=Path, help="where the stores are made, and removed in the end")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    add("--plot", type=Path, metavar="FILE", help="draw them, as .png or .svg")
    add("--again", type=Path, metavar="FILE", help="measure nothing: show what --json wrote")
    given = parser.parse_args()
    given.sizes = sorted({*given.sizes, *([_LARGEST] if given.largest else [])})
    if given.sizes and given.sizes[0] < 1_000:
        parser.error("a size is 1,000 rows at least")
    if given.plot is not None:
        figures.require_matplotlib()
        figures.check_suffix(given.plot)
    return given


def measure(given: argparse.Namespace) -> Report:
    """Measure everything in a folder that is removed at the end; save as it goes."""
    if given.folder is not None:
        tempfile.tempdir = str(given.folder)  # where environment() looks what the disk is, too
    free = shutil.disk_usage(tempfile.gettempdir()).free
    needed = 10**9 + max(bytes_needed(part, given.dim) for part in (given.sizes, [given.shapes]))
    if free < needed:
        sys.exit(f"this takes {needed / 1e9:.0f} GB of disk, and {free / 1e9:.0f} are free")
    began, report = time.perf_counter(), Report(environment())

    def note(done: str) -> None:
        report.seconds = time.perf_counter() - began
        print(f"{report.seconds:6.0f} s: {done}", file=sys.stderr, flush=True)
        if given.json is not None:
            report.save(given.json)

    with tempfile.TemporaryDirectory(prefix="embstore-growth-") as folder:
        for size in grown(Path(folder), given.sizes, given.dim):
            report.sizes.append(size)
            note(f"{size['rows']:,.0f} rows")
        for name, shape in shapes(Path(folder), given.shapes, given.dim) if given.shapes else ():
            report.shapes[name] = shape
            note(name)
    return report


def main() -> None:
    """Measure, and show it."""
    given = arguments()
    report = measure(given) if given.again is None else Report.read(given.again)
    print("\n".join(report.markdown()))
    if given.plot is not None and report.sizes:
        figures.save(draw(report.sizes, "; ".join(report.environment[:2])), given.plot)


if __name__ == "__main__":
    main()
