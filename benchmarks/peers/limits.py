"""What a peer would need at a size, told from a thousand vectors, and whether it may have that."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers.catalogue import Entry
from benchmarks.peers.crowd import command, payload
from benchmarks.peers.measures import READERS, SINGLES, TEXTS, fill
from benchmarks.peers.racing import rounds_for, timed
from benchmarks.peers.stage import Stage, bytes_on_disk, remove

_TRIAL = 1_000
_MEMORY_INFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Cost:
    """What a peer takes.

    Attributes:
        write: seconds a row.
        read: seconds a text.
        remove: seconds a row, to delete the store.
        start: seconds of a process that reads little.
        size: bytes on disk a row.
    """

    write: float
    read: float
    remove: float
    start: float
    size: float

    def with_write(self, seconds: float, rows: int) -> Cost:
        """After so many rows were written: a tree that grows writes no faster."""
        return replace(self, write=max(self.write, seconds / rows))

    def write_rounds(self, count: int) -> int:
        """How often everything is written: more than once where that is soon done."""
        return rounds_for(count * self.write, 1, 3)

    def seconds(self, count: int, *, persistent: bool) -> float:
        """What all measures of it will take at a size, without embstore's share."""
        texts = min(TEXTS, count)
        batch, ones = texts * self.read, min(SINGLES, count) * self.read
        total = count * (self.write + self.remove) * self.write_rounds(count)
        total += sum((rounds_for(each, 3, 15) + 1) * each for each in (batch, ones))
        if persistent:
            total += (rounds_for(self.start, 1, 7) + 1) * self.start
            at_once = batch * READERS / min(READERS, os.cpu_count() or 1)
            total += (rounds_for(at_once, 2, 7) + 1) * at_once + READERS / 2 * self.start
        return total


def trial(entry: Entry, folder: Path, dim: int) -> Cost:
    """Store and read a thousand vectors."""
    stage = Stage(folder, dim, _TRIAL)
    place = stage.place(entry)
    peer = entry.open(place, dim)
    write = fill(peer, stage, close=entry.persistent)
    start = 0.0
    if entry.persistent:
        start = timed(
            lambda: subprocess.run(
                command(entry, place, dim),
                input=payload(stage.some(1)) + "go\n",
                text=True,
                check=True,
                stdout=subprocess.DEVNULL,
            )
        )
        peer = entry.open(place, dim)
    stage.check(peer.get(stage.texts), stage.texts)
    read = timed(lambda: peer.get(stage.texts))
    peer.close()
    size = bytes_on_disk(place)
    gone = timed(lambda: shutil.rmtree(place, ignore_errors=True))
    remove(place)
    return Cost(write / _TRIAL, read / _TRIAL, gone / _TRIAL, start, size / _TRIAL)


def refused(entry: Entry, cost: Cost, folder: Path, dim: int, count: int, budget: float) -> str:
    """Why a peer is not measured at a size; "" if it is."""
    seconds = cost.seconds(count, persistent=entry.persistent)
    if seconds > budget:
        return f"would take {seconds:.0f} s; --budget is {budget:.0f}"
    disk = count * max(cost.size, 4.4 * dim)  # embstore's own second store takes 1.1 at most
    if disk > shutil.disk_usage(folder).free / 2:
        return f"would take {disk / 1e9:.1f} GB of disk, more than half of what is free"
    if not entry.persistent and (lack := lacking_memory(count * dim * 4)):
        return lack
    return ""


def lacking_memory(needed: int) -> str:
    """Why so many bytes should not be taken; "" if there is room for them and a third more."""
    if _MEMORY_INFO.exists():
        fields = dict(line.split(":", 1) for line in _MEMORY_INFO.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
        if needed > 0.75 * free:
            return f"would take {needed / 1e9:.1f} GB of memory; {free / 1e9:.1f} are free"
    return ""
