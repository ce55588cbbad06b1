"""CachedEncoder in the place of a SentenceTransformer: its signatures, attributes and arrays."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embstore import CachedEncoder, CacheMissError, EmbeddingStore

TEXTS = ["the cat sat", "on the mat", "Grüße, 世界", "the cat sat"]
UNIQUE = 3


@pytest.fixture
def model(static: Any) -> Any:
    """A fast real model that a test may change."""
    return copy.deepcopy(static)


@pytest.fixture
def encoder(model: Any, store: EmbeddingStore) -> CachedEncoder:
    return CachedEncoder(model, store)


class TestSignatures:
    @pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
    def test_are_upstreams(self, model: Any, encoder: CachedEncoder, method: str) -> None:
        # "inputs" has a default here, for the deprecated name of it; batches are tuned.
        def parameters(owner: Any) -> list[Any]:
            found = inspect.signature(getattr(owner, method)).parameters.values()
            return [(each.name, each.kind, each.default) for each in found if each.name != "inputs"]

        ours, upstreams = parameters(encoder), parameters(model)
        place = [name for name, _, _ in upstreams].index("batch_size")
        assert (ours.pop(place)[2], upstreams.pop(place)[2]) == ("auto", 32)
        assert ours == upstreams

    def test_async(self, encoder: CachedEncoder, store: EmbeddingStore) -> None:
        async def both() -> list[Any]:
            calls = (encoder.aencode(TEXTS), encoder.aencode(TEXTS, normalize_embeddings=True))
            return list(await asyncio.gather(*calls))

        plain, normalized = asyncio.run(both())
        assert plain.tobytes() == encoder.encode(TEXTS).tobytes()
        assert normalized.tobytes() == encoder.encode(TEXTS, normalize_embeddings=True).tobytes()
        assert store.stats().misses == 2 * UNIQUE


class TestArrays:
    @pytest.mark.parametrize("memory_limit", [0, "1MB"])
    def test_belong_to_the_caller(self, model: Any, tmp_path: Path, memory_limit: Any) -> None:
        with EmbeddingStore(tmp_path / "s", memory_limit=memory_limit) as store:
            encoder = CachedEncoder(model, store)
            expected = model.encode(TEXTS)
            for _ in range(3):  # computed, then stored, each time scribbled over
                array = encoder.encode(TEXTS)
                np.testing.assert_allclose(array, expected, rtol=0, atol=1e-6)
                assert array.flags.c_contiguous
                assert array.flags.writeable
                array[:] = np.nan
                single = encoder.encode(TEXTS[0])
                np.testing.assert_allclose(single, expected[0], rtol=0, atol=1e-6)
                single[:] = np.nan
                tensor = encoder.encode(TEXTS, convert_to_tensor=True)
                np.testing.assert_allclose(tensor, expected, rtol=0, atol=1e-6)
                tensor.fill_(torch.nan)
                for row in encoder.encode(TEXTS, convert_to_numpy=False):
                    row.fill_(torch.nan)
                found, _ = store.get_many(encoder.namespace(), TEXTS)
                found[:] = np.nan

    def test_of_repeats_are_not_tied_together(self, encoder: CachedEncoder) -> None:
        for _ in range(2):
            array = encoder.encode(["same", "same"])
            array[0] = 0
            assert array[1].any()

    def test_can_be_trained_on(self, encoder: CachedEncoder) -> None:
        # Upstream's own are inference tensors, which autograd refuses; these may be more useful.
        tensor = encoder.encode(TEXTS, convert_to_tensor=True)
        assert not tensor.requires_grad
        tensor.requires_grad_().sum().backward()


class TestStats:
    def test_every_text_is_a_hit_or_a_miss(
        self, encoder: CachedEncoder, store: EmbeddingStore
    ) -> None:
        encoder.encode(TEXTS)
        encoder.encode([*TEXTS, "new"])
        encoder.encode([])
        encoder.encode("new")
        stats = encoder.stats()
        assert (stats.misses, stats.hits, stats.total) == (UNIQUE + 1, 6, 10)
        assert (stats.deduplicated, stats.bypassed, stats.entries) == (2, 0, UNIQUE + 1)
        assert stats.encode_seconds > 0
        assert stats == store.stats()

    def test_nothing_is_computed_twice(self, model: Any, encoder: CachedEncoder) -> None:
        computed: list[str] = []
        usual = model[0].preprocess

        def preprocess(inputs: list[str], *args: Any, **kwargs: Any) -> Any:
            computed.extend(inputs)
            return usual(inputs, *args, **kwargs)

        model[0].preprocess = preprocess
        for texts in (TEXTS, TEXTS[::-1], [*TEXTS, "new", "new"], "new", TEXTS[:1]):
            encoder.encode(texts)
        assert sorted(computed) == sorted({*TEXTS, "new"})


class TestOnMiss:
    def test_says_what_is_missing(self, model: Any, store: EmbeddingStore) -> None:
        CachedEncoder(model, store).encode(TEXTS)
        encoder = CachedEncoder(model, store, on_miss="raise")
        assert encoder.encode(TEXTS).shape == (4, 384)
        asked = ["n0", *TEXTS, "n1", "n0", *(f"n{number}" for number in range(2, 9))]
        with pytest.raises(CacheMissError) as caught:
            encoder.encode(asked)
        error = caught.value
        assert (error.missing, error.total) == (9, len(asked))
        assert error.first == ("n0", "n1", "n2", "n3", "n4")
        assert [asked[index] for index in error.indices] == list(error.first)
        assert error.namespace == encoder.namespace()
        assert "9 of 14" in str(error)
        assert "n0" in str(error)
        assert isinstance(error, LookupError)
        assert store.stats().entries == UNIQUE

        copied = pickle.loads(pickle.dumps(error))
        assert type(copied) is CacheMissError
        assert str(copied) == str(error)
        assert vars(copied) == vars(error)

    def test_for_other_settings_too(self, model: Any, store: EmbeddingStore) -> None:
        CachedEncoder(model, store).encode(TEXTS)
        encoder = CachedEncoder(model, store, on_miss="raise")
        for arguments in ({"prompt": "query: "}, {"truncate_dim": 8}, {"precision": "int4"}):
            with pytest.raises((CacheMissError, ValueError)) as caught:
                encoder.encode(TEXTS, **arguments)
            assert (caught.type is CacheMissError) == ("precision" not in arguments)

    def test_only_two_ways(self, model: Any, store: EmbeddingStore) -> None:
        with pytest.raises(ValueError, match="on_miss"):
            CachedEncoder(model, store, on_miss="ignore")  # type: ignore[arg-type]


class TestAttributes:
    def test_are_the_models(self, own_minilm: Any, store: EmbeddingStore) -> None:
        encoder = CachedEncoder(own_minilm, store)
        assert encoder.model is own_minilm
        assert encoder.max_seq_length == own_minilm.max_seq_length == 256
        assert encoder.get_embedding_dimension() == 384
        assert encoder.tokenizer is own_minilm.tokenizer
        assert encoder.device == own_minilm.device
        assert encoder[0] is own_minilm[0]
        assert list(encoder) == list(own_minilm)
        assert len(encoder) == len(own_minilm)
        assert "max_seq_length" not in vars(encoder)
        assert not hasattr(encoder, "no_such_attribute")
        with pytest.raises(AttributeError, match="no_such_attribute"):
            _ = encoder.no_such_attribute

    def test_set_reach_the_model(self, own_minilm: Any, store: EmbeddingStore) -> None:
        encoder = CachedEncoder(own_minilm, store)
        long = "many words " * 100
        before, namespace = encoder.encode(long), encoder.namespace()
        encoder.max_seq_length = 64
        assert own_minilm.max_seq_length == 64
        assert encoder.namespace().id != namespace.id
        after = encoder.encode(long)
        np.testing.assert_allclose(after, own_minilm.encode(long), rtol=0, atol=1e-6)
        assert not np.allclose(after, before, atol=1e-4)
        encoder.max_seq_length = 256
        assert encoder.encode(long).tobytes() == before.tobytes()

    def test_truncate_in_a_context(self, encoder: CachedEncoder) -> None:
        with encoder.truncate_embeddings(16):
            assert encoder.encode(TEXTS).shape == (4, 16)
        assert encoder.encode(TEXTS).shape == (4, 384)

    def test_own_names_are_not_lost_on_the_model(
        self, encoder: CachedEncoder, tmp_path: Path
    ) -> None:
        # Either the encoder uses it, or it says no: silently going on with the old one is neither.
        with EmbeddingStore(tmp_path / "other") as other:
            try:
                encoder.store = other
            except AttributeError:
                return
            encoder.encode(TEXTS)
            assert other.stats().misses == UNIQUE

    def test_moving_keeps_the_cache(self, encoder: CachedEncoder) -> None:
        # model = model.to(device) is how people write it.
        for moved in (encoder.to("cpu"), encoder.eval(), encoder.cpu()):
            assert isinstance(moved, CachedEncoder)

    def test_sharing_the_weights_memory(self, encoder: CachedEncoder) -> None:
        # As start_multi_process_pool does: the numbers move, and where they were is unmapped.
        before = encoder.encode(TEXTS)
        encoder.model.share_memory()
        assert encoder.encode(TEXTS).tobytes() == before.tobytes()
        assert encoder.stats().misses == UNIQUE

    def test_similarity(self, model: Any, encoder: CachedEncoder) -> None:
        one, other = encoder.encode(TEXTS), encoder.encode(TEXTS[::-1])
        assert torch.equal(encoder.similarity(one, other), model.similarity(one, other))
        pairwise = encoder.similarity_pairwise(one, other)
        assert torch.equal(pairwise, model.similarity_pairwise(one, other))
        encoder.similarity_fn_name = "euclidean"
        assert model.similarity_fn_name == "euclidean"
        assert torch.equal(encoder.similarity(one, other), model.similarity(one, other))

    def test_an_evaluator_of_upstream(
        self, model: Any, encoder: CachedEncoder, texts: list[str], store: EmbeddingStore
    ) -> None:
        from sentence_transformers.sentence_transformer.evaluation import (
            EmbeddingSimilarityEvaluator,
        )

        scores = [len(text) % 10 / 10 for text in texts]
        evaluator = EmbeddingSimilarityEvaluator(texts, texts[::-1], scores, name="mirror")
        expected = evaluator(model)
        for _ in range(2):
            assert evaluator(encoder) == pytest.approx(expected, abs=1e-5)
        assert store.stats().misses == len(texts)


class TestConstruction:
    @pytest.mark.parametrize("model", [None, 5, ["a", "list"], torch.nn.Linear(2, 2), b"path"])
    def test_from_nothing_that_embeds(self, model: Any, store: EmbeddingStore) -> None:
        with pytest.raises(TypeError):
            CachedEncoder(model, store, model_name="any")

    def test_a_loaded_model_takes_no_loading_arguments(
        self, model: Any, store: EmbeddingStore
    ) -> None:
        for arguments in ({"model_kwargs": {}}, {"revision": "main"}, {"prompts": {"a": "b"}}):
            with pytest.raises(TypeError, match="not a loaded one"):
                CachedEncoder(model, store, **arguments)
        assert CachedEncoder(model, store, device="cpu").encode("text").shape == (384,)

    def test_the_default_store(
        self, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EMBSTORE_HOME", str(tmp_path / "home"))
        encoder = CachedEncoder(model)
        encoder.encode(TEXTS)
        encoder.store.close()
        with EmbeddingStore(tmp_path / "home") as store:
            assert CachedEncoder(model, store, on_miss="raise").encode(TEXTS).shape == (4, 384)

    def test_named_and_versioned(self, model: Any, store: EmbeddingStore) -> None:
        encoder = CachedEncoder(model, store, model_name="mine", version="1")
        first = encoder.encode(TEXTS)
        assert encoder.namespace().model_name == "mine"
        # A version stands for the weights, by the user's own word.
        model[0].embedding.weight.data.mul_(2)
        assert encoder.encode(TEXTS).tobytes() == first.tobytes()
        other = CachedEncoder(model, store, model_name="mine", version="2")
        np.testing.assert_allclose(other.encode(TEXTS), model.encode(TEXTS), rtol=0, atol=1e-6)
        assert "EmbeddingStore" in repr(encoder)
