"""Batch sizes: tried on a user's own texts, decided by time alone, and kept."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embstore import CachedEncoder, EmbeddingStore, tuning
from embstore.share import Work
from embstore.token_batches import BatchLimit
from embstore.tuning import Place, Plan, TunedPlan, Tuner, texts_for_trials

PLACE = Place(key=b"0123456789abcdef", unit="tokens", start=2048, most=8192, longest=256)
TEXTS = ["word " * (1 + number % 50) for number in range(20_000)]
LONGEST_FIRST = sorted(range(len(TEXTS)), key=lambda position: -len(TEXTS[position]))


def run(
    plan: Plan, seconds: Callable[[int, int], float] = lambda size, characters: characters / 1000
) -> list[tuple[list[int], BatchLimit]]:
    """Go through a plan on a machine that takes so many seconds for characters in a batch size."""
    chunks = []
    for chunk, limit in plan:
        chunks.append((chunk, limit))
        plan.took(seconds(limit.size, sum(len(TEXTS[position]) for position in chunk)))
    return chunks


def best_at(best: int, slope: float = 0.1) -> Callable[[int, int], float]:
    """A machine that is fastest with batches of one size."""
    return lambda size, characters: characters * (1 + slope * abs(np.log2(size / best))) / 1000


class TestFixed:
    @given(st.integers(0, 1000), st.integers(1, 500), st.integers(1, 500))
    def test_whole_batches_in_order(self, count: int, size: int, texts: int) -> None:
        chunks = [
            chunk for chunk, _ in run(Plan(Work([*range(count)]), BatchLimit(size, "texts"), texts))
        ]
        assert [*itertools.chain(*chunks)] == [*range(count)]
        for chunk in chunks[:-1]:
            assert len(chunk) % size == 0
            assert len(chunk) <= max(size, texts)

    def test_large_budgets_have_larger_chunks(self) -> None:
        chunks = [
            chunk for chunk, _ in run(Plan(Work([*range(10_000)]), BatchLimit(65_536, "tokens")))
        ]
        assert len(chunks[0]) == 1024


class TestTrials:
    @pytest.mark.parametrize("best", [256, 512, 1024, 2048, 4096, 8192])
    def test_find_the_fastest(self, store: EmbeddingStore, best: int) -> None:
        tuner = Tuner(store)
        # Several calls: one may not have the texts for all of the way.
        for _ in range(4):
            run(TunedPlan(tuner, PLACE, Work(LONGEST_FIRST), TEXTS), best_at(best))
        tuned = tuner.recall(PLACE)
        assert tuned.settled
        assert tuned.size == best

    @given(count=st.integers(0, 20_000), best=st.sampled_from([512, 2048, 8192]))
    def test_every_text_is_computed_once(self, count: int, best: int) -> None:
        positions = LONGEST_FIRST[:count]
        chunks = run(TunedPlan(Tuner(NOWHERE), PLACE, Work(positions), TEXTS), best_at(best))
        assert Counter(itertools.chain(*(chunk for chunk, _ in chunks))) == Counter(positions)

    def test_take_a_bounded_share_of_the_texts(self, store: EmbeddingStore) -> None:
        chunks = run(TunedPlan(Tuner(store), PLACE, Work(LONGEST_FIRST), TEXTS), best_at(2048))
        other = [len(chunk) for chunk, limit in chunks if limit.size != 2048]
        assert 0 < sum(other) < len(TEXTS) / 4
        assert {limit.size for _, limit in chunks} == {1024, 2048, 4096}

    def test_are_of_all_lengths_alike(self, store: EmbeddingStore) -> None:
        chunks = run(TunedPlan(Tuner(store), PLACE, Work(LONGEST_FIRST), TEXTS), best_at(2048))
        trials = [chunk for chunk, _ in chunks][:10]
        means = [np.mean([len(TEXTS[position]) for position in chunk]) for chunk in trials]
        assert max(means) < 1.05 * min(means)

    def test_are_left_out_where_texts_are_few(self, store: EmbeddingStore) -> None:
        tuner = Tuner(store)
        chunks = run(TunedPlan(tuner, PLACE, Work(LONGEST_FIRST[-500:]), TEXTS), best_at(512))
        assert {limit.size for _, limit in chunks} == {2048}
        assert not tuner.recall(PLACE).settled

    @pytest.mark.parametrize("words", [6, 12, 40, 400])
    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_how_many_texts_they_need(
        self, store: EmbeddingStore, minilm: Any, device: str, words: int
    ) -> None:
        texts = ["word " * words] * 60_000
        place = Place.of(minilm, CachedEncoder(minilm, store)._model.profile(), device)
        needed = texts_for_trials(texts[:100], device=device, max_seq_length=256)
        for count, tries in ((needed, True), (int(0.95 * needed), False)):
            sizes = set()
            plan = TunedPlan(Tuner(NOWHERE), place, Work([*range(count)]), texts)
            for chunk, limit in itertools.islice(plan, 3):
                plan.took(float(len(chunk)))
                sizes.add(limit.size)
            assert (sizes > {place.start}) is tries

    def test_how_many_texts_they_need_where_texts_are_counted(self) -> None:
        assert texts_for_trials(["any"], max_seq_length=None) == 4 * 10 * 1024

    def test_few_texts_that_are_very_long(self, store: EmbeddingStore) -> None:
        long = Place(key=bytes(16), unit="tokens", start=2048, most=262_144, longest=8192)
        texts = ["word " * 8000] * 40
        chunks = [
            chunk for chunk, _ in run(TunedPlan(Tuner(store), long, Work([*range(40)]), texts))
        ]
        assert sorted(itertools.chain(*chunks)) == [*range(40)]
        assert all(chunks)

    def test_end_early_for_what_is_clearly_slow(self, store: EmbeddingStore) -> None:
        chunks = run(
            TunedPlan(Tuner(store), PLACE, Work(LONGEST_FIRST), TEXTS), best_at(2048, slope=1)
        )
        assert Counter(limit.size for _, limit in chunks)[4096] == 1

    def test_small_differences_change_nothing(self, store: EmbeddingStore) -> None:
        tuner = Tuner(store)
        run(TunedPlan(tuner, PLACE, Work(LONGEST_FIRST), TEXTS), best_at(4096, slope=0.02))
        assert (tuner.recall(PLACE).size, tuner.recall(PLACE).settled) == (2048, True)

    def test_one_slow_moment_decides_nothing(self, store: EmbeddingStore) -> None:
        tuner, turn = Tuner(store), itertools.count()

        def seconds(size: int, characters: int) -> float:
            return best_at(2048)(size, characters) * (1.1 if next(turn) == 2 else 1)

        run(TunedPlan(tuner, PLACE, Work(LONGEST_FIRST), TEXTS), seconds)
        assert tuner.recall(PLACE).size == 2048

    def test_never_leave_the_bounds(self, store: EmbeddingStore) -> None:
        small = Place(key=bytes(16), unit="tokens", start=256, most=256, longest=8)
        chunks = run(TunedPlan(Tuner(store), small, Work(LONGEST_FIRST), TEXTS), best_at(8192))
        assert {limit.size for _, limit in chunks} == {256}
        assert Tuner(store).recall(small).settled


class TestKept:
    def test_in_the_store(
        self, store: EmbeddingStore, reopened: Callable[..., EmbeddingStore]
    ) -> None:
        run(TunedPlan(Tuner(store), PLACE, Work(LONGEST_FIRST), TEXTS), best_at(2048))
        chunks = run(TunedPlan(Tuner(reopened()), PLACE, Work(LONGEST_FIRST), TEXTS), best_at(512))
        assert {limit.size for _, limit in chunks} == {2048}

    def test_in_this_process_where_the_store_cannot(self) -> None:
        tuner = Tuner(NOWHERE)
        run(TunedPlan(tuner, PLACE, Work(LONGEST_FIRST), TEXTS), best_at(2048))
        assert tuner.recall(PLACE).settled

    @pytest.mark.parametrize(
        "found",
        [
            {},
            {"size": 10**12, "settled": True},
            {"size": 0, "settled": True},
            {"size": -2048, "settled": True},
            {"size": "2048", "settled": True},
            {"size": None},
            {"size": 4096.5, "settled": True},
        ],
    )
    def test_nonsense_is_not_believed(self, store: EmbeddingStore, found: dict[str, Any]) -> None:
        store.put_identity(PLACE.key, found)
        tuned = Tuner(store).recall(PLACE)
        assert (tuned.size, tuned.settled) == (2048, False)


class TestRealModels:
    def test_static_embeddings_are_tuned_by_texts(
        self,
        static: Any,
        paragraphs: list[str],
        store: EmbeddingStore,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(tuning._START, "texts", 128)  # from 512 it takes twice as many texts
        texts = paragraphs
        encoder = CachedEncoder(static, store)
        vectors = encoder.encode(texts)
        place = Place.of(static, encoder._model.profile(), None)
        assert (place.unit, place.start) == ("texts", 128)
        assert store.get_identity(place.key) is not None
        assert encoder.stats().misses == len(set(texts))
        assert np.abs(vectors - static.encode(texts)).max() < 1e-6

    def test_a_transformer_is_tuned_by_tokens(
        self, minilm: Any, store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Small batches, that a few texts are enough for.
        monkeypatch.setitem(tuning._START, "cpu", 256)
        texts = [f"text number {number}" for number in range(2800)]
        encoder = CachedEncoder(minilm, store)
        vectors = encoder.encode(texts)
        place = Place.of(minilm, encoder._model.profile(), None)
        assert place.most == 32 * 256
        found = store.get_identity(place.key)
        assert found is not None
        assert set(found["speeds"]) == {"256", "512"}
        assert found["speeds"]["256"] == 1
        assert np.abs(vectors[::100] - minilm.encode(texts[::100])).max() < 1e-6

    def test_places(self, minilm: Any, own_minilm: Any, store: EmbeddingStore) -> None:
        profile = CachedEncoder(minilm, store)._model.profile()
        place = Place.of(minilm, profile, None)
        assert Place.of(minilm, profile, "cpu") == place
        own_minilm.max_seq_length = 100
        other = Place.of(own_minilm, CachedEncoder(own_minilm, store)._model.profile(), None)
        assert other.key != place.key
        assert other.most == 3200


class _Nowhere:
    """Remembers nothing, as a store that cannot be opened."""

    def get_identity(self, key: bytes) -> None:
        return None

    def put_identity(self, key: bytes, value: dict[str, Any]) -> None:
        pass


NOWHERE: Any = _Nowhere()
