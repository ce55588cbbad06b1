"""A disk that is full, or broken, from any of its writes on.

One process has full_disk.c preloaded. For every point it forks one process that works until its
n-th write fails, one that reads while all writes fail, and one that finds space again.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.faults.children import in_child
from tests.faults.damage import in_memory
from tests.faults.preload import compiler, library
from tests.helpers import ROOT
from tests.soak.full_disk_work import OnError, Report, prepare, read, recover, work
from tests.soak.trial import Outcome, Trial

SOURCE = Path(__file__).with_suffix(".c")
FOREVER = 2**31
PARTS = 2
STATES = ("new", "closed", "with a log", "damaged")
ON_ERROR: tuple[OnError, ...] = ("warn", "raise")
KINDS = (
    "wrong vectors",
    "acknowledged rows missing",
    "unsound",
    "exceptions",
    "hangs and crashes",
)


@dataclass(frozen=True)
class Fault:
    """How the disk fails from its n-th write on.

    Attributes:
        name: in words.
        error: errno.
        half: whether the n-th write still writes half.
        once: whether only the n-th fails.
    """

    name: str
    error: int
    half: bool = False
    once: bool = False


FAULTS = [
    Fault("full", errno.ENOSPC),
    Fault("full within a write", errno.ENOSPC, half=True),
    Fault("broken", errno.EIO),
    Fault("broken once", errno.EIO, once=True),
]


@dataclass(frozen=True)
class Point:
    """One way to fail.

    Attributes:
        state: the store beforehand.
        on_error: of the store.
        fault: what happens.
        number: at which write.
    """

    state: str
    on_error: OnError
    fault: Fault
    number: int

    def __str__(self) -> str:
        return f"{self.state}, {self.on_error}, {self.fault.name}, write {self.number}"


class Disk:
    """A directory whose writes fail when told to.

    Args:
        directory: it holds the store and SQLite's temporary files.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._library = ctypes.CDLL(None)
        self._library.disk_calls.restype = ctypes.c_long
        self._library.disk_fails.argtypes = [
            ctypes.c_char_p, ctypes.c_long, ctypes.c_long, ctypes.c_int, ctypes.c_int,
        ]  # fmt: skip

    def fail(self, fault: Fault, number: int) -> None:
        """Fail from the ``number``-th write on."""
        last = number if fault.once else FOREVER
        directory = os.fsencode(self._directory)
        self._library.disk_fails(directory, number, last, fault.error, fault.half)

    def calls(self) -> int:
        """Writes since then."""
        return int(self._library.disk_calls())


def forked(name: str, task: Callable[[Report], None]) -> Report:
    """What ``task`` reports from a process of its own, which may not take longer than a minute."""

    def work() -> dict[str, Any]:
        report = Report()
        report.listen(lambda: task(report))
        return asdict(report)

    try:
        return Report(**in_child(work))
    except AssertionError as error:
        return Report([("hangs and crashes", f"{name}: {error}")])


class Laboratory:
    """Stores in all states, and what happens to copies of them.

    Args:
        place: an empty directory.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._location = place / "disk" / "store"
        (place / "disk" / "tmp").mkdir(parents=True)
        os.environ["SQLITE_TMPDIR"] = str(place / "disk" / "tmp")
        self._disk = Disk(place / "disk")
        store = prepare(place / "closed")
        shutil.copytree(place / "closed", place / "with a log")
        store.close()
        shutil.copytree(place / "closed", place / "damaged")
        (place / "damaged" / "cache.db").write_bytes(b"damaged" * 1000)

    def points(self) -> Iterator[Point]:
        """Every write of the whole work, and of opening a store in another state."""
        for state, on_error in itertools.product(STATES, ON_ERROR):
            whole = self._work(Point(state, on_error, FAULTS[0], FOREVER))
            assert not whole.failures, whole.failures
            writes = whole.calls if state == "closed" else whole.calls_of_opening
            for fault, number in itertools.product(FAULTS, range(1, writes + 1)):
                yield Point(state, on_error, fault, number)

    def attempt(self, point: Point) -> list[Report]:
        """What happens at a point: to the one that works, to readers then, and with space again."""
        there = point.state != "new"

        def reading(report: Report) -> None:
            self._disk.fail(Fault("for good", point.fault.error), 1)
            read(report, self._location, there)

        def recovering(report: Report) -> None:
            recover(report, self._location, there, worked.kept)

        worked = self._work(point, remove=False)
        reports = [worked, forked("reading", reading), forked("recovering", recovering)]
        shutil.rmtree(self._location, ignore_errors=True)
        return reports

    def _work(self, point: Point, *, remove: bool = True) -> Report:
        there = point.state != "new"
        if there:
            shutil.copytree(self._place / point.state, self._location)

        def working(report: Report) -> None:
            self._disk.fail(point.fault, point.number)
            work(report, self._location, point.on_error, there, self._disk.calls)
            report.calls = self._disk.calls()

        report = forked("working", working)
        if remove:
            shutil.rmtree(self._location)
        return report


def main(place: Path, count: int, part: int) -> None:
    """Try one of :data:`PARTS` of up to ``count`` points, spread over all; print the outcome."""
    laboratory = Laboratory(place)
    every = list(laboratory.points())
    count = min(count, len(every))
    chosen = [every[number * len(every) // count] for number in range(part, count, PARTS)]
    kinds: Counter[str] = Counter()
    failures: list[str] = []
    reached, slowest, most, errors = 0, 0.0, 0, 0
    for point in chosen:
        start = time.perf_counter()
        reports = laboratory.attempt(point)
        reached += reports[0].calls >= point.number
        slowest = max(slowest, time.perf_counter() - start)
        for report in reports:
            most = max(most, len(report.warnings))
            errors += report.errors
            kinds.update(kind for kind, _ in report.failures)
            failures += [f"{point}: {sentence}" for _, sentence in report.failures]
    figures: dict[str, Any] = {
        "points": reached,
        **{kind: kinds[kind] for kind in KINDS},
        "errors raised as asked": errors,
        "most warnings of one process": most,
        "slowest point, s": round(slowest, 2),
    }
    print(json.dumps({"figures": figures, "failures": failures}))


def run(place: Path, count: int) -> Outcome:
    """Have processes with the library preloaded try ``count`` points."""
    if compiler() is None:
        return Outcome({"points": 0, "why": "there is no C compiler"})
    with in_memory(place) as directory:
        preloaded = str(library(SOURCE, directory))
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", __name__, directory / str(part), str(count), str(part)],
                env={**os.environ, "PYTHONPATH": str(ROOT), "LD_PRELOAD": preloaded},
                cwd=place,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for part in range(PARTS)
        ]
        outputs = [process.communicate() for process in processes]
    figures: dict[str, int | float | str] = {}
    failures = []
    for process, (output, errors) in zip(processes, outputs, strict=True):
        if process.returncode:
            failures.append(f"a process ended with {process.returncode}: {errors[-2000:]}")
            continue
        outcome = json.loads(output)
        failures += outcome["failures"]
        for name, value in outcome["figures"].items():
            known = figures.get(name, 0)
            together = max(known, value) if name.startswith(("most", "slowest")) else known + value
            figures[name] = together
    return Outcome(figures, failures)


TRIALS = [
    Trial(
        "disk full at every write point",
        "all points; reads and opening still work; first rows not lost",
        run,
        short=30,
        long=100_000,
    )
]

if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
