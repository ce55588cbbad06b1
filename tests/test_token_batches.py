"""Batches filled up to a budget of tokens: the vectors are upstream's, the batches are not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embstore import CachedEncoder, EmbeddingStore
from embstore.token_batches import countable, encode_by_tokens, pack


@contextmanager
def seen_batches(model: Any) -> Iterator[list[tuple[int, int]]]:
    """The shapes, texts by tokens, of the batches that a model computes meanwhile."""
    shapes: list[tuple[int, int]] = []
    hook = model[0].register_forward_pre_hook(
        lambda _, inputs: shapes.append(tuple(inputs[0]["input_ids"].shape))
    )
    yield shapes
    hook.remove()


class TestPacking:
    @given(st.lists(st.integers(0, 300), max_size=200), st.integers(1, 2000))
    def test_every_text_once_in_batches_within_the_budget(
        self, counts: list[int], budget: int
    ) -> None:
        batches = list(pack(counts, budget))
        assert sorted(chain(*batches)) == list(range(len(counts)))
        for batch in batches:
            longest = max(counts[position] for position in batch)
            assert longest * len(batch) <= budget or len(batch) == 1

    @given(st.lists(st.integers(1, 300), min_size=1, max_size=200), st.integers(1, 2000))
    def test_no_batch_could_take_the_next_text(self, counts: list[int], budget: int) -> None:
        batches = list(pack(counts, budget))
        for batch in batches[:-1]:
            longest = max(counts[position] for position in batch)
            assert longest * (len(batch) + 1) > budget

    @given(st.lists(st.integers(0, 300), max_size=200))
    def test_longest_first(self, counts: list[int]) -> None:
        order = [*chain(*pack(counts, 1000))]
        assert [counts[position] for position in order] == sorted(counts, reverse=True)


HARD = ["", " ", "a", "Grüße, 世界", "word " * 400, "x" * 2000, "two\nlines", "\x00", "\U0001f600"]
"""Nothing, one token, and far more than a model takes."""


class TestVectors:
    @pytest.mark.parametrize("budget", [1, 300, 100_000])
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"prompt": "query: "},
            {"truncate_dim": 64},
            {"truncate_dim": 64, "normalize_embeddings": True, "task": "query"},
        ],
        ids=["plain", "prompt", "truncated", "truncated-normalized"],
    )
    def test_are_upstreams(
        self, minilm: Any, texts: list[str], settings: dict[str, Any], budget: int
    ) -> None:
        inputs = [*HARD, *texts[:12]]
        vectors = encode_by_tokens(minilm, inputs, budget, settings)
        expected = minilm.encode(inputs, **settings)
        assert vectors is not None
        assert (vectors.shape, vectors.dtype) == (expected.shape, expected.dtype)
        assert np.abs(vectors - expected).max() < 1e-6

    def test_without_the_prompts_tokens(self, own_minilm: Any, texts: list[str]) -> None:
        own_minilm.set_pooling_include_prompt(False)
        settings = {"prompt": "a prompt of several words: "}
        vectors = encode_by_tokens(own_minilm, texts[:8], 200, settings)
        assert np.abs(vectors - own_minilm.encode(texts[:8], **settings)).max() < 1e-6

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_a_part_is_what_the_model_would_make_of_it(
        self, own_minilm: Any, texts: list[str], side: str
    ) -> None:
        own_minilm.tokenizer.padding_side = side
        given_to_model: list[dict[str, Any]] = []
        own_minilm[0].register_forward_pre_hook(
            lambda _, inputs: given_to_model.append(dict(inputs[0]))
        )
        assert encode_by_tokens(own_minilm, texts, 500, {}) is not None
        features = own_minilm.preprocess(texts)
        counts = features["attention_mask"].sum(1).tolist()
        for batch, got in zip(pack(counts, 500), given_to_model, strict=True):
            # Upstream sorts a batch by characters.
            inputs = [texts[row] for row in sorted(batch, key=lambda row: -len(texts[row]))]
            alone = own_minilm.preprocess(inputs)
            for name in ("input_ids", "attention_mask", "token_type_ids"):
                rows = [got[name][number].tolist() for number in range(len(batch))]
                assert sorted(rows) == sorted(alone[name].tolist())

    def test_the_model_is_left_as_it_was(self, minilm: Any, texts: list[str]) -> None:
        before = dict(minilm.__dict__)
        encode_by_tokens(minilm, texts[:4], 100, {})
        assert minilm.__dict__ == before

    def test_a_text_is_tokenized_once(self, own_minilm: Any, texts: list[str]) -> None:
        tokenized: list[str] = []
        usual = own_minilm[0].preprocess

        def preprocess(inputs: list[str], **how: Any) -> Any:
            tokenized.extend(inputs)
            return usual(inputs, **how)

        own_minilm[0].preprocess = preprocess
        encode_by_tokens(own_minilm, texts, 300, {})
        assert sorted(tokenized) == sorted(texts)

    def test_a_subclass_that_changes_texts(self, own_minilm: Any, texts: list[str]) -> None:
        class Shouting(type(own_minilm)):  # type: ignore[misc]
            def encode(self, inputs: list[str], **how: Any) -> Any:
                return super().encode([text.upper() + "!" for text in inputs], **how)

        own_minilm.__class__ = Shouting
        vectors = encode_by_tokens(own_minilm, texts[:8], 200, {})
        assert np.abs(vectors - own_minilm.encode(texts[:8])).max() < 1e-6

    def test_a_subclass_that_adds_a_prompt(self, own_minilm: Any, texts: list[str]) -> None:
        class Prompting(type(own_minilm)):  # type: ignore[misc]
            def encode(self, inputs: list[str], **how: Any) -> Any:
                return super().encode(inputs, **{**how, "prompt": "passage: "})

        own_minilm.__class__ = Prompting
        vectors = encode_by_tokens(own_minilm, texts[:8], 200, {})
        assert np.abs(vectors - own_minilm.encode(texts[:8])).max() < 1e-6


class TestWhatCannotBeCut:
    def test_static_embeddings(self, static: Any) -> None:
        assert not countable(static.preprocess(["a", "few words"]))
        assert encode_by_tokens(static, ["a", "few words"], 100, {}) is None

    @pytest.mark.parametrize("padding", [{"padding": "max_length"}, {"pad_to_multiple_of": 64}])
    def test_padding_beyond_the_longest(
        self, own_minilm: Any, texts: list[str], store: EmbeddingStore, padding: dict[str, Any]
    ) -> None:
        own_minilm[0].processing_kwargs = {"text": padding}
        assert encode_by_tokens(own_minilm, texts[:4], 100, {}) is None
        with seen_batches(own_minilm) as shapes:
            vectors = CachedEncoder(own_minilm, store).encode(texts[:8])
        assert all(tokens % 64 == 0 for _, tokens in shapes)
        assert np.abs(vectors - own_minilm.encode(texts[:8])).max() < 1e-6

    def test_features_that_are_not_known(self, minilm: Any) -> None:
        features = minilm.preprocess(["a", "few words"])
        assert countable(features)
        assert not countable({**features, "position_ids": features["input_ids"]})
        assert not countable({**features, "attention_mask": features["attention_mask"][0]})
        assert not countable({"input_ids": features["input_ids"]})


class TestInAnEncoder:
    def test_auto_keeps_within_a_budget(
        self, minilm: Any, texts: list[str], store: EmbeddingStore
    ) -> None:
        with seen_batches(minilm) as shapes:
            CachedEncoder(minilm, store).encode([*texts, "word " * 400])
        assert sum(count for count, _ in shapes) == len(texts) + 1
        assert max(count * tokens for count, tokens in shapes) <= 2048
        assert max(count for count, _ in shapes) > 32 or len(shapes) < 5

    def test_a_number_is_kept_to(
        self, minilm: Any, texts: list[str], store: EmbeddingStore
    ) -> None:
        with seen_batches(minilm) as shapes:
            CachedEncoder(minilm, store).encode(texts, batch_size=7)
        assert [count for count, _ in shapes] == [7, 7, 7, 7, 7, 5]

    def test_auto_is_no_number_of_upstreams(self, minilm: Any, store: EmbeddingStore) -> None:
        with pytest.raises(TypeError):
            CachedEncoder(minilm, store).encode(["a"], batch_size="automatic")  # type: ignore[arg-type]

    def test_a_bar_over_known_texts_loads_nothing(
        self, model_path: str, minilm: Any, store: EmbeddingStore
    ) -> None:
        CachedEncoder(model_path, store).encode(["known"])
        lazy = CachedEncoder(model_path, store)
        lazy.encode(["known"], show_progress_bar=True)
        assert not lazy._model.is_loaded  # type: ignore[attr-defined]
