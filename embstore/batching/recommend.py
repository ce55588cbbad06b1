"""Which batch size to use for what, chosen from what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from embstore.batching.timings import BatchTiming
from embstore.errors import EmbstoreError

Goal = Literal["throughput", "latency", "balanced"]
GOALS: tuple[Goal, ...] = get_args(Goal)

_LEAST_NOISE, _MOST_NOISE = 0.02, 0.10
"""Times closer than the one are never told apart; farther than the other, always. However much the
rounds disagree, a size is not worth a tenth of the throughput for being smaller."""


class BudgetError(EmbstoreError, ValueError):
    """No batch size that was measured keeps within the budget."""


@dataclass(frozen=True)
class Recommendation:
    """A batch size, and why; ``str()`` is the reason.

    Attributes:
        goal: what it was chosen for.
        batch_size: texts in a batch.
        throughput: what it reaches, in texts per second.
        p95_ms: how long 95 % of its batches take at most, in milliseconds.
        reason: why this one, in a sentence.
    """

    goal: Goal
    batch_size: int
    throughput: float
    p95_ms: float
    reason: str

    def __str__(self) -> str:
        return self.reason


def recommend(
    timings: Sequence[BatchTiming], goal: Goal, *, budget_ms: float | None = None
) -> Recommendation:
    """Choose a batch size.

    - ``"throughput"``: the smallest within noise of the fastest. Two sizes are compared by the
      ratio of their times in each round, so that drift from round to round cancels. One is within
      noise if the median ratio is above 1 by no more than the ratios' median absolute deviation,
      which counts as 2 % if it is less, and as 10 % if it is more.
    - ``"latency"``: the largest whose 95th percentile is within ``budget_ms``.
    - ``"balanced"``: the knee of throughput over the 95th percentile's logarithm, beyond which
      latency is doubled for little throughput. It is the point farthest above the diagonal when
      both axes are scaled to 0 to 1 (Satopaa et al., "Finding a 'Kneedle' in a Haystack", 2011).
      Logarithms, as batch sizes grow by factors: a very large one that was measured too would
      otherwise make all others look equally quick.

    Args:
        timings: one for each batch size, of the same rounds.
        goal: one of these three.
        budget_ms: what a batch may take, in milliseconds; only ``"latency"`` looks at it.

    Raises:
        ValueError: for another goal, or if latency has no positive budget.
        BudgetError: a ValueError too, if no size keeps within the budget.
    """
    if goal not in GOALS:
        raise ValueError(f'goal is "throughput", "latency" or "balanced", not {goal!r}')
    timings = sorted(timings, key=lambda timing: timing.batch_size)
    if goal == "throughput":
        chosen, reason = _smallest_of_the_fastest(timings)
    elif goal == "balanced":
        chosen, reason = _knee(timings)
    elif budget_ms is not None and budget_ms > 0:
        chosen, reason = _largest_within(timings, budget_ms)
    else:
        raise ValueError(f'"latency" needs budget_ms, a time above 0, not {budget_ms!r}')
    return Recommendation(goal, chosen.batch_size, chosen.throughput, chosen.p95_ms, reason)


def recommend_each(
    timings: Sequence[BatchTiming], goals: Sequence[Goal], *, budget_ms: float
) -> dict[Goal, Recommendation]:
    """As :func:`recommend`, for several goals; latency is left out if no size fits the budget."""
    found = {}
    for goal in goals:
        try:
            found[goal] = recommend(timings, goal, budget_ms=budget_ms)
        except BudgetError:
            continue
    return found


def _smallest_of_the_fastest(timings: Sequence[BatchTiming]) -> tuple[BatchTiming, str]:
    best = _fastest(timings)
    chosen = next(timing for timing in timings if _within_noise(timing, best))
    speed = f"{chosen.throughput:,.0f} texts/s"
    if chosen is not best:
        return chosen, (
            f"Batch size {chosen.batch_size} computes {speed}, within noise of the most that was "
            f"measured, {best.throughput:,.0f} texts/s with {best.batch_size}."
        )
    if best is timings[0]:
        return best, f"Batch size {best.batch_size} computes {speed}, and no larger one more."
    return best, f"Batch size {best.batch_size} computes {speed}; smaller ones clearly less."


def _within_noise(timing: BatchTiming, best: BatchTiming) -> bool:
    ratios = [
        mine / its for mine, its in zip(timing.round_seconds, best.round_seconds, strict=True)
    ]
    middle = statistics.median(ratios)
    deviation = statistics.median(abs(ratio - middle) for ratio in ratios)
    return middle <= 1 + min(max(deviation, _LEAST_NOISE), _MOST_NOISE)


def _largest_within(timings: Sequence[BatchTiming], budget_ms: float) -> tuple[BatchTiming, str]:
    within = [timing for timing in timings if timing.p95_ms <= budget_ms]
    if not within:
        smallest = timings[0]
        raise BudgetError(
            f"no batch size keeps within {budget_ms:g} ms: of {smallest.batch_size}, the smallest "
            f"measured, 95 % of the batches take up to {smallest.p95_ms:,.1f} ms. Try smaller "
            "sizes, shorter texts, a smaller model or a faster device"
        )
    chosen = within[-1]
    return chosen, (
        f"Batch size {chosen.batch_size} is the largest that keeps within {budget_ms:g} ms: "
        f"95 % of its batches take at most {chosen.p95_ms:,.1f} ms."
    )


def _knee(timings: Sequence[BatchTiming]) -> tuple[BatchTiming, str]:
    latencies = _scaled([math.log(timing.p95_ms) for timing in timings])
    throughputs = _scaled([timing.throughput for timing in timings])
    heights = [high - far for high, far in zip(throughputs, latencies, strict=True)]
    chosen, best = timings[heights.index(max(heights))], _fastest(timings)
    if chosen is best:
        return best, (
            f"Batch size {best.batch_size} has the highest throughput, {best.throughput:,.0f} "
            "texts/s, and none gains as much for its latency."
        )
    share = 100 * chosen.throughput / best.throughput
    return chosen, (
        f"Batch size {chosen.batch_size} is the knee: it has {share:.0f} % of the highest "
        f"throughput, and 95 % of its batches take at most {chosen.p95_ms:,.1f} ms, of "
        f"{best.batch_size} {best.p95_ms:,.1f} ms."
    )


def _fastest(timings: Sequence[BatchTiming]) -> BatchTiming:
    return max(timings, key=lambda timing: timing.throughput)


def _scaled(values: Sequence[float]) -> list[float]:
    """The values on a scale on which the least is 0 and the most 1; all 0 if they are equal."""
    least, most = min(values), max(values)
    return [(value - least) / (most - least) if most > least else 0.0 for value in values]
