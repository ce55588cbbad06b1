"""What must be in a store, whatever happened to those who wrote it."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from embstore import EmbeddingStore, Namespace
from tests.helpers import vectors_of

LAYOUTS = {
    Namespace("wide"): (64, "float32"),
    Namespace("narrow"): (8, "float32"),
    Namespace("half"): (3, "float16"),
}
"""The namespaces of the trials, each with its dim and dtype."""

_UNSURE, _STORED, _DELETED = b"\0", b"\1", b"\2"


@dataclass
class Faults:
    """What a store got wrong.

    Attributes:
        lost: texts whose storing was acknowledged, and that are not found.
        back: texts whose deletion was acknowledged, and that are found.
        wrong: vectors that are not their text's.
    """

    lost: int = 0
    back: int = 0
    wrong: int = 0

    def __iadd__(self, other: Faults) -> Faults:
        self.lost += other.lost
        self.back += other.back
        self.wrong += other.wrong
        return self

    def sentences(self) -> list[str]:
        """A sentence for each kind of fault that there was."""
        found = {
            "acknowledged rows were lost": self.lost,
            "deleted rows were found": self.back,
            "wrong vectors were returned": self.wrong,
        }
        return [f"{count} {what}" for what, count in found.items() if count]


class Known:
    """What one writer was told about its numbered texts, in each namespace.

    Args:
        writer: tells apart the texts of several writers.
    """

    def __init__(self, writer: int) -> None:
        self._writer = writer
        self._states = {namespace: bytearray() for namespace in LAYOUTS}

    def text(self, number: int) -> str:
        """A text of this writer."""
        return f"{self._writer}: text {number}"

    def texts(self, first: int, count: int) -> list[str]:
        """Texts of this writer, numbered from ``first`` on."""
        return [self.text(number) for number in range(first, first + count)]

    def reached(self, namespace: Namespace) -> int:
        """The number of the first text that nobody has acknowledged."""
        return len(self._states[namespace])

    def stored(self, namespace: Namespace, first: int, count: int) -> None:
        """A put has returned."""
        self._states[namespace][first : first + count] = _STORED * count

    def deleting(self, namespace: Namespace, first: int, count: int) -> None:
        """A deletion begins."""
        self._states[namespace][first : first + count] = _UNSURE * count

    def deleted(self, namespace: Namespace, first: int, count: int) -> None:
        """A deletion has returned."""
        self._states[namespace][first : first + count] = _DELETED * count

    def count(self) -> int:
        """How many texts must be there."""
        return sum(state.count(_STORED) for state in self._states.values())

    def check_recent(self, store: EmbeddingStore, rng: random.Random, count: int) -> Faults:
        """Check the last ``count`` texts of each namespace, as many that were perhaps stored after
        them, and some of all the others."""
        faults = Faults()
        for namespace, state in self._states.items():
            first = max(0, len(state) - count)
            sample = rng.sample(range(first), min(first, count // 4))
            faults += self._check(store, namespace, [*sample, *range(first, len(state) + count)])
        return faults

    def check_all(self, store: EmbeddingStore) -> Faults:
        """Check every text."""
        faults = Faults()
        for namespace, state in self._states.items():
            for first in range(0, len(state) + 1000, 10_000):
                last = min(first + 10_000, len(state) + 1000)
                faults += self._check(store, namespace, list(range(first, last)))
        return faults

    def _check(self, store: EmbeddingStore, namespace: Namespace, numbers: list[int]) -> Faults:
        texts = [self.text(number) for number in numbers]
        state = self._states[namespace]
        known = np.array([state[number] if number < len(state) else 0 for number in numbers])
        vectors, found = store.get_many(namespace, texts)
        return Faults(
            lost=int(np.count_nonzero((known == _STORED[0]) & ~found)),
            back=int(np.count_nonzero((known == _DELETED[0]) & found)),
            wrong=count_wrong(namespace, texts, vectors, found),
        )


def count_wrong(
    namespace: Namespace, texts: list[str], vectors: np.ndarray, found: np.ndarray
) -> int:
    """How many of the vectors found are not, bit for bit, those of their texts."""
    if not found.any():
        return 0
    places = np.flatnonzero(found)
    right = vectors_of(namespace, [texts[place] for place in places], *LAYOUTS[namespace])
    given = vectors[places]
    if (given.dtype, given.shape) != (right.dtype, right.shape):
        return len(places)
    return int(np.count_nonzero((given.view(np.uint8) != right.view(np.uint8)).any(axis=1)))


def verify(store: EmbeddingStore, *, half_deleted: bool = False) -> list[str]:
    """What verify() finds wrong, in sentences. That files of the dead lie about is not wrong, as
    long as compact() removes them. Nor is it, where writes are cut in two, that rows are
    ``half_deleted``: such a row is neither there nor gone, and verify() says so."""
    report = store.verify()
    store.compact()
    compacted = store.verify()
    problems = [f"verify: {report}"] if report.corrupt and not half_deleted else []
    return problems if compacted.ok else [*problems, f"verify after compact: {compacted}"]
