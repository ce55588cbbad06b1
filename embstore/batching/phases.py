"""The same texts without a cache, with a cold one, with a warm one, and in a new process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from embstore.backends.rows import Array
from embstore.batching.fresh import Call, call
from embstore.batching.subject import Subject

NO_CACHE = "no cache"
COLD = "cold cache"
WARM = "warm cache"
NEW_PROCESS = "warm, new process"
WHOLE_PROCESS = "whole new process"
PHASES = (NO_CACHE, COLD, WARM, NEW_PROCESS, WHOLE_PROCESS)

_WARM_UP = 64
"""The longest texts are computed first, untimed: memory touched for the first time is dear."""


@dataclass(frozen=True)
class Phase:
    """One way to embed a list of texts.

    Attributes:
        name: which.
        seconds: of each round: what ``encode()`` took or, in ``WHOLE_PROCESS``, the new process
            from its start to its end.
        hits: texts answered without computing.
        misses: texts computed.
        deduplicated: repeats in the call; they are hits.
    """

    name: str
    seconds: tuple[float, ...]
    hits: int
    misses: int
    deduplicated: int

    @classmethod
    def of(cls, name: str, call: Call) -> Phase:
        """One round of a phase: one call."""
        return cls(name, (call.seconds,), call.hits, call.misses, call.deduplicated)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Phase:
        """A phase from JSON, which knows no tuples."""
        return cls(**{**found, "seconds": tuple(found["seconds"])})

    @property
    def median(self) -> float:
        """Seconds of the middle round."""
        return statistics.median(self.seconds)

    @property
    def hit_rate(self) -> float:
        """Hits per text, 0 to 1."""
        return self.hits / (self.hits + self.misses)

    def speedup(self, baseline: Phase) -> float:
        """How many times as fast as another one: the median of the rounds' ratios."""
        pairs = zip(baseline.seconds, self.seconds, strict=True)
        return statistics.median(its / mine for its, mine in pairs)


@dataclass(frozen=True)
class CacheRun:
    """All phases on one list of texts.

    Attributes:
        name: of the texts.
        texts: how many.
        distinct: how many different ones.
        phases: in the order of ``PHASES``; the first three if there was no new process.
        same_bits: whether warm vectors were the cold ones bit for bit, in every phase and round.
        largest_difference: of a cold vector to the bare model's, as a part of the latter's length.
        torch_imported: whether a new process imported torch; None if there was none.
    """

    name: str
    texts: int
    distinct: int
    phases: tuple[Phase, ...]
    same_bits: bool
    largest_difference: float
    torch_imported: bool | None

    def phase(self, name: str) -> Phase:
        """The phase of this name.

        Raises:
            KeyError: if it was left out.
        """
        return {phase.name: phase for phase in self.phases}[name]

    def speedup(self, phase: Phase) -> float:
        """How many times as fast as without a cache."""
        return phase.speedup(self.phases[0])


def measure(
    name: str,
    texts: list[str],
    subject: Subject,
    rounds: int,
    progressed: Callable[[], object] = lambda: None,
) -> CacheRun:
    """Go through the phases, round by round, and check what they return.

    Args:
        name: of the texts.
        texts: at least one.
        subject: the model, and a store for it, which is emptied before each cold call.
        rounds: at least one.
        progressed: called after each round.
    """
    longest = sorted(texts, key=len)[-_WARM_UP:]
    subject.bare(longest)
    subject.encoder.encode(longest, show_progress_bar=False)
    done = []
    for _ in range(rounds):
        done.append(_round(texts, subject))
        progressed()
    fresh = [one.fresh for one in done if one.fresh is not None]
    return CacheRun(
        name=name,
        texts=len(texts),
        distinct=len(set(texts)),
        phases=merge([one.phases for one in done]),
        same_bits=all(one.same_bits for one in done),
        largest_difference=max(one.difference for one in done),
        torch_imported=any(call.torch_imported for call in fresh) if fresh else None,
    )


@dataclass(frozen=True)
class _Round:
    phases: list[Phase]
    fresh: Call | None
    same_bits: bool
    difference: float


def _round(texts: list[str], subject: Subject) -> _Round:
    started = time.perf_counter()
    bare = subject.bare(texts)
    seconds = time.perf_counter() - started
    subject.encoder.store.clear()
    cold, vectors = call(subject.encoder, texts)
    warm, _ = call(subject.encoder, texts)
    phases = [
        Phase(NO_CACHE, (seconds,), 0, len(texts), 0),
        Phase.of(COLD, cold),
        Phase.of(WARM, warm),
    ]
    fresh = None
    if subject.in_new_process is not None:
        fresh = subject.in_new_process(texts)
        whole = replace(fresh, seconds=fresh.process_seconds)
        phases += [Phase.of(NEW_PROCESS, fresh), Phase.of(WHOLE_PROCESS, whole)]
    return _Round(
        phases=phases,
        fresh=fresh,
        same_bits=all(each is None or each.sha256 == cold.sha256 for each in (warm, fresh)),
        difference=_largest_difference(vectors, bare),
    )


def merge(rounds: Sequence[Sequence[Phase]]) -> tuple[Phase, ...]:
    """Each phase with the seconds of all its rounds; what it counts is the same in each."""
    return tuple(
        replace(same[0], seconds=tuple(phase.seconds[0] for phase in same))
        for same in zip(*rounds, strict=True)
    )


def _largest_difference(vectors: Array, expected: Array) -> float:
    """Of a vector to the expected one, as a part of the latter's length: the largest of all."""
    exact = expected.astype(np.float64)
    lengths = np.maximum(np.linalg.norm(exact, axis=1), np.finfo(np.float64).tiny)
    return float((np.linalg.norm(vectors - exact, axis=1) / lengths).max())
