"""With and without a cache: what is computed, by whom, and how it is told."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embstore import CachedEncoder
from embstore.batching import CacheBenchmark, cache_benchmark
from embstore.batching.cache_benchmarks import notebook_texts
from embstore.batching.impacts import SHARES, WAYS, Impact, impact, repeating
from embstore.batching.phases import COLD, NEW_PROCESS, NO_CACHE, PHASES, WARM, WHOLE_PROCESS
from embstore.errors import EmbstoreError, ModelOutputError

REPEATED = ["a cat", "a dog", "a cat", "a bird", "a cat"]


def lengths(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in texts]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories are made, empty."""
    made = tmp_path / "temporary"
    made.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(made))
    return made


@pytest.fixture(scope="module")
def measured(model_path: str, texts: list[str]) -> CacheBenchmark:
    """Two small lists of texts, with the real model and real processes."""
    lists = {"few": REPEATED, "paragraphs": texts[:12] + texts[:3]}
    return cache_benchmark(model_path, lists, rounds=2, model_name="all-MiniLM-L6-v2")


class TestCacheBenchmark:
    def test_every_phase_computes_what_it_should(self, measured: CacheBenchmark) -> None:
        assert [(run.name, run.texts, run.distinct) for run in measured.runs] == [
            ("few", 5, 3),
            ("paragraphs", 15, 12),
        ]
        for run in measured.runs:
            n, distinct = run.texts, run.distinct
            counts = {each.name: (each.hits, each.misses) for each in run.phases}
            assert tuple(counts) == PHASES
            assert counts[NO_CACHE] == (0, n)
            assert counts[COLD] == (n - distinct, distinct)
            assert counts[WARM] == counts[NEW_PROCESS] == counts[WHOLE_PROCESS] == (n, 0)
            assert [each.deduplicated for each in run.phases] == [0] + [n - distinct] * 4
            assert run.phase(COLD).hit_rate == (n - distinct) / n
            assert all(len(each.seconds) == 2 for each in run.phases)

    def test_the_vectors_are_right(self, measured: CacheBenchmark) -> None:
        for run in measured.runs:
            assert run.same_bits
            assert run.largest_difference < 1e-6

    def test_the_new_process_needs_no_torch_and_is_timed_from_start_to_end(
        self, measured: CacheBenchmark
    ) -> None:
        assert measured.left_out is None
        assert measured.load_seconds is not None
        for run in measured.runs:
            assert run.torch_imported is False
            calls, whole = run.phase(NEW_PROCESS).seconds, run.phase(WHOLE_PROCESS).seconds
            assert all(call < process for call, process in zip(calls, whole, strict=True))

    def test_json_and_back(self, measured: CacheBenchmark) -> None:
        assert CacheBenchmark.from_json(measured.to_json()) == measured

    @pytest.mark.parametrize("document", ["[]", "{}", '{"runs": [1]}', "no JSON"])
    def test_what_is_no_benchmark_is_refused(self, document: str) -> None:
        with pytest.raises(ValueError, match=r"no cache benchmark|Expecting value"):
            CacheBenchmark.from_json(document)

    def test_how_it_is_shown(self, measured: CacheBenchmark, tmp_path: Path) -> None:
        assert len(measured.to_pandas()) == 2 * 5 * 2
        text = str(measured.section())
        assert "few: warm, new process" in text
        assert "a new process computes 0 texts and does not import torch" in text
        measured.plot(tmp_path / "bars.png")
        measured.plot(tmp_path / "bars.svg")
        assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / "bars.svg").read_text()

    def test_a_loaded_model_is_not_measured_in_a_new_process(self, static: Any) -> None:
        for model in (static, CachedEncoder(static)):
            measured = cache_benchmark(model, REPEATED, rounds=1)
            [run] = measured.runs
            assert [phase.name for phase in run.phases] == [NO_CACHE, COLD, WARM]
            assert run.torch_imported is None
            assert measured.load_seconds is None
            assert "was given loaded" in str(measured.section())
            assert CacheBenchmark.from_json(measured.to_json()) == measured

    def test_without_texts_it_is_the_notebooks_data(self, static: Any) -> None:
        [run] = cache_benchmark(static, rounds=1).runs
        assert (run.texts, run.distinct) == (500, 420)
        assert notebook_texts()[105] == notebook_texts()[5]

    def test_a_cold_cache_is_emptied_in_every_round(self) -> None:
        computed: list[str] = []

        def model(texts: list[str]) -> list[list[float]]:
            computed.extend(texts)
            return lengths(texts)

        cache_benchmark(model, REPEATED, rounds=3, model_name="lengths")
        # The warm-up computes all, then each distinct one; and so does each round.
        assert len(computed) == 4 * (5 + 3)

    def test_wrong_vectors_are_reported(self) -> None:
        calls = iter(range(100))

        def drifting(texts: list[str]) -> list[list[float]]:
            return [[10.0 + next(calls), 0.0] for _ in texts]

        [run] = cache_benchmark(drifting, ["a"], rounds=1, model_name="drifting").runs
        assert run.largest_difference == pytest.approx(1 / 12)  # 10, 11, then 12 and 13
        assert run.same_bits

    def test_nothing_stays_behind(self, folder: Path, static: Any) -> None:
        cache_benchmark(static, REPEATED, rounds=1)
        impact(static, REPEATED, rounds=1)
        assert list(folder.iterdir()) == []

    def test_nothing_stays_behind_a_model_that_raises(self, folder: Path) -> None:
        def model(texts: list[str]) -> list[list[float]]:
            assert len(list(folder.iterdir())) == 1
            return lengths(texts[1:])

        with pytest.raises(ModelOutputError):
            cache_benchmark(model, REPEATED, model_name="short")
        with pytest.raises(ModelOutputError):
            impact(model, REPEATED, model_name="short")
        assert list(folder.iterdir()) == []

    def test_a_new_process_that_fails_is_an_error(
        self, folder: Path, model_path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.executable", "/bin/false")
        with pytest.raises(EmbstoreError, match="exit code 1"):
            cache_benchmark(model_path, REPEATED, rounds=1)
        assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def table(static: Any, texts: list[str]) -> Impact:
    """Forty paragraphs, with a fast model."""
    return impact(static, texts, rounds=2, call_texts=8)


class TestImpact:
    def test_the_shares_are_exact(self, table: Impact) -> None:
        assert [(row.share, row.texts, row.distinct) for row in table.rows] == [
            (0.0, 40, 40),
            (0.2, 40, 32),
            (0.8, 40, 8),
        ]

    def test_every_way_computes_what_it_should(self, table: Impact) -> None:
        for row in table.rows:
            assert tuple(way.name for way in row.ways) == WAYS
            assert [way.misses for way in row.ways] == [40, 40, row.distinct, 0]
            assert [way.hits for way in row.ways] == [0, 0, 40 - row.distinct, 40]
            assert all(len(way.seconds) == 2 for way in row.ways)

    def test_the_store_answers_and_not_only_the_call(self, table: Impact) -> None:
        caching = table.rows[-1].ways[2]
        assert caching.hits > caching.deduplicated > 0

    def test_json_and_back(self, table: Impact) -> None:
        assert Impact.from_json(table.to_json()) == table
        with pytest.raises(ValueError, match="no impact table"):
            Impact.from_json('{"rows": [{}]}')

    def test_how_it_is_shown(self, table: Impact, tmp_path: Path) -> None:
        assert len(table.to_pandas()) == len(SHARES) * len(WAYS) * 2
        assert "80% repeats: against one text a call" in str(table.section())
        table.plot(tmp_path / "bars.png")
        assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8])
    def test_repeating(self, texts: list[str], share: float) -> None:
        mixed = repeating(texts, share)
        assert mixed == repeating(texts, share)
        assert len(mixed) == 40
        assert set(mixed) <= set(texts)
        assert 1 - len(set(mixed)) / 40 == pytest.approx(share)

    @pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
    def test_a_share_that_is_none(self, share: float) -> None:
        with pytest.raises(ValueError, match="share of repeats"):
            repeating(["a", "b"], share)


@pytest.mark.parametrize("measure", [cache_benchmark, impact])
class TestArguments:
    def test_one_text_is_no_list(self, measure: Callable[..., object]) -> None:
        with pytest.raises(TypeError, match="not one text"):
            measure(lengths, "a text", model_name="lengths")

    def test_nothing_to_measure(self, measure: Callable[..., object]) -> None:
        with pytest.raises(ValueError, match="no text"):
            measure(lengths, [], model_name="lengths")
        with pytest.raises(ValueError, match="rounds"):
            measure(lengths, ["a"], rounds=0, model_name="lengths")

    def test_a_function_needs_a_name(self, measure: Callable[..., object]) -> None:
        with pytest.raises(ValueError, match="model_name"):
            measure(lengths, ["a"])


def test_functions_get_batches_of_32() -> None:
    sizes = []

    def model(texts: list[str]) -> np.ndarray:
        sizes.append(len(texts))
        return np.ones((len(texts), 2), np.float32)

    impact(model, [str(number) for number in range(70)], (0.0,), rounds=1, model_name="ones")
    assert max(sizes) == 32
