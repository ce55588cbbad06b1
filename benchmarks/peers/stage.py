"""What is stored and asked for at one size, and where."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.corpus import BATCH, Floor, sentence
from benchmarks.peers.base import Array
from benchmarks.peers.catalogue import DISK_TIER, Entry


class Stage:
    """``count`` sentences with random vectors, all in one matrix in memory: the floor's.

    Attributes:
        dim: numbers in a vector.
        count: sentences.
        texts: all of them.
        floor: finds their vectors.
        home: embstore's store, made by :meth:`settle`.
    """

    def __init__(self, folder: Path, dim: int, count: int) -> None:
        self.dim, self.count = dim, count
        self.texts = [sentence(number) for number in range(count)]
        self._matrix = np.empty((count, dim), np.float32)
        for start in range(0, count, BATCH):
            part = self._matrix[start : start + BATCH]
            np.random.default_rng(start).standard_normal(dtype=np.float32, out=part)
        self.floor = Floor(self.texts, self._matrix)
        self._folder = folder
        self.home = folder / "home"

    @property
    def raw(self) -> int:
        """Bytes of the bare vectors."""
        return self._matrix.nbytes

    def batches(self) -> Iterator[tuple[list[str], Array]]:
        """All that is to be stored, 256 at a time, in arrays of their own."""
        for start in range(0, self.count, BATCH):
            yield self.texts[start : start + BATCH], self._matrix[start : start + BATCH].copy()

    def some(self, count: int, seed: int = 0) -> list[str]:
        """``count`` of the sentences at most, anywhere, in any order."""
        return random.Random(seed).sample(self.texts, min(count, self.count))

    def settle(self) -> None:
        """Make embstore's store."""
        peer = DISK_TIER.open(self.home, self.dim)
        for texts, vectors in self.batches():
            peer.put(texts, vectors)
        peer.close()

    def place(self, entry: Entry) -> Path:
        """A folder that is not there yet."""
        made = self._folder / f"{entry.name}-rival"
        remove(made)
        return made

    def check(self, found: Array, texts: list[str]) -> None:
        """Make sure that an answer is as it should be.

        Raises:
            AssertionError: if it is not.
        """
        if not (
            type(found) is np.ndarray
            and found.dtype == np.float32
            and found.flags.c_contiguous
            and found.flags.writeable
            and np.array_equal(found, self.floor(texts))
        ):
            raise AssertionError("other vectors than those that were stored, or another array")


def remove(folder: Path) -> None:
    """Delete a store, and have what is still on its way to the disk written: the next one is not
    to wait for it."""
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()


def bytes_on_disk(folder: Path) -> int:
    """What a store takes, in bytes."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*"))
