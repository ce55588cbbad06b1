"""Differential: what a bare SentenceTransformer returns is what CachedEncoder returns.

Every case runs four times: bare, computed anew, from the memory tier, and from disk. The first two
are within 1e-6 of each other, the last three the same bit for bit. Vectors longer than 1, as
MiniLM's are without its Normalize module, may be off by 1e-6 of their length: the bare model itself
gives one text vectors 1.1e-6 apart, alone and in a batch of five.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from embstore import CachedEncoder, EmbeddingStore

SHORT = [
    "the cat sat",
    "Grüße, 世界 🌍",
    "",
    " \n",
    "A longer text, of two sentences. This one ends it.",
]
RETURNS: dict[str, dict[str, Any]] = {
    "numpy": {},
    "tensor": {"convert_to_tensor": True},
    "tensor_over_numpy": {"convert_to_tensor": True, "convert_to_numpy": True},
    "list": {"convert_to_numpy": False},
}


def assert_same_kind(got: Any, expected: Any) -> None:
    """Types, shapes, dtypes and layouts are equal."""
    assert type(got) is type(expected)
    if isinstance(expected, list):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_same_kind(one, other)
        return
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    if isinstance(expected, torch.Tensor):
        assert (got.device, got.requires_grad) == (expected.device, False)
        assert got.is_contiguous()
    else:
        assert got.flags.c_contiguous
        assert got.flags.writeable


def plain(value: Any) -> np.ndarray:
    if isinstance(value, list):
        return np.stack([plain(item) for item in value]) if value else np.zeros(0)
    return value.float().numpy() if isinstance(value, torch.Tensor) else value


def assert_close(got: Any, expected: Any) -> None:
    numbers = plain(expected)
    length = float(np.linalg.norm(np.atleast_2d(numbers), axis=1).max(initial=1.0))
    np.testing.assert_allclose(plain(got), numbers, rtol=0, atol=1e-6 * length)


def raw(value: Any) -> bytes:
    if isinstance(value, list):
        return b"".join(raw(item) for item in value)
    if isinstance(value, torch.Tensor):
        return value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return bytes(value.tobytes())


Both = Callable[..., Any]
EVERY = pytest.mark.parametrize(
    "model, returned",
    [
        *(("minilm", returned) for returned in RETURNS),
        *(("unnormalized", returned) for returned in ("numpy", "list")),
        *(("static", returned) for returned in ("numpy", "tensor")),
    ],
    indirect=["model"],
)


@pytest.fixture(params=["minilm", "unnormalized", "static"])
def model(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def both(store: EmbeddingStore, reopened: Callable[..., EmbeddingStore]) -> Both:
    """Calls a method of a model and of encoders over it, compares, and returns the last result."""

    def both(model: Any, *args: Any, method: str = "encode", **kwargs: Any) -> Any:
        disk = reopened(memory_limit=0)
        expected = getattr(model, method)(*args, **kwargs)
        # A version, so that hundreds of cases take no fingerprint of a model that never changes.
        encoders = [CachedEncoder(model, held, version="the test's") for held in (store, disk)]
        cold = getattr(encoders[0], method)(*args, **kwargs)
        before = store.stats().misses
        results = [getattr(encoder, method)(*args, **kwargs) for encoder in encoders]
        assert store.stats().misses == before
        assert disk.stats().misses == 0
        assert_same_kind(cold, expected)
        assert_close(cold, expected)
        for warm in results:
            assert_same_kind(warm, expected)
            assert raw(warm) == raw(cold)
        return results[-1]

    return both


class TestInputs:
    @EVERY
    @pytest.mark.parametrize(
        "inputs",
        [
            pytest.param("one text", id="str"),
            pytest.param("", id="str_empty"),
            pytest.param(np.str_("one text"), id="numpy_str"),
            pytest.param(SHORT, id="list"),
            pytest.param(["one text"], id="list_of_one"),
            pytest.param([np.str_("one text"), "another"], id="list_with_numpy_str"),
            pytest.param(tuple(SHORT), id="tuple"),
            pytest.param(("one text", "another"), id="tuple_of_two"),
            pytest.param(np.array(SHORT), id="array_of_str"),
            pytest.param(np.array(SHORT, dtype=object), id="array_of_object"),
            pytest.param([*SHORT, *SHORT[::-1], SHORT[0]], id="repeats"),
            pytest.param([], id="list_empty"),
            pytest.param((), id="tuple_empty"),
            pytest.param(np.array([], dtype=str), id="array_empty"),
        ],
    )
    def test_forms(self, model: Any, both: Both, inputs: Any, returned: str) -> None:
        both(model, inputs, **RETURNS[returned])

    @pytest.mark.parametrize("returned", RETURNS)
    def test_precision_does_not_matter_to_nothing(
        self, minilm: Any, both: Both, returned: str
    ) -> None:
        both(minilm, [], precision="int8", **RETURNS[returned])

    def test_a_list_of_devices_and_no_texts(self, minilm: Any, both: Both) -> None:
        for returned in RETURNS.values():
            both(minilm, [], device=["cpu", "cpu"], **returned)

    def test_real_paragraphs(self, model: Any, texts: list[str], both: Both) -> None:
        assert both(model, texts).shape == (len(texts), 384)
        assert {len(text) > 500 for text in texts} == {True, False}

    def test_text_beyond_the_models_length(self, minilm: Any, texts: list[str], both: Both) -> None:
        long = " ".join(texts * 3)
        vectors = both(minilm, [long, long + " and more", "short"])
        assert vectors[0].tobytes() == vectors[1].tobytes()

    def test_other_texts_of_the_same_letters(self, model: Any, both: Both) -> None:
        both(model, ["é", "e\u0301", "É", "a b", "a  b", "a\u00a0b", "a\x00b", "ab"])


ARGUMENTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "normalized": {"normalize_embeddings": True},
    "normalized_by_numpy_bool": {"normalize_embeddings": np.bool_(True)},
    "truncated": {"truncate_dim": 64},
    "truncated_to_one": {"truncate_dim": 1},
    "truncated_to_none": {"truncate_dim": 0},
    "truncated_from_the_end": {"truncate_dim": -1},
    "truncated_beyond": {"truncate_dim": 1000},
    "truncated_by_numpy_int": {"truncate_dim": np.int64(64)},
    "truncated_and_normalized": {"truncate_dim": 64, "normalize_embeddings": True},
    "precision_none": {"precision": None},
    "precision_float32": {"precision": "float32"},
    "one_at_a_time": {"batch_size": 1},
    "odd_batches": {"batch_size": 3},
    "one_batch": {"batch_size": 1000},
    "numpy_batch_size": {"batch_size": np.int64(4)},
    "device": {"device": "cpu"},
    "torch_device": {"device": torch.device("cpu")},
    "no_bar": {"show_progress_bar": False},
    "chunk_size_without_pool": {"chunk_size": 2},
    "prompt": {"prompt": "query: "},
    "empty_prompt": {"prompt": ""},
    "task": {"task": "query"},
    "no_task": {"task": None},
}
PROMPTED: dict[str, dict[str, Any]] = {
    "default": {},
    "prompt_over_default": {"prompt": "other: "},
    "empty_prompt_over_default": {"prompt": ""},
    "prompt_name": {"prompt_name": "query"},
    "name_of_empty_prompt": {"prompt_name": "none"},
    "both": {"prompt": "other: ", "prompt_name": "query"},
    "both_with_unknown_name": {"prompt": "other: ", "prompt_name": "unknown"},
}


def with_prompts(model: Any, **arguments: Any) -> Any:
    from sentence_transformers import SentenceTransformer

    prompts = {"query": "query: ", "passage": "passage: ", "corpus": "corpus: ", "none": ""}
    return SentenceTransformer(modules=list(model), prompts=prompts, device="cpu", **arguments)


class TestArguments:
    @pytest.mark.parametrize("name", ARGUMENTS)
    def test_each(self, model: Any, both: Both, name: str) -> None:
        both(model, SHORT, **ARGUMENTS[name])

    @pytest.mark.parametrize("name", ARGUMENTS)
    def test_each_with_a_single_text(self, static: Any, both: Both, name: str) -> None:
        both(static, SHORT[0], **ARGUMENTS[name])

    @pytest.mark.parametrize("name", PROMPTED)
    @pytest.mark.parametrize("default", [None, "passage", "none"])
    def test_prompts(self, minilm: Any, both: Both, name: str, default: str | None) -> None:
        both(with_prompts(minilm, default_prompt_name=default), SHORT, **PROMPTED[name])

    @pytest.mark.parametrize("method", ["encode_query", "encode_document"])
    @pytest.mark.parametrize("name", PROMPTED)
    def test_queries_and_documents(self, minilm: Any, both: Both, method: str, name: str) -> None:
        model = with_prompts(minilm, default_prompt_name="none")
        both(model, SHORT, method=method, **PROMPTED[name])

    @pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
    def test_by_position(self, minilm: Any, both: Both, method: str) -> None:
        order = ("query", None, 2, False, "sentence_embedding", "float32", False, True, "cpu", True)
        result = both(with_prompts(minilm), SHORT, *order, 32, None, None, method=method)
        assert result.shape == (len(SHORT), 32)

    @pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
    def test_by_name(self, minilm: Any, both: Both, method: str) -> None:
        both(minilm, inputs=SHORT, prompt_name="query", method=method)

    @pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
    def test_deprecated_name_of_the_inputs(self, minilm: Any, both: Both, method: str) -> None:
        both(minilm, sentences=SHORT, method=method)
        both(minilm, inputs=SHORT[:1], sentences=SHORT, method=method)

    def test_defaults_of_the_model(self, minilm: Any, both: Both) -> None:
        model = with_prompts(minilm, truncate_dim=100)
        assert both(model, SHORT).shape == (5, 100)
        assert both(model, SHORT, truncate_dim=8).shape == (5, 8)
        with model.truncate_embeddings(50):
            assert both(model, SHORT).shape == (5, 50)
        assert both(model, SHORT).shape == (5, 100)

    def test_processing_of_one_call(self, minilm: Any, texts: list[str], both: Both) -> None:
        short = {"text": {"max_length": 8, "truncation": True}}
        cut = both(minilm, texts[:6], processing_kwargs=short)
        whole = both(minilm, texts[:6])
        assert not np.allclose(cut, whole, atol=1e-3)

    def test_all_in_one_store(self, minilm: Any, store: EmbeddingStore) -> None:
        # One of the settings answered with another's vectors would show here.
        model = with_prompts(minilm, default_prompt_name="passage")
        encoder = CachedEncoder(model, store)
        settings = [*ARGUMENTS.values(), *PROMPTED.values()]
        for _ in range(2):
            for arguments in settings:
                got, expected = encoder.encode(SHORT, **arguments), model.encode(SHORT, **arguments)
                assert_same_kind(got, expected)
                np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


class TestPrecision:
    @EVERY
    @pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
    def test_is_upstreams_own_of_the_whole_call(
        self, model: Any, texts: list[str], store: EmbeddingStore, precision: Any, returned: str
    ) -> None:
        from sentence_transformers.util.quantization import quantize_embeddings

        taken = [text[:60] for text in texts[:12]]
        arguments = {"precision": precision, **RETURNS[returned]}
        encoder = CachedEncoder(model, store)
        encoder.encode(taken[:4], **arguments)  # ranges of these four must not stick
        mixed = encoder.encode(taken, **arguments)
        warm = encoder.encode(taken, **arguments)
        stored = encoder.encode(taken)

        assert store.stats().misses == len(taken)
        assert_same_kind(mixed, model.encode(taken, **arguments))
        assert_same_kind(warm, mixed)
        assert_close(stored, model.encode(taken))
        quantized = quantize_embeddings(stored, precision=precision)
        assert raw(mixed) == raw(warm) == raw(quantized)

    @pytest.mark.parametrize("precision", ["binary", "ubinary"])
    @pytest.mark.parametrize("returned", RETURNS)
    def test_of_a_single_text(self, minilm: Any, both: Both, precision: str, returned: str) -> None:
        both(minilm, "one text", precision=precision, **RETURNS[returned])
