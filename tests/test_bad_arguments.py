"""Differential: arguments that upstream refuses are refused alike, even if every text is stored;
and what is not text goes through to the model."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from embstore import CachedEncoder, EmbeddingStore

TEXTS = ["the cat sat", "on the mat", "and slept"]

REFUSED: dict[str, dict[str, Any]] = {
    "batch_size_0": {"batch_size": 0},
    "batch_size_negative": {"batch_size": -1},
    "batch_size_float": {"batch_size": 2.5},
    "batch_size_str": {"batch_size": "8"},
    "batch_size_none": {"batch_size": None},
    "precision": {"precision": "int4"},
    "precision_unhashable": {"precision": ["int8"]},
    "further_argument": {"nonsense": 1},
    "two_further_arguments": {"nonsense": 1, "modality": "text"},
    "further_argument_not_json": {"nonsense": object()},
    "prompt_name": {"prompt_name": "unknown"},
    "prompt_not_str": {"prompt": 5},
    "prompt_bytes": {"prompt": b"query: "},
    "truncate_dim_str": {"truncate_dim": "8"},
    "truncate_dim_float": {"truncate_dim": 8.0},
    "device": {"device": "nonsense"},
    "device_type": {"device": 1.5},
    "no_devices": {"device": []},
    "chunk_size": {"chunk_size": 0, "device": ["cpu", "cpu"]},
    "several": {"batch_size": 0, "precision": "int4", "prompt_name": "unknown"},
    "several_but_size": {"precision": "int4", "nonsense": 1, "prompt_name": "unknown"},
    "several_but_kwargs": {"precision": "int4", "prompt_name": "unknown"},
}


def refusal(call: Any, *args: Any, **kwargs: Any) -> tuple[type[BaseException], list[str]]:
    """What a call raises: the type, and the words of the message (sets print in any order)."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - compared with upstream's
        call(*args, **kwargs)
    return caught.type, sorted(re.findall(r"\w+", str(caught.value)))


@pytest.fixture
def warm(minilm: Any, store: EmbeddingStore) -> CachedEncoder:
    """An encoder that has TEXTS, and the prompted ones that a slip would ask for."""
    encoder = CachedEncoder(minilm, store, version="the test's")
    encoder.encode(TEXTS)
    encoder.encode_query(TEXTS)
    return encoder


class TestRefused:
    @pytest.mark.parametrize("name", REFUSED)
    def test_cold(self, minilm: Any, store: EmbeddingStore, name: str) -> None:
        expected = refusal(minilm.encode, TEXTS, **REFUSED[name])
        assert refusal(CachedEncoder(minilm, store).encode, TEXTS, **REFUSED[name]) == expected

    @pytest.mark.parametrize("name", REFUSED)
    def test_with_every_text_stored(self, minilm: Any, warm: CachedEncoder, name: str) -> None:
        expected = refusal(minilm.encode, TEXTS, **REFUSED[name])
        assert refusal(warm.encode, TEXTS, **REFUSED[name]) == expected

    @pytest.mark.parametrize("name", ["batch_size_0", "precision", "further_argument", "device"])
    @pytest.mark.parametrize("method", ["encode_query", "encode_document"])
    def test_queries_and_documents(
        self, minilm: Any, warm: CachedEncoder, method: str, name: str
    ) -> None:
        expected = refusal(getattr(minilm, method), TEXTS, **REFUSED[name])
        assert refusal(getattr(warm, method), TEXTS, **REFUSED[name]) == expected

    @pytest.mark.parametrize("precision", ["int8", "uint8"])
    def test_one_text_gives_no_ranges(
        self, minilm: Any, warm: CachedEncoder, precision: Any
    ) -> None:
        for inputs in (TEXTS[0], TEXTS[:1]):
            expected = refusal(minilm.encode, inputs, precision=precision)
            assert refusal(warm.encode, inputs, precision=precision) == expected

    @pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
    def test_no_inputs_or_too_many(self, minilm: Any, warm: CachedEncoder, method: str) -> None:
        for arguments in ((), (TEXTS, *[None] * 20)):
            expected = refusal(getattr(minilm, method), *arguments)
            assert refusal(getattr(warm, method), *arguments)[0] is expected[0] is TypeError

    @pytest.mark.parametrize("method", ["encode_query", "encode_document"])
    def test_a_second_task(self, minilm: Any, warm: CachedEncoder, method: str) -> None:
        expected = refusal(getattr(minilm, method), TEXTS, task="query")
        assert refusal(getattr(warm, method), TEXTS, task="query")[0] is expected[0] is TypeError

    @pytest.mark.parametrize("text", ["\ud800", "half a pair: \udc00."])
    def test_lone_surrogates(self, minilm: Any, warm: CachedEncoder, text: str) -> None:
        expected = refusal(minilm.encode, [text])
        assert refusal(warm.encode, [text]) == expected


