"""Timing a model with batches of several sizes, so that the machine's drift favours none."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from embstore.batching.peak_memory import peak_memory


@dataclass(frozen=True)
class BatchTiming:
    """What was measured with one batch size.

    Attributes:
        batch_size: texts in a batch.
        texts: texts computed in each round.
        round_seconds: what they took, in seconds; one figure for each round.
        batches: number of full batches behind the latencies, of all rounds.
        mean_ms: mean latency of a full batch, in milliseconds; so are the others:
        p50_ms: their median;
        p95_ms: 95 % took no longer;
        p99_ms: 99 % took no longer. Of fewer than a hundred batches it is close to the slowest.
        peak_bytes: memory that a batch needs at its peak, above that of the loaded model, in bytes;
            None where it cannot be measured.
    """

    batch_size: int
    texts: int
    round_seconds: tuple[float, ...]
    batches: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    peak_bytes: int | None = None

    @property
    def seconds(self) -> float:
        """What all texts took, in seconds: the median over the rounds."""
        return statistics.median(self.round_seconds)

    @property
    def throughput(self) -> float:
        """Texts per second, from that median."""
        return self.texts / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """All figures by name, the derived ones included; JSON can hold them."""
        return {
            **asdict(self),
            "seconds": self.seconds,
            "fastest_seconds": min(self.round_seconds),
            "slowest_seconds": max(self.round_seconds),
            "texts_per_second": self.throughput,
        }

    @classmethod
    def from_dict(cls, figures: Mapping[str, Any]) -> BatchTiming:
        """The timing that :meth:`to_dict` was called on; KeyError if a figure is missing."""
        own = {field.name: figures[field.name] for field in fields(cls)}
        return cls(**{**own, "round_seconds": tuple(own["round_seconds"])})


def measure(
    compute: Callable[[list[str]], Any],
    texts: Sequence[str],
    batch_sizes: Sequence[int],
    rounds: int,
    *,
    device: str | None = None,
    progressed: Callable[[int], object] = lambda texts: None,
) -> list[BatchTiming]:
    """Time ``compute`` on all texts, with each batch size in each round.

    Each size first computes one batch untimed, smallest size first, which is when its peak memory
    is taken. In a round all sizes go through the texts together, as many at a time as the largest
    batch holds, and every other time in the opposite order: a machine that gets slower while it is
    measured slows them all.

    Args:
        compute: embeds one batch, and returns when that is done.
        texts: at least as many as the largest size, longest first.
        batch_sizes: distinct and ascending.
        rounds: at least 1.
        device: of torch's, whose memory is measured; None is this process.
        progressed: called with a number of texts when so many more are computed.
    """
    compute([texts[0]])  # what is made once, at the first call, is no batch's
    memory = peak_memory(device)
    peaks = []
    for size in batch_sizes:
        if memory is not None:
            memory.reset()
        compute(list(texts[:size]))
        peaks.append(None if memory is None else memory.peak())
        progressed(size)

    passes = [
        _one_round(compute, texts, batch_sizes[:: 1 if number % 2 == 0 else -1], progressed)
        for number in range(rounds)
    ]
    return [
        _timing(size, len(texts), [took[size] for took in passes], peak)
        for size, peak in zip(batch_sizes, peaks, strict=True)
    ]


def _one_round(
    compute: Callable[[list[str]], Any],
    texts: Sequence[str],
    batch_sizes: Sequence[int],
    progressed: Callable[[int], object],
) -> dict[int, list[float]]:
    """What each batch took, in seconds, by batch size."""
    took: dict[int, list[float]] = {size: [] for size in batch_sizes}
    done = dict.fromkeys(batch_sizes, 0)
    order = list(batch_sizes)
    stride = max(batch_sizes)
    for milestone in range(stride, len(texts) + stride, stride):
        for size in order:
            while done[size] < min(milestone, len(texts)):
                batch = list(texts[done[size] : done[size] + size])
                began = time.perf_counter()
                compute(batch)
                took[size].append(time.perf_counter() - began)
                done[size] += len(batch)
                progressed(len(batch))
        order.reverse()
    return took


def _timing(
    size: int, texts: int, rounds: Sequence[Sequence[float]], peak: int | None
) -> BatchTiming:
    full = [1000 * seconds for took in rounds for seconds in took[: texts // size]]
    p50, p95, p99 = np.percentile(full, (50, 95, 99)).tolist()
    return BatchTiming(
        batch_size=size,
        texts=texts,
        round_seconds=tuple(map(sum, rounds)),
        batches=len(full),
        mean_ms=statistics.fmean(full),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        peak_bytes=peak,
    )
