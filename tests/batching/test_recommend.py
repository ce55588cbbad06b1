"""Recommendations from figures made by hand, whose right answers are known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embstore.batching.recommend import (
    GOALS,
    BudgetError,
    Goal,
    Recommendation,
    recommend,
    recommend_each,
)
from embstore.batching.timings import BatchTiming
from embstore.errors import EmbstoreError


def timing(size: int, *seconds: float, p95_ms: float = 10.0) -> BatchTiming:
    return BatchTiming(size, 1000, seconds, 30, p95_ms, p95_ms, p95_ms, p95_ms)


@st.composite
def sweeps(draw: st.DrawFn) -> list[BatchTiming]:
    rounds = draw(st.integers(1, 4))
    positive = st.floats(1e-6, 1e6)
    return [
        timing(size, *draw(st.tuples(*[positive] * rounds)), p95_ms=draw(positive))
        for size in draw(st.lists(st.integers(1, 512), min_size=1, max_size=8, unique=True))
    ]


class TestThroughput:
    def chosen(self, *timings: BatchTiming) -> int:
        return recommend(timings, "throughput").batch_size

    def test_the_fastest_if_it_is_so_clearly(self) -> None:
        assert self.chosen(timing(1, 9.0), timing(8, 3.0), timing(64, 2.0)) == 64
        assert self.chosen(timing(1, 2.0), timing(8, 3.0), timing(64, 9.0)) == 1

    def test_of_equals_the_smallest(self) -> None:
        assert self.chosen(timing(1, 9.0), timing(8, 2.0), timing(64, 2.0)) == 8

    @pytest.mark.parametrize("seconds,chosen", [(2.03, 8), (2.05, 64)])
    def test_two_percent_are_nothing(self, seconds: float, chosen: int) -> None:
        assert self.chosen(timing(8, seconds), timing(64, 2.0)) == chosen

    def test_rounds_that_disagree_widen_the_noise(self) -> None:
        # Median ratio 1.05 in both; around it 0.05, and then 0.01.
        best = timing(64, 2.0, 2.0, 2.0)
        assert self.chosen(timing(8, 2.0, 2.1, 2.2), best) == 8
        assert self.chosen(timing(8, 2.08, 2.1, 2.12), best) == 64

    def test_drift_that_slows_all_sizes_is_no_noise(self) -> None:
        # Rounds differ threefold, and yet one size is a twentieth slower in each of them.
        assert self.chosen(timing(8, 2.1, 4.2, 6.3), timing(64, 2.0, 4.0, 6.0)) == 64

    def test_one_round_gone_wrong_decides_nothing(self) -> None:
        assert self.chosen(timing(8, 3.0, 3.0, 3.0), timing(64, 2.0, 9.0, 2.0)) == 64

    def test_wild_rounds_do_not_excuse_a_tenth(self) -> None:
        assert self.chosen(timing(8, 1.0, 2.4, 6.0), timing(64, 2.0, 2.0, 2.0)) == 64

    @given(sweeps())
    def test_is_never_larger_than_the_fastest(self, timings: list[BatchTiming]) -> None:
        fastest = max(timings, key=lambda timing: (timing.throughput, -timing.batch_size))
        found = recommend(timings, "throughput")
        assert found.batch_size <= fastest.batch_size


class TestLatency:
    timings = (
        timing(1, 9.0, p95_ms=5.0),
        timing(8, 3.0, p95_ms=20.0),
        timing(64, 2.0, p95_ms=100.0),
    )

    @pytest.mark.parametrize("budget,chosen", [(5, 1), (19.9, 1), (20, 8), (1e9, 64)])
    def test_is_the_largest_within_the_budget(self, budget: float, chosen: int) -> None:
        assert recommend(self.timings, "latency", budget_ms=budget).batch_size == chosen

    def test_says_what_to_do_if_nothing_fits(self) -> None:
        with pytest.raises(BudgetError, match=r"within 4 ms.*of 1, .*up to 5\.0 ms.*smaller model"):
            recommend(self.timings, "latency", budget_ms=4)
        assert issubclass(BudgetError, ValueError)
        assert issubclass(BudgetError, EmbstoreError)

    @pytest.mark.parametrize("budget", [None, 0, -1.0, float("nan")])
    def test_needs_a_budget(self, budget: float | None) -> None:
        with pytest.raises(ValueError, match="needs budget_ms"):
            recommend(self.timings, "latency", budget_ms=budget)

    @given(sweeps(), st.floats(1e-6, 1e6))
    def test_keeps_within_it_and_no_larger_size_would(
        self, timings: list[BatchTiming], budget: float
    ) -> None:
        within = [timing for timing in timings if timing.p95_ms <= budget]
        try:
            found = recommend(timings, "latency", budget_ms=budget)
        except BudgetError:
            assert not within
        else:
            assert found.p95_ms <= budget
            assert found.batch_size == max(timing.batch_size for timing in within)


class TestBalanced:
    def chosen(self, *timings: BatchTiming) -> int:
        return recommend(timings, "balanced").batch_size

    def test_is_the_knee(self) -> None:
        # Throughputs 100, 300, 400, 410: from 8 on, each text/s more costs ever more latency.
        assert (
            self.chosen(
                timing(1, 10.0, p95_ms=10),
                timing(4, 1000 / 300, p95_ms=14),
                timing(8, 2.5, p95_ms=20),
                timing(64, 1000 / 410, p95_ms=150),
            )
            == 8
        )

    def test_latency_that_costs_nothing_buys_all_throughput(self) -> None:
        assert self.chosen(timing(1, 9.0), timing(8, 3.0), timing(64, 2.0)) == 64

    def test_throughput_that_is_always_the_same_is_worth_no_latency(self) -> None:
        assert self.chosen(*(timing(size, 2.0, p95_ms=2.0 * size) for size in (1, 8, 64))) == 1

    @given(sweeps())
    def test_no_other_size_is_both_faster_and_sooner(self, timings: list[BatchTiming]) -> None:
        found = recommend(timings, "balanced")
        assert not any(
            timing.throughput > found.throughput * (1 + 1e-9)
            and timing.p95_ms < found.p95_ms * (1 - 1e-9)
            for timing in timings
        )


@given(sweeps(), st.sampled_from(GOALS))
def test_what_is_recommended_was_measured(timings: list[BatchTiming], goal: Goal) -> None:
    found = recommend(timings, goal, budget_ms=1e9)
    [measured] = [timing for timing in timings if timing.batch_size == found.batch_size]
    assert (found.throughput, found.p95_ms) == (measured.throughput, measured.p95_ms)
    assert found == recommend(timings[::-1], goal, budget_ms=1e9)
    assert str(found) == found.reason
    assert found.reason.startswith(f"Batch size {found.batch_size} ")
    assert found.reason.endswith(".")


@pytest.mark.parametrize("goal", GOALS)
def test_the_only_size_is_best_for_everything(goal: Goal) -> None:
    found = recommend([timing(16, 2.0, 2.1)], goal, budget_ms=50)
    assert isinstance(found, Recommendation)
    assert (found.goal, found.batch_size) == (goal, 16)


def test_an_unknown_goal_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match='"throughput", "latency" or "balanced", not \'speed\''):
        recommend([timing(1, 1.0)], "speed")  # type: ignore[arg-type]


def test_several_goals_leave_out_what_nothing_fits() -> None:
    timings = [timing(1, 2.0, p95_ms=50)]
    assert list(recommend_each(timings, GOALS, budget_ms=50)) == list(GOALS)
    assert list(recommend_each(timings, GOALS, budget_ms=49)) == ["throughput", "balanced"]
