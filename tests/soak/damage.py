"""Damage to the files of a store: flipped bits, zeroed pages, short files, garbage."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path

from tests.faults.damage import (
    WrongVectorError,
    build,
    build_with_log,
    copy_of,
    examine,
    files_of,
    flip,
    in_memory,
    overwrite,
)
from tests.soak.trial import Outcome, Trial

PAGE = 4096
BAR = "0 wrong vectors, store usable again"

Damage = Callable[[random.Random, Path], None]
"""Damages one store, as the random numbers say."""


def _a_file(rng: random.Random, location: Path) -> Path:
    """Each kind of file as often as any other: there are more vector files than ledgers."""
    kinds: dict[str, list[Path]] = {}
    for file in files_of(location):
        kinds.setdefault("".join(file.suffixes[-1:]), []).append(file)
    return rng.choice(rng.choice(list(kinds.values())))


def _flipped_bits(count: int) -> Damage:
    def damage(rng: random.Random, location: Path) -> None:
        # Half of the trials have all the damage in one file, the others have it everywhere.
        one = _a_file(rng, location) if rng.random() < 0.5 else None
        flips: dict[Path, list[int]] = {}
        for _ in range(count):
            file = one or _a_file(rng, location)
            flips.setdefault(file, []).append(rng.randrange(8 * file.stat().st_size))
        for file, bits in flips.items():
            flip(file, *bits)

    return damage


def _zeroed_page(rng: random.Random, location: Path) -> None:
    file = _a_file(rng, location)
    overwrite(file, PAGE * rng.randrange(-(-file.stat().st_size // PAGE)), bytes(PAGE))


def _truncation(rng: random.Random, location: Path) -> None:
    file = _a_file(rng, location)
    with file.open("r+b") as opened:
        opened.truncate(rng.randrange(file.stat().st_size))


def _header_garbage(rng: random.Random, location: Path) -> None:
    # 16 bytes are SQLite's magic, 32 its log's header, 100 its own, a page all of a vector file's.
    overwrite(_a_file(rng, location), 0, rng.randbytes(rng.choice((1, 16, 32, 100, 300, PAGE))))


def _try_all(name: str, damage: Damage, place: Path, count: int) -> Outcome:
    """``count`` stores damaged, each in its own way, half of them with SQLite's log."""
    wrong, unusable, kept, slowest = 0, 0, 0, 0.0
    failures = []
    with in_memory(place) as directory:
        closed, with_log = directory / "closed", directory / "log"
        build(closed)
        build_with_log(with_log)
        for number in range(count):
            seed = f"{name} {number}"
            with copy_of(with_log if number % 2 else closed, directory) as location:
                damage(random.Random(seed), location)
                try:
                    found = examine(location)
                except Exception as error:
                    wrong += isinstance(error, WrongVectorError)
                    unusable += not isinstance(error, WrongVectorError)
                    failures.append(f"seed {seed!r}: {type(error).__name__}: {error}")
                else:
                    kept += found.kept
                    slowest = max(slowest, found.open_seconds)
    figures: dict[str, int | float | str] = {
        "trials": count,
        "wrong vectors": wrong,
        "not usable again": unusable,
        "vectors kept on average": round(kept / max(1, count - len(failures)), 1),
        "slowest open, ms": round(1000 * slowest, 1),
    }
    return Outcome(figures, failures)


def _trial(name: str, damage: Damage, short: int, long: int) -> Trial:
    return Trial(name, BAR, functools.partial(_try_all, name, damage), short, long)


TRIALS = [
    _trial("1 flipped bit", _flipped_bits(1), 40, 1000),
    _trial("10 flipped bits", _flipped_bits(10), 40, 1000),
    _trial("1,000 flipped bits", _flipped_bits(1000), 20, 1000),
    _trial("zeroed page", _zeroed_page, 30, 500),
    _trial("truncation", _truncation, 30, 500),
    _trial("header garbage", _header_garbage, 30, 500),
]