def same(one: Any, other: Any) -> bool:
    """Equality through lists, dicts, arrays and tensors, numbers within 1e-5."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (torch.Tensor, np.ndarray)):
        close = np.allclose(np.asarray(one), np.asarray(other), rtol=0, atol=1e-5)
        return one.shape == other.shape and one.dtype == other.dtype and close
    return bool(one == other)


class TestBypassed:
    @pytest.mark.parametrize("inputs", [TEXTS, tuple(TEXTS), TEXTS[0], []])
    @pytest.mark.parametrize("value", ["token_embeddings", None])
    def test_other_outputs(self, minilm: Any, warm: CachedEncoder, inputs: Any, value: Any) -> None:
        before = warm.stats()
        for arguments in ({}, {"convert_to_tensor": True}, {"prompt": "query: "}):
            got = warm.encode(inputs, output_value=value, **arguments)
            assert same(got, minilm.encode(inputs, output_value=value, **arguments))
        after = warm.stats()
        count = 1 if isinstance(inputs, str) else len(inputs)
        assert after.bypassed - before.bypassed == 3 * count
        assert (after.total, after.entries) == (before.total, before.entries)

    @pytest.mark.parametrize(
        "inputs, count",
        [
            pytest.param([("a question", "an answer"), ("another", "one more")], 2, id="pairs"),
            pytest.param([["a question", "an answer"]], 1, id="pair_as_list"),
            pytest.param(np.array([["a", "b"], ["c", "d"]]), 2, id="array_of_pairs"),
            pytest.param(["a text", ("a question", "an answer")], 2, id="text_and_pair"),
            pytest.param([{"text": "a text"}, {"text": "another"}], 2, id="dicts"),
            pytest.param({"text": "a text"}, 1, id="dict"),
            pytest.param([{"role": "user", "content": "hi"}], 1, id="conversation"),
            pytest.param([5], 1, id="number_in_list"),
            pytest.param(5, 1, id="number"),
            pytest.param([None], 1, id="none_in_list"),
            pytest.param(["a text", None], 2, id="text_and_none"),
            pytest.param([b"bytes"], 1, id="bytes_in_list"),
            pytest.param(b"bytes", 1, id="bytes"),
            pytest.param({"a", "b"}, 1, id="set"),
            pytest.param({"a": 1}.keys(), 1, id="keys"),
            pytest.param(np.array("a text"), 1, id="array_without_axis"),
            pytest.param(np.array([1.0, 2.0]), 1, id="array_of_numbers"),
            pytest.param(np.array([]), 1, id="empty_array_of_numbers"),
            pytest.param(np.array(["a", None], dtype=object), 2, id="array_with_none"),
        ],
    )
    def test_inputs_that_are_not_text(
        self, minilm: Any, warm: CachedEncoder, inputs: Any, count: int
    ) -> None:
        before = warm.stats()
        try:
            expected = minilm.encode(inputs)
        except Exception:
            assert refusal(warm.encode, inputs) == refusal(minilm.encode, inputs)
        else:
            assert same(warm.encode(inputs), expected)
        after = warm.stats()
        assert after.bypassed - before.bypassed == count
        assert (after.total, after.entries) == (before.total, before.entries)

    def test_an_argument_that_cannot_be_in_a_key(self, minilm: Any, warm: CachedEncoder) -> None:
        task = object()  # upstream takes any
        assert same(warm.encode(TEXTS, task=task), minilm.encode(TEXTS, task=task))
        assert warm.stats().bypassed == len(TEXTS)
