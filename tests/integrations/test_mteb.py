"""mteb's own evaluation of small tasks, with the cache and without."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from mteb.models import (
    EncoderProtocol,
    ModelMeta,
    SentenceTransformerEncoderWrapper,
)
from mteb.models.abs_encoder import AbsEncoder
from mteb.types import PromptType
from torch.utils.data import DataLoader

from embstore import CachedEncoder, EmbeddingStore
from embstore.integrations.mteb import CachedMtebEncoder
from tests.integrations.mteb_tasks import DOCUMENTS, PAIRS, QUERIES, OtherPairs, Pairs, Search

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}:{category}")
    for message, category in (
        ("The fill_missing parameter is deprecated", "DeprecationWarning"),
        ("The `get_sentence_embedding_dimension` method has been renamed", "FutureWarning"),
        ("Model prompts specified, these will overwrite", "UserWarning"),
    )
]

SENTENCES = {sentence for first, second, _ in PAIRS for sentence in (first, second)}


class Spelling(AbsEncoder):
    """An encoder of mteb's protocol, with an instruction for each task, which counts its rows.

    Embeds by letters, title twice, and dislikes what is not text.
    """

    def __init__(self, name: str = "made/spelling", revision: str = "1", **further: Any) -> None:
        self.mteb_model_meta = ModelMeta.create_empty(
            {"name": name, "revision": revision, **further}
        )
        self.rows: list[str] = []
        self.dtype = torch.float32

    def encode(
        self, inputs: Any, *, task_metadata: Any, prompt_type: Any = None, **kwargs: Any
    ) -> torch.Tensor:
        vectors = []
        for batch in inputs:
            titles = batch.get("title", [""] * len(batch["text"]))
            for title, text in zip(titles, batch["text"], strict=True):
                self.rows.append(text)
                whole = f"{task_metadata.name} {prompt_type}: {title} {text}".lower()
                vectors.append([whole.count(chr(97 + letter)) + 0.5 for letter in range(26)])
        return torch.tensor(vectors, dtype=self.dtype)


@pytest.fixture
def spelling() -> Spelling:
    return Spelling()


def scores(model: Any, *tasks: Any, **arguments: Any) -> dict[str, Any]:
    """All scores of an evaluation, which mteb keeps nowhere."""
    results = mteb.evaluate(
        model, tasks, cache=None, show_progress_bar=False, co2_tracker=False, **arguments
    )
    return {each.task_name: each.scores for each in results.task_results}


def search_rows(texts: list[str], titles: list[str] | None = None) -> DataLoader:
    """A loader as mteb makes it."""
    columns = {"id": [str(number) for number in range(len(texts))], "text": texts}
    rows = Dataset.from_dict(columns | ({"title": titles} if titles else {}))
    return DataLoader(rows, batch_size=2)


def encode(model: Any, loader: Any, **changed: Any) -> Any:
    arguments = {
        "task_metadata": Search.metadata,
        "hf_split": "test",
        "hf_subset": "default",
        "prompt_type": PromptType.query,
    }
    return model.encode(loader, **(arguments | changed))


class TestASentenceTransformer:
    def test_has_the_scores_it_has_without_and_computes_once(
        self, static: Any, store: EmbeddingStore, reopened: Callable[..., EmbeddingStore]
    ) -> None:
        tasks = (Pairs(), Search())
        expected = scores(static, *tasks)
        assert expected["EmbstorePairs"]["test"][0]["main_score"] > 0.5
        model = CachedMtebEncoder(static, store)
        assert isinstance(model, EncoderProtocol)
        first = scores(model, *tasks)
        assert first == expected
        assert store.stats().misses == len(SENTENCES) + len(QUERIES) + len(DOCUMENTS)
        again = CachedMtebEncoder(CachedEncoder(static, reopened(), on_miss="raise"))
        assert scores(again, *tasks) == expected
        assert again.store.stats().misses == 0

    def test_with_the_real_model(self, minilm: Any, store: EmbeddingStore) -> None:
        model = CachedMtebEncoder(minilm, store)
        first = scores(model, Search())
        assert scores(model, Search()) == first
        assert store.stats().misses == len(QUERIES) + len(DOCUMENTS)
        assert first["EmbstoreSearch"]["test"][0]["main_score"] == 1.0

    def test_is_known_by_mteb_as_the_model_itself(self, static: Any, store: EmbeddingStore) -> None:
        wrapper = SentenceTransformerEncoderWrapper(static)
        for model in (static, wrapper, CachedEncoder(static, store)):
            own = None if isinstance(model, CachedEncoder) else store
            cached = CachedMtebEncoder(model, own)
            assert cached.mteb_model_meta == wrapper.mteb_model_meta
            assert cached.store is store
        assert wrapper.model is static

    def test_computes_what_two_tasks_share_once(self, static: Any, store: EmbeddingStore) -> None:
        model = CachedMtebEncoder(static, store)
        assert scores(model, Pairs()).keys() != scores(model, OtherPairs()).keys()
        assert store.stats().misses == len(SENTENCES)

    def test_keeps_prompts_apart(self, static: Any, store: EmbeddingStore) -> None:
        prompts = {"query": "query: ", "document": "passage: ", "STS": "similar: "}
        # A copy, as mteb sets the model's own prompts.
        prompted = copy.deepcopy(static)
        wrapper = SentenceTransformerEncoderWrapper(prompted, model_prompts=prompts)
        expected = scores(wrapper, Pairs(), Search())
        model = CachedMtebEncoder(wrapper, store)
        plain = CachedMtebEncoder(static, store)
        for _ in range(2):
            assert scores(model, Pairs(), Search()) == expected
            assert scores(plain, Search()) == scores(static, Search())
        namespaces = [info.namespace for info in store.namespaces()]
        assert {(each.prompt, each.task) for each in namespaces} == {
            *(("query: ", "query"), ("passage: ", "document"), ("similar: ", None)),
            *((None, "query"), (None, "document")),
        }
        assert store.stats().misses == len(SENTENCES) + 2 * (len(QUERIES) + len(DOCUMENTS))

    def test_quantizes_over_the_call_as_ever(self, static: Any, store: EmbeddingStore) -> None:
        quantized = {"precision": "int8", "batch_size": 4}
        expected = scores(static, Pairs(), encode_kwargs=dict(quantized))
        model = CachedMtebEncoder(static, store)
        for _ in range(2):
            assert scores(model, Pairs(), encode_kwargs=dict(quantized)) == expected
        assert store.stats().misses == len(SENTENCES)

    def test_of_a_cached_encoder_has_no_second_store(
        self, static: Any, store: EmbeddingStore
    ) -> None:
        encoder = CachedEncoder(static, store)
        for further in ({"store": store}, {"model_name": "other"}, {"version": "2"}):
            with pytest.raises(ValueError, match="has a store and a name: give no others"):
                CachedMtebEncoder(encoder, **further)


class TestAnotherEncoder:
    def test_has_the_scores_it_has_without_and_computes_once(
        self, spelling: Spelling, store: EmbeddingStore
    ) -> None:
        tasks = (Pairs(), Search(), OtherPairs())
        expected = scores(spelling, *tasks)
        spelling.rows.clear()
        model = CachedMtebEncoder(spelling, store)
        for _ in range(2):
            assert scores(model, *tasks) == expected
        # Each task on its own: nobody knows what the encoder makes of one.
        assert len(spelling.rows) == 2 * len(SENTENCES) + len(QUERIES) + len(DOCUMENTS)
        assert model.mteb_model_meta is spelling.mteb_model_meta

    def test_everything_it_is_told_keeps_apart(
        self, spelling: Spelling, store: EmbeddingStore
    ) -> None:
        model = CachedMtebEncoder(spelling, store)
        prompted = Search.metadata.model_copy(update={"prompt": {"query": "Answer"}})
        others: list[dict[str, Any]] = [
            *({}, {"prompt_type": PromptType.document}, {"prompt_type": None}),
            *({"task_metadata": Pairs.metadata}, {"task_metadata": prompted}),
            *({"hf_split": "dev"}, {"hf_subset": "de"}, {"layer": 3}),
        ]
        for _ in range(2):
            for changed in others:
                found = encode(model, search_rows(["a text"]), **changed)
                assert (
                    found == encode(Spelling(), search_rows(["a text"]), **changed).numpy()
                ).all()
        assert len(spelling.rows) == len(store.namespaces()) == len(others)
        encode(model, search_rows(["a text"]), batch_size=7, show_progress_bar=True)
        assert len(spelling.rows) == len(others)

    def test_models_are_kept_apart(self, store: EmbeddingStore) -> None:
        for made in (
            Spelling(),
            Spelling("made/other"),
            Spelling(revision="2"),
            Spelling(experiment_kwargs={"layer": 3}),
        ):
            encode(CachedMtebEncoder(made, store), search_rows(["a text"]))
            assert made.rows == ["a text"]
        for further in ({"model_name": "mine"}, {"version": "2"}):
            made = Spelling()
            encode(CachedMtebEncoder(made, store, **further), search_rows(["a text"]))
            assert made.rows == ["a text"]

    def test_a_row_is_all_that_it_has(self, spelling: Spelling, store: EmbeddingStore) -> None:
        model = CachedMtebEncoder(spelling, store)
        titles = ["One", "Two", "One"]
        loader = search_rows(["a text"] * 3, titles)
        vectors = encode(model, loader)
        assert (vectors == encode(Spelling(), loader).numpy()).all()
        assert len(spelling.rows) == 2
        assert (vectors[0] == vectors[2]).all()
        # A text that looks like such a row is another one.
        as_text = json.dumps({"text": "a text", "title": "One"}, sort_keys=True)
        alone = encode(model, search_rows([as_text]))
        assert (alone == encode(Spelling(), search_rows([as_text])).numpy()).all()

    def test_order_and_repeats(self, spelling: Spelling, store: EmbeddingStore) -> None:
        model = CachedMtebEncoder(spelling, store)
        encode(model, search_rows(["b", "d"]))
        texts = ["d", "a", "b", "a", "c"]
        vectors = encode(model, search_rows(texts))
        assert (vectors == encode(Spelling(), search_rows(texts)).numpy()).all()
        assert spelling.rows == ["b", "d", "a", "c"]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_other_dtypes(self, spelling: Spelling, store: EmbeddingStore, dtype: Any) -> None:
        spelling.dtype = dtype
        model = CachedMtebEncoder(spelling, store)
        expected = encode(spelling, search_rows(["a text"]))
        for _ in range(2):
            found = torch.from_numpy(encode(model, search_rows(["a text"])))
            assert torch.equal(found.to(dtype), expected)
        assert len(spelling.rows) == 2

    @pytest.mark.parametrize("further", [{"precision": "int8"}, {"callback": object()}])
    def test_what_belongs_to_no_text_alone_is_not_cached(
        self, spelling: Spelling, store: EmbeddingStore, further: dict[str, Any]
    ) -> None:
        model = CachedMtebEncoder(spelling, store)
        for _ in range(2):
            assert encode(model, search_rows(["a", "b"]), **further).shape == (2, 26)
        assert len(spelling.rows) == 4
        assert (store.stats().bypassed, store.namespaces()) == (4, [])

    def test_rows_with_something_else_than_text_are_not_cached(
        self, spelling: Spelling, store: EmbeddingStore
    ) -> None:
        features = Features({"text": Value("string"), "image": Value("binary")})
        rows = Dataset.from_dict({"text": ["a", "b"], "image": [b"1", b"2"]}, features=features)
        model = CachedMtebEncoder(spelling, store)
        for _ in range(2):
            assert encode(model, DataLoader(rows)).shape == (2, 26)
        assert len(spelling.rows) == 4
        assert store.stats().bypassed == 4

    def test_sparse_vectors_are_refused(self, spelling: Spelling, store: EmbeddingStore) -> None:
        spelling.encode = lambda *_, **__: torch.eye(2).to_sparse()  # type: ignore[method-assign]
        with pytest.raises(TypeError, match="evaluate the model itself"):
            encode(CachedMtebEncoder(spelling, store), search_rows(["a", "b"]))

    def test_must_have_a_name(self, store: EmbeddingStore) -> None:
        nameless = Spelling()
        nameless.mteb_model_meta = ModelMeta.create_empty()
        with pytest.raises(ValueError, match="give model_name="):
            CachedMtebEncoder(nameless, store)
        model = CachedMtebEncoder(nameless, store, model_name="mine")
        assert encode(model, search_rows(["a"])).shape == (1, 26)

    @pytest.mark.parametrize("model", [None, 3, lambda texts: texts, np.eye(2)])
    def test_must_be_one(self, store: EmbeddingStore, model: Any) -> None:
        with pytest.raises(TypeError, match="an encoder of mteb's protocol"):
            CachedMtebEncoder(model, store)


def test_results_are_filed_as_those_of_the_model(
    tmp_path: Path, spelling: Spelling, store: EmbeddingStore
) -> None:
    results = mteb.ResultCache(tmp_path)
    arguments = {"cache": results, "show_progress_bar": False, "co2_tracker": False}
    mteb.evaluate(CachedMtebEncoder(spelling, store), Pairs(), **arguments)
    spelling.rows.clear()
    mteb.evaluate(spelling, Pairs(), **arguments)
    assert spelling.rows == []
