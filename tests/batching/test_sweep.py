"""Sweeps of the real model, of functions, and of what they leave out."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore
from embstore.batching import Sweep, sweep
from embstore.batching.peak_memory import peak_memory
from embstore.batching.sweeps import SENTENCES
from embstore.batching.timings import BatchTiming, measure
from embstore.errors import ModelOutputError
from tests.helpers import run_python


def lengths(texts: list[str]) -> list[list[float]]:
    return [[float(len(text))] for text in texts]


@pytest.fixture(scope="module")
def measured(minilm: Any) -> Sweep:
    return sweep(minilm, SENTENCES[:24], batch_sizes=(16, 1, 4), rounds=2)


class TestMinilm:
    def test_every_size_has_every_figure(self, measured: Sweep) -> None:
        assert [timing.batch_size for timing in measured.timings] == [1, 4, 16]
        assert [timing.batches for timing in measured.timings] == [48, 12, 2]
        assert measured.device == "cpu"
        assert {"cpu", "cores", "python", "torch", "torch threads"} <= measured.environment.keys()
        for timing in measured.timings:
            assert len(timing.round_seconds) == 2
            assert timing.texts == 24
            assert 0 < timing.p50_ms <= timing.p95_ms <= timing.p99_ms
            assert timing.throughput == pytest.approx(24 / timing.seconds)
            assert timing.mean_ms * timing.batches <= sum(timing.round_seconds) * 1000 * 1.001

    @pytest.mark.skipif(sys.platform != "linux", reason="peaks of a process: Linux only")
    def test_larger_batches_need_more_memory(self, minilm: Any) -> None:
        texts = ["word " * 100] * 16
        small, large = sweep(minilm, texts, batch_sizes=(1, 16), rounds=1).timings
        assert small.peak_bytes is not None
        assert large.peak_bytes is not None
        # Between the layers' two halves, a token is 4 times 384 float32.
        assert large.peak_bytes - small.peak_bytes > 16 * 100 * 4 * 384 * 4

    def test_the_table_is_markdown_that_lines_up(self, measured: Sweep) -> None:
        header, rule, *rows = measured.table().splitlines()
        assert "p95 ms" in header
        assert set(rule) <= set("|-: ")
        assert [row.split("|")[1].strip() for row in rows] == ["1", "4", "16"]
        assert len({len(line) for line in (header, rule, *rows)}) == 1
        assert measured._repr_html_().count("<tr>") == 4

    def test_json_brings_it_all_back(self, measured: Sweep) -> None:
        document = measured.to_json()
        assert Sweep.from_json(document) == measured
        assert Sweep.from_json(json.dumps({**json.loads(document), "later": 1})) == measured
        assert json.loads(document)["timings"][0]["texts_per_second"] > 0

    @pytest.mark.parametrize("document", ["", "[]", "{}", '{"timings": [{}]}', "null"])
    def test_json_of_something_else(self, document: str) -> None:
        with pytest.raises(ValueError, match=r"no sweep|Expecting value"):
            Sweep.from_json(document)

    def test_pandas_has_a_line_for_each_size(self, measured: Sweep) -> None:
        frame = measured.to_pandas()
        assert list(frame["batch_size"]) == [1, 4, 16]
        assert list(frame["texts_per_second"]) == [t.throughput for t in measured.timings]
        assert (frame["fastest_seconds"] <= frame["slowest_seconds"]).all()

    def test_there_is_a_conclusion_for_each_use(self, measured: Sweep) -> None:
        indexing, search, recommending, *_ = measured.conclusions(budget_ms=1e9)
        assert indexing.startswith("Document indexing (throughput): Batch size ")
        assert search.startswith("Search engines (latency): Batch size 16 ")
        assert recommending.startswith("Recommendation systems (balanced): Batch size ")
        assert measured.conclusions(["latency"], budget_ms=1e-3)[0] == (
            "Search engines (latency): No batch size keeps within 0.001 ms."
        )
        assert measured.recommend("latency", budget_ms=1e9).batch_size == 16

    def test_a_name_or_path_is_loaded(self, model_path: str) -> None:
        found = sweep(model_path, ["a", "b"], [2], 1, model_name="MiniLM", device="cpu")
        assert (found.model, found.device) == ("MiniLM", "cpu")

    def test_of_an_encoder_the_model_is_measured(self, static: Any, store: EmbeddingStore) -> None:
        texts = SENTENCES[:16]
        encoder = CachedEncoder(static, store)
        encoder.encode(texts)
        before = store.stats()
        found = sweep(encoder, texts, [8], 1)
        assert found.model == sweep(static, texts, [8], 1).model
        assert store.stats() == before


class TestFunction:
    def test_sees_whole_batches_longest_texts_first(self) -> None:
        calls: list[list[str]] = []

        def record(texts: list[str]) -> list[list[float]]:
            calls.append(texts)
            return lengths(texts)

        found = sweep(record, ["a", "ccc", "bb", "dddd"], batch_sizes=(2, 3, 2), rounds=2)
        assert (found.model, found.device) == ("record", None)
        two = [["dddd", "ccc"], ["bb", "a"]]
        three = [["dddd", "ccc", "bb"], ["a"]]
        assert calls[:4] == [["dddd"], ["dddd"], two[0], three[0]]  # checked, then warmed up
        # The sizes go on together, and take turns in being first.
        first = [*two, three[0], three[1]]
        second = [three[0], *two, three[1]]
        assert sorted(calls[4:8]) == sorted(first)
        assert sorted(calls[8:]) == sorted(second)
        assert calls[4] == two[0]
        assert calls[8] == three[0]
        assert [timing.batches for timing in found.timings] == [4, 2]

    def test_sizes_that_the_texts_do_not_fill_are_left_out(self) -> None:
        found = sweep(lengths, ["a"] * 8, rounds=1)
        assert [timing.batch_size for timing in found.timings] == [1, 4, 8]

    def test_by_default_embeds_a_thousand_sentences(self) -> None:
        found = sweep(lengths, batch_sizes=[256])
        assert (found.timings[0].texts, found.timings[0].batches) == (1000, 9)
        assert SENTENCES[7] == (
            "This is a sample sentence for benchmarking embeddings generation 7."
        )

    @pytest.mark.parametrize(
        "model,error", [(lambda texts: 3, ModelOutputError), (3, TypeError), (None, TypeError)]
    )
    def test_what_embeds_nothing_is_refused(self, model: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            sweep(model, ["a"], [1])

    def test_an_async_function_is_refused(self) -> None:
        async def embed(texts: list[str]) -> list[list[float]]:
            return lengths(texts)

        with pytest.raises(TypeError, match="async"):
            sweep(embed, ["a"], [1])


@pytest.mark.parametrize(
    "arguments,error",
    [
        ({"texts": "one text"}, TypeError),
        ({"texts": []}, ValueError),
        ({"batch_sizes": []}, ValueError),
        ({"batch_sizes": [0, 1]}, ValueError),
        ({"batch_sizes": [1001]}, ValueError),
        ({"rounds": 0}, ValueError),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        sweep(lengths, **arguments)


@pytest.mark.parametrize("slowest,warned", [(1.2, False), (1.3, True)])
def test_rounds_that_disagree_are_mentioned(slowest: float, warned: bool) -> None:
    timing = BatchTiming(8, 100, (1.0, slowest), 24, 9.0, 9.0, 9.0, 9.0)
    sentences = Sweep("m", None, {}, (timing,)).conclusions()
    assert any("1.3 times as long" in sentence for sentence in sentences) == warned


def test_a_machine_that_slows_down_slows_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def slower_and_slower(texts: list[str]) -> None:
        nonlocal now
        now += len(texts) * (1 + now / 100)

    monkeypatch.setattr("embstore.batching.timings.time.perf_counter", lambda: now)
    timings = measure(slower_and_slower, ["a"] * 64, [1, 2, 4, 8], rounds=4)
    seconds = [sum(timing.round_seconds) for timing in timings]
    assert max(seconds) / min(seconds) < 1.5 < now / 100


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of a process: Linux only")
def test_the_peak_is_forgotten_at_a_reset() -> None:
    memory = peak_memory("cpu")
    assert memory is not None
    memory.reset()
    assert memory.peak() < 2**24
    np.ones(2**23)  # 64 MiB, and gone
    assert memory.peak() > 2**25
    memory.reset()
    assert memory.peak() < 2**25
    assert peak_memory("mps") is None


def test_importing_it_loads_no_heavy_library() -> None:
    loaded = run_python("import embstore.batching, sys; print(*sys.modules)").split()
    assert "embstore.batching.sweeps" in loaded
    assert not {"torch", "sentence_transformers", "matplotlib", "pandas"} & set(loaded)


@pytest.mark.parametrize("library,call", [("pandas", "to_pandas()"), ("matplotlib", "figure()")])
def test_a_missing_library_is_told_with_its_extra(library: str, call: str) -> None:
    printed = run_python(
        f"""
import sys
sys.modules[{library!r}] = None
from embstore.batching import sweep
measured = sweep(lambda texts: [[1.0] for _ in texts], ["a"], [1], 1)
try:
    measured.{call}
except ImportError as error:
    print(error)
"""
    )
    assert "pip install 'embstore[bench]'" in printed
