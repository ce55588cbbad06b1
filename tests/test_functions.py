"""Any function from texts to vectors as the model; its vectors are a pure function of the text."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embstore import CachedEncoder, EmbeddingStore, ModelOutputError

TEXTS = ["the cat sat", "on the mat", "", "the cat sat"]
DIM = 6


def vector(text: str) -> np.ndarray:
    """The vector of a text, in every process."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIM).digest()
    return (np.frombuffer(digest, np.uint8).astype(np.float32) - 127.5) / 128


def embed(texts: list[str]) -> np.ndarray:
    return np.stack([vector(text) for text in texts])


class Recorder:
    """``embed``, and what it was called with."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.calls.append(texts)
        return embed(texts)


@pytest.fixture
def function() -> Recorder:
    return Recorder()


@pytest.fixture
def encoder(function: Recorder, store: EmbeddingStore) -> CachedEncoder:
    return CachedEncoder(function, store, model_name="blake")


any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(st.lists(any_text | st.sampled_from(["a", "b", "c"]), max_size=12), max_size=6),
    memory_limit=st.sampled_from([0, 200, "1MB"]),
)
def test_any_texts_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, calls: list[list[str]], memory_limit: Any
) -> None:
    location: Path = tmp_path_factory.mktemp("any") / "store"
    function, seen = Recorder(), set()
    with EmbeddingStore(location, memory_limit=memory_limit, on_error="raise") as store:
        encoder = CachedEncoder(function, store, model_name="blake")
        for texts in calls:
            got = encoder.encode(texts)
            expected = embed(texts) if texts else np.array([])
            assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
            assert got.tobytes() == expected.tobytes()
            seen.update(texts)
        called = [text for call in function.calls for text in call]
        assert sorted(called) == sorted(seen)
        assert (store.stats().entries, store.stats().misses) == (len(seen), len(seen))
        assert store.stats().total == sum(map(len, calls))


class TestArguments:
    def test_texts_go_in_batches_longest_first(
        self, encoder: CachedEncoder, function: Recorder
    ) -> None:
        encoder.encode(["1", "333", "22", "4444", "333", "55555"], batch_size=2)
        assert function.calls == [["55555", "4444"], ["333", "22"], ["1"]]

    def test_prompt_truncation_and_length_as_upstream(self, encoder: CachedEncoder) -> None:
        import torch

        for _ in range(2):
            got = encoder.encode(TEXTS, prompt="q: ", truncate_dim=4, normalize_embeddings=True)
            cut = torch.from_numpy(embed([f"q: {text}" for text in TEXTS])[:, :4])
            expected = torch.nn.functional.normalize(cut, p=2, dim=1).numpy()
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)

    def test_returned_kinds(self, encoder: CachedEncoder) -> None:
        import torch

        tensor = encoder.encode(TEXTS, convert_to_tensor=True)
        assert (type(tensor), tensor.device.type) == (torch.Tensor, "cpu")
        assert tensor.numpy().tobytes() == embed(TEXTS).tobytes()
        listed = encoder.encode(TEXTS, convert_to_numpy=False)
        assert [type(row) for row in listed] == [torch.Tensor] * len(TEXTS)
        assert encoder.encode(TEXTS, precision="ubinary").dtype == np.uint8
        assert encoder.encode("one").shape == (DIM,)
        assert encoder.encode([]).shape == (0,)

    def test_queries_and_documents(self, encoder: CachedEncoder, store: EmbeddingStore) -> None:
        for method in (encoder.encode_query, encoder.encode_document):
            assert method(TEXTS).tobytes() == embed(TEXTS).tobytes()

    @pytest.mark.parametrize(
        "arguments, error",
        [
            ({"batch_size": 0}, ValueError),
            ({"precision": "int4"}, ValueError),
            ({"prompt_name": "query"}, ValueError),
            ({"nonsense": 1}, ValueError),
            ({"output_value": "token_embeddings"}, TypeError),
        ],
    )
    def test_refused(self, encoder: CachedEncoder, arguments: Any, error: Any) -> None:
        encoder.encode(TEXTS)
        with pytest.raises(error):
            encoder.encode(TEXTS, **arguments)

    @pytest.mark.parametrize("inputs", [[("a", "pair")], {"text": "a"}, 5, ["a", None]])
    def test_only_texts(self, encoder: CachedEncoder, store: EmbeddingStore, inputs: Any) -> None:
        with pytest.raises(TypeError, match="list of str"):
            encoder.encode(inputs)
        assert (store.stats().bypassed, store.stats().total) == (0, 0)


class TestIdentity:
    def test_needs_a_name(self, store: EmbeddingStore) -> None:
        for name in (None, ""):
            with pytest.raises(ValueError, match="model_name"):
                CachedEncoder(embed, store, model_name=name)

    def test_name_and_version_tell_functions_apart(self, store: EmbeddingStore) -> None:
        names = [("a", None), ("b", None), ("a", "1"), ("a", "2"), ("a", ""), ("version:1", None)]
        for factor, (name, version) in enumerate(names, 1):

            def scaled(texts: list[str], factor: int = factor) -> np.ndarray:
                return embed(texts) * factor

            encoder = CachedEncoder(scaled, store, model_name=name, version=version)
            assert encoder.encode(TEXTS).tobytes() == (embed(TEXTS) * factor).tobytes()

    def test_async_functions_are_for_the_decorator(self, store: EmbeddingStore) -> None:
        async def later(texts: list[str]) -> np.ndarray:
            return embed(texts)

        with pytest.raises(TypeError, match="cached"):
            CachedEncoder(later, store, model_name="later")
        started = later(TEXTS)
        encoder = CachedEncoder(lambda _: started, store, model_name="later")
        with pytest.raises(TypeError, match="cached"):
            encoder.encode(TEXTS)
        started.close()


class TestOutputs:
    @pytest.mark.parametrize(
        "bad",
        [
            pytest.param(lambda texts: embed(texts)[:-1], id="one_too_few"),
            pytest.param(lambda texts: embed([*texts, "more"]), id="one_too_many"),
            pytest.param(lambda texts: embed(texts)[0], id="one_dimension"),
            pytest.param(lambda texts: embed(texts)[None], id="three_dimensions"),
            pytest.param(lambda texts: [[1.0] * (1 + len(text)) for text in texts], id="ragged"),
            pytest.param(lambda texts: None, id="nothing"),
            pytest.param(lambda texts: [["1"] for _ in texts], id="strings"),
            pytest.param(lambda texts: [[None] for _ in texts], id="nones"),
            pytest.param(lambda texts: embed(texts).astype(complex), id="complex"),
            pytest.param(lambda texts: embed(texts) > 0, id="bools"),
            pytest.param(lambda texts: {text: vector(text) for text in texts}, id="dict"),
        ],
    )
    def test_that_are_not_a_vector_for_each(self, store: EmbeddingStore, bad: Any) -> None:
        encoder = CachedEncoder(bad, store, model_name="bad")
        with pytest.raises(ModelOutputError, match="bad") as caught:
            encoder.encode(TEXTS)
        assert caught.value.model_name == "bad"
        assert store.stats().entries == 0

    def test_of_another_length_than_before(self, store: EmbeddingStore) -> None:
        CachedEncoder(embed, store, model_name="m").encode(TEXTS)
        longer = CachedEncoder(lambda texts: np.ones((len(texts), 7)), store, model_name="m")
        with pytest.raises(ModelOutputError, match="7 numbers"):
            longer.encode([*TEXTS, "new"])
        with pytest.raises(ModelOutputError, match="7 numbers"):
            longer.encode(["new"])
        assert longer.encode(TEXTS).tobytes() == embed(TEXTS).tobytes()

    def test_with_nan_are_returned_and_not_stored(self, store: EmbeddingStore) -> None:
        calls: list[list[str]] = []

        def sometimes(texts: list[str]) -> np.ndarray:
            calls.append(texts)
            vectors = embed(texts)
            for row, text in enumerate(texts):
                if text.startswith("bad"):
                    vectors[row, 2] = np.nan if text == "bad nan" else np.inf
            return vectors

        encoder = CachedEncoder(sometimes, store, model_name="sometimes")
        texts = ["good", "bad nan", "bad inf", "bad nan"]
        for _ in range(2):
            got = encoder.encode(texts)
            assert np.isnan(got[[1, 3], 2]).all()
            assert np.isinf(got[2, 2])
            assert np.isfinite(got[0]).all()
        assert calls == [["bad nan", "bad inf", "good"], ["bad nan", "bad inf"]]
        assert store.stats().entries == 1

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64"])
    def test_keep_their_dtype(self, store: EmbeddingStore, dtype: str) -> None:
        def embed_as(texts: list[str]) -> np.ndarray:
            return (embed(texts) * 100).astype(dtype)

        encoder = CachedEncoder(embed_as, store, model_name=dtype)
        for _ in range(2):
            got = encoder.encode(TEXTS)
            assert got.dtype == dtype
            assert got.tobytes() == embed_as(TEXTS).tobytes()

    def test_lists_of_floats_become_float32(self, store: EmbeddingStore) -> None:
        encoder = CachedEncoder(lambda texts: embed(texts).tolist(), store, model_name="lists")
        for _ in range(2):
            assert encoder.encode(TEXTS).tobytes() == embed(TEXTS).tobytes()

    def test_a_chunk_that_fails_costs_no_other(self, store: EmbeddingStore) -> None:
        def breaks(texts: list[str]) -> np.ndarray:
            if "text 0" in texts:
                raise RuntimeError("out of memory")
            return embed(texts)

        texts = [f"text {'0' * (number % 2)}{number}" for number in range(600)]
        encoder = CachedEncoder(breaks, store, model_name="breaks")
        with pytest.raises(RuntimeError, match="out of memory"):
            encoder.encode(texts, batch_size=10)
        # "text 0" is among the shortest, in the last of the three chunks.
        assert store.stats().entries >= 400
        again = CachedEncoder(embed, store, model_name="breaks")
        assert again.encode(texts).tobytes() == embed(texts).tobytes()
