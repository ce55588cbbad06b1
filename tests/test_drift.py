"""Whether what is stored is still what the model gives, with real drift and without."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from embstore import CachedEncoder, EmbeddingStore
from embstore.cli import drift as command
from embstore.cli.errors import Commands
from embstore.drift import DriftReport, measure_drift
from embstore.errors import CacheMissError, ModelOutputError, StoreError


def perturbed(encoder: CachedEncoder, texts: list[str], amount: float, **how: Any) -> None:
    """Store vectors that are off by up to ``amount`` in each number."""
    vectors = np.asarray(encoder.model.encode(texts, **how))
    noise = np.random.default_rng(6).uniform(-amount, amount, vectors.shape)
    encoder.store.put_many(encoder.namespace(**how), texts, (vectors + noise).astype("float32"))


class TestOfARealModel:
    def test_none(self, minilm: Any, texts: list[str], store: EmbeddingStore) -> None:
        encoder = CachedEncoder(minilm, store)
        encoder.encode(texts)
        counted = store.stats()
        report = measure_drift(encoder, [*texts, "not stored", texts[0]], sample=25)
        assert report.ok
        assert (report.given, report.stored, report.checked) == (len(texts) + 1, len(texts), 25)
        assert 0 < report.max_distance < 1e-5, "computed anew in other batches, so not bit for bit"
        assert report.min_cosine == pytest.approx(1, abs=1e-9)
        assert store.stats() == counted, "nothing is counted, and nothing stored"

    def test_some(self, minilm: Any, texts: list[str], store: EmbeddingStore) -> None:
        """As after an upgrade that changed what comes out, under a version that hides it."""
        encoder = CachedEncoder(minilm, store, version="pinned")
        perturbed(encoder, texts[:10], 1e-3)
        encoder.encode(texts)
        report = measure_drift(encoder, texts, sample=None)
        assert not report.ok
        assert report.differing == 10
        assert report.checked == len(texts)
        assert 5e-4 < report.max_difference <= 1.001e-3
        assert 0.99 < report.min_cosine < 1 - 1e-5
        assert report.furthest < 10
        assert measure_drift(encoder, texts[10:]).ok
        assert measure_drift(encoder, texts, sample=None, tolerance=0.1).ok

    @pytest.mark.parametrize(
        "how", [{"prompt": "query: "}, {"normalize_embeddings": True, "truncate_dim": 64}]
    )
    def test_with_the_settings_of_what_is_stored(
        self, unnormalized: Any, texts: list[str], store: EmbeddingStore, how: dict
    ) -> None:
        encoder = CachedEncoder(unnormalized, store)
        encoder.encode(texts[:10], **how)
        report = measure_drift(encoder, texts[:10], **how)
        assert report.ok
        assert report.namespace == encoder.namespace(**how)
        with pytest.raises(CacheMissError, match="none of these 10 texts is stored"):
            measure_drift(encoder, texts[:10])

    def test_of_queries(self, minilm: Any, store: EmbeddingStore) -> None:
        encoder = CachedEncoder(minilm, store)
        encoder.encode_query(["who?", "where?"])
        assert measure_drift(encoder, ["who?", "where?"], task="query").checked == 2

    def test_of_what_is_stored_rounded(
        self, minilm: Any, texts: list[str], store: EmbeddingStore
    ) -> None:
        encoder = CachedEncoder(minilm, store, storage_dtype="float16")
        encoder.encode(texts[:10])
        report = measure_drift(encoder, texts)
        assert report.ok
        assert report.max_distance > 1e-5, "the rounding, which the tolerance has room for"
        before = minilm.encode(texts[10:20]).astype("float16")
        before[:, 0] += np.float16(0.01)
        store.put_many(encoder.namespace(), texts[10:20], before)
        assert measure_drift(encoder, texts).differing == 10

    def test_a_model_that_is_not_loaded(
        self, model_path: str, texts: list[str], tmp_path: Path
    ) -> None:
        with EmbeddingStore(tmp_path) as store:
            CachedEncoder(model_path, store).encode(texts[:5])
        with EmbeddingStore(tmp_path, read_only=True) as store:
            assert measure_drift(CachedEncoder(model_path, store), texts).checked == 5


class Lengths:
    """A function whose vectors can be changed."""

    def __init__(self) -> None:
        self.factor = np.ones(2)
        self.asked: list[str] = []

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.asked += texts
        return np.array([[len(text), 1] for text in texts]) * self.factor


@pytest.fixture
def lengths() -> Lengths:
    return Lengths()


@pytest.fixture
def encoder(lengths: Lengths, store: EmbeddingStore) -> CachedEncoder:
    """Of :class:`Lengths`, with the texts "1" to "99" stored."""
    encoder = CachedEncoder(lengths, store, model_name="lengths")
    encoder.encode([str(number) for number in range(1, 100)])
    lengths.asked.clear()
    return encoder


class TestSample:
    def test_is_drawn_by_its_seed(self, encoder: CachedEncoder, lengths: Lengths) -> None:
        every = [str(number) for number in range(200)]
        drawn = []
        for seed in (1, 1, 2):
            assert measure_drift(encoder, every, sample=20, seed=seed).checked == 20
            drawn.append(sorted(lengths.asked))
            lengths.asked.clear()
        assert drawn[0] == drawn[1] != drawn[2]
        assert len(set(drawn[0])) == 20
        assert set(drawn[0]) <= {str(number) for number in range(1, 100)}

    def test_a_text_is_embedded_once_and_named_by_its_first_place(
        self, encoder: CachedEncoder, lengths: Lengths
    ) -> None:
        lengths.factor = np.array([2, 1])
        report = measure_drift(encoder, ["none", "7", "7", "none", "42", "42"])
        assert sorted(lengths.asked) == ["42", "7"]
        assert (report.given, report.furthest) == (3, 4)

    @pytest.mark.parametrize(
        "factor, distance, cosine", [(2, 0.5, 1.0), (-1, 2.0, -1.0), (0, 1.0, 0.0), (1, 0.0, 1.0)]
    )
    def test_what_the_figures_mean(
        self, encoder: CachedEncoder, lengths: Lengths, factor: int, distance: float, cosine: float
    ) -> None:
        lengths.factor = np.array([factor, factor])
        report = measure_drift(encoder, ["7"])
        assert report.max_distance == pytest.approx(distance)
        assert report.min_cosine == report.mean_cosine == pytest.approx(cosine)
        assert report.ok == (factor == 1)

    def test_vectors_of_zeros_are_the_same(self, store: EmbeddingStore) -> None:
        encoder = CachedEncoder(lambda texts: np.zeros((len(texts), 3)), store, model_name="zeros")
        encoder.encode(["a"])
        report = measure_drift(encoder, ["a"])
        assert (report.ok, report.max_distance, report.min_cosine) == (True, 0.0, 1.0)


class TestBadInput:
    @pytest.mark.parametrize(
        "given, error",
        [
            (([],), ValueError),
            (([1, 2],), TypeError),
            ((["7"], {"sample": 0}), ValueError),
            ((["7"], {"output_value": "token_embeddings"}), ValueError),
            ((["nowhere"],), CacheMissError),
        ],
    )
    def test_is_refused(self, encoder: CachedEncoder, given: tuple, error: type) -> None:
        texts, how = given if len(given) == 2 else (given[0], {})
        with pytest.raises(error):
            measure_drift(encoder, texts, **how)

    @pytest.mark.parametrize("output", [[[1.0, 2.0, 3.0]], [[np.nan, 1.0]]])
    def test_what_cannot_be_compared(
        self, encoder: CachedEncoder, store: EmbeddingStore, output: list
    ) -> None:
        other = CachedEncoder(lambda texts: output * len(texts), store, model_name="lengths")
        with pytest.raises(ModelOutputError, match="where those stored"):
            measure_drift(other, ["7"])

    def test_a_store_that_is_gone(self, encoder: CachedEncoder) -> None:
        encoder.store.clear()
        for path in sorted(Path(encoder.store.location).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        with pytest.raises(StoreError):
            measure_drift(encoder, ["7"])


def test_a_report_travels_as_json(encoder: CachedEncoder) -> None:
    report = measure_drift(encoder, ["7", "42"])
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert found["ok"] is True
    assert found["namespace"]["model_name"] == "lengths"
    assert "lengths: no drift" in str(report)
    assert isinstance(report, DriftReport)


class TestCommand:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Callable[..., Any]:
        app = typer.Typer(cls=Commands)
        app.callback()(lambda debug=False: None)
        app.command()(command.drift)

        def run(*arguments: object) -> Any:
            store = ("--store", tmp_path / "store")
            return CliRunner().invoke(app, ["drift", *map(str, (*arguments, *store))])

        return run

    def test_exit_codes(
        self, run: Callable[..., Any], store: EmbeddingStore, model_path: str, tmp_path: Path
    ) -> None:
        file = tmp_path / "texts.txt"
        file.write_text("one\ntwo\nthree\n")
        encoder = CachedEncoder(model_path, store, device="cpu")
        perturbed(encoder, ["one"], 1e-3)
        encoder.encode(["two"])
        bad = run(file, "-m", model_path, "--json")
        assert bad.exit_code == 1, bad.output
        found = json.loads(bad.stdout)
        assert (found["ok"], found["checked"], found["differing"]) == (False, 2, 1)
        assert found["furthest"] == 0
        file.write_text("two\n")
        good = run(file, "-m", model_path)
        assert good.exit_code == 0
        assert "no drift" in good.stdout
        none = run(file, "-m", model_path, "--normalize")
        assert none.exit_code == 2
        assert "is stored for" in none.stderr
        assert store.stats().entries == 2
